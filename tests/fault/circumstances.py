# SPDX-License-Identifier: Apache-2.0
"""What surrounds a checkpoint is against it: no space, a closed output, no time, a stream that breaks off."""
import ctypes
import os
import signal
import subprocess
import time

from victim import Target, expect_error, nothing_left
from harness import PATIENCE, Failure, Skip, proc_text

CLONE_NEWNS = 0x20000


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
        """Status of a checkpoint to `output`, and what it said."""
        checkpoint = lab.start([lab.stasis, "checkpoint", target.pid, *words, "-o", "-", *PATIENCE], stdout=output,
                               stderr=subprocess.PIPE)
        if close:
            checkpoint.stdout.read(100)
            checkpoint.stdout.close()
        lab.wait_exit(checkpoint, "checkpoint to nowhere")
        said = checkpoint.stderr.read().decode()
        checkpoint.stderr.close()
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
        with subprocess.Popen([lab.stasis, "checkpoint", str(target.pid), "-o", "-", *PATIENCE], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **lab.identity(),
                              env=lab.environment(STASIS_FAULT=str(number))) as checkpoint:
            result = subprocess.run([lab.stasis, "restart", "-", "--detach", *PATIENCE], stdin=checkpoint.stdout, text=True,
                                    capture_output=True, timeout=lab.seconds, check=False, cwd=lab.dir, env=lab.environment(),
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
    # It has not run an instruction, but the kernel needs a moment to stop it.
    lab.wait_for(lambda: state(pid) == "T", "stop of the restarted target")
    time.sleep(0.05)
    if state(pid) != "T" or target.count() != counted:
        raise Failure(f"the restarted target is {state(pid)}")
    os.kill(pid, signal.SIGCONT)
    lab.wait_for(lambda: target.count() > counted + 1 or lab.read("wrong"), "counting after SIGCONT")
    lab.write("stop", "")
    lab.wait_gone(pid, "the continued target")
    if lab.read("wrong"):
        raise Failure(f"the target noticed {lab.read('wrong')}")
