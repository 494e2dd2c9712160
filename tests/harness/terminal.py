# SPDX-License-Identifier: Apache-2.0
"""A terminal and what it shows."""
import contextlib
import os
import pty
import subprocess
import termios
import threading

from harness import TEST_UID


class Screen(threading.Thread):
    """What a terminal shows."""

    def __init__(self, fd):
        super().__init__(daemon=True)
        self.fd, self.data = fd, b""
        self.start()

    def run(self):
        with contextlib.suppress(OSError):  # a terminal ends with EIO
            while chunk := os.read(self.fd, 65536):
                self.data += chunk

    def text(self):
        return self.data.decode(errors="replace").replace("\r\n", "\n")


def take_terminal():
    import fcntl
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A terminal with an interactive bash in front of it."""

    def __init__(self, lab, rows=24, columns=80):
        self.lab = lab
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        if lab.as_user:
            os.fchown(slave, TEST_UID, TEST_UID)
        # --noediting: the modes at the prompt are those that programs get.
        self.shell = subprocess.Popen(
            ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=lab.dir,
            env=lab.environment(PS1="PROMPT> ", TERM="dumb", HISTFILE=""), start_new_session=True,
            preexec_fn=take_terminal, **lab.identity())
        os.close(slave)
        self.screen = Screen(self.master)
        self.at = 0
        self.expect("PROMPT> ")

    def expect(self, text):
        """Waits until the screen shows `text` behind what was seen last."""
        self.lab.wait_for(lambda: text in self.screen.text()[self.at:],
                          lambda: f"{text!r} on the terminal: {self.screen.text()[self.at:]!r}", self.shell)
        self.at = self.screen.text().index(text, self.at) + len(text)

    def type(self, text):
        """Types a line, or a control character."""
        self.at = len(self.screen.text())
        os.write(self.master, text.encode() if len(text) == 1 else text.encode() + b"\n")

    def talk(self, word):
        """The program at the terminal reads and answers."""
        self.type(word)
        self.expect(f"read {word}\n")

    def jobs(self):
        """What the shell says of its jobs."""
        self.type("jobs")
        start = self.at
        self.expect("PROMPT> ")
        return self.screen.text()[start:self.at]

    def foreground(self):
        return os.tcgetpgrp(self.master)

    def modes(self):
        return termios.tcgetattr(self.master)

    def close(self):
        self.type("exit 0")
        self.lab.wait_exit(self.shell, "the shell")
        # Nobody may read from a number that the next terminal gets.
        self.lab.wait_for(lambda: not self.screen.is_alive(), "end of the terminal")
        os.close(self.master)
