# SPDX-License-Identifier: Apache-2.0
"""Stasis or the target ends in the middle: by kill -9, by a signal that asks it to."""
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import threading
import time

from victim import Target, good_image, nothing_left, restart_runs
from harness import PATIENCE, Failure, descendants, json_of, proc_text


def typical_duration(lab, target):
    start = time.monotonic()
    lab.must("checkpoint", target.pid, "-o", lab.path("image"))
    os.unlink(lab.path("image"))
    return time.monotonic() - start


def start_checkpoint(lab, target, **options):
    return lab.start([lab.stasis, "checkpoint", target.pid, "-o", lab.path("image"), *PATIENCE], **options)


def typical_freeze(lab, target):
    """Seconds for which a checkpoint holds the target."""
    freeze = json_of(lab.must("checkpoint", target.pid, "-o", lab.path("image"), "--json"))["freeze_us"] / 1e6
    os.unlink(lab.path("image"))
    return freeze


def await_freeze(target, checkpoint):
    while "TracerPid:\t0" in proc_text(target.pid, "status") and checkpoint.poll() is None:
        pass


def holds_a_gate(pid):
    """An anonymous executable mapping: the target has none of its own."""
    return any(line.split()[1] == "r-xp" and len(line.split()) == 5 for line in proc_text(pid, "maps").splitlines())


def killed_checkpoint(lab, options):
    """kill -9 of Stasis at random moments, half of them while it holds the target: the target goes on; only the few calls
    before the gate stands may lose it."""
    target = Target(lab, "gate-may-stay")
    duration, freeze = typical_duration(lab, target), typical_freeze(lab, target)
    generator = random.Random()
    rounds, number, lost, gates = (1000 if options.long else 40), 0, 0, 0
    while number < rounds:
        number += 1
        checkpoint = start_checkpoint(lab, target)
        if number % 2:
            await_freeze(target, checkpoint)
        time.sleep(generator.uniform(0, freeze if number % 2 else duration))
        for pid in [*descendants(checkpoint.pid), checkpoint.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        checkpoint.wait()
        try:
            target.goes_on(f"kill -9 number {number}")
        except Failure as failure:
            if target.process.poll() is None:
                raise
            lost += 1
            print(f"lost in round {number}: status {target.process.returncode}; {failure}")
            target = Target(lab, "gate-may-stay")
        if holds_a_gate(target.pid):
            gates += 1
            target.end()
            target = Target(lab, "gate-may-stay")
        image = lab.dir / "image"
        if image.exists():
            lab.must("verify", image)
            image.unlink()
        for name in os.listdir(lab.dir):  # a killed process can't remove its temporary file; it must not look like an image
            if name.startswith((".", "image")):
                (lab.dir / name).unlink()
        nothing_left(lab, {target.pid}, f"kill -9 number {number}")
        # A few of a few rounds may be chance: many rounds tell.
        if number == rounds and lost > 1 and rounds < 400:
            rounds = 400
    print(f"kill -9 at {rounds} random moments of {duration * 1000:.1f} ms ({freeze * 1000:.1f} ms frozen): "
          f"{lost} targets lost, {gates} kept a mapping of the gate")
    if lost > max(1, rounds // 100):
        raise Failure(f"{lost} of {rounds} targets lost")
    target.end()


def interrupted_checkpoint(lab, options):
    """SIGINT and SIGTERM: the target goes on, nothing is left."""
    target = Target(lab)
    duration = typical_duration(lab, target)
    generator = random.Random()
    for number in range(200 if options.long else 24):
        checkpoint = start_checkpoint(lab, target)
        time.sleep(generator.uniform(0, duration))
        checkpoint.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
        status = lab.wait_exit(checkpoint, "the interrupted checkpoint")
        target.goes_on(f"signal number {number}")
        if (lab.dir / "image").exists():
            if status != 0:
                raise Failure(f"status {status} although the image is there")
            (lab.dir / "image").unlink()
        nothing_left(lab, {target.pid}, f"signal number {number}")
    target.end()


def interrupted_restart(lab, options):
    """SIGTERM and SIGKILL to a restart: a half-built program disappears."""
    image = good_image(lab)
    lab.write("stop", "")
    start = time.monotonic()
    status = lab.wait_exit(lab.restart_foreground(image), "restart")
    duration = time.monotonic() - start
    if status:
        raise Failure(f"an undisturbed restart ended with {status}: {lab.read('err')}")
    nothing_left(lab, set(), "an undisturbed restart")
    generator = random.Random()
    (lab.dir / "stop").unlink()
    for number in range(200 if options.long else 24):
        restart = lab.restart_foreground(image)
        time.sleep(generator.uniform(0, duration))
        restart.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        lab.wait_exit(restart, "the interrupted restart")
        # Killed after it has let the program go, the foreground waiter leaves the program to itself: what is left may be
        # the program, whole, and nothing else.
        def only_the_program():
            lab.reap()
            for pid in descendants():
                if proc_text(pid, "comm") == "counter":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return not descendants()
        lab.wait_for(only_the_program, f"end of everything after signal number {number}")
        nothing_left(lab, set(), f"signal number {number}")
    restart_runs(lab, image)


def as_a_job():
    """In a process group of its own, whose parent could wake it: only such are stopped."""
    os.setpgrp()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def stopped_checkpoint(lab, _options):
    """Ctrl-Z during the freeze: the checkpoint stops when the target runs again, and SIGCONT lets it end."""
    target = Target(lab)
    saved = 0
    while saved < 3:
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)  # the freeze lasts until somebody reads
        checkpoint = lab.start([lab.stasis, "checkpoint", target.pid, "-o", "-", "--timeout", "10m"], stdout=write_end,
                               stderr=subprocess.PIPE, start_new_session=False, preexec_fn=as_a_job)
        os.close(write_end)
        await_freeze(target, checkpoint)
        checkpoint.send_signal(signal.SIGTSTP)
        image = open(read_end, "rb")
        reader = threading.Thread(target=image.read, daemon=True)
        reader.start()

        def stopped():
            return proc_text(checkpoint.pid, "stat").rpartition(")")[2].split()[:1] == ["T"]
        lab.wait_for(lambda: stopped() or checkpoint.poll() is not None, "stop of the checkpoint")
        if checkpoint.poll() is None:
            target.goes_on("Ctrl-Z")
            checkpoint.send_signal(signal.SIGCONT)
        status = lab.wait_exit(checkpoint, "the checkpoint that was stopped")
        said = checkpoint.stderr.read().decode()
        checkpoint.stderr.close()
        reader.join()
        image.close()
        target.goes_on("a stopped checkpoint")
        if status:
            raise Failure(f"after Ctrl-Z: status {status}: {said}")
        saved += 1
    target.end()


def vanishing_target(lab, options):
    """The target is killed at a random moment of the checkpoint, or as soon as it is held: that is what the error says,
    whatever failed first. A checkpoint that was through by then has its image."""
    target = Target(lab)
    duration = typical_duration(lab, target)
    generator = random.Random()
    ends = {"saved": 0, "ended": 0}
    rounds = 100 if options.long else 12
    number = 0
    while number < rounds or not ends["ended"]:  # on a busy machine we may always come too late for a while
        number += 1
        if number > 50 * rounds:
            raise Failure("no target was killed in the middle of its checkpoint")
        checkpoint = start_checkpoint(lab, target, stderr=subprocess.PIPE)
        if number % 2:
            await_freeze(target, checkpoint)
        else:
            time.sleep(generator.uniform(0, duration))
        os.kill(target.pid, signal.SIGKILL)
        said = checkpoint.communicate(timeout=lab.seconds)[1].decode()
        lab.wait_exit(target.process, "the killed target")
        if checkpoint.returncode == 0:
            lab.must("verify", lab.path("image"))
            (lab.dir / "image").unlink()
            ends["saved"] += 1
        elif checkpoint.returncode == 1 and said.count("\n") == 1 and (
                f"process {target.pid} ended while" in said or f"no process {target.pid}" in said):
            ends["ended"] += 1
        else:
            raise Failure(f"status {checkpoint.returncode}: {said}")
        nothing_left(lab, set(), f"target killed, number {number}")
        target = Target(lab)
    print(", ".join(f"{count} {end}" for end, count in ends.items()))
    target.end()
