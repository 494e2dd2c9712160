#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Memory that children have from their parent by copy on write is in an image once, and in memory once after a restart:
also in chains of images, and in the program that was only saved."""
import hashlib
import os
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, json_of, run_cases  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"
MIB = 16
KIB = 1 << 10
# Less than one more table; what Python has of its own is about 5 MiB.
ROOM = 12 << 20
# Of an image: the table, what the parent made it from, everybody's own. Everything four times would be 140 MiB.
MOST = 4 * MIB << 20


class Forks:
    """forks.py, and what it must print."""

    def __init__(self, lab):
        self.lab = lab
        self.orders = []
        table = bytearray(random.Random(1).randbytes(MIB << 20))
        whole = hashlib.sha256(table).hexdigest()
        self.digests = [whole] * 4
        table[1 << 20:2 << 20] = bytes(1 << 20)
        self.written = hashlib.sha256(table).hexdigest()
        self.process = lab.start([PYTHON, lab.write("forks.py", (HERE / "forks.py").read_bytes()), MIB])
        self.check("started", self.process)

    def check(self, when, process=None):
        """Everybody has the right bytes, and nobody a copy of the table but its owner at most."""
        self.lab.wait_for(lambda: self.lab.read("out").count("\n") > len(self.orders), "its output", process)
        words = self.lab.read("out").splitlines()[-1].split()
        digests, private = words[1::2], [int(word) * KIB for word in words[2::2]]
        if words[0] != str(len(self.orders)) or digests != self.digests:
            raise Failure(f"{when}: {words}, not {self.digests}")
        if any(size > ROOM for size in private):
            raise Failure(f"{when}: memory is there twice: {private}")

    def order(self, word, when, process=None):
        self.orders.append(word)
        if word == "write":
            self.digests[2] = self.written
        # Whole or not at all: it may be read at any moment.
        os.rename(self.lab.write("orders.new", "\n".join(self.orders) + "\n"), self.lab.path("orders"))
        if word != "end":
            self.check(when, process)

    def end(self, process):
        self.order("end", "at the end")
        if self.lab.wait_exit(process, "the program") != 0:
            raise Failure(f"the program failed: {self.lab.read('err')}")


def checkpoint(lab, pid, *options):
    """The image's path; it has the table once at most."""
    image = lab.next_image()
    report = json_of(lab.must("checkpoint", pid, "-o", image, "--json", "--timeout", "5m", *options))
    size = os.path.getsize(image)
    if size > MOST:
        raise Failure(f"the image has {size} bytes: {report}")
    lab.must("verify", image)
    return image


def copies_saved_once(lab, _options):
    forks = Forks(lab)
    image = checkpoint(lab, forks.process.pid)
    forks.order("look", "after a checkpoint", forks.process)
    shown = json_of(lab.must("inspect", image, "--json"))
    processes = shown["processes"]
    if [one["copy_on_write"]["with"] for one in processes[1:]] != [processes[0]["pid"]] * 3:
        raise Failure("inspect does not tell of copy on write")
    if any(one["copy_on_write"]["bytes"] < (MIB - 1) << 20 for one in processes[1:]):
        raise Failure(f"{[one['copy_on_write'] for one in processes[1:]]}")
    if f"as in {processes[0]['pid']} (copy on write)" not in lab.must("inspect", image).stdout:
        raise Failure("inspect does not tell of copy on write")
    forks.order("write", "after a checkpoint", forks.process)
    image = checkpoint(lab, forks.process.pid, "--kill", "--compress", "lz4")
    lab.wait_exit(forks.process, "the killed program")
    # From a file and from a stream, one generation after another.
    pid = lab.restart_detached(image)
    forks.order("look", "after a restart")
    image = checkpoint(lab, pid, "--kill")
    lab.wait_gone(pid, "the killed program")
    pid = lab.restart_detached(image, "--pids", "namespace")
    forks.order("look", "after a restart in a namespace")
    image = checkpoint(lab, pid, "--kill")
    lab.wait_gone(pid, "the killed program")
    forks.end(lab.restart_foreground(image))


def copies_in_a_chain(lab, _options):
    """On top of another image, restarted from the chain and from the chain merged."""
    forks = Forks(lab)
    first = checkpoint(lab, forks.process.pid)
    forks.order("write", "after a checkpoint", forks.process)
    second = checkpoint(lab, forks.process.pid, "--parent", first)
    if os.path.getsize(second) > ROOM:
        raise Failure(f"the second image has {os.path.getsize(second)} bytes")
    third = checkpoint(lab, forks.process.pid, "--parent", second, "--kill")
    lab.wait_exit(forks.process, "the killed program")
    pid = lab.restart_detached(third)
    forks.order("look", "after a restart from a chain")
    fourth = checkpoint(lab, pid, "--parent", third, "--kill")
    lab.wait_gone(pid, "the killed program")
    whole = lab.path("whole")
    lab.must("merge", fourth, "-o", whole)
    if not MIB << 20 < os.path.getsize(whole) < MOST:
        raise Failure(f"the merged image has {os.path.getsize(whole)} bytes")
    for image in (first, second, third, fourth):
        os.unlink(image)
    lab.must("verify", whole)
    pid = lab.restart_detached(whole)
    forks.order("look", "after a restart from a merged image")
    image = checkpoint(lab, pid, "--kill")
    lab.wait_gone(pid, "the killed program")
    forks.end(lab.restart_foreground(image))


CASES = {case.__name__: case for case in (copies_saved_once, copies_in_a_chain)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
