#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program that looks for traces of a snapshot in itself (watched.c) finds none: after any kind of snapshot, while its pages
are still being written, when a stage fails, and when Stasis is killed (-9) at any moment."""
import os
import pathlib
import random
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, descendants, json_of, proc_text, run_cases  # noqa: E402  (the path comes first)


class Watched:
    def __init__(self, lab, program, *words):
        self.lab = lab
        self.has_children = "child-ends" in words
        (lab.dir / "count").unlink(missing_ok=True)
        self.process = lab.start([lab.install(program), lab.dir, *words])
        self.pid = self.process.pid
        self.goes_on("the start")

    def count(self):
        return int(self.lab.read("count") or 0)

    def goes_on(self, after, alive=True):
        before = self.count()

        def counted():
            if wrong := self.lab.read("wrong"):
                raise Failure(f"after {after} it found: {wrong}")
            return self.count() >= before + 3
        self.lab.wait_for(counted, f"counting after {after}", self.process if alive else None)

    def knows(self, pid):
        """One of its own children, of which it looks that there is no other."""
        return self.has_children and proc_text(pid, "stat").rpartition(")")[2].split()[1:2] == [str(self.pid)]

    def protected(self):
        return [line for line in proc_text(self.pid, "smaps").splitlines() if line.startswith("VmFlags") and " uw" in line]

    def nothing_left(self, after):
        self.goes_on(after)

        def others():
            self.lab.reap()
            return [pid for pid in descendants() if pid != self.pid and not self.knows(pid)]
        self.lab.wait_for(lambda: not others(), f"end of all others after {after}")
        self.lab.wait_for(lambda: not self.protected(), f"end of the protection after {after}")

    def end(self, process=None):
        self.lab.write("stop", "")
        if self.lab.wait_exit(process or self.process, "the watched program") != 0:
            raise Failure(f"it found: {self.lab.read('wrong')}")
        os.unlink(self.lab.path("stop"))


def may(lab, mode):
    return mode != "wp" or (lab.is_root and not lab.as_user)


def no_trace(mode, *words):
    """Seven times, then restarted from the last."""
    def case(lab, options):
        if not may(lab, mode):
            return
        watched = Watched(lab, options.program, *words)
        for number in range(7):
            image = lab.next_image()
            report = json_of(lab.must("checkpoint", watched.pid, "-o", image, "--snapshot", mode, "--json"))
            if report["snapshot"] not in (mode, *(("cow",) if mode == "wp" else ())):
                raise Failure(f"--snapshot {mode} made a snapshot by {report['snapshot']}")
            lab.must("verify", image)
            watched.nothing_left(f"checkpoint {number}")
        os.kill(watched.pid, signal.SIGKILL)
        lab.wait_exit(watched.process, "the killed program")
        restarted = lab.restart_foreground(image, "--files", "rollback")
        watched.goes_on("the restart", alive=False)
        watched.end(restarted)
    return case


def faults(mode, *words):
    """Every stage fails in turn."""
    def case(lab, options):
        if not may(lab, mode):
            return
        watched = Watched(lab, options.program, *words)
        for number in range(1, 200):
            image = lab.next_image()
            done = lab.command("checkpoint", watched.pid, "-o", image, "--snapshot", mode, env={"STASIS_FAULT": str(number)})
            watched.nothing_left(f"fault {number}")
            if "fault point" not in done.stderr:
                break
            if done.returncode == 0 or os.path.exists(image):
                raise Failure(f"fault {number}: status {done.returncode}: {done.stderr}")
        if done.returncode != 0 or number < 8:
            raise Failure(f"{number} fault points, then status {done.returncode}: {done.stderr}")
        watched.end()
    return case


def failing_calls(mode, *words):
    def case(lab, options):
        if not may(lab, mode):
            return
        watched = Watched(lab, options.program, *words)
        generator, number, quiet, failed = random.Random(mode), 0, 0, 0
        while quiet < (60 if options.long else 15) and number < 5000:
            number += 1 if options.long else generator.randint(1, 30)
            image = lab.next_image()
            done = lab.command("checkpoint", watched.pid, "-o", image, "--snapshot", mode,
                               env={"STASIS_FAIL_SYSCALL": str(number)})
            watched.nothing_left(f"failing call {number}")
            quiet, failed = (0, failed + 1) if done.returncode else (quiet + 1, failed)
            if os.path.exists(image):
                lab.must("verify", image)
                os.unlink(image)
        print(f"up to call {number}: {failed} checkpoints failed")
        if failed < 5:
            raise Failure(f"only {failed} checkpoints failed")
        watched.end()
    return case


def killed(mode, *words):
    def case(lab, options):
        if not may(lab, mode):
            return
        watched = Watched(lab, options.program, "gate-may-stay", *words)
        generator = random.Random()
        start = time.monotonic()
        lab.must("checkpoint", watched.pid, "-o", lab.path("image"), "--snapshot", mode)
        duration, lost, rounds = time.monotonic() - start, 0, 500 if options.long else 40
        for number in range(rounds):
            stasis = lab.start([lab.stasis, "checkpoint", watched.pid, "-o", lab.path("image"), "--snapshot", mode])
            time.sleep(generator.uniform(0, duration))
            try:
                os.kill(stasis.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            stasis.wait()
            try:
                watched.nothing_left(f"kill -9 number {number}")
            except Failure:
                # The few calls before the gate stands, and after it has gone.
                if watched.process.poll() is None or lab.read("wrong"):
                    raise
                lost += 1
                watched = Watched(lab, options.program, "gate-may-stay", *words)
            for name in os.listdir(lab.dir):
                if name.startswith((".", "image")):
                    (lab.dir / name).unlink()
        if lost > max(1, rounds // 100):
            raise Failure(f"{lost} of {rounds} were lost")
        watched.end()
    return case


CASES = {f"{mode}_{case.__name__}": case(mode) for case in (no_trace, faults, failing_calls, killed) for mode in ("cow", "wp")}
# Only such a copy touches what a process knows of its children.
for action in ("child-ends", "default-action"):
    words = dict.fromkeys(("child-ends", action))
    CASES |= {f"cow_{case.__name__}_{action.replace('-', '_')}": case("cow", *words)
              for case in (no_trace, faults, failing_calls, killed)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
