# SPDX-License-Identifier: Apache-2.0
"""Four workers that fork, vfork and posix_spawn short programs without a pause. Argument: programs per worker."""
import os
import subprocess
import sys

COUNT = int(sys.argv[1])


def forked(number):
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", f"exit {number % 5}"])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def spawned(number):
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"(exit {number % 5})"], os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def vforked(number):
    return subprocess.run(["/bin/sh", "-c", f"echo {number % 5} | cat"], stdout=subprocess.PIPE, check=True).stdout


def work(number):
    for i in range(COUNT):
        if forked(i) != i % 5 or spawned(i) != i % 5 or int(vforked(i)) != i % 5:
            os._exit(1)
    os._exit(number + 10)


workers = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        work(number)
    workers.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers])
