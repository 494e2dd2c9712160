#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`stasis run --track`: the kernel tells what a program writes between two checkpoints. Programs that know what each of
their pages must hold (tests/snapshot/restless.c writes, drops, unmaps, moves, protects and forks) are saved over and over,
killed, and resumed from images that hold only what was written."""
import json
import os
import pathlib
import random
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, Skip, descendants, proc_text, run_cases  # noqa: E402  (the path comes first)
from run import images, kill_everything, start, wait_nobody  # noqa: E402

MIB = 16
# Execs itself with other memory of the same size at each turn, and looks whether it holds what it should.
TURNS = """
import hashlib, os, random, sys
turn, report = int(sys.argv[1]), sys.argv[2]
table = bytearray(random.Random(turn).randbytes(8 << 20))
good = hashlib.sha256(table).digest()
for i in range(30):
    page = random.randrange(2048) * 4096
    table[page] ^= 1
    if i % 10 == 0 and os.fork() == 0:
        os._exit(0)
    table[page] ^= 1
    if hashlib.sha256(table).digest() != good:
        os.pwrite(os.open(report, os.O_RDWR), b"wrong  \\n", 0)
        sys.exit(1)
    while i % 10 == 0 and os.wait()[1] != 0:
        sys.exit(1)
fd = os.open(report, os.O_RDWR)
os.pwrite(fd, b"right %d" % turn, 0)
os.close(fd)
os.execv(sys.executable, [sys.executable, __file__, str(turn + 1), report])
"""

# Large enough to be saved from a copy of it. Half of its mapping is never touched until the file `look` is there.
UNTOUCHED = """
import mmap, os, sys
SIZE = 16 << 20
area = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if hasattr(mmap, "MADV_NOHUGEPAGE"):
    area.madvise(mmap.MADV_NOHUGEPAGE)
fd = os.open(sys.argv[1], os.O_RDWR)
turn = 0
while True:
    for page in range(0, SIZE, 8192):
        if int.from_bytes(area[page:page + 8], "little") != turn:
            os.pwrite(fd, b"wrong page", 0)
            sys.exit(1)
        area[page:page + 8] = (turn + 1).to_bytes(8, "little")
    if os.path.exists("look") and any(area[page:page + 4096].count(0) != 4096 for page in range(4096, SIZE, 8192)):
        os.pwrite(fd, b"wrong page that nobody has touched", 0)
        sys.exit(1)
    turn += 1
    os.pwrite(fd, b"right %d" % turn, 0)
"""


class Run:
    """A program under `stasis run --track`, in this life or a later one."""

    def __init__(self, lab, program, *options, command=None):
        self.lab, self.options = lab, ("--track", "--json", *options)
        self.report = lab.write("report", "")
        words = command or [lab.install(program), 1, 7, MIB, self.report]
        self.command = ["/bin/sh", "-c", 'exec "$@" 2>>program.err', "sh", *map(str, words)]
        self.launch()

    def launch(self, **popen):
        with open(self.report, "r+", encoding="ascii") as file:
            file.write(" " * 63 + "\n")
        os.truncate(self.lab.path("err"), 0) if os.path.exists(self.lab.path("err")) else None
        self.process = start(self.lab, *self.options, command=self.command, **popen)

    def events(self, *names):
        """Whole lines only: one may just be written."""
        text = self.lab.read("err")
        found = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [event for event in found if event["event"] in names]

    def wait_event(self, what, wanted, *names):
        """Until that many of these events are as `wanted` says."""
        def enough():
            self.check()
            return wanted(self.events(*names))
        self.lab.wait_for(enough, what, self.process)

    def wait_saved(self, count, inherited=1):
        """So many differences that have at least that many pages of their parents."""
        def enough(events):
            return sum(event["tracked"] and event["inherited_pages"] >= inherited for event in events) >= count
        self.wait_event(f"{count} checkpoints that are differences", enough, "saved")

    def check(self):
        if self.lab.read(self.report).startswith("wrong"):
            raise Failure(self.lab.read(self.report).strip())

    def right(self):
        self.check()
        words = self.lab.read(self.report).split()
        return int(words[1]) if len(words) == 2 and words[0] == "right" else None

    def wait_right(self, looks):
        """Until it has looked at all its memory so often."""
        first = None

        def enough():
            nonlocal first
            now = self.right()
            first = now if first is None else first
            return None not in (first, now) and now >= first + looks
        self.lab.wait_for(enough, "looks of the program", self.process)

    def kill_and_resume(self):
        kill_everything(self.lab, self.process)
        self.lab.must("verify", images(self.lab)[0])
        self.launch()
        self.wait_event("resumption", bool, "resumed")

    def end(self):
        kill_everything(self.lab, self.process)


def needs_tracking(lab, run):
    """Skips where this kernel can't track."""
    run.wait_event("two checkpoints", lambda events: len(events) >= 2, "saved")
    release = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2])
    if release < (6, 7) and not any(event["tracked"] for event in run.events("saved")):
        run.end()
        raise Skip("this kernel can't track")


def tracked_lives(lab, options):
    """Several differences in a row, killed with everything at any moment, resumed from the last of them."""
    run = Run(lab, options.program, "--every", "20ms", "--keep", "2")
    needs_tracking(lab, run)
    for _ in range(20 if options.long else 3):
        run.wait_saved(random.randrange(1, 6))
        run.wait_right(1)
        run.kill_and_resume()
        run.wait_right(2)
    run.end()


def tracked_tree(lab, options):
    """Several processes whose memory is in part their parent's (tests/snapshot/writer.c, with an invariant over all)."""
    words = [lab.install(options.program), 3, 6, 12, lab.write("report", "")]
    run = Run(lab, options.program, "--every", "20ms", command=words)
    needs_tracking(lab, run)
    for _ in range(20 if options.long else 2):
        run.wait_saved(random.randrange(1, 4), inherited=0)  # it writes all its memory in no time
        run.wait_right(1)
        run.kill_and_resume()
        run.wait_right(2)
    run.end()


def tracked_exec(lab, options):
    """A program that becomes another one: nothing is taken for what it was before."""
    script = lab.write("turns.py", TURNS)
    report = lab.path("report")
    run = Run(lab, options.program, "--every", "5ms", command=["/usr/bin/python3", script, 0, report])
    for _ in range(20 if options.long else 3):
        run.wait_saved(2)
        run.wait_right(2)
        run.kill_and_resume()
        run.wait_right(2)
    run.end()


def tracked_chain_is_bounded(lab, options):
    """So few images stay as the newest ones need; at last a whole one comes again, and the old chain goes."""
    run = Run(lab, options.program, "--every", "1ms", "--keep", "1")
    needs_tracking(lab, run)
    run.wait_event("three whole images", lambda events: sum(not event["tracked"] for event in events) >= 3, "saved")
    saved = run.events("saved")
    first = [event["tracked"] for event in saved].index(True)
    if len(saved) - first > 100 or len(images(lab)) > 34:
        raise Failure(f"{len(saved)} checkpoints, {len(images(lab))} images")
    run.kill_and_resume()
    run.wait_right(1)
    kill_everything(lab, run.process)
    whole = lab.path("whole")
    lab.must("merge", images(lab)[0], "-o", whole)
    for image in images(lab):
        image.unlink()
    os.rename(whole, lab.path("job.img"))
    run.launch()
    run.wait_right(2)
    run.end()


def tracked_untouched(lab, options):
    """While a program is tracked the kernel lists pages that it never touched: a copy of it does not have them, and a whole
    image that is written from a copy lacks nothing."""
    script = lab.write("untouched.py", UNTOUCHED)
    run = Run(lab, options.program, "--every", "1ms", "--keep", "1", command=["/usr/bin/python3", script, lab.path("report")])
    needs_tracking(lab, run)

    run.wait_right(1)  # before that it was another program
    begun = len(run.events("saved", "not_saved"))

    def whole_again(events):
        failed = [event for event in events[begun:] if event["event"] == "not_saved"]
        if failed:
            raise Failure(f"not saved: {failed}")
        return sum(not event["tracked"] for event in events[begun:]) >= 3
    run.wait_event("three whole images", whole_again, "saved", "not_saved")
    run.kill_and_resume()
    lab.write("look", "")
    run.wait_right(3)
    run.end()


def tracked_parent_gone(lab, options):
    """A chain whose beginning is gone can't be resumed; what is older and whole can. A run goes on without."""
    run = Run(lab, options.program, "--every", "20ms", "--keep", "3")
    needs_tracking(lab, run)
    run.wait_saved(1)
    for image in images(lab)[1:]:
        image.unlink(missing_ok=True)
    seen = len(run.events("saved"))
    run.wait_event("a whole image", lambda events: any(not event["tracked"] for event in events[seen:]), "saved")
    whole = len(run.events("saved"))
    run.wait_event("another image", lambda events: len(events) > whole, "saved")
    run.kill_and_resume()
    run.wait_right(2)
    run.end()


def tracked_told_to_end(lab, options):
    """The last checkpoint is a difference, too."""
    run = Run(lab, options.program, "--every", "100ms")
    needs_tracking(lab, run)
    for _ in range(5 if options.long else 2):
        run.wait_saved(1)
        run.wait_right(1)
        run.process.send_signal(signal.SIGTERM)
        status = lab.wait_exit(run.process, "the run that was told to end")
        last = run.events("last_saved", "last_not_saved")
        # It may fork at this very moment.
        if status != -signal.SIGTERM or len(last) != 1 or last[0].get("error", "busy") != "busy":
            raise Failure(f"status {status}: {lab.read('err')}")
        wait_nobody(lab)
        lab.must("verify", images(lab)[0])
        run.launch()
        run.wait_right(2)
    run.end()


def is_tracked(pid):
    return any(line.startswith("VmFlags:") and " uw" in line for line in proc_text(pid, "smaps").splitlines())


def tracked_stasis_killed(lab, options):
    """kill -9 of Stasis alone, between and amid checkpoints: the program runs right, and nobody tracks it any more."""
    for i in range(20 if options.long else 3):
        for image in images(lab):
            image.unlink()
        run = Run(lab, options.program, "--every", ("20ms", "1h")[i % 2] if i else "300ms")
        if i % 2 == 0:
            needs_tracking(lab, run)
            run.wait_saved(1)
        pid = run.events("started")[0]["pid"] if run.events("started") else None
        run.wait_right(1)
        run.process.kill()
        lab.wait_exit(run.process, "the run that was killed")
        pid = pid or run.events("started")[0]["pid"]
        lab.wait_for(lambda: not is_tracked(pid), "end of the tracking")
        before = run.right() or 0
        lab.wait_for(lambda: (run.right() or 0) >= before + 2, "looks of a program whose run was killed")
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if "userfaultfd" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                raise Failure(f"the program has a userfaultfd, descriptor {fd}")
        os.kill(pid, signal.SIGKILL)
        wait_nobody(lab)
        os.unlink(lab.path("report"))


def tracked_faults(lab, options):
    """Whatever fails once in a checkpoint: the program goes on, and the images that follow are right."""
    numbers = range(1, 80) if options.long else sorted(random.sample(range(1, 45), 5))
    for number in numbers:
        for image in images(lab):
            image.unlink()
        run = Run.__new__(Run)
        run.lab, run.options, run.report = lab, ("--track", "--json", "--every", "20ms"), lab.write("report", "")
        run.command = ["/bin/sh", "-c", 'exec "$@" 2>>program.err', "sh", lab.install(options.program), "1", "7", str(MIB),
                       run.report]
        run.launch(env=lab.environment(STASIS_FAULT=str(number)))
        run.wait_event("checkpoints", lambda events: sum(event["event"] == "saved" for event in events) >= 4 and
                       (events[-1]["event"] == "saved"), "saved", "not_saved")
        run.wait_right(1)
        failed = [event for event in run.events("not_saved") if "forced failure" in event["message"]]
        lab.log.append(f"fault {number}: {failed or 'none'}")
        if len(failed) > 1:
            raise Failure(f"fault {number}: {failed}")
        run.kill_and_resume()
        run.wait_right(2)
        run.end()


CASES = {case.__name__: case for case in (
    tracked_lives, tracked_tree, tracked_exec, tracked_chain_is_bounded, tracked_untouched, tracked_parent_gone, tracked_told_to_end,
    tracked_stasis_killed, tracked_faults)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
