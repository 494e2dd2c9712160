#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nobody is waited for for ever: neither the far end of a stream, nor does the target wait for somebody else."""
import os
import random
import signal
import subprocess
import time

from ends import await_freeze
from harness import PATIENCE, Failure, proc_text, run_cases
from victim import Target, nothing_left


def catches_interrupts(pid):
    words = proc_text(pid, "status").split("SigCgt:")
    return len(words) > 1 and int(words[1].split()[0], 16) >> (signal.SIGINT - 1) & 1


def reader_that_stalls(lab, _options):
    """Nobody reads the pipe that the image goes into: the target is let go when the time is up, or on SIGINT."""
    target = Target(lab)
    for words, number in ((("--timeout", "1s"), None), (("--timeout", "100s"), signal.SIGINT)):
        read_end, write_end = os.pipe()
        checkpoint = lab.start([lab.stasis, "checkpoint", target.pid, "-o", "-", *words], stdout=write_end,
                               stderr=subprocess.PIPE)
        os.close(write_end)
        if number:
            await_freeze(target, checkpoint)
            checkpoint.send_signal(number)
        status = lab.wait_exit(checkpoint, "a checkpoint that nobody reads")
        said = checkpoint.stderr.read().decode()
        if status != 1 or said.count("\n") != 1 or ("interrupted" if number else "gave up") not in said:
            raise Failure(f"a checkpoint that nobody reads: status {status}: {said}")
        target.goes_on("a checkpoint that nobody reads")
        os.close(read_end)
        nothing_left(lab, {target.pid}, "a checkpoint that nobody reads")
    target.end()


def writer_that_stalls(lab, _options):
    """Whoever reads an image from a pipe or a FIFO to which nobody writes can be interrupted."""
    fifo = lab.path("small")
    os.mkfifo(fifo, 0o666)
    lab.give(fifo)
    silent, write_end = os.pipe()
    commands = [["restart", fifo], ["verify", fifo], ["merge", fifo, "-o", lab.path("image")], ["restart", "-"],
                ["verify", "-"]]
    for words in commands:
        command = lab.start([lab.stasis, *words], stdin=silent, stderr=subprocess.PIPE)
        lab.wait_for(lambda: catches_interrupts(command.pid), "waiting", command)
        command.send_signal(signal.SIGINT)
        status = lab.wait_exit(command, f"{words} of nothing")
        said = command.stderr.read().decode()
        if status != (125 if words[0] == "restart" else 1) or "interrupted" not in said or said.count("\n") != 1:
            raise Failure(f"{words} of nothing: status {status}: {said}")
    result = lab.command("restart", fifo, "--detach", "--timeout", "1s")
    if result.returncode != 1 or "has brought nothing" not in result.stderr:
        raise Failure(f"a FIFO without a writer: status {result.returncode}: {result.stderr}")
    os.close(silent)
    os.close(write_end)
    os.unlink(fifo)
    nothing_left(lab, set(), "streams that bring nothing")


def stopped_and_continued(lab, _options):
    """A target that is stopped and continued while it is held goes on, whatever of it met the freeze."""
    target = Target(lab)
    generator = random.Random()
    for number in range(20):
        checkpoint = lab.start([lab.stasis, "checkpoint", target.pid, "-o", lab.path("image"), *PATIENCE])
        await_freeze(target, checkpoint)
        time.sleep(generator.uniform(0, 0.002))
        os.kill(target.pid, signal.SIGSTOP)
        time.sleep(generator.uniform(0, 0.002))
        os.kill(target.pid, signal.SIGCONT)
        if lab.wait_exit(checkpoint, "the checkpoint") != 0:
            raise Failure(f"checkpoint {number} of a target that is stopped and continued fails")
        target.goes_on(f"stop and continue, number {number}")
        os.unlink(lab.path("image"))
    target.end()


CASES = {f.__name__: f for f in (reader_that_stalls, writer_that_stalls, stopped_and_continued)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
