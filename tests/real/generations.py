#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One program through many lives: ten generations in a row, one image restarted twice and ten times at the same time, a
checkpoint piped into a restart."""
import contextlib
import pathlib
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import PATIENCE, Failure, run_cases  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"
DIGITS = 6000
STATUS = 3  # what pi.py ends with


def start_pi(lab, **options):
    """A running pi.py and the output it must have at its end."""
    argv = [PYTHON, lab.write("pi.py", (HERE / "programs/pi.py").read_bytes()), str(DIGITS)]
    expected = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return lab.start([*argv, lab.path("to-the-end")], **options), expected


def to_the_end(lab):
    """The program, which has waited for that or not, may end."""
    lab.write("to-the-end", "")


def lines_in(lab, name="out"):
    return lab.read(name).count("\n")


def expect(lab, status, expected, name="out"):
    if status != STATUS or lab.read(name) != expected:
        raise Failure(f"status {status}, output ends with {lab.read(name)[-200:]!r} {lab.read('err')[-500:]!r}")


def generations(*restart_options):
    def case(lab, _options):
        process, expected = start_pi(lab)
        target = process
        for number in range(10):
            wanted = (number + 1) * DIGITS // 10 // 12
            lab.wait_for(lambda: lines_in(lab) >= wanted, f"output of generation {number}",
                         target if target is process else None)
            image = lab.checkpoint_and_kill(target)
            if number < 9:
                target = lab.restart_detached(image, *restart_options)
        to_the_end(lab)
        expect(lab, lab.wait_exit(lab.restart_foreground(image, *restart_options), "the last generation"), expected)
    return case


def restarted_twice(lab, _options):
    """Both restarts of one image run at the same time, each with its own output."""
    process, expected = start_pi(lab, stdout=subprocess.PIPE)
    before = b"".join(process.stdout.readline() for _ in range(50))
    lab.checkpoint(process.pid, "--stop", image=lab.path("image"))
    # Stopped, it prints no more than what the image knows; what was in the pipe by then belongs to both outputs.
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    first = lab.restart_foreground(lab.path("image"), stdout=subprocess.PIPE)
    second = lab.restart_foreground(lab.path("image"), stdout=subprocess.PIPE)
    if first.poll() is not None or second.poll() is not None:
        raise Failure(f"a restart does not run: {first.poll()} {second.poll()} {lab.read('err')}")
    to_the_end(lab)
    for restarted in (first, second):
        output, _ = restarted.communicate(timeout=lab.seconds)
        text = (before + rest + output).decode()
        if restarted.returncode != STATUS or text != expected:
            raise Failure(f"status {restarted.returncode}, output {output[:100]!r}...{output[-100:]!r} {lab.read('err')}")


CLONE = """\
import hashlib, os, random, sys, time
data = bytearray(random.Random(7).randbytes(64 << 20))
whole = hashlib.sha256(data).hexdigest()
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
right = hashlib.sha256(data).hexdigest() == whole
data[::4096] = bytes(len(data) // 4096)  # its own from now on
open("written." + sys.stdin.readline().strip(), "w").close()
sys.exit(7 if right and not any(data[::4096]) else 8)
"""


def ten_clones(lab, _options):
    """Ten restarts of one image at once, each in namespaces of its own: all have the right 64 MiB, and each its own."""
    process = lab.start([PYTHON, lab.write("clone.py", CLONE)], stdin=subprocess.PIPE)
    lab.wait_for(lambda: (lab.dir / "ready").exists(), "ready", process)
    image = lab.checkpoint_and_kill(process)
    process.stdin.close()
    clones = [lab.restart_foreground(image, "--pids", "namespace", stdin=subprocess.PIPE) for _ in range(10)]
    lab.write("go", "")
    for number, clone in enumerate(clones):
        with contextlib.suppress(BrokenPipeError):  # one that has ended already is told of below
            clone.stdin.write(f"{number}\n".encode())
            clone.stdin.close()
    for number, clone in enumerate(clones):
        status = lab.wait_exit(clone, f"clone {number}")
        if status != 7 or not (lab.dir / f"written.{number}").exists():
            raise Failure(f"clone {number} ended with {status}: {lab.read('err')[-500:]}")


def piped(lab, _options):
    """stasis checkpoint PID --kill -o - | stasis restart -"""
    process, expected = start_pi(lab)
    lab.wait_for(lambda: lines_in(lab) >= 50, "output", process)
    checkpoint = lab.start([lab.stasis, "checkpoint", process.pid, "--kill", "-o", "-", *PATIENCE], stdout=subprocess.PIPE)
    restart = lab.start([lab.stasis, "restart", "-", *PATIENCE], stdin=checkpoint.stdout)
    checkpoint.stdout.close()
    if lab.wait_exit(checkpoint, "checkpoint") != 0:
        raise Failure(f"checkpoint to a pipe: {lab.read('err')}")
    lab.wait_exit(process, "the killed program")
    to_the_end(lab)
    expect(lab, lab.wait_exit(restart, "restart from a pipe"), expected)


def compressed(codec):
    def case(lab, _options):
        process, expected = start_pi(lab)
        lab.wait_for(lambda: lines_in(lab) >= 50, "output", process)
        image = lab.checkpoint_and_kill(process, "--compress", codec)
        lab.must("verify", image)
        to_the_end(lab)
        expect(lab, lab.wait_exit(lab.restart_foreground(image), "restart"), expected)
    return case


def forwarded_signal(lab, _options):
    """SIGTERM to a foreground restart ends the program by it, and the restart dies of the same signal."""
    process, _ = start_pi(lab)
    lab.wait_for(lambda: lines_in(lab) >= 20, "output", process)
    restart = lab.restart_foreground(lab.checkpoint_and_kill(process))
    before = lines_in(lab)
    lab.wait_for(lambda: lines_in(lab) > before, "output after the restart", restart)
    restart.send_signal(signal.SIGTERM)
    status = lab.wait_exit(restart, "restart after SIGTERM")
    if status != -signal.SIGTERM:
        raise Failure(f"restart ended with {status}, not by SIGTERM")


CASES = {
    "ten_generations": generations(),
    "ten_generations_in_namespaces": generations("--pids", "namespace"),
    "restarted_twice": restarted_twice,
    "ten_clones": ten_clones,
    "piped": piped,
    "lz4": compressed("lz4"),
    "zstd": compressed("zstd"),
    "forwarded_signal": forwarded_signal,
}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
