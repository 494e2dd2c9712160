#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs restarted as jobs of a shell at a terminal: the terminal comes and goes with the foreground, Ctrl-Z stops and fg
continues, and the terminal's modes are the program's or the shell's, whoever has it."""
import os
import pathlib
import sys
import termios

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, run_cases  # noqa: E402  (the path comes first)
from terminal import Terminal  # noqa: E402

PYTHON = "/usr/bin/python3"

# Echoes its lines; `raw` sets the terminal to modes that no shell has.
LISTENER = """
import os, signal, sys, termios
def note(number, frame):  # in the middle of a print there may be no other
    os.write(1, 'got {} {} {}\\n'.format(signal.Signals(number).name, *os.get_terminal_size(0)).encode())
signal.signal(signal.SIGWINCH, note)
print('listening', os.getpid(), flush=True)
while line := sys.stdin.readline():
    if line == 'raw\\n':
        modes = termios.tcgetattr(0)
        modes[3] &= ~termios.ECHO
        modes[6][termios.VQUIT] = 5
        termios.tcsetattr(0, termios.TCSANOW, modes)
    print('read', line.strip(), flush=True)
    if line == 'end\\n':
        sys.exit(4)
"""


def pid_policies(lab):
    return ("namespace",) if lab.as_user or not lab.is_root else ("keep", "namespace")


def start_listener(lab, terminal, *words):
    """Starts listener.py as a job; lets it read `words`; returns its pid."""
    terminal.type(f"{PYTHON} -S {lab.write('listener.py', LISTENER)}")
    terminal.expect("listening ")
    terminal.expect("\n")
    pid = int(terminal.screen.text()[:terminal.at].rsplit("listening ", 1)[1])
    for word in words:
        terminal.talk(word)
    return pid


def image_of_listener(lab, *words):
    """The image of a foreground job of a shell at another terminal."""
    terminal = Terminal(lab)
    pid = start_listener(lab, terminal, *words)
    image = lab.checkpoint(pid, "--kill")
    terminal.expect("PROMPT> ")
    terminal.close()
    return image


def given_back(lab, _options):
    """After a restart in a script, the script has the terminal again."""
    image = image_of_listener(lab)
    script = lab.write("script.sh", f"{lab.stasis} restart {image} --pids $1\necho status $?\nread x\necho script read $x\n")
    for pids in pid_policies(lab):
        terminal = Terminal(lab)
        terminal.type(f"sh {script} {pids}")
        terminal.talk("one")
        terminal.type("end")
        terminal.expect("status 4\n")
        terminal.type("two")
        terminal.expect("script read two\n")
        terminal.expect("PROMPT> ")
        terminal.close()


def stopped_and_continued(lab, _options):
    """Ctrl-Z: the shell has its prompt, fg and the program reads again, as often as one likes; also from a script."""
    image = image_of_listener(lab)
    for pids in pid_policies(lab):
        restart = f"{lab.stasis} restart {image} --pids {pids}"
        for command in (restart, f"sh -c '{restart}; exit $?'"):
            terminal = Terminal(lab)
            terminal.type(command)
            terminal.talk("one")
            for word in ("two", "three"):
                terminal.type("\x1a")
                terminal.expect("Stopped")
                terminal.expect("PROMPT> ")
                terminal.type("echo word$((1 + 1))")
                terminal.expect("word2\n")
                terminal.expect("PROMPT> ")
                terminal.type("fg")
                terminal.expect("\n")
                terminal.talk(word)
            terminal.type("end")
            terminal.expect("PROMPT> ")
            terminal.type("echo status $?")
            terminal.expect("status 4\n")
            terminal.close()


def in_the_background(lab, _options):
    """Started in the background it stops when it reads; bg and it stops again, fg and it reads."""
    image = image_of_listener(lab)
    for pids in pid_policies(lab):
        terminal = Terminal(lab)
        terminal.type(f"{lab.stasis} restart {image} --pids {pids} &")
        terminal.expect("PROMPT> ")
        for word in (None, "one"):
            lab.wait_for(lambda: "Stopped" in terminal.jobs(), "stop of the background job", terminal.shell)
            if terminal.foreground() != terminal.shell.pid:
                raise Failure("a job in the background has the terminal")
            terminal.type("fg" if word else "bg")
            terminal.expect("PROMPT> " if not word else "\n")
            if word:
                terminal.talk(word)
        terminal.type("end")
        terminal.expect("PROMPT> ")
        terminal.type("echo status $?")
        terminal.expect("status 4\n")
        terminal.close()


def modes(lab, _options):
    """The program finds the modes that it set at another terminal, and is told of another size; the shell finds its own
    whenever it has the terminal."""
    image = image_of_listener(lab, "raw")
    for pids in pid_policies(lab):
        terminal = Terminal(lab, rows=30, columns=100)
        shells = terminal.modes()
        terminal.type(f"{lab.stasis} restart {image} --pids {pids}")
        terminal.expect("got SIGWINCH 100 30\n")
        for word in ("one", "two"):
            terminal.talk(word)
            now = terminal.modes()
            if now[3] & termios.ECHO or now[6][termios.VQUIT] != b"\x05":
                raise Failure(f"the program has lost its modes: {now}")
            terminal.type("\x1a")
            terminal.expect("PROMPT> ")
            if terminal.modes() != shells:
                raise Failure(f"the shell's modes were {shells} and are {terminal.modes()} after Ctrl-Z")
            terminal.type("fg")
            terminal.expect("\n")
        # The line may be echoed if it comes before the program goes on.
        terminal.type("end")
        terminal.expect("PROMPT> ")
        if terminal.modes() != shells:
            raise Failure(f"the shell's modes were {shells} and are {terminal.modes()} after the program's end")
        terminal.close()


CASES = {case.__name__: case for case in (given_back, stopped_and_continued, in_the_background, modes)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
