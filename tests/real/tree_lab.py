# SPDX-License-Identifier: Apache-2.0
"""What the tests of real process trees share: how far a tree is, that all of it is gone, its lives, its objects."""
import contextlib
import os
import pathlib
import random
import shutil
import socket
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, Skip, descendants, proc_text  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"


def script(lab, name):
    """A program of ours, in the test's own directory."""
    return lab.write(name, (HERE / "programs" / name).read_bytes())


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            raise Skip(f"{command} is not installed")


def tree_cpu(root):
    """CPU seconds of everybody in the tree, children that ended and were waited for included."""
    ticks = 0
    for pid in (root, *descendants(root)):
        fields = proc_text(pid, "stat").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15])) if len(fields) > 14 else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_nobody(lab, what):
    """Waits until nothing at all runs below the test."""
    def nobody():
        lab.reap()
        return not descendants()
    try:
        lab.wait_for(nobody, what)
    except Failure:
        raise Failure(f"no {what}: " + "; ".join(f"{p} {proc_text(p, 'cmdline')}" for p in descendants())) from None


def kill_tree(lab, target, *options):
    """Checkpoints and kills a whole tree, of which nobody may live on; returns the image."""
    image = lab.checkpoint_and_kill(target, *options)
    wait_nobody(lab, "end of the whole killed tree")
    lab.must("verify", image)
    return image


def lives(lab, process, check):
    """A service through a checkpoint that leaves it running, and two kills each with a restart; check() after each.
    Returns the pid of its root."""
    check()
    lab.checkpoint(process.pid)
    check()
    target = process
    for _ in range(2):
        target = lab.restart_detached(kill_tree(lab, target))
        check()
    return target


def free_port():
    """A port nobody listens on, outside the range the kernel gives away by itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
