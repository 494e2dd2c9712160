#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A restart that is given up when it is nearly done takes back what it did: the program's processes, and its socket's file."""
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, descendants, run_cases  # noqa: E402  (the path comes first)

LISTENER = """
import os, socket, time
listener = socket.socket(socket.AF_UNIX)
listener.bind('listener')
listener.listen()
print('listening', flush=True)
while not os.path.exists('stop'):
    time.sleep(0.01)
"""


def image_of_listener(lab):
    """The image of a program that listens at the socket `listener`; program and socket are gone."""
    # Its standard error is not the restart's, whose file is made anew.
    process = lab.start(["/usr/bin/python3", "-S", "-c", LISTENER], stderr=subprocess.DEVNULL)
    lab.wait_for(lambda: "listening" in lab.read("out"), "the listener", process)
    image = lab.checkpoint_and_kill(process)
    os.unlink(lab.path("listener"))
    return image


def nothing_left(lab, what):
    lab.wait_for(lambda: (lab.reap(), not descendants())[1], f"end of everything after {what}")
    if os.path.exists(lab.path("listener")):
        raise Failure(f"after {what} the socket's file is left")


def pid_policies(lab):
    return ("namespace",) if lab.as_user or not lab.is_root else ("keep", "namespace")


def with_free_pids(lab, restart):
    """The result of restart(), tried again while somebody else on this machine happens to have one of the pids."""
    results = []

    def has_its_pids():
        results.append(restart())
        return "is in use" not in results[-1].stderr
    lab.wait_for(has_its_pids, "free pid")
    return results[-1]


def pidfile_cannot_be_written(lab, _options):
    """Nobody would know the program's pid: it does not run."""
    image = image_of_listener(lab)
    for pids in pid_policies(lab):
        for words, expected in ((("--detach",), 1), ((), 125)):
            result = with_free_pids(lab, lambda: lab.command("restart", image, "--pids", pids, "--pidfile", "/dev/full", *words))
            lines = result.stderr.splitlines()
            if result.returncode != expected or len(lines) != 1 or "/dev/full: write: No space left" not in lines[0]:
                raise Failure(f"--pids {pids} {words}: {result.returncode} {result.stderr}")
            nothing_left(lab, f"a pidfile that can't be written, --pids {pids} {words}")
    lab.write("stop", "")
    lab.must("restart", image)


def interrupted(lab, _options):
    """SIGTERM at any moment: either the program had it, or nothing is left of the restart."""
    image = image_of_listener(lab)
    lab.write("stop", "")
    start = time.monotonic()
    lab.must("restart", image, "--pids", "namespace")
    duration = time.monotonic() - start
    os.unlink(lab.path("stop"))
    os.unlink(lab.path("listener"))
    for number in range(24):
        lab.write("err", "")
        pids = random.choice(pid_policies(lab))
        restart = lab.restart_foreground(image, "--pids", pids)
        time.sleep(random.uniform(0, duration))  # any moment
        restart.send_signal(signal.SIGTERM)
        status = lab.wait_exit(restart, "the interrupted restart")
        if status == -signal.SIGTERM:  # before it heeded signals, or the program's end
            if os.path.exists(lab.path("listener")):
                os.unlink(lab.path("listener"))
        elif status != 125 or not any(word in lab.read("err") for word in ("interrupted", "is in use")):
            raise Failure(f"SIGTERM number {number}: status {status}: {lab.read('err')}")
        nothing_left(lab, f"SIGTERM number {number}, --pids {pids}, status {status}")


CASES = {case.__name__: case for case in (pidfile_cannot_be_written, interrupted)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
