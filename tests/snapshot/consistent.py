#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program that writes memory as fast as it can, in an order that every inconsistent snapshot breaks (writer.c), is saved
while it runs, by every kind of snapshot: it must go on undisturbed, and what is restarted must find everything right."""
import contextlib
import os
import pathlib
import random
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, Skip, descendants, json_of, proc_text, run_cases  # noqa: E402  (the path comes first)

MIB = 64
# From 256 MiB on `auto` looks how fast a program writes.
LARGE = 320
MODES = ("freeze", "cow", "wp", "precopy", "auto")
# For whom a kind of snapshot is refused: by name, and the program never notices.
NEEDS_ROOT = ("wp",)


class Writer:
    """writer.c, whoever it is at present: started or restarted."""

    def __init__(self, lab, program, threads, processes=1, mib=MIB):
        self.lab = lab
        self.report = lab.write("report", "")
        self.popen = lab.start([lab.install(program), processes, threads, mib, self.report])
        self.pid = self.popen.pid
        self.wait_right(2)

    def found_right(self):
        text = self.lab.read(self.report)
        if text.startswith("wrong"):
            raise Failure(f"{text.strip()}\n{self.lab.read('err')}")
        return int(text.split()[1]) if text.startswith("right") else None

    def is_gone(self):
        if self.popen:
            return self.popen.poll() is not None
        self.lab.reap()
        return not os.path.exists(f"/proc/{self.pid}") or proc_text(self.pid, "stat").rpartition(")")[2].startswith(" Z")

    def wait_right(self, meetings):
        """Until all its threads have met so often: then it has written every page, and looked at all of them."""
        first = None

        def enough():
            nonlocal first
            gone = self.is_gone()
            now = self.found_right()
            if gone:
                raise Failure(f"the writer has ended: {self.lab.read(self.report)!r} {self.lab.read('err')}")
            first = now if first is None else first
            return None not in (first, now) and now >= first + meetings
        self.lab.wait_for(enough, "meeting of the writer's threads")

    def kill(self):
        others = descendants(self.pid)
        for pid in (self.pid, *others):
            with contextlib.suppress(ProcessLookupError):  # a child may end, and be waited for, before its parent does
                os.kill(pid, signal.SIGKILL)
        if self.popen:
            self.lab.wait_exit(self.popen, "the killed writer")
        else:
            self.lab.wait_gone(self.pid, "the killed writer")
        for pid in others:
            self.lab.wait_gone(pid, "the killed writer's child")

    def restart(self, image):
        """Takes the place of the killed one. What it reports is its own: the file is emptied of what the other said."""
        with open(self.report, "r+") as file:
            file.write(" " * 63 + "\n")
        self.popen = None
        self.pid = self.lab.restart_detached(image)


def save(lab, writer, mode, *options):
    """The image, or None where this user is refused that kind."""
    image = lab.next_image()
    done = lab.command("checkpoint", writer.pid, "-o", image, "--leave-running", "--snapshot", mode, *options, "--json")
    if done.returncode == 2 and "--snapshot" in done.stderr:
        raise Skip(f"this stasis knows no --snapshot {mode}")
    if done.returncode == 3 and f"has no snapshot '{mode}'" in done.stderr:
        raise Skip(done.stderr.strip())
    if mode in NEEDS_ROOT and (lab.as_user or not lab.is_root):
        if done.returncode != 5 or os.path.exists(image):
            raise Failure(f"--snapshot {mode} as an ordinary user: {done.returncode} {done.stderr!r}")
        return None
    if done.returncode != 0:
        raise Failure(f"--snapshot {mode}: {done.returncode} {done.stderr}")
    kind = json_of(done)["snapshot"]
    if kind not in MODES or mode not in (kind, "auto") or kind == "auto":
        raise Failure(f"--snapshot {mode} made a snapshot by {kind}")
    return image


def consistent(mode, threads, processes=1, mib=MIB, times=3):
    """A case: saved, seen to go on, killed, restarted, seen to be right; then the restarted one is saved."""
    def case(lab, options):
        writer = Writer(lab, options.program, threads, processes, mib)
        for _ in range(100 if options.long else times):
            image = save(lab, writer, mode)
            writer.wait_right(2)
            if image is None:
                continue
            writer.kill()
            writer.restart(image)
            writer.wait_right(2)
            os.unlink(image)
        writer.kill()
    return case


def mistakes_are_found(lab, options):
    """The test of the test: a single page of an earlier moment, wherever it is, is found to be wrong."""
    for area in ("largest", "memfd", "counter"):
        writer = Writer(lab, options.program, 2)
        maps = [line.split() for line in pathlib.Path(f"/proc/{writer.pid}/maps").read_text().splitlines()]
        ranges = [([int(x, 16) for x in fields[0].split("-")], fields[-1], fields[1]) for fields in maps]
        if area == "largest":
            start, end = max((bounds for bounds, _, _ in ranges), key=lambda bounds: bounds[1] - bounds[0])
        elif area == "memfd":
            start, end = next(bounds for bounds, name, _ in ranges if name == "(deleted)" and bounds[1] - bounds[0] > 1 << 20)
        else:
            # It is mapped first of those that are a page long, and new mappings come below.
            start, end = max(bounds for bounds, _, rights in ranges if rights == "rw-s" and bounds[1] - bounds[0] == 4096)
        page = random.Random(area).randrange(start, end, 4096)
        memory = os.open(f"/proc/{writer.pid}/mem", os.O_RDWR)
        os.kill(writer.pid, signal.SIGSTOP)
        lab.wait_for(lambda: "T" in proc_text(writer.pid, "stat").rpartition(")")[2][:3], "stop")
        before = os.pread(memory, 4096, page)
        os.kill(writer.pid, signal.SIGCONT)
        writer.wait_right(2)
        os.kill(writer.pid, signal.SIGSTOP)
        lab.wait_for(lambda: "T" in proc_text(writer.pid, "stat").rpartition(")")[2][:3], "stop")
        os.pwrite(memory, before, page)
        os.close(memory)
        os.kill(writer.pid, signal.SIGCONT)
        if lab.wait_exit(writer.popen, "the writer") != 1 or not lab.read(writer.report).startswith("wrong"):
            raise Failure(f"a page of an earlier moment ({area}, {page:x}) was not found: {lab.read(writer.report)!r}")


def only_what_counts(lab, _options):
    """Pages of zeros, pages never touched and clean pages of files are not written; zeros where a file has something are."""
    data = lab.write("data", os.urandom(16 << 20))
    for codec in ("none", "lz4"):
        process = lab.start(["/usr/bin/python3", "-S", lab.write("sparse.py", (HERE / "sparse.py").read_bytes()), data])
        lab.wait_for(lambda: lab.read("out").count("\n") == 1, "the first digest", process)
        image = lab.checkpoint_and_kill(process, "--compress", codec)
        size = os.path.getsize(image)
        if size > 16 << 20:
            raise Failure(f"the image has {size} bytes")
        lab.write("go", "")
        if lab.wait_exit(lab.restart_foreground(image), "the program") != 0:
            raise Failure(lab.read("err"))
        first, second = lab.read("out").split()
        if first != second:
            raise Failure(f"memory is not what it was: {first}, then {second}")
        os.unlink(lab.path("go"))
        os.truncate(lab.path("out"), 0)


CASES = {"only_what_counts": only_what_counts, "mistakes_are_found": mistakes_are_found}
CASES |= {f"{mode}_{threads}": consistent(mode, threads) for mode in MODES for threads in (2, 8)}
CASES |= {f"{mode}_tree": consistent(mode, 6, 3) for mode in MODES}
CASES["auto_large"] = consistent("auto", 2, mib=LARGE, times=1)

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
