#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs started as people start them: from an interactive shell on a terminal, with a pipe or a socket as standard
output. Restarted in the foreground and detached, their streams lead to those of the restart."""
import contextlib
import os
import pathlib
import pty
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import PATIENCE, TEST_UID, Failure, run_cases  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"
DIGITS = "3000"
STATUS = 3  # what pi.py ends with


def pi(lab):
    """The command, which ends only after to_the_end(), and what it prints."""
    argv = [PYTHON, lab.write("pi.py", (HERE / "programs/pi.py").read_bytes()), DIGITS]
    expected = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return [*argv, lab.path("to-the-end")], expected


def to_the_end(lab):
    lab.write("to-the-end", "")


class Collector(threading.Thread):
    """Reads a descriptor to its end in the background, as the other side of a pipe would."""

    def __init__(self, fd):
        super().__init__(daemon=True)
        self.fd, self.data, self.ended = fd, b"", False
        self.start()

    def run(self):
        with contextlib.suppress(OSError):  # a terminal ends with EIO
            while chunk := os.read(self.fd, 65536):
                self.data += chunk
        self.ended = True

    def text(self):
        return self.data.decode(errors="replace").replace("\r\n", "\n")


def pipe_pair():
    return os.pipe()


def socket_pair():
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def stream_case(make_pair, detached):
    """stdout and stderr of the program are one end of make_pair(); the restart gets another pair."""
    def case(lab, _options):
        argv, expected = pi(lab)
        ours, theirs = make_pair()
        process = lab.start(argv, stdout=theirs, stderr=theirs, env=lab.environment(PYTHONUNBUFFERED="1"))
        os.close(theirs)
        first = Collector(ours)
        lab.wait_for(lambda: len(first.data) > len(expected) // 4, "first part of the output", process)
        image = lab.checkpoint_and_kill(process)
        lab.wait_for(lambda: first.ended, "end of the first stream")
        to_the_end(lab)
        ours, theirs = make_pair()
        second = Collector(ours)
        options = ["--detach"] if detached else []
        restarted = lab.start([lab.stasis, "restart", image, *PATIENCE, *options], stdout=theirs, stderr=theirs)
        os.close(theirs)
        status = lab.wait_exit(restarted, "restart")
        if status != (0 if detached else STATUS):
            raise Failure(f"restart ended with {status}: {second.text()}")
        lab.wait_for(lambda: second.ended, "end of the second stream")
        if first.text() + second.text() != expected:
            raise Failure(f"output {first.text()[-200:]!r} then {second.text()[:200]!r}...{second.text()[-100:]!r}")
    return case


class Shell:
    """An interactive bash on a terminal of its own."""

    def __init__(self, lab):
        self.lab = lab
        master, slave = pty.openpty()
        if lab.as_user:
            os.fchown(slave, TEST_UID, TEST_UID)
        self.process = subprocess.Popen(
            ["/bin/bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=lab.dir,
            env=lab.environment(PS1="PROMPT> ", TERM="dumb", HISTFILE=""), start_new_session=True,
            preexec_fn=take_terminal, **lab.identity())
        os.close(slave)
        self.master = master
        self.screen = Collector(master)
        self.wait_text("PROMPT> ")

    def wait_text(self, text, start=0):
        """Waits until the screen shows `text` after position `start`; returns the position behind it."""
        self.lab.wait_for(lambda: text in self.screen.text()[start:], f"{text!r} on the terminal", self.process)
        return self.screen.text().index(text, start) + len(text)

    def type(self, line):
        start = len(self.screen.text())
        os.write(self.master, line.encode() + b"\n")
        return self.wait_text("\n", start)  # behind the echo

    def leave(self):
        os.write(self.master, b"exit 0\n")
        self.lab.wait_exit(self.process, "the shell")
        self.lab.wait_for(lambda: self.screen.ended, "end of the terminal")
        os.close(self.master)


def take_terminal():
    import fcntl
    import termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int((file.read().split() or ["0"])[0])


def shell_job(lab, _options):
    """python3 as a foreground job of an interactive bash, checkpointed from elsewhere, restarted as a job of that bash."""
    argv, expected = pi(lab)
    shell = Shell(lab)
    start = shell.type(" ".join(argv))
    shell.wait_text("\n200 ", start)
    job = child_of(shell.process.pid)
    image = lab.checkpoint(job, "--kill")
    killed = shell.wait_text("PROMPT> ", start)
    before = shell.screen.text()[start:killed]
    to_the_end(lab)
    start = shell.type(f"{lab.stasis} restart {image}; echo status $?")
    end = shell.wait_text("PROMPT> ", start)
    after = shell.screen.text()[start:end]
    # What bash says of the killed job may stand in the middle of a line: the rest of that line comes after the restart.
    printed = before[:before.rindex("Killed")] + after[:after.index(f"status {STATUS}")] if f"status {STATUS}" in after else ""
    if printed != expected:
        raise Failure(f"the terminal shows {before[-300:]!r} and after the restart {after[:200]!r} ... {after[-200:]!r}")
    # Ctrl-C reaches a restarted job as it would the first one.
    os.unlink(lab.path("to-the-end"))
    start = shell.type(f"{lab.stasis} restart {image}; echo status $?")
    shell.wait_text("\n", start)
    os.write(shell.master, b"\x03")
    end = shell.wait_text("PROMPT> ", start)
    if "KeyboardInterrupt" not in shell.screen.text()[start:end]:
        raise Failure(f"Ctrl-C does not reach the restarted job: {shell.screen.text()[start:end][-300:]!r}")
    shell.leave()


def shell_job_detached(lab, _options):
    """Restarted with --detach from another terminal's bash: it goes on by itself, writes to that terminal, and outlives
    the shell's interest in it."""
    argv, expected = pi(lab)
    shell = Shell(lab)
    start = shell.type(" ".join(argv))
    shell.wait_text("\n200 ", start)
    image = lab.checkpoint(child_of(shell.process.pid), "--kill")
    killed = shell.wait_text("PROMPT> ", start)
    before = shell.screen.text()[start:killed]
    before = before[:before.rindex("Killed")]
    shell.leave()
    to_the_end(lab)
    shell = Shell(lab)
    start = shell.type(f"{lab.stasis} restart {image} --detach --pidfile {lab.path('pid')}; echo status $?")
    shell.wait_text("status 0\n", start)
    pid = int(lab.read("pid"))
    lab.wait_for(lambda: expected[-50:] in shell.screen.text()[start:], "end of the output", shell.process)
    lab.wait_gone(pid, "the detached program")
    # The shell's own words stand among the program's lines: they are taken out.
    after = shell.screen.text()[start:].replace("status 0\n", "", 1).replace("PROMPT> ", "", 1)
    if before + after != expected:
        raise Failure(f"the terminals show {before[-300:]!r} and then {after[:200]!r} ... {after[-200:]!r}")
    shell.leave()


def shell_job_leave_running(lab, _options):
    """A checkpoint of a foreground job changes nothing for it or for its shell."""
    argv, expected = pi(lab)
    shell = Shell(lab)
    start = shell.type(" ".join(argv) + "; echo status $?")
    shell.wait_text("\n200 ", start)
    lab.checkpoint(child_of(shell.process.pid))
    to_the_end(lab)
    end = shell.wait_text("PROMPT> ", start)
    shown = shell.screen.text()[start:end]
    if expected not in shown or f"status {STATUS}" not in shown:
        raise Failure(f"the terminal shows {shown[-300:]!r}")
    shell.leave()


# Run inside the namespaces: the whole life of a program, from its start to the end of its restart.
LIFE = """
set -u
"$@" >out 2>err &
until [ "$(wc -l <out)" -ge 100 ]; do sleep 0.01; done
"$STASIS" checkpoint $! -o image --kill --timeout 3m || exit 101
wait $!
[ $? = 137 ] || exit 102
[ "$RESTART" != twice ] || { "$STASIS" restart image --detach --pidfile pid --timeout 3m && "$STASIS" checkpoint $(cat pid) -o image --kill --timeout 3m; } || exit 103
touch to-the-end
"$STASIS" restart image --timeout 3m
"""


def container_case(restart):
    """Program and Stasis live in namespaces that somebody made without privilege and without subordinate ids, as
    containers of ordinary users do. Root is root only in there."""
    def case(lab, _options):
        argv, expected = pi(lab)
        who = "--map-current-user" if lab.as_user else "--map-root-user"
        inside = lab.start(["unshare", "--user", who, "--pid", "--fork", "--kill-child", "--mount-proc", "--",
                            "/bin/sh", "-c", LIFE, "life", *argv], stdout=subprocess.DEVNULL,
                           env=lab.environment(PYTHONUNBUFFERED="1", STASIS=lab.stasis, RESTART=restart))
        status = lab.wait_exit(inside, "the program in its container")
        if status != STATUS or lab.read("out") != expected:
            raise Failure(f"status {status}, {len(lab.read('out'))} of {len(expected)} characters: {lab.read('err')}")
    return case


CASES = {
    "container": container_case("once"),
    "container_twice": container_case("twice"),
    "pipe_foreground": stream_case(pipe_pair, detached=False),
    "pipe_detached": stream_case(pipe_pair, detached=True),
    "socket_foreground": stream_case(socket_pair, detached=False),
    "socket_detached": stream_case(socket_pair, detached=True),
    "shell_job": shell_job,
    "shell_job_detached": shell_job_detached,
    "shell_job_leave_running": shell_job_leave_running,
}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
