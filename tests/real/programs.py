#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real programs, killed in the middle of their work and restarted, end as an undisturbed run does.

Each case gives a command and the files it makes. It runs once undisturbed, which shows the right output and how
much CPU time it takes; then again, is checkpointed with --kill after a part of that time, restarted in the foreground, and
must end with the same status and the same output. With --long the inputs are as big as the issue asks for, and the
program is killed three times."""
import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, Skip, cpu_seconds, run_cases  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"


def script(lab, name):
    """A program of ours, in the test's own directory."""
    return lab.write(name, (HERE / "programs" / name).read_bytes())


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            raise Skip(f"{command} is not installed")


def build(lab, name, *flags):
    need("gcc")
    target = lab.bin / pathlib.Path(name).stem
    subprocess.run(["gcc", "-O2", "-pthread", *flags, HERE / "programs" / name, "-o", target], check=True)
    return target


def big_file(lab, megabytes):
    """Reproducible bytes, half of them compressible."""
    generator = random.Random(42)
    path = lab.dir / "big"
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(generator.randbytes(1 << 19) + bytes(generator.randbytes(1 << 10)) * 512)
    lab.give(path)
    return path


class TooFast(Failure):
    """A restarted program had ended, well, before it could be killed once more."""


class Case:
    """argv as a function (lab, long, times), a file for stdin, and the files beside stdout that must come out the same.
    The work is `times` as big as usual."""

    def __init__(self, argv, stdin=None, files=()):
        self.argv, self.stdin, self.files = argv, stdin, files

    def start(self, lab, argv):
        for name in (*self.files, "out", "err"):
            (lab.dir / name).unlink(missing_ok=True)
        stdin = open(lab.dir / self.stdin, "rb") if self.stdin else subprocess.DEVNULL
        try:
            return lab.start(argv, stdin=stdin)
        finally:
            if self.stdin:
                stdin.close()

    def outcome(self, lab, status):
        return {"status": status, **{name: (lab.dir / name).read_bytes() if (lab.dir / name).exists() else None
                                     for name in ("out", "err", *self.files)}}

    def undisturbed(self, lab, argv):
        process = self.start(lab, argv)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return self.outcome(lab, process.returncode), usage.ru_utime + usage.ru_stime

    def __call__(self, lab, options):
        # On a busy machine a run may be over before it is checkpointed: the next one has more to do.
        sizes = (1, 4, 16, 64)
        for times in sizes:
            argv = self.argv(lab, options.long, times)
            expected, cpu = self.undisturbed(lab, argv)
            if expected["status"] != 0:
                raise Failure(f"an undisturbed run ends with {expected['status']}: {lab.read('err')}")
            process = self.start(lab, argv)
            try:
                found = self.disturbed(lab, options, process, cpu)
                break
            except Failure as failure:
                # It was too fast, which is no harm if its outcome is right. Stasis sees its end a moment before we do.
                if "ended while it was being checkpointed" in str(failure):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=lab.seconds)
                ended_well = isinstance(failure, TooFast) or process.poll() == 0
                if times == sizes[-1] or not ended_well or self.outcome(lab, 0) != expected:
                    raise
        for name, value in expected.items():
            if found[name] != value:
                raise Failure(f"{name} differs after the restart: {str(found[name])[-300:]}, not {str(value)[-300:]}")

    def disturbed(self, lab, options, process, cpu):
        """The outcome of a run that is killed and restarted in the middle."""
        parts = (0.25, 0.5, 0.75) if options.long else (0.4,)
        target = process.pid
        for number, part in enumerate(parts):
            # A restarted process counts its CPU time from zero.
            wanted = part * cpu if number == 0 else cpu * (part - parts[number - 1])
            try:
                lab.wait_for(lambda: cpu_seconds(target) >= wanted, "middle of the work", process)
            except Failure as failure:
                raise TooFast(str(failure)) if number > 0 and process.poll() == 0 else failure
            image = lab.checkpoint_and_kill(process if number == 0 else target)
            if number > 0:
                lab.wait_exit(process, "restart of a killed program")
            pidfile = lab.path(f"pidfile.{number}")
            process = lab.restart_foreground(image, "--pidfile", pidfile)
            if number + 1 < len(parts):
                lab.wait_for(lambda: os.path.exists(pidfile) and lab.read(os.path.basename(pidfile)).strip(), "pidfile", process)
                target = int(lab.read(os.path.basename(pidfile)))
        return self.outcome(lab, lab.wait_exit(process, "the restarted program"))


def python_threads(lab, is_long, times):
    return [PYTHON, script(lab, "threads.py"), times * (1500000 if is_long else 400000)]


def python_numpy(lab, is_long, times):
    if subprocess.run([PYTHON, "-c", "import numpy"], capture_output=True, check=False).returncode:
        raise Skip("numpy is not installed")
    return [PYTHON, script(lab, "with_numpy.py"), times * (600 if is_long else 50)]


def perl(lab, is_long, times):
    need("perl")
    return ["perl", script(lab, "sieve.pl"), times * (3000000 if is_long else 700000)]


def bash(lab, is_long, times):
    lab.write("input.txt", "".join(f"line {i}\n" for i in range(50)))
    return ["bash", script(lab, "count.sh"), times * (1000000 if is_long else 120000)]


def sqlite(lab, is_long, times):
    need("sqlite3")
    text = (HERE / "programs/queries.sql").read_text()
    lab.write("queries.sql", text.replace("300000", str(times * (300000 if is_long else 90000))))
    return ["sqlite3", ":memory:"]


def xz(lab, is_long, times):
    need("xz")
    return ["xz", "-0" if is_long else "-1", "-T1", "-c", big_file(lab, times * (500 if is_long else 6))]


def sha256sum(lab, is_long, times):
    return ["sha256sum", big_file(lab, times * (500 if is_long else 150))]


def cc1(lab, is_long, times):
    need("gcc")
    compiler = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=True).stdout.strip()
    count = times * (1500 if is_long else 150)
    functions = "".join(
        f"static unsigned f{i}(unsigned a, const unsigned *p) {{ unsigned s = {i};\n"
        f"  for (unsigned i = 0; i < a; i++) {{ s = s * 31 + p[i & 7] % (i + {i} + 1); if (s & 4) s ^= p[(s >> 3) & 7]; }}\n"
        f"  switch (s % 7) {{ case 0: return s + 1; case 3: return s / 3; case 5: return ~s; default: return s; }} }}\n"
        for i in range(count))
    calls = " ".join(f"s += f{i}(a, p);" for i in range(count))
    source = lab.write("long.c", f"{functions}unsigned all(unsigned a, const unsigned *p) {{ unsigned s = 0; {calls} return s; }}\n")
    return [compiler, "-quiet", "-O2", source, "-o", lab.path("long.s")]


def java(lab, is_long, times):
    need("java", "javac")
    subprocess.run(["javac", "-d", lab.dir, HERE / "programs/Count.java"], check=True)
    # No performance file: it would stay behind in /tmp where the JVM is killed.
    return ["java", "-XX:-UsePerfData", "-Xmx256m", "-cp", lab.dir, "Count", times * (400000000 if is_long else 60000000)]


def static_binary(lab, is_long, times):
    return [build(lab, "many_threads.c", "-static"), 2, times * (1500000 if is_long else 300000)]


def threads_200(lab, is_long, times):
    return [build(lab, "many_threads.c"), 200, times * (4000000 if is_long else 500000)]


CASES = {
    "python_threads": Case(python_threads),
    "python_numpy": Case(python_numpy),
    "perl": Case(perl),
    "bash": Case(bash, files=["numbers.txt"]),
    "sqlite": Case(sqlite, stdin="queries.sql"),
    "xz": Case(xz),
    "sha256sum": Case(sha256sum),
    "cc1": Case(cc1, files=["long.s"]),
    "java": Case(java),
    "static_binary": Case(static_binary),
    "threads_200": Case(threads_200),
}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
