#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real process trees, killed in the middle of their work and restarted, end as an undisturbed run does.

Each case runs once undisturbed, which shows the right result and how much CPU time it takes; then again: checkpoints that
leave it running, one with --kill, a restart in the background, another kill, and a restart in the foreground to the end. With
--long the work is bigger and there are more checkpoints that leave it running."""
import contextlib
import os
import pathlib
import pty
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import PATIENCE, TEST_UID, Failure, run_cases  # noqa: E402  (the path comes first)
from starts import Collector, take_terminal  # noqa: E402
from tree_lab import PYTHON, kill_tree, need, script, tree_cpu, wait_nobody  # noqa: E402


class TooShort(Exception):
    """The work was done before all checkpoints were."""


class Work:
    """argv(lab, size) is the tree's root; results(lab) what must come out the same beside its status and output."""

    def __init__(self, argv, results=None, order=lambda text: text, cwd=""):
        self.argv, self.results, self.order, self.cwd = argv, results, order, cwd

    def start(self, lab, size):
        argv = self.argv(lab, size)
        for name in ("out", "err"):
            (lab.dir / name).unlink(missing_ok=True)
        return lab.start(argv, cwd=lab.dir / self.cwd)

    def outcome(self, lab, status):
        return {"status": status, "out": self.order(lab.read("out")), "err": lab.read("err"),
                **(self.results(lab) if self.results else {})}

    def undisturbed(self, lab, size):
        process = self.start(lab, size)
        ended = (0, 0, None)

        def end():
            nonlocal ended
            ended = os.wait4(process.pid, os.WNOHANG)
            return ended[0] != 0
        lab.wait_for(end, "end of the undisturbed run")
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        wait_nobody(lab, "end of whatever it started")
        expected = self.outcome(lab, process.returncode)
        if process.returncode or expected["err"]:
            raise Failure(f"an undisturbed run ends with {process.returncode}: {expected['err']}")
        return expected, ended[2].ru_utime + ended[2].ru_stime

    def disturbed(self, lab, size, cpu, count):
        """The outcome of a run that is checkpointed `count` times and killed twice."""
        process = self.start(lab, size)
        target = process

        def ended():
            if isinstance(target, int):
                lab.reap()  # it is ours by adoption: unreaped it would stay
                return not os.path.exists(f"/proc/{target}")
            return target.poll() is not None

        def until(seconds):
            pid = target if isinstance(target, int) else target.pid
            lab.wait_for(lambda: ended() or tree_cpu(pid) >= seconds, "middle of the work")

        try:
            for number in range(count):
                until(0.4 * cpu * (number + 1) / (count + 1))
                lab.checkpoint(process.pid, image=lab.path("left_running"))
            until(0.4 * cpu)
            target = lab.restart_detached(kill_tree(lab, process))
            until(tree_cpu(target) + 0.2 * cpu)
            image = kill_tree(lab, target)
        except Failure as failure:
            # Stasis sees the end of a process a moment before its parent does.
            limit = time.monotonic() + (lab.seconds if "ended while it was being checkpointed" in str(failure) else 0)
            while not ended() and time.monotonic() < limit:
                time.sleep(0.01)
            if ended() and "the whole killed tree" not in str(failure):
                raise TooShort from None
            raise
        last = lab.restart_foreground(image)
        return self.outcome(lab, lab.wait_exit(last, "the restarted tree"))

    def __call__(self, lab, options):
        for size in (15, 60, 240) if options.long else (1, 4, 16):
            expected, cpu = self.undisturbed(lab, size)
            try:
                found = self.disturbed(lab, size, cpu, 20 if options.long else 3)
                break
            except TooShort:
                wait_nobody(lab, "end of a run that was too short")
        else:
            raise Failure("the work is always done before the last checkpoint")
        for name, value in expected.items():
            if found[name] != value:
                raise Failure(f"{name} differs after the restart: {str(found[name])[-400:]}, not {str(value)[-400:]} "
                              f"(err: {found['err'][-400:]})")


def bash_pipeline(_lab, size):
    return ["bash", "-c", f"yes | head -c {300 * size}M | sha256sum"]


def bash_jobs(lab, size):
    return ["bash", script(lab, "jobs.sh"), 20000 * size]


def storm(lab, size):
    return [PYTHON, script(lab, "storm.py"), 60 * size]


def pool(method):
    return lambda lab, size: [PYTHON, script(lab, "pool.py"), method, 500 * size]


def pipes(lab, size):
    need("seq", "rev", "sort")
    return [PYTHON, script(lab, "pipes.py"), 20000 * size]


def forks(lab, size):
    return [PYTHON, script(lab, "forks.py"), 100000 * size]


MAKEFILE = """\
SHELL = /bin/sh
CFLAGS = -O2 -fPIC -Wall
objects := $(patsubst %.c,%.o,$(wildcard part*.c))
all: first second sub/generated.txt
libparts.a: $(objects)
	ar rcsD $@ $^
libparts.so: $(objects)
	gcc -shared -o $@ $^
first: main.o libparts.a
	gcc -o $@ $^
second: main.o libparts.so
	gcc -o $@ $^ -Wl,-rpath,'$$ORIGIN'
sub/generated.txt: $(objects)
	+$(MAKE) -s -C sub generated.txt
%.o: %.c parts.h
	gcc $(CFLAGS) -c -o $@ $<
"""
SUB_MAKEFILE = """\
files := $(patsubst %.c,%.sum,$(wildcard ../part*.c))
generated.txt: $(files)
	cat $^ | sort >$@
%.sum: %.c
	sha256sum <$< | (read sum rest; echo $$sum) >$@
"""


def make_project(lab, size):
    need("make", "gcc", "ar")
    project = lab.dir / "project"
    shutil.rmtree(project, ignore_errors=True)
    (project / "sub").mkdir(parents=True)
    lab.give(project)
    lab.give(project / "sub")
    lab.write("project/Makefile", MAKEFILE)
    lab.write("project/sub/Makefile", SUB_MAKEFILE)
    files, functions = 24, 8 * size
    for part in range(files):
        text = "".join(
            f"static unsigned f{i}(unsigned a, const unsigned *p) {{ unsigned s = {i + part};\n"
            f"  for (unsigned i = 0; i < a; i++) {{ s = s * 31 + p[i & 7] % (i + {i} + 1); if (s & 4) s ^= p[(s >> 3) & 7]; }}\n"
            f"  switch (s % 7) {{ case 0: return s + 1; case 3: return s / 3; case 5: return ~s; default: return s; }} }}\n"
            for i in range(functions))
        calls = " ".join(f"s += f{i}(a, p);" for i in range(functions))
        lab.write(f"project/part{part}.c", f'#include "parts.h"\n{text}unsigned part{part}(unsigned a, const unsigned *p) '
                                           f"{{ unsigned s = 0; {calls} return s; }}\n")
    lab.write("project/parts.h", "".join(f"unsigned part{i}(unsigned, const unsigned *);\n" for i in range(files)))
    calls = " + ".join(f"part{i}(9, p)" for i in range(files))
    lab.write("project/main.c", '#include <stdio.h>\n#include "parts.h"\nint main(void) { unsigned p[8] = {1, 2, 3, 4, 5, 6, 7, 8}; '
                                f'printf("%u\\n", {calls}); return 0; }}\n')
    return ["make", "-j4"]


def built(lab):
    return {path.name: path.read_bytes() for path in sorted((lab.dir / "project").rglob("*"))
            if path.is_file() and path.suffix != ".c"}


def sorted_lines(text):
    return "\n".join(sorted(text.splitlines()))


class Terminal:
    """A terminal for a program that leads a session of its own on it."""

    def __init__(self, lab, argv):
        self.lab = lab
        self.master, slave = pty.openpty()
        if lab.as_user:
            os.fchown(slave, TEST_UID, TEST_UID)
        self.process = lab.start(argv, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal,
                                 env=lab.environment(PS1="PROMPT> ", TERM="dumb", HISTFILE=""))
        os.close(slave)
        self.screen = Collector(self.master)

    def type(self, line):
        os.write(self.master, line.encode() + b"\n")

    def wait(self, text):
        self.lab.wait_for(lambda: text in self.screen.text(), f"{text!r} on the terminal ({self.screen.text()[-300:]!r})",
                          self.process)

    def close(self):
        self.lab.wait_for(lambda: self.screen.ended, "end of the terminal")
        with contextlib.suppress(OSError):
            os.close(self.master)


def bash_interactive(lab, _options):
    """An interactive bash with a background pipeline (which ends only after the restart) and a stopped job, killed;
    restarted on another terminal."""
    first = Terminal(lab, ["bash", "--norc", "--noprofile", "-i"])
    first.wait("PROMPT> ")
    first.type("{ yes | head -c 200M; until [ -e go ]; do sleep 0.1; done; } | sha256sum >digest &")
    first.type("sleep 1000 & kill -STOP $!; remembered=abc; echo rea''dy")
    first.wait("\nready")
    lab.wait_for(lambda: tree_cpu(first.process.pid) > 0.05, "work in the background")
    lab.checkpoint(first.process.pid)
    first.type("echo still $((40 + 2))")
    first.wait("still 42")
    image = kill_tree(lab, first.process)
    first.close()
    second = Terminal(lab, [lab.stasis, "restart", image, *PATIENCE])
    lab.write("go", "")
    second.type("jobs; wait %1; echo wai''ted $? $remembered")
    second.wait("\nwaited 0 abc")
    if "Stopped" not in second.screen.text():
        raise Failure(f"no stopped job after the restart: {second.screen.text()!r}")
    second.type("kill %2; kill -CONT %2; wait %2; echo the sle''ep $?")
    second.wait("the sleep 143")
    second.type("exit 5")
    status = lab.wait_exit(second.process, "the restarted bash")
    second.close()
    # `yes | head -c 200M | sha256sum`
    if status != 5 or lab.read("digest") != DIGEST_200M:
        raise Failure(f"status {status}, digest {lab.read('digest')!r}")


DIGEST_200M = "fbfd43cddd984914e75825edb75fe7386f68c9003ac919cc8b4810e7fd42fc5c  -\n"

CASES = {
    "bash_pipeline": Work(bash_pipeline),
    "bash_jobs": Work(bash_jobs),
    "bash_interactive": bash_interactive,
    "make_j4": Work(make_project, built, sorted_lines, "project"),
    "storm": Work(storm),
    "pool_fork": Work(pool("fork")),
    "pool_spawn": Work(pool("spawn")),
    "popen_pipes": Work(pipes),
    "forks": Work(forks),
}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__, ipc=("pool_fork", "pool_spawn"))
