# SPDX-License-Identifier: Apache-2.0
"""What Stasis refuses, it refuses by name, and the target has noticed nothing."""
import os
import subprocess

from victim import Target, expect_error, nothing_left
from harness import Failure, Skip


def no_such_process(lab, _options):
    ended = lab.start(["true"])
    lab.wait_exit(ended, "true")
    result = lab.command("checkpoint", ended.pid, "-o", lab.path("image"), "--json")
    expect_error(result, 1, "no_such_process")
    expect_error(lab.command("checkpoint", ended.pid, "-o", lab.path("image")), 1)
    nothing_left(lab, set(), "no such process")


def not_ours(lab, _options):
    """A process of root, and one of init's kind, asked for by an ordinary user."""
    if not lab.as_user:
        raise Skip("needs root to start a process of somebody else, and is for the ordinary user")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        for words in ((), ("--kill",)):
            result = lab.command("checkpoint", other.pid, "-o", lab.path("image"), "--json", *words)
            if result.returncode != 5:
                raise Failure(f"status {result.returncode}: {result.stderr}")
        if other.poll() is not None:
            raise Failure("somebody else's process is gone")
    finally:
        other.kill()
        other.wait()


SEIZE = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
sys.exit(1) if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) else print("seized", flush=True)
time.sleep(1000)
"""


def already_traced(lab, _options):
    target = Target(lab)
    tracer = lab.start(["/usr/bin/python3", "-c", SEIZE, target.pid], stdout=subprocess.PIPE)
    if tracer.stdout.readline() != b"seized\n":
        raise Failure("the test's own tracer can't trace")
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json"), 3, "already_traced")
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("image")), 3)
    tracer.kill()
    tracer.wait()
    tracer.stdout.close()
    target.goes_on("a refusal because it was traced")
    nothing_left(lab, {target.pid}, "a refusal")
    target.end()


def seccomp(lab, _options):
    """A confined target: refused before anything is injected, or (root) its filter is suspended."""
    target = Target(lab, "seccomp")
    result = lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json")
    if lab.user or result.returncode:
        expect_error(result, 3, "seccomp" if lab.user else None)
    else:
        os.unlink(lab.path("image"))
    target.goes_on("a checkpoint under seccomp")
    nothing_left(lab, {target.pid}, "seccomp")
    target.end()


SOCKET_HOLDER = """
import socket, sys, time
s = socket.socket(fileno=int(sys.argv[1]))
print("ready", flush=True)
while s.recv(1) == b"": pass
"""


def refused_object(lab, _options):
    """A socket to a process outside, on a descriptor that is no standard stream: check and checkpoint name it."""
    import socket
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    number = theirs.fileno()
    holder = lab.start(["/usr/bin/python3", "-c", SOCKET_HOLDER, number], pass_fds=[number])
    lab.wait_for(lambda: lab.read("out"), "start of the holder", holder)
    theirs.close()
    for words in (("check", holder.pid), ("checkpoint", holder.pid, "-o", lab.path("image"))):
        result = lab.command(*words)
        text = result.stdout + result.stderr
        if result.returncode != 3 or f"{holder.pid}" not in text or f"fd {number}" not in text:
            raise Failure(f"{words[0]}: status {result.returncode}, pid and fd named: {text}")
    nothing_left(lab, {holder.pid}, "a refusal")
    if holder.poll() is not None:
        raise Failure("the holder is gone")
    ours.send(b"x")
    ours.close()
    if lab.wait_exit(holder, "the holder") != 0:
        raise Failure("the holder ended badly")


def check_never_stops(lab, _options):
    target = Target(lab)
    for _ in range(5):
        result = lab.command("check", target.pid)
        if result.returncode != 0:
            raise Failure(f"check says no: {result.stdout}{result.stderr}")
        target.goes_on("check")
    lab.must("check")
    target.end()


def usage(lab, _options):
    target = Target(lab)
    for words in ([], ["frobnicate"], ["checkpoint"], ["checkpoint", target.pid], ["restart", "--detach"], ["inspect"], ["verify"],
                  ["checkpoint", "abc", "-o", "x"], ["checkpoint", "-5", "-o", "x"],
                  ["checkpoint", target.pid, "-o", "x", "--compress", "rar"],
                  ["checkpoint", target.pid, "-o", "x", "--kill", "--leave-running"],
                  ["checkpoint", target.pid, "-o", "x", "--timeout", "soon"], ["verify", "a", "--frob"]):
        result = lab.command(*words)
        if result.returncode != 2 or not result.stderr:
            raise Failure(f"stasis {words}: status {result.returncode}, not 2: {result.stderr}")
    for words in (["restart"], ["restart", "a", "--frob"], ["run", "--keep", "0", "--", "true"]):
        if (status := lab.command(*words).returncode) != 125:
            raise Failure(f"stasis {words}: status {status}, not 125, which no program's end is taken for")
    if lab.command("--help").returncode or lab.command("--version").returncode:
        raise Failure("--help or --version fails")
    if lab.command("restart", lab.path("nothing")).returncode != 125:
        raise Failure("a foreground restart fails with another status than 125")
    nothing_left(lab, {target.pid}, "usage errors")
    target.end()
