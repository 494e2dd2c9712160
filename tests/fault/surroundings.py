# SPDX-License-Identifier: Apache-2.0
"""Whatever Stasis itself was started with: closed streams, ignored signals, no threads, little memory."""
import os
import pty
import resource
import signal
import subprocess
import time

from harness import PATIENCE, Failure
from terminal import Screen
from victim import Target, nothing_left


def closed_streams(lab, _options):
    """No file gets a standard stream's number, and nobody aborts because there is nobody to tell."""
    target = Target(lab)
    image = lab.path("closed.img")

    def run(*words, closed=(0, 1, 2)):
        def close():
            for fd in closed:
                os.close(fd)
        return subprocess.run([lab.stasis, *map(str, words)], preexec_fn=close, cwd=lab.dir, check=False,
                              env=lab.environment(), **lab.identity()).returncode
    if status := run("checkpoint", target.pid, "-o", image, *PATIENCE):
        raise Failure(f"without streams a checkpoint ends with {status}")
    lab.must("verify", image)
    for words, expected in ((("restart", "nothing"), 125), (("restart", "nothing", "--detach"), 1),
                            (("merge", "nothing", "-o", "more"), 1), (("checkpoint", 2**22 + 1, "-o", "x"), 1),
                            (("frobnicate",), 2), (("verify", image), 1), (("check", "--json"), 1)):
        if (status := run(*words)) != expected:
            raise Failure(f"without streams {words} ends with {status}, not {expected}")
    if status := run("verify", image, closed=(0, 2)):
        raise Failure(f"verify without standard error ends with {status}")
    target.goes_on("commands without streams")
    os.unlink(image)
    nothing_left(lab, {target.pid}, "commands without streams")
    target.end()


def little_memory(lab, _options):
    """No threads, or no memory: an image that is right, or an error; the target goes on."""
    target = Target(lab)
    image = lab.path("little.img")
    saved = 0
    for mib in (14, 16, 18, 20, 24, 32, 48, 64):
        def limit(bytes_of=mib << 20):
            resource.setrlimit(resource.RLIMIT_AS, (bytes_of, bytes_of))
        for mode in ("freeze", "auto"):
            done = subprocess.run([lab.stasis, "checkpoint", str(target.pid), "-o", image, "--snapshot", mode, *PATIENCE],
                                  preexec_fn=limit, cwd=lab.dir, check=False, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, env=lab.environment(), **lab.identity())
            if done.returncode not in (0, 1, 127) or (done.returncode == 1 and len(done.stderr.splitlines()) != 1):
                raise Failure(f"with {mib} MiB: status {done.returncode}, {done.stderr!r}")
            if done.returncode == 0:
                lab.must("verify", image)
                os.unlink(image)
                saved += 1
            target.goes_on(f"a checkpoint with {mib} MiB")
    if saved == 0:
        raise Failure("64 MiB are not enough")
    nothing_left(lab, {target.pid}, "checkpoints with little memory")
    target.end()


def ignored_hangup(lab, _options):
    """nohup(1): neither Stasis nor the program it restarted is told of the end of a terminal."""
    target = Target(lab)
    image = lab.path("hup.img")
    lab.must("checkpoint", target.pid, "-o", image, "--kill", *PATIENCE)
    lab.wait_exit(target.process, "the saved target")
    restart = lab.start([lab.stasis, "restart", image], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    before = target.count()
    lab.wait_for(lambda: target.count() > before, "the restarted target", restart)
    restart.send_signal(signal.SIGHUP)
    before = target.count()
    lab.wait_for(lambda: target.count() > before + 2, "the target after SIGHUP", restart)
    lab.write("stop", "")
    if status := lab.wait_exit(restart, "restart"):
        raise Failure(f"the restarted target ended with {status}: {lab.read('wrong')}")
    os.unlink(image)


def busy_tree(lab, _options):
    """check of a program whose children come and go says nothing of those that went."""
    tree = lab.start(["/bin/sh", "-c", "while :; do /bin/true; done"], stdout=subprocess.DEVNULL)
    for _ in range(100):
        result = lab.command("check", tree.pid)
        if result.returncode:
            raise Failure(f"status {result.returncode}: {result.stdout}{result.stderr}")
        lab.log.clear()
    tree.kill()
    tree.wait()


# Fills 24 MiB with bytes that nothing compresses, then counts as the others do.
LARGE = """
import os, pathlib, sys, time
kept, count = os.urandom(24 << 20), 0
while not pathlib.Path("stop").exists():
    count += 1
    pathlib.Path("count.new").write_text(str(count))
    os.replace("count.new", "count")
    time.sleep(0.01)
"""


def progress_on_a_terminal(lab, _options):
    """What takes more than a moment tells how far it is, on a terminal and only there, and takes that away again."""
    program = lab.start(["/usr/bin/python3", "-c", LARGE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
    lab.wait_for(lambda: lab.read("count"), "the program", program)

    # The medium is slow on purpose: half of the image, and then nothing for longer than the first moment.
    def slowly(give, words, ends=pty.openpty, **streams):
        ours, its = ends()
        try:
            command = lab.start([lab.stasis, *map(str, words)], stderr=its, **streams)
        finally:
            os.close(its)
        screen = Screen(ours)
        give(command)
        if status := lab.wait_exit(command, words[0]):
            raise Failure(f"{words[0]} ended with {status}: {screen.text()}")
        lab.wait_for(lambda: not screen.is_alive(), "the end of what it says")
        os.close(ours)
        return screen.text()

    image = bytearray()

    def take(command):
        image.clear()
        pause = 1.0
        while part := os.read(command.stdout.fileno(), 1 << 16):
            image.extend(part)
            if len(image) > 8 << 20 and pause:
                time.sleep(pause)
                pause = 0
        command.stdout.close()

    def feed(command):
        half = len(image) // 2
        command.stdin.write(image[:half])
        command.stdin.flush()
        time.sleep(1.0)
        command.stdin.write(image[half:])
        command.stdin.close()

    def expect(shown, what):
        if f"\rstasis: {what} " not in shown or not shown.endswith("\r\033[K"):
            raise Failure(f"on the terminal: {shown!r}")

    save = ("checkpoint", program.pid, "-o", "-", *PATIENCE)
    if shown := slowly(take, save, os.pipe, stdout=subprocess.PIPE):
        raise Failure(f"progress where no terminal is: {shown!r}")
    expect(slowly(take, (*save, "--kill"), stdout=subprocess.PIPE), "saving")
    lab.wait_exit(program, "the saved program")
    lab.write("program.img", bytes(image))
    lab.must("verify", lab.path("program.img"))
    for pids in ("auto", "namespace"):
        before = int(lab.read("count"))
        expect(slowly(feed, ("restart", "-", "--detach", "--pids", pids, "--pidfile", "pid"), stdin=subprocess.PIPE,
                      stdout=subprocess.DEVNULL), "restoring")
        pid = int(lab.read("pid"))
        lab.wait_for(lambda before=before: int(lab.read("count") or 0) > before, "the restarted program")
        lab.write("stop", "")
        lab.wait_for(lambda pid=pid: lab.reap() or not os.path.exists(f"/proc/{pid}"), "its end")
        os.unlink(lab.dir / "stop")
    os.unlink(lab.path("program.img"))
