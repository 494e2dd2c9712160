# SPDX-License-Identifier: Apache-2.0
"""The n-th fault point or system call fails, for each n: of Stasis itself, or of whatever it is made of."""
import os
import pathlib
import random

from victim import Target, checkpoint_with, good_image, nothing_left, restart_runs, restart_with
from harness import Failure


def each_fault(variable, run, marker, options, quick_points):
    """Calls run(environment, name) for the n-th fault, n = 1, 2, ... until no fault is left; run() gives the stderr.
    Without --long: about quick_points of them, spread over all."""
    def happens(number):
        return marker(run({variable: str(number)}, f"{variable}={number}"))
    if not happens(1):
        raise Failure(f"{variable}=1 does nothing: no fault point was reached")
    last, step = 1, 1
    while happens(last + step):  # find the end in bigger and bigger steps
        last, step = last + step, step * 2
    while step > 1:
        step //= 2
        if happens(last + step):
            last += step
    points = range(2, last) if options.long or last <= quick_points else sorted(
        random.Random(1).sample(range(2, last), quick_points))
    for number in points:
        happens(number)
    print(f"{last} fault points, {len(points) + 2} tried")


def named(stderr):
    return "fault point" in stderr


def fault_points_checkpoint(lab, options):
    target = Target(lab)

    def run(environment, name):
        result = checkpoint_with(lab, target, environment, name)
        if named(result.stderr) == (result.returncode == 0):
            raise Failure(f"{name}: status {result.returncode}: {result.stderr}")
        return result.stderr
    each_fault("STASIS_FAULT", run, named, options, 60)
    target.end()


def fault_points_kill(lab, options):
    """With --kill a failure up to the publication leaves the target alone; after it the image is good."""
    image = lab.path("image")
    number = 0
    while True:
        number += 1
        target = Target(lab)
        result = lab.command("checkpoint", target.pid, "--kill", "-o", image, env={"STASIS_FAULT": str(number)})
        lab.log.clear()
        if not named(result.stderr):
            break
        name = f"STASIS_FAULT={number} with --kill"
        if os.path.exists(image):
            lab.must("verify", image)
            os.unlink(image)
        if target.process.poll() is None:
            target.goes_on(name)
            target.end()
        elif result.returncode != 0:
            raise Failure(f"{name}: failed and killed the target: {result.stderr}")
        nothing_left(lab, set(), name)
    print(f"{number - 1} fault points")
    lab.wait_exit(target.process, "the killed target")


def fault_points_restart(lab, options):
    image = good_image(lab)

    def run(environment, name):
        result = restart_with(lab, image, environment, name)
        if named(result.stderr) == (result.returncode == 0):
            raise Failure(f"{name}: status {result.returncode}: {result.stderr}")
        return result.stderr
    each_fault("STASIS_FAULT", run, named, options, 60)
    (lab.dir / "stop").unlink(missing_ok=True)
    restart_runs(lab, image)


def failing_syscalls_checkpoint(lab, options):
    target = Target(lab)
    failures = []

    def run(environment, name):
        result = checkpoint_with(lab, target, environment, name)
        failures.append(result.returncode != 0)
        return result
    # Not every failure shows (some calls are only tried), so the end is where many in a row show nothing.
    number, quiet = 0, 0
    while quiet < 60 and number < 5000:
        number += 1 if options.long or number < 40 else random.Random(number).randint(1, 12)
        quiet = 0 if run({"STASIS_FAIL_SYSCALL": str(number)}, f"system call {number} fails").returncode else quiet + 1
    if sum(failures) < 5:
        raise Failure(f"only {sum(failures)} of {len(failures)} failing system calls failed the checkpoint")
    print(f"{len(failures)} system calls failed in turn, {sum(failures)} checkpoints failed")
    target.end()


def failing_syscalls_restart(lab, options):
    image = good_image(lab)
    number, quiet, failed = 0, 0, 0
    while quiet < 60 and number < 5000:
        number += 1 if options.long or number < 40 else random.Random(number).randint(1, 12)
        result = restart_with(lab, image, {"STASIS_FAIL_SYSCALL": str(number)}, f"system call {number} fails")
        quiet, failed = (0, failed + 1) if result.returncode else (quiet + 1, failed)
    if failed < 5:
        raise Failure(f"only {failed} failing system calls failed the restart")
    print(f"up to call {number}: {failed} restarts failed")
    (lab.dir / "stop").unlink(missing_ok=True)
    restart_runs(lab, image)


def each_syscall(lab, options, run):
    """Calls run(prefix, name) so that a system call of every kind and place fails, whoever made it: the command itself or
    a library. Without --long: a sample."""
    injector = lab.install(pathlib.Path(lab.program).parent / "failing")
    counted = run([injector, 0], "counting").stderr
    total = int(counted.rsplit("system calls: ", 1)[1].split()[0])
    numbers = range(1, total + 1)
    if not options.long:
        numbers = sorted(random.sample(numbers, 70))
    crashed, failed = [], 0
    for number in numbers:
        result = run([injector, number], f"system call {number} of {total} fails")
        failed += result.returncode != 0
        if "ended by signal" in result.stderr:
            crashed.append(f"{number}: {result.stderr}")
    print(f"{len(numbers)} of {total} system calls failed in turn, {failed} commands failed")
    if crashed:
        raise Failure(f"{len(crashed)} crashes: {crashed[0]}")


def any_syscall_checkpoint(lab, options):
    target = Target(lab)
    each_syscall(lab, options, lambda below, name: checkpoint_with(lab, target, {}, name, below=below))
    target.end()


def any_syscall_restart(lab, options):
    image = good_image(lab)
    each_syscall(lab, options, lambda below, name: restart_with(lab, image, {}, name, below=below))
    (lab.dir / "stop").unlink(missing_ok=True)
    restart_runs(lab, image)
