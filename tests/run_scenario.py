#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""usage: run_scenario.py [--stasis build/stasis] [--fake-boot build/tests/image/fake_boot] [--keep DIR] PROGRAM MODE [WORD...]

Runs one scenario program (tests/scenario/scenario.h) in one mode. WORDs are those of its `// scenario:` line."""
import argparse
import contextlib
import fcntl
import os
import pathlib
import random
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "harness"))
from harness import Failure, Lab, Skip, descendants, json_of, main  # noqa: E402  (the path comes first)


class Scenario:
    """A running scenario program inside a Lab."""

    def __init__(self, lab, program):
        self.lab = lab
        self.process = lab.start([lab.install(program)])
        lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", self.process)

    def go_on(self):
        self.lab.write("go", "")

    def expect_pass(self, status=0):
        result = self.lab.read("result")
        if result != "PASS\n" or status != 0:
            raise Failure(f"status {status}\n{result}{self.lab.read('err')}{self.lab.read('out')}")

    def finish(self, process):
        """Says go on; `process` is the program or the foreground restart that stands for it."""
        self.go_on()
        self.expect_pass(self.lab.wait_exit(process, "the program"))

    def finish_detached(self, pid):
        self.go_on()
        self.lab.wait_gone(pid, "the program")
        self.expect_pass()


def plain(lab, scenario):
    scenario.finish(scenario.process)


def leave(lab, scenario):
    """Checkpoint, leave running; the image is a good one."""
    image = lab.checkpoint(scenario.process.pid)
    lab.must("verify", image)
    json_of(lab.must("inspect", image, "--json"))
    scenario.finish(scenario.process)


def try_checkpoint(lab, scenario):
    image = lab.next_image()
    result = lab.command("checkpoint", scenario.process.pid, "-o", image)
    if result.returncode not in (0, 3):
        raise Failure(f"checkpoint ended with {result.returncode}: {result.stderr}")
    if result.returncode == 3 and (os.path.exists(image) or len(result.stderr.splitlines()) != 1):
        raise Failure(f"a refusal is one line and no file: {result.stderr}")


def attempt(lab, scenario):
    """Checkpoint of something that may be refused (status 3): either way the program goes on."""
    for _ in range(2):
        try_checkpoint(lab, scenario)
    scenario.finish(scenario.process)


def restart(lab, scenario):
    image = lab.checkpoint_and_kill(scenario.process)
    scenario.finish(lab.restart_foreground(image))


def detach(lab, scenario):
    image = lab.checkpoint_and_kill(scenario.process)
    scenario.finish_detached(lab.restart_detached(image))


def twice(lab, scenario):
    """Two generations: checkpoint a restarted program."""
    pid = lab.restart_detached(lab.checkpoint_and_kill(scenario.process))
    image = lab.checkpoint_and_kill(pid)
    scenario.finish(lab.restart_foreground(image))


def namespace(lab, scenario):
    """As `twice`, in namespaces of its own although the old pids are free."""
    pid = lab.restart_detached(lab.checkpoint_and_kill(scenario.process), "--pids", "namespace")
    image = lab.checkpoint_and_kill(pid)
    scenario.finish(lab.restart_foreground(image, "--pids", "namespace"))


TWO_DAYS = 2 * 24 * 3600


def other_boot(lab, image, boot, seconds):
    """The image as if another boot, its clocks `seconds` ahead, had made it."""
    copy = lab.next_image()
    lab.run_tool(lab.fake_boot, image, copy, f"00000000-0000-4000-8000-{boot:012}", seconds)
    return copy


def boot(lab, scenario):
    """Restarted on another boot, where the clocks stand two days behind."""
    lab.write("ahead", str(TWO_DAYS))
    image = other_boot(lab, lab.checkpoint_and_kill(scenario.process), 1, TWO_DAYS)
    scenario.finish(lab.restart_foreground(image))


def boot_twice(lab, scenario):
    """Another boot, then a restart on that same one, then yet another two days ahead, then one as far as we are."""
    lab.write("ahead", str(2 * TWO_DAYS))
    pid = lab.restart_detached(other_boot(lab, lab.checkpoint_and_kill(scenario.process), 1, TWO_DAYS))
    pid = lab.restart_detached(lab.checkpoint_and_kill(pid))
    pid = lab.restart_detached(other_boot(lab, lab.checkpoint_and_kill(pid), 2, TWO_DAYS))
    image = other_boot(lab, lab.checkpoint_and_kill(pid), 3, 0)
    scenario.finish(lab.restart_foreground(image))


def freezes(lab, scenario):
    """Ten checkpoints half a second apart; the program counts them in files."""
    for number in range(10):
        time.sleep(0.5)
        if scenario.process.poll() is not None:
            break
        lab.checkpoint(scenario.process.pid)
        lab.write(f"frozen.{number}", "")
    scenario.finish(scenario.process)


def failures(lab, scenario):
    """A checkpoint that fails at each of its stages in turn, ten times each."""
    number, last = 1, False
    while not last:
        for _ in range(10):
            image = lab.next_image()
            result = lab.command("checkpoint", scenario.process.pid, "-o", image, env={"STASIS_FAULT": str(number)})
            last = "fault point" not in result.stderr
            if (result.returncode == 0) != last or os.path.exists(image) != last:
                raise Failure(f"fault point {number}: status {result.returncode}: {result.stderr}")
        number += 1
    if number < 5:
        raise Failure(f"only {number - 2} fault points were reached")
    scenario.finish(scenario.process)


# What takes something out of an object that can't be looked at, and puts it back, by its numbers for x86-64; and how many
# in a row fail. mq_timedsend, mq_timedreceive and mq_getsetattr; mq_timedreceive for good; ioctl, poll, read and
# write of terminals.
DESTRUCTIVE_CALLS = ("242,243,245", 1), ("243", 3), ("16@/dev/pt", 1), ("7@/dev/pt", 1), ("0,1@/dev/pt", 1)
MOST_CALLS = 100  # of a kind


def failing_calls(lab, scenario):
    """A checkpoint one of whose system calls fails, each of those in turn that are between taking something out of the
    program's objects and putting it back; every k-th where there are many, others in each run."""
    tried = failed = 0
    for calls, in_a_row in DESTRUCTIVE_CALLS:
        def checkpoint(first, last, calls=calls):
            image = lab.next_image()
            result = lab.command("checkpoint", scenario.process.pid, "-o", image,
                                 below=(lab.failing, f"{first}-{last}:{calls}"))
            if result.returncode < 0 or "ended by signal" in result.stderr or scenario.process.poll() is not None:
                raise Failure(f"call {first} of {calls}: status {result.returncode}: {result.stderr}")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(image)
            return result
        total = int(checkpoint(0, 0).stderr.rsplit("system calls: ", 1)[1].split()[0])
        stride = 1 + total // MOST_CALLS
        for number in range(random.randint(1, stride), total + 1, stride):
            result = checkpoint(number, number + in_a_row - 1)
            failed += result.returncode != 0
            tried += "failing call" in result.stderr  # how often is waited is another number each time
    print(f"{tried} system calls failed in turn, {failed} checkpoints failed")
    if tried == 0 or failed == 0:
        raise Failure(f"{tried} system calls failed in turn, and {failed} checkpoints")
    lab.log.clear()
    scenario.finish(scenario.process)


def fail_restarts(lab, image):
    """Restarts that fail at each of their stages in turn; every one leaves all as it was. Returns the pid of the last,
    which does not fail."""
    before = lab.owned_objects()
    number = 1
    while True:
        pidfile = lab.path(f"pid.{number}")
        result = lab.command("restart", image, "--detach", "--pidfile", pidfile, env={"STASIS_FAULT": str(number)})
        if result.returncode == 0 and "fault point" not in result.stderr:
            break
        if result.returncode == 0 or "fault point" not in result.stderr:
            raise Failure(f"fault point {number}: status {result.returncode}: {result.stderr}")
        lab.wait_for(lambda: (lab.reap(), not descendants())[1], f"end of everything after fault point {number}")
        if changed := before ^ lab.owned_objects():
            raise Failure(f"fault point {number} of a restart: one of before and after has {sorted(changed)}")
        number += 1
    if number < 5:
        raise Failure(f"only {number - 1} fault points were reached")
    return int(lab.read(f"pid.{number}"))


def failed_restarts(lab, scenario):
    """Failing restarts where the program's objects are still there, and where they are gone."""
    image = lab.checkpoint_and_kill(scenario.process)
    pid = fail_restarts(lab, image)
    image = lab.checkpoint_and_kill(pid)
    lab.remove_owned_objects()
    scenario.finish_detached(fail_restarts(lab, image))


def attempts(lab, scenario):
    """As `freezes`, of something that may be refused: it was frozen all the same."""
    for number in range(10):
        time.sleep(0.5)
        try_checkpoint(lab, scenario)
        lab.write(f"frozen.{number}", "")
    scenario.finish(scenario.process)


def restarts(lab, scenario):
    """As `freezes`, each of them a restart."""
    process = scenario.process
    for number in range(10):
        time.sleep(0.5)
        process = lab.restart_detached(lab.checkpoint_and_kill(process))
        lab.write(f"frozen.{number}", "")
    scenario.finish_detached(process)


def group_gone(lab, scenario):
    """Restarted when the control group that it was in is no more: that is noted, and it is where the restart is."""
    group = lab.read("group")
    if not group:
        raise Skip("no control group can be made here")
    try:
        image = lab.checkpoint_and_kill(scenario.process)
        lab.wait_for(lambda: not pathlib.Path(group, "cgroup.procs").read_text(), "empty control group")
    except Failure:
        lab.end_processes(failed=True)
        raise
    finally:
        os.rmdir(group)
    lab.write("gone", "")
    scenario.finish(lab.restart_foreground(image, env=lab.environment(STASIS_LOG="cgroup:info")))
    if not re.search(f"in control group .*/{os.path.basename(group)}: it no longer exists", lab.read("err")):
        raise Failure(f"nothing is said of the control group: {lab.read('err')}")


# Features of CPUs of which none has both, and where cpuid tells of them: leaf, subleaf, register, bit.
RARE_FEATURES = {"xop": (0x80000001, 0, 2, 11), "avx512er": (7, 0, 1, 27)}


def other_cpu(lab, scenario):
    """An image of a CPU that has more than this one: refused by the feature's name. The image as it was is none the worse."""
    image, other = lab.checkpoint_and_kill(scenario.process), lab.next_image()
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    feature = next(name for name in RARE_FEATURES if name not in flags)
    lab.run_tool(lab.fake_boot, image, other, "--cpu-bit", *RARE_FEATURES[feature])
    for options, status in (((), 125), (("--detach",), 3)):
        result = lab.command("restart", other, *options)
        if result.returncode != status or f"this CPU lacks what the program may be using: {feature}" not in result.stderr:
            raise Failure(f"status {result.returncode}, not {status} for {feature}: {result.stderr}")
    scenario.finish(lab.restart_foreground(image))


HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
FREE_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
WANTED_HUGE_PAGES = 8


@contextlib.contextmanager
def huge_pages(lab):
    """Eight of them, where that is permitted; then there is the file `huge`. Those that were made are taken away again;
    what a test that is killed leaves is no more than eight, however often."""
    try:
        file = HUGE_PAGES.open("r+")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = int(file.read())
        try:
            if before < WANTED_HUGE_PAGES:
                HUGE_PAGES.write_text(str(WANTED_HUGE_PAGES))
            if int(FREE_HUGE_PAGES.read_text()) >= WANTED_HUGE_PAGES:
                lab.write("huge", "")
            yield
        finally:
            if before < WANTED_HUGE_PAGES:
                HUGE_PAGES.write_text(str(before))


# mode: (function, as an ordinary user)
MODES = {"plain": (plain, False), "leave": (leave, False), "attempt": (attempt, False), "restart": (restart, False),
         "detach": (detach, False), "twice": (twice, False), "namespace": (namespace, False),
         "freezes": (freezes, False), "attempts": (attempts, False), "user-attempts": (attempts, True),
         "restarts": (restarts, False), "failures": (failures, False), "failing-calls": (failing_calls, False),
         "failed-restarts": (failed_restarts, False), "group-gone": (group_gone, False),
         "cpu": (other_cpu, False), "user-cpu": (other_cpu, True),
         "user-restarts": (restarts, True), "boot": (boot, False), "boot-twice": (boot_twice, False),
         "user-boot": (boot, True), "user-boot-twice": (boot_twice, True), "user-plain": (plain, True), "user-leave": (leave, True),
         "user": (restart, True), "user-twice": (twice, True)}


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stasis", default="build/stasis")
    parser.add_argument("--fake-boot", help="the tool that makes an image look as if it came from another boot")
    parser.add_argument("--failing", help="the program that makes a system call of another fail")
    parser.add_argument("--keep", help="directory for the files of failed tests")
    parser.add_argument("program")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    function, user = MODES[options.mode]
    if "root" in options.words and os.geteuid() != 0:
        raise Skip("needs root")
    stasis = None if function is plain else options.stasis
    name = f"{os.path.basename(options.program)}-{options.mode}"
    with Lab(name, stasis, user=user, keep=options.keep, compare_ipc="ipc" in options.words) as lab:
        lab.fake_boot, lab.failing = options.fake_boot, options.failing
        with huge_pages(lab) if "huge" in options.words else contextlib.nullcontext():
            function(lab, Scenario(lab, options.program))
        print(f"PASS {name}")
        print(lab.read("out"), end="")


if __name__ == "__main__":
    main(run)
