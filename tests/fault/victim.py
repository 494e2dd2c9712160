# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: counter.c, which watches itself, an image of it, and the look for what is left behind."""
import difflib
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, descendants, json_of, proc_text  # noqa: E402  (the path comes first)


class Target:
    """A running counter."""

    def __init__(self, lab, *words):
        self.lab = lab
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
        # A tracer that was killed may still be on its way out.
        self.lab.wait_for(lambda: "TracerPid:\t0" in proc_text(self.pid, "status"), f"end of tracing after {after}",
                          self.process)

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
    def extra_processes():
        lab.reap()
        return [pid for pid in descendants() if pid not in allowed]
    try:
        lab.wait_for(lambda: not extra_processes(), "end of all others")
    except Failure:
        left = "; ".join(f"{pid} {proc_text(pid, 'cmdline')} {proc_text(pid, 'stat')[:60]}" for pid in extra_processes())
        raise Failure(f"after {what} a process is left: {left}") from None
    if (wrong := lab.read("wrong")) or (lab.dir / "maps.now").exists():
        raise Failure(f"after {what} the target noticed: {wrong}{difference_of_maps(lab)}")
    known = {"count", "wrong", "stop", "out", "err", "bin", "tmp", "good.image", "small"}
    if extra := [name for name in os.listdir(lab.dir) if name not in known]:
        raise Failure(f"after {what} a file is left: {extra[0]}")


def checkpoint_with(lab, target, environment, name, arguments=(), below=()):
    """A checkpoint into a file; the target goes on, and the image is there and good or not there."""
    image = lab.path("image")
    result = lab.command("checkpoint", target.pid, "-o", image, *arguments, env=environment, below=below)
    lab.log.clear()
    target.goes_on(name)
    if result.returncode == 0:
        lab.must("verify", image)
        os.unlink(image)
    elif result.returncode > 0 and "sync the directory" in result.stderr:
        lab.must("verify", image)  # it is whole, only not certain to outlive a power cut
        os.unlink(image)
    elif result.returncode < 0 or os.path.exists(image):
        raise Failure(f"{name}: status {result.returncode}, image there: {os.path.exists(image)}; {result.stderr}")
    nothing_left(lab, {target.pid}, name)
    return result


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
