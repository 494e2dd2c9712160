#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program that writes, drops, unmaps, moves and protects its memory, and forks (restless.c), is saved while it does, by
every kind of snapshot: it must go on undisturbed, and what is restarted must find everything right."""
import os
import pathlib
import random
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from consistent import LARGE, MIB, MODES, Writer, save  # noqa: E402  (the path comes first)
from harness import Failure, proc_text, run_cases  # noqa: E402


def restless(mode, compress=None, mib=MIB, times=3):
    def case(lab, options):
        writer = Writer(lab, options.program, 7, mib=mib)
        for i in range(100 if options.long else times):
            image = save(lab, writer, mode, *(["--compress", compress] if compress else []))
            if image is None:
                continue
            if i == 0:
                lab.must("verify", image)
                whole = lab.next_image()
                lab.must("merge", image, "-o", whole)
                lab.must("verify", whole)
                os.unlink(whole)
            writer.wait_right(2)
            writer.kill()
            writer.restart(image)
            writer.wait_right(2)
            os.unlink(image)
        writer.kill()
    return case


def nothing_of_ours_in(pid):
    if any(line.startswith("VmFlags:") and " uw" in line for line in proc_text(pid, "smaps").splitlines()):
        raise Failure("memory of the program is still tracked")
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if "userfaultfd" in os.readlink(f"/proc/{pid}/fd/{fd}"):
            raise Failure(f"the program has a userfaultfd, descriptor {fd}")


def precopy_faults(lab, options):
    """Whatever fails while the memory is copied beforehand: the program goes on, nothing stays in it, and no image appears."""
    writer = Writer(lab, options.program, 7)
    number = 0
    while True:
        number += 1
        image = lab.next_image()
        result = lab.command("checkpoint", writer.pid, "-o", image, "--snapshot", "precopy",
                             env={"STASIS_FAULT": str(number)})
        lab.log.clear()
        writer.wait_right(1)
        nothing_of_ours_in(writer.pid)
        if "fault point" not in result.stderr:
            break
        if result.returncode == 0 or os.path.exists(image):
            raise Failure(f"fault {number}: status {result.returncode}, {result.stderr}")
    if result.returncode != 0:
        raise Failure(f"without a fault: {result.returncode} {result.stderr}")
    print(f"{number - 1} fault points")
    writer.kill()


def precopy_killed(lab, options):
    """kill -9 at any moment: the program goes on, and nobody tracks it any more."""
    writer = Writer(lab, options.program, 7)
    image = lab.next_image()
    words = [lab.stasis, "checkpoint", writer.pid, "-o", image, "--snapshot", "precopy"]
    begun = time.monotonic()
    lab.wait_exit(lab.start(words), "the checkpoint")
    duration = time.monotonic() - begun
    for _ in range(200 if options.long else 20):
        checkpoint = lab.start(words)
        time.sleep(random.uniform(0, duration))
        checkpoint.kill()
        checkpoint.wait()
        writer.wait_right(1)
        nothing_of_ours_in(writer.pid)
    writer.kill()


# Memory that is given up under write protection makes that another kind of snapshot: traces.py has it.
CASES = {f"restless_{mode}": restless(mode) for mode in MODES if mode != "wp"}
CASES["restless_precopy_lz4"] = restless("precopy", "lz4")
CASES["restless_auto_large"] = restless("auto", mib=LARGE, times=1)
CASES |= {"precopy_faults": precopy_faults, "precopy_killed": precopy_killed}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
