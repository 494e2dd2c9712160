#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, the target goes on right, nothing of ours is left behind, and one line says what happened.

The target is counter.c, which watches itself. After every failure it must have counted on without noticing anything; no image,
temporary file or process may be there that was not before."""
import contextlib
import ctypes
import difflib
import fcntl
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import TEST_UID, Failure, Skip, descendants, json_of, proc_text, run_cases  # noqa: E402

CLONE_NEWNS = 0x20000


def refused_for_proc(stderr):
    """The target looks at itself in /proc all the time; a checkpoint that meets an open file of it there is refused."""
    return "own file in /proc" in stderr


class Target:
    """A running counter."""

    def __init__(self, lab, *words):
        self.lab = lab
        if "command" not in vars(lab):
            once = lab.command

            def command(*arguments, **options):
                for _ in range(100):
                    result = once(*arguments, **options)
                    if result.returncode != 3 or not refused_for_proc(result.stderr + result.stdout):
                        break
                return result
            lab.command = command
        for name in ("count", "wrong", "stop"):
            (lab.dir / name).unlink(missing_ok=True)
        # Its streams lead nowhere: a log shared with others would grow between checkpoint and restart.
        self.process = lab.start([lab.install(lab.program), lab.dir, *words], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        self.pid = self.process.pid
        self.goes_on()

    def count(self):
        return int(self.lab.read("count") or -1)

    def goes_on(self, after="the start"):
        """It counts, has noticed nothing, and nobody traces or stops it."""
        before = self.count()

        def counted():
            if self.lab.read("wrong"):
                raise Failure(f"after {after} the target noticed: {self.lab.read('wrong')}")
            return self.count() >= before + 2
        self.lab.wait_for(counted, f"counting after {after}", self.process)
        if "TracerPid:\t0" not in proc_text(self.pid, "status"):
            raise Failure(f"after {after} the target is traced")

    def end(self):
        self.lab.write("stop", "")
        status = self.lab.wait_exit(self.process, "the target")
        if status != 0 or self.lab.read("wrong"):
            raise Failure(f"the target ended with {status}: {self.lab.read('wrong')}")


def expect_error(result, status, code=None):
    """A failure as promised: this exit status, one line on stderr, with --json the code on stdout."""
    if result.returncode != status:
        raise Failure(f"status {result.returncode}, not {status}: {result.stderr}")
    if "--json" in result.args:
        if code and f'"{code}"' not in result.stdout:
            raise Failure(f"code {code} is not in {result.stdout!r}")
        json_of(result)
    elif len(result.stderr.splitlines()) != 1:
        raise Failure(f"an error is one line: {result.stderr!r}")


def difference_of_maps(lab):
    """What the target kept when its mappings were others, for a person who reads a failed test."""
    return "".join(difflib.unified_diff(lab.read("maps.first").splitlines(True), lab.read("maps.now").splitlines(True)))


def nothing_left(lab, allowed, what):
    """No process but `allowed` (pids), no file that looks like an image or a part of one."""
    lab.reap()
    limit = time.monotonic() + 5
    while extra := [pid for pid in descendants() if pid not in allowed]:
        if time.monotonic() > limit:
            raise Failure(f"after {what} a process is left: {extra[0]} ({proc_text(extra[0], 'cmdline')} "
                          f"{proc_text(extra[0], 'stat')[:60]})")
        time.sleep(0.005)
        lab.reap()
    if (wrong := lab.read("wrong")) or (lab.dir / "maps.now").exists():
        raise Failure(f"after {what} the target noticed: {wrong}{difference_of_maps(lab)}")
    known = {"count", "wrong", "stop", "out", "err", "bin", "tmp", "good.image", "small"}
    if extra := [name for name in os.listdir(lab.dir) if name not in known]:
        raise Failure(f"after {what} a file is left: {extra[0]}")


# Fault points and failing system calls

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


def checkpoint_with(lab, target, environment, name, arguments=(), below=()):
    """A checkpoint into a file; the target goes on, and the image is there and good or not there."""
    image = lab.path("image")
    result = lab.command("checkpoint", target.pid, "-o", image, *arguments, env=environment, below=below)
    lab.log.clear()
    target.goes_on(name)
    if result.returncode == 0:
        lab.must("verify", image)
        os.unlink(image)
    elif result.returncode < 0 or os.path.exists(image):
        raise Failure(f"{name}: status {result.returncode}, image there: {os.path.exists(image)}; {result.stderr}")
    nothing_left(lab, {target.pid}, name)
    return result


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


def good_image(lab):
    """The image of a counter that has been killed."""
    target = Target(lab)
    image = lab.checkpoint(target.pid, "--kill", image=lab.path("good.image"))
    lab.wait_exit(target.process, "the killed target")
    return image


def restart_runs(lab, image):
    """The image still restarts and ends right."""
    before = int(lab.read("count"))
    restart = lab.restart_foreground(image)
    lab.wait_for(lambda: int(lab.read("count") or -1) >= before + 2 or lab.read("wrong"), "counting", restart)
    lab.write("stop", "")
    status = lab.wait_exit(restart, "the restarted target")
    if status or lab.read("wrong"):
        raise Failure(f"status {status} {lab.read('wrong')} {lab.read('err')}")


def restart_with(lab, image, environment, name, below=()):
    """A detached restart; if it fails nothing is left, if it succeeds the program ends right."""
    (lab.dir / "stop").unlink(missing_ok=True)
    result = lab.command("restart", image, "--detach", env=environment, below=below)
    lab.log.clear()
    if result.returncode == 0:
        lab.write("stop", "")
    nothing_left(lab, set(), name)
    if lab.read("wrong"):
        raise Failure(f"{name}: the restarted target noticed {lab.read('wrong')}")
    return result


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


# Ends of Stasis itself

def typical_duration(lab, target):
    start = time.monotonic()
    lab.must("checkpoint", target.pid, "-o", lab.path("image"))
    os.unlink(lab.path("image"))
    return time.monotonic() - start


def start_checkpoint(lab, target, **options):
    return lab.start([lab.stasis, "checkpoint", target.pid, "-o", lab.path("image")], **options)


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
    rounds, lost, gates = (1000 if options.long else 40), 0, 0
    for number in range(rounds):
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
        if status == 3 and refused_for_proc(said):
            continue
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
    ends = {"saved": 0, "ended": 0, "refused": 0}
    for number in range(100 if options.long else 12):
        checkpoint = start_checkpoint(lab, target, stderr=subprocess.PIPE)
        if number % 2:
            await_freeze(target, checkpoint)
        else:
            time.sleep(generator.uniform(0, duration))
        os.kill(target.pid, signal.SIGKILL)
        said = checkpoint.communicate(timeout=60)[1].decode()
        lab.wait_exit(target.process, "the killed target")
        if checkpoint.returncode == 0:
            lab.must("verify", lab.path("image"))
            (lab.dir / "image").unlink()
            ends["saved"] += 1
        elif checkpoint.returncode == 3 and refused_for_proc(said):
            ends["refused"] += 1
        elif checkpoint.returncode == 1 and said.count("\n") == 1 and (
                f"process {target.pid} ended while" in said or f"no process {target.pid}" in said):
            ends["ended"] += 1
        else:
            raise Failure(f"status {checkpoint.returncode}: {said}")
        nothing_left(lab, set(), f"target killed, number {number}")
        target = Target(lab)
    print(", ".join(f"{count} {end}" for end, count in ends.items()))
    if not ends["ended"]:
        raise Failure("no target was killed in the middle of its checkpoint")
    target.end()


# Outside circumstances

def private_mounts():
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise Skip("can't make a mount namespace")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def small_tmpfs(lab, size, *more):
    if not lab.is_root:
        raise Skip("needs root to mount a tmpfs")
    private_mounts()
    place = lab.dir / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *more]), "stasis-test", place], check=True)
    if "ro" not in more:
        lab.give(place)
    return place


def no_space(lab, _options):
    place = small_tmpfs(lab, "16k")
    try:
        target = Target(lab)
        for words in ((), ("--kill",), ("--compress", "zstd"), ("--compress", "lz4")):
            expect_error(lab.command("checkpoint", target.pid, "-o", place / "image", "--json", *words), 1, "no_space")
            target.goes_on(f"no space {words}")
            if os.listdir(place):
                raise Failure(f"left on the full file system: {os.listdir(place)}")
            nothing_left(lab, {target.pid}, "no space")
        target.end()
    finally:
        subprocess.run(["umount", place], check=True)


def closed_output(lab, _options):
    """An image streamed to a full device or to a reader that goes away."""
    target = Target(lab)

    def stream(output, close, *words):
        """Status of a checkpoint to `output`, of one that is not refused for another reason."""
        while True:
            checkpoint = lab.start([lab.stasis, "checkpoint", target.pid, *words, "-o", "-"], stdout=output,
                                   stderr=subprocess.PIPE)
            if close:
                checkpoint.stdout.read(100)
                checkpoint.stdout.close()
            lab.wait_exit(checkpoint, "checkpoint to nowhere")
            said = checkpoint.stderr.read().decode()
            checkpoint.stderr.close()
            if checkpoint.returncode != 3 or not refused_for_proc(said):
                return checkpoint.returncode, said
    with open("/dev/full", "wb") as full:
        status, said = stream(full, False)
    if status != 1:
        raise Failure(f"checkpoint to /dev/full ended with {status}: {said}")
    target.goes_on("a full device")
    status, said = stream(subprocess.PIPE, True, "--kill")
    if status == 0:
        raise Failure("checkpoint to a closed pipe succeeds")
    target.goes_on("a closed pipe")
    nothing_left(lab, {target.pid}, "a closed pipe")
    target.end()


def unwritable(lab, _options):
    target = Target(lab)
    if lab.as_user or not lab.is_root:
        expect_error(lab.command("checkpoint", target.pid, "-o", "/image", "--json"), 5, "not_permitted")
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("nowhere/image")), 1)
    target.goes_on("an unwritable directory")
    nothing_left(lab, {target.pid}, "an unwritable directory")
    target.end()


def read_only_directory(lab, _options):
    place = small_tmpfs(lab, "64k", "ro")
    try:
        target = Target(lab)
        expect_error(lab.command("checkpoint", target.pid, "-o", place / "image"), 1)
        target.goes_on("a read-only file system")
        target.end()
    finally:
        subprocess.run(["umount", place], check=True)


def gives_up(lab, _options):
    """--timeout: the target goes on, the code says why; on a busy machine a short one may or may not do."""
    target = Target(lab)
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json", "--timeout", "0"), 1, "timeout")
    target.goes_on("a timeout of nothing")
    for words in (("1ms",), ("3ms", "--kill"), ("10ms",)):
        result = lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json", "--timeout", *words)
        if result.returncode == 0:
            os.unlink(lab.path("image"))
            if "--kill" in words:
                lab.wait_exit(target.process, "the killed target")
                target = Target(lab)
        else:
            expect_error(result, 1, "timeout")
        target.goes_on(f"a timeout of {words}")
        nothing_left(lab, {target.pid}, f"a timeout of {words}")
    target.end()


def aborted_stream(lab, _options):
    """A checkpoint that fails while it streams says so in the stream: the restart behind it prints that very reason."""
    target = Target(lab)
    for number in range(2, 9):
        with subprocess.Popen([lab.stasis, "checkpoint", str(target.pid), "-o", "-"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **lab.identity(),
                              env=lab.environment(STASIS_FAULT=str(number))) as checkpoint:
            result = subprocess.run([lab.stasis, "restart", "-", "--detach"], stdin=checkpoint.stdout, text=True,
                                    capture_output=True, timeout=60, check=False, cwd=lab.dir, env=lab.environment(),
                                    **lab.identity())
        if checkpoint.returncode == 0:
            raise Failure(f"fault point {number} does nothing")
        if result.returncode != 4 or len(result.stderr.splitlines()) != 1:
            raise Failure(f"restart of a stream that was aborted at {number}: {result.returncode} {result.stderr}")
        target.goes_on(f"a stream aborted at {number}")
        nothing_left(lab, {target.pid}, f"a stream aborted at {number}")
        if checkpoint.returncode == 1 and "forced failure" in result.stderr:
            target.said = True
    if not getattr(target, "said", False):
        raise Failure("no restart printed the reason")
    target.end()


def stopped_target(lab, _options):
    """A target stopped by job control is saved and stays stopped; so does what comes out of its image."""
    def state(pid):
        return proc_text(pid, "stat").rpartition(")")[2].split()[0]

    def stop(target):
        os.kill(target.pid, signal.SIGSTOP)
        lab.wait_for(lambda: state(target.pid) == "T", "stop", target.process)
    target = Target(lab)
    stop(target)
    lab.must("checkpoint", target.pid, "-o", lab.path("image"))
    os.unlink(lab.path("image"))
    counted = target.count()
    time.sleep(0.05)
    if state(target.pid) != "T" or target.count() != counted:
        raise Failure(f"the stopped target is {state(target.pid)} after a checkpoint")
    image = lab.checkpoint(target.pid, "--kill", image=lab.path("good.image"))
    lab.wait_exit(target.process, "the killed target")
    pid = lab.restart_detached(image)
    os.unlink(next(lab.dir.glob("pid.*")))
    time.sleep(0.05)
    if state(pid) != "T" or target.count() != counted:
        raise Failure(f"the restarted target is {state(pid)}")
    os.kill(pid, signal.SIGCONT)
    lab.wait_for(lambda: target.count() > counted + 1 or lab.read("wrong"), "counting after SIGCONT")
    lab.write("stop", "")
    lab.wait_gone(pid, "the continued target")
    if lab.read("wrong"):
        raise Failure(f"the target noticed {lab.read('wrong')}")


def no_such_process(lab, _options):
    ended = lab.start(["true"])
    lab.wait_exit(ended, "true")
    result = lab.command("checkpoint", ended.pid, "-o", lab.path("image"), "--json")
    expect_error(result, 1, "no_such_process")
    expect_error(lab.command("checkpoint", ended.pid, "-o", lab.path("image")), 1)
    nothing_left(lab, set(), "no such process")


def not_ours(lab, _options):
    """A process of root, and one of init's kind, asked for by an ordinary user."""
    if not lab.as_user:
        raise Skip("needs root to start a process of somebody else, and is for the ordinary user")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        for words in ((), ("--kill",)):
            result = lab.command("checkpoint", other.pid, "-o", lab.path("image"), "--json", *words)
            if result.returncode != 5:
                raise Failure(f"status {result.returncode}: {result.stderr}")
        if other.poll() is not None:
            raise Failure("somebody else's process is gone")
    finally:
        other.kill()
        other.wait()


SEIZE = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
sys.exit(1) if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) else print("seized", flush=True)
time.sleep(1000)
"""


def already_traced(lab, _options):
    target = Target(lab)
    tracer = lab.start(["/usr/bin/python3", "-c", SEIZE, target.pid], stdout=subprocess.PIPE)
    if tracer.stdout.readline() != b"seized\n":
        raise Failure("the test's own tracer can't trace")
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json"), 3, "already_traced")
    expect_error(lab.command("checkpoint", target.pid, "-o", lab.path("image")), 3)
    tracer.kill()
    tracer.wait()
    tracer.stdout.close()
    target.goes_on("a refusal because it was traced")
    nothing_left(lab, {target.pid}, "a refusal")
    target.end()


def seccomp(lab, _options):
    """A confined target: refused before anything is injected, or (root) its filter is suspended."""
    target = Target(lab, "seccomp")
    result = lab.command("checkpoint", target.pid, "-o", lab.path("image"), "--json")
    if lab.user or result.returncode:
        expect_error(result, 3, "seccomp" if lab.user else None)
    else:
        os.unlink(lab.path("image"))
    target.goes_on("a checkpoint under seccomp")
    nothing_left(lab, {target.pid}, "seccomp")
    target.end()


SOCKET_HOLDER = """
import socket, sys, time
s = socket.socket(fileno=int(sys.argv[1]))
print("ready", flush=True)
while s.recv(1) == b"": pass
"""


def refused_object(lab, _options):
    """A socket to a process outside, on a descriptor that is no standard stream: check and checkpoint name it."""
    import socket
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    number = theirs.fileno()
    holder = lab.start(["/usr/bin/python3", "-c", SOCKET_HOLDER, number], pass_fds=[number])
    lab.wait_for(lambda: lab.read("out"), "start of the holder", holder)
    theirs.close()
    for words in (("check", holder.pid), ("checkpoint", holder.pid, "-o", lab.path("image"))):
        result = lab.command(*words)
        text = result.stdout + result.stderr
        if result.returncode != 3 or f"{holder.pid}" not in text or f"fd {number}" not in text:
            raise Failure(f"{words[0]}: status {result.returncode}, pid and fd named: {text}")
    nothing_left(lab, {holder.pid}, "a refusal")
    if holder.poll() is not None:
        raise Failure("the holder is gone")
    ours.send(b"x")
    ours.close()
    if lab.wait_exit(holder, "the holder") != 0:
        raise Failure("the holder ended badly")


def check_never_stops(lab, _options):
    target = Target(lab)
    for _ in range(5):
        result = lab.command("check", target.pid)
        if result.returncode != 0:
            raise Failure(f"check says no: {result.stdout}{result.stderr}")
        target.goes_on("check")
    lab.must("check")
    target.end()


def usage(lab, _options):
    target = Target(lab)
    for words in ([], ["frobnicate"], ["checkpoint"], ["checkpoint", target.pid], ["restart"], ["inspect"], ["verify"],
                  ["checkpoint", "abc", "-o", "x"], ["checkpoint", "-5", "-o", "x"],
                  ["checkpoint", target.pid, "-o", "x", "--compress", "rar"],
                  ["checkpoint", target.pid, "-o", "x", "--kill", "--leave-running"],
                  ["checkpoint", target.pid, "-o", "x", "--timeout", "soon"], ["verify", "a", "--frob"]):
        result = lab.command(*words)
        if result.returncode != 2 or not result.stderr:
            raise Failure(f"stasis {words}: status {result.returncode}, not 2: {result.stderr}")
    if lab.command("--help").returncode or lab.command("--version").returncode:
        raise Failure("--help or --version fails")
    if lab.command("restart", lab.path("nothing")).returncode != 125:
        raise Failure("a foreground restart fails with another status than 125")
    nothing_left(lab, {target.pid}, "usage errors")
    target.end()


# Damaged images

def expect_bad_image(lab, path, what):
    result = subprocess.run([lab.stasis, "verify", path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            errors="replace", timeout=60, check=False, **lab.identity())
    if result.returncode != 4 or len(result.stderr.splitlines()) != 1:
        raise Failure(f"{what}: verify ends with {result.returncode}: {result.stderr!r}")


def damaged_image(lab, options):
    """Cut short at any length, or any byte changed: a one-line error, status 4; restart makes nothing of it."""
    image = pathlib.Path(good_image(lab))
    whole = image.read_bytes()
    generator = random.Random(5)
    size = len(whole)
    cuts = {0, 1, 7, 8, 63, 64, size - 1, size - 8, size - 64, *generator.sample(range(size), 40)}
    flips = range(size) if options.long else sorted({*range(0, 256, 5), *generator.sample(range(size), 150),
                                                     *range(size - 128, size, 3)})
    bad = lab.path("small")
    started = time.monotonic()
    for cut in sorted(cuts):
        lab.write("small", whole[:cut], mode=0o600)
        expect_bad_image(lab, bad, f"cut to {cut} of {size} bytes")
    lab.write("small", whole + b"\0", mode=0o600)
    expect_bad_image(lab, bad, "one byte too long")
    lab.write("small", whole, mode=0o600)
    with open(bad, "r+b", buffering=0) as file:
        for place in flips:
            os.pwrite(file.fileno(), bytes([whole[place] ^ (1 << generator.randrange(8))]), place)
            expect_bad_image(lab, bad, f"byte {place} of {size} flipped")
            os.pwrite(file.fileno(), whole[place:place + 1], place)
    for place in generator.sample(range(size), 40):
        lab.write("small", whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:], mode=0o600)
        result = lab.command("restart", bad, "--detach", "--json")
        expect_error(result, 4)
        lab.log.clear()
        nothing_left(lab, set(), f"restart of an image with byte {place} flipped")
    for cut in generator.sample(range(size), 10):
        lab.write("small", whole[:cut], mode=0o600)
        if lab.command("restart", bad).returncode != 125:
            raise Failure(f"foreground restart of an image cut to {cut} bytes does not end with 125")
        nothing_left(lab, set(), f"restart of an image cut to {cut} bytes")
    print(f"{len(cuts)} cuts and {len(flips)} flips of {size} bytes in {time.monotonic() - started:.1f} s")
    (lab.dir / "small").unlink()
    restart_runs(lab, image)


# Rights

def users_image_as_root(lab, _options):
    """Root restarts an image that belongs to an ordinary user: the program is that user, and opens nothing more."""
    if not lab.as_user:
        raise Skip("is about root and an ordinary user")
    image = good_image(lab)

    def as_root(*words):
        return subprocess.run([lab.stasis, *map(str, words)], cwd=lab.dir, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, env=lab.environment(), timeout=60, check=False)
    result = as_root("restart", image, "--detach", "--pidfile", lab.path("small"))
    if result.returncode:
        raise Failure(f"root can't restart a user's image: {result.stderr}")
    pid = int(lab.read("small"))
    (lab.dir / "small").unlink()
    ids = [line.split()[1:] for line in proc_text(pid, "status").splitlines() if line.startswith(("Uid:", "Gid:", "CapEff:"))]
    if ids != [[str(TEST_UID)] * 4, [str(TEST_UID)] * 4, ["0000000000000000"]]:
        raise Failure(f"the restarted program has ids and capabilities {ids}")
    before = int(lab.read("count"))
    lab.wait_for(lambda: int(lab.read("count") or -1) > before + 1, "counting")
    lab.write("stop", "")
    lab.wait_gone(pid, "the restarted program")
    (lab.dir / "stop").unlink()
    symlink_tricks(lab, image, as_root)
    # An image that its owner could not have made himself: of a program of root's.
    sleeper = subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd="/", start_new_session=True)
    lab.wait_for(lambda: proc_text(sleeper.pid, "comm") == "sleep" and " S " in proc_text(sleeper.pid, "stat"), "sleep")
    os.unlink(image)
    subprocess.run([lab.stasis, "checkpoint", str(sleeper.pid), "--kill", "-o", image], check=True)
    sleeper.wait()
    lab.give(image)
    for words in ((), ("--pids", "namespace")):
        result = as_root("restart", image, "--detach", *words)
        if result.returncode != 3 or len(result.stderr.splitlines()) != 1:
            raise Failure(f"a user's image of a program of root's: status {result.returncode} {result.stderr}")
    nothing_left(lab, set(), "a refused restart")


def symlink_tricks(lab, image, as_root):
    """The file that the program held, or a directory on the way to it, becomes a symlink to where only root may go."""
    closed = pathlib.Path(tempfile.mkdtemp(prefix="stasis-test-root-"))
    secret, digits = closed / "count", "0" * 21
    try:
        secret.write_text(digits)
        secret.chmod(0o600)
        kept = lab.dir / "out"

        def refused(what):
            for words in ((), ("--files", "relaxed"), ("--files", "rollback"), ("--pids", "namespace")):
                result = as_root("restart", image, "--detach", *words)
                if result.returncode == 0 or secret.read_text() != digits:
                    lab.write("stop", "")
                    raise Failure(f"{what}: root opened for a user's image what the user may not open")
                if result.returncode not in (3, 5) or len(result.stderr.splitlines()) != 1:
                    raise Failure(f"{what}: status {result.returncode}: {result.stderr}")
                nothing_left(lab, set(), what)
        (lab.dir / "count").rename(kept)
        (lab.dir / "count").symlink_to(secret)
        refused("a symlink to a file of root's")
        (lab.dir / "count").unlink()
        kept.rename(lab.dir / "count")
        # As the directory itself is the test's, its name is moved away for a moment.
        away = lab.dir.with_name(lab.dir.name + "-away")
        lab.dir.rename(away)
        try:
            lab.dir.symlink_to(closed)
            for words in ((), ("--files", "relaxed")):
                result = subprocess.run([away / "bin" / "stasis", "restart", away / "good.image", "--detach", *words],
                                        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
                if result.returncode == 0 or secret.read_text() != digits or os.listdir(closed) != ["count"]:
                    raise Failure(f"a directory that is a symlink: status {result.returncode} {result.stderr} "
                                  f"{os.listdir(closed)}")
        finally:
            lab.dir.unlink()
            away.rename(lab.dir)
        nothing_left(lab, set(), "a directory that is a symlink")
        restart_runs(lab, image)
    finally:
        shutil.rmtree(closed)


CASES = {f.__name__: f for f in (
    any_syscall_checkpoint, any_syscall_restart, gives_up, aborted_stream, stopped_target,
    fault_points_checkpoint, fault_points_kill, fault_points_restart, failing_syscalls_checkpoint,
    failing_syscalls_restart, killed_checkpoint, interrupted_checkpoint, interrupted_restart, stopped_checkpoint, vanishing_target, no_space,
    closed_output, unwritable, read_only_directory, no_such_process, not_ours, already_traced, seccomp, refused_object,
    check_never_stops, usage, damaged_image, users_image_as_root)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
