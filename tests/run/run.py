#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`stasis run`: programs that are saved every so often, killed with everything around them, resumed, and right at the end."""
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, descendants, run_cases  # noqa: E402  (the path comes first)
from terminal import Terminal  # noqa: E402

PYTHON = "/usr/bin/python3"


def steps(lab):
    """Its standard error is a file of its own: one that it shared with Stasis would be rolled back with it."""
    # Written once: an image may be from the moment when Python reads it.
    script = lab.path("steps.py")
    if not os.path.exists(script):
        lab.write("steps.py", (HERE / "steps.py").read_bytes())
    return ["/bin/sh", "-c", 'exec "$@" 2>>program.err', "sh", PYTHON, script]


def start(lab, *options, command=None, image="job.img", **popen):
    """`stasis run` of steps.py; its output is in the test's files out and err."""
    argv = [lab.stasis, "run", "--image", lab.path(image), *options, "--", *(command or steps(lab))]
    lab.log.append("$ " + " ".join(map(str, argv)) + " &")
    return lab.start(argv, **popen)


def lines(lab):
    """Whole lines that the program has printed so far."""
    return lab.read("out").count("\n")


def wait_output(lab, process, more=20):
    """The program runs: its output grows."""
    target = lines(lab) + more
    lab.wait_for(lambda: lines(lab) >= target, "output", process)


def check_output(lab):
    """Every line is there once, in order and right."""
    number, digest = 0, b""
    for line in lab.read("out").splitlines():
        for _ in range(1000):
            number += 1
            digest = hashlib.sha256(digest + str(number).encode()).digest()
        if line != f"{number} {digest.hex()}":
            raise Failure(f"line {number // 1000} is {line!r}")


def images(lab, name="job.img"):
    """The images as they lie there, newest first."""
    older = [path for path in lab.dir.glob(name + ".*") if path.suffix[1:].isdigit()]
    older.sort(key=lambda path: int(path.suffix[1:]), reverse=True)
    return ([lab.dir / name] if (lab.dir / name).exists() else []) + older


def wait_images(lab, process, count, name="job.img"):
    lab.wait_for(lambda: len(images(lab, name)) >= count, f"{count} images", process)


def wait_nobody(lab):
    """Waits until no process is left (process 1 of a namespace ends last)."""
    lab.wait_for(lambda: (lab.reap(), not descendants())[1], "end of all processes")


def kill_everything(lab, process):
    """kill -9 of Stasis and of the program, in no special order, and of whoever they have started meanwhile."""
    def killed():
        pids = descendants()
        random.shuffle(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()  # before anybody else reaps it
        lab.reap()
        return not descendants()
    lab.wait_for(killed, "end of all that was killed")
    os.truncate(lab.path("err"), 0)  # the engine may have died before the rest


def finish(lab, process, status=0):
    """Lets the program end; the run ends as it does, and the output is right."""
    lab.write("finish", str(status))
    got = lab.wait_exit(process, "the run")
    if got != status:
        raise Failure(f"the run ended with {got}, the program with {status}: {lab.read('err')}")
    check_output(lab)


def expect_clean(lab):
    """Nothing is left of a run whose program ended well."""
    left = [path.name for path in lab.dir.iterdir() if "job.img" in path.name]
    if left:
        raise Failure(f"left behind: {left}")


def expect_errors(lab, *words):
    """What Stasis said: one line for each of `words`, which it holds."""
    said = lab.read("err").splitlines()
    if len(said) != len(words) or any(word not in line for word, line in zip(words, said)):
        raise Failure(f"stasis said {said}, not {words}")


def killed_and_resumed(lab, _options):
    """Three images are kept; killed with everything and run again, the program goes on from the newest."""
    process = start(lab, "--every", "50ms", "--keep", "3")
    wait_images(lab, process, 3)
    wait_output(lab, process)
    # One more than is kept may stand there while a checkpoint is made.
    if len(images(lab)) > 4:
        raise Failure(f"too many images: {images(lab)}")
    kill_everything(lab, process)
    for image in images(lab):
        lab.must("verify", image)
    for life in ("second", "third"):
        lab.log.append(f"{life} life")
        known = images(lab)[0].stat().st_ino
        process = start(lab, "--every", "50ms", "--keep", "3")
        lab.wait_for(lambda: images(lab)[0].stat().st_ino != known, f"a new image in the {life} life", process)
        wait_output(lab, process)
        kill_everything(lab, process)
    process = start(lab, "--every", "50ms", "--keep", "3")
    wait_output(lab, process)
    finish(lab, process)
    expect_clean(lab)
    expect_errors(lab, "goes on from")


def killed_at_any_moment(lab, options):
    """However a kill -9 of everything meets the checkpoints, the next run goes on, and nothing half written is left."""
    process = start(lab, "--every", "1ms", "--keep", "2")
    wait_images(lab, process, 2)
    for _ in range(100 if options.long else 8):
        time.sleep(random.random() / 10)  # any moment
        kill_everything(lab, process)
        lab.must("verify", images(lab)[0])
        process = start(lab, "--every", "1ms", "--keep", "2")
        lab.wait_for(lambda: "goes on from" in lab.read("err"), "resumption", process)
        wait_output(lab, process, 1)
    finish(lab, process)
    expect_clean(lab)


def told_to_end(lab, _options):
    """SIGTERM: saved a last time, ended by SIGTERM; as often as one likes."""
    process = start(lab, "--every", "0")
    wait_output(lab, process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        status = lab.wait_exit(process, "the run that was told to end")
        if status != -signal.SIGTERM:
            raise Failure(f"after SIGTERM: status {status}: {lab.read('err')}")
        wait_nobody(lab)
        lab.must("verify", images(lab)[0])
        if len(images(lab)) > 2:
            raise Failure(f"{images(lab)}")
        process = start(lab, "--every", "0")
        wait_output(lab, process)
    finish(lab, process)
    expect_clean(lab)
    expect_errors(lab, *["saved in", "goes on from"] * 3)


def told_to_end_while_saving(lab, _options):
    """SIGTERM meets periodic checkpoints at any of their stages."""
    process = start(lab, "--every", "1ms")
    for _ in range(8):
        wait_output(lab, process)
        time.sleep(random.random() / 20)  # any moment
        process.send_signal(signal.SIGTERM)
        status = lab.wait_exit(process, "the run that was told to end")
        if status != -signal.SIGTERM or "saved in" not in lab.read("err").splitlines()[-1]:
            raise Failure(f"after SIGTERM: status {status}: {lab.read('err')}")
        process = start(lab, "--every", "1ms")
    wait_output(lab, process)
    finish(lab, process)
    expect_clean(lab)


def exit_status(lab, _options):
    """The run ends as its program does; what ended badly can go on from its image."""
    for command, expected in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -SEGV $$"], -signal.SIGSEGV),
                              (["sh", "-c", "kill -KILL $$"], -signal.SIGKILL), (["true"], 0),
                              ([lab.path("no-such-program")], 127), ([lab.write("no-program", "")], 126)):
        status = lab.wait_exit(start(lab, command=command), "a short program")
        if status != expected:
            raise Failure(f"{command}: {status}, not {expected}")
        expect_clean(lab)
    process = start(lab, "--every", "0")
    wait_output(lab, process)
    process.send_signal(signal.SIGTERM)
    lab.wait_exit(process, "the run that was told to end")
    # Its image is from before its end: each time it finds out anew that it is to finish.
    for _ in range(2):
        finish(lab, start(lab, "--every", "0"), 5)
        if len(images(lab)) != 1:
            raise Failure(f"images of a program that failed: {images(lab)}")
    os.unlink(lab.path("finish"))
    process = start(lab, "--every", "20ms")
    wait_output(lab, process)
    finish(lab, process, 0)
    expect_clean(lab)


def signals(lab, _options):
    """Signals to the run are the program's, before and after it was resumed."""
    process = start(lab, "--every", "20ms")
    for life in range(2):
        wait_output(lab, process)
        for number in (signal.SIGUSR1, signal.SIGHUP):
            before = lab.read("finish.signals").splitlines()
            process.send_signal(number)
            lab.wait_for(lambda: len(lab.read("finish.signals").splitlines()) > len(before), number.name, process)
            now = lab.read("finish.signals").splitlines()
            if now != before + [number.name]:
                raise Failure(f"signals in life {life}: {now}")
        wait_images(lab, process, 1)
        kill_everything(lab, process)
        process = start(lab, "--every", "20ms")
    wait_output(lab, process)
    process.send_signal(signal.SIGINT)
    status = lab.wait_exit(process, "the run after SIGINT")
    if status not in (1, -signal.SIGINT) or "KeyboardInterrupt" not in lab.read("program.err"):
        raise Failure(f"after SIGINT: {status}: {lab.read('program.err')}")


def ends_while_saving(lab, options):
    """A program that ends while it is being saved ends as it wants to, without a word about checkpoints."""
    for i in range(300 if options.long else 30):
        command = ["sh", "-c", f"for i in 1 2 3; do sleep 0.0{random.randrange(1, 30):02}; done; exit {i % 3}"]
        status = lab.wait_exit(start(lab, "--every", "0.01ms" if i % 2 else "1ms", command=command), "a short program")
        if status != i % 3:
            raise Failure(f"run {i}: {command} ended with {status}: {lab.read('err')}")
        for image in images(lab):
            image.unlink()
        expect_clean(lab)
    if any("stays, the next run" not in line for line in lab.read("err").splitlines()):
        raise Failure(lab.read("err"))


def images_cannot_be_written(lab, _options):
    """Where no image can be written nothing is started."""
    closed = lab.dir / "closed"
    closed.mkdir()
    closed.chmod(0o755)  # root's: a user can't write there
    cases = {lab.path("nowhere/job.img"): "nowhere", str(lab.dir): "Is a directory|no regular file", "/proc/job.img": "proc"}
    if lab.as_user:
        cases[str(closed / "job.img")] = "Permission denied"
    for image, word in cases.items():
        lab.write("err", "")
        status = lab.wait_exit(start(lab, image=image), "a run that can't be")
        said = lab.read("err").splitlines()
        if status != 125 or len(said) != 1 or not any(part in said[0] for part in word.split("|")):
            raise Failure(f"{image}: {status} {said}")
        if lab.read("out"):
            raise Failure("the program was started all the same")


def directory_vanishes(lab, _options):
    """Checkpoints that fail are one line each and do no harm; SIGTERM is the program's then."""
    where = lab.dir / "images"
    where.mkdir()
    lab.give(where)
    process = start(lab, "--every", "30ms", image="images/job.img")
    wait_images(lab, process, 1, "images/job.img")
    while where.exists():  # new images may come into it at any moment
        shutil.rmtree(where, ignore_errors=True)
    lab.wait_for(lambda: lab.read("err").count("\n") >= 3, "three failures", process)
    wait_output(lab, process)
    for line in lab.read("err").splitlines():
        if not line.startswith("stasis: no checkpoint this time"):
            raise Failure(f"said: {line}")
    process.send_signal(signal.SIGTERM)
    status = lab.wait_exit(process, "the run after SIGTERM")
    last = lab.read("err").splitlines()[-1]
    if status != -signal.SIGTERM or "no last checkpoint" not in last:
        raise Failure(f"after SIGTERM: {status}, {last}")
    check_output(lab)


def time_is_up(lab, _options):
    """A program that can't be saved and does not heed SIGTERM is killed when the time is up."""
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    script = "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\nwhile True: time.sleep(1)"
    process = start(lab, "--grace", "1s", command=[PYTHON, "-c", script], pass_fds=[write_end])
    os.close(write_end)
    lab.wait_for(lambda: "ready" in lab.read("out"), "the program", process)
    process.send_signal(signal.SIGTERM)
    status = lab.wait_exit(process, "the run after SIGTERM")
    os.close(read_end)
    if status != -signal.SIGKILL:
        raise Failure(f"status {status}")
    wait_nobody(lab)
    expect_errors(lab, "no last checkpoint", "the time is up")


def one_run_at_a_time(lab, _options):
    """A second run with the same image is refused while the first, or its program, lives."""
    first = start(lab, "--every", "20ms")
    wait_images(lab, first, 1)
    second = lab.wait_exit(start(lab), "the second run")
    if second != 125:
        raise Failure(f"the second run ended with {second}")
    expect_errors(lab, "belongs to another")
    first.send_signal(signal.SIGKILL)
    lab.wait_exit(first, "the run that was killed")
    before = lines(lab)
    lab.wait_for(lambda: lines(lab) > before, "output of a program whose run was killed")
    if lab.wait_exit(start(lab), "the third run") != 125:
        raise Failure("a third run beside the living program was not refused")
    lab.write("finish", "0")
    wait_nobody(lab)
    check_output(lab)


def damaged_image(lab, _options):
    """The newest image is damaged: the one before it is used; there is none: refused, and nothing is overwritten."""
    process = start(lab, "--every", "20ms", "--keep", "3")
    wait_images(lab, process, 3)
    kill_everything(lab, process)
    newest = images(lab)[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    process = start(lab, "--every", "20ms", "--keep", "3")
    lab.wait_for(lambda: "goes on from" in lab.read("err"), "resumption", process)
    expect_errors(lab, "can't be used", "goes on from")
    if (lab.dir / "job.img.damaged").read_bytes() != data:
        raise Failure("the damaged image was not put aside")
    wait_output(lab, process)
    finish(lab, process)
    os.unlink(lab.path("job.img.damaged"))
    expect_clean(lab)
    other = lab.write("job.img", "somebody's notes")
    lab.write("err", "")
    if lab.wait_exit(start(lab), "a run whose image is none") != 125 or lab.read("job.img") != "somebody's notes":
        raise Failure("a file that is no image was not left alone")
    os.unlink(other)


def usage(lab, _options):
    """What is wrong on the command line is said in one line."""
    for words in (["--every", "soon", "--", "true"], ["--every", "10x", "--", "true"], ["--keep", "0", "--", "true"],
                  ["--keep", "many", "--", "true"], ["--grace", "-1s", "--", "true"], ["--no-such", "--", "true"], []):
        result = lab.command("run", *words)
        if result.returncode != 125 or len(result.stderr.splitlines()) != 1 or result.stdout:
            raise Failure(f"{words}: {result.returncode} {result.stderr!r}")
    for time_text in ("10m", "90s", "1h", "1h30m", "0", "1.5", "250ms"):
        lab.must("run", "--image", lab.path("job.img"), "--every", time_text, "--", "true")
    # Without a name for the image one is made of the command; what looks like an option behind -- is the program's.
    result = lab.must("run", "--", "echo", "--every", "-x")
    if result.stdout != "--every -x\n":
        raise Failure(result.stdout)


def events(lab, _options):
    """--json: each event is an object in a line of standard error."""
    process = start(lab, "--every", "20ms", "--json")
    wait_images(lab, process, 2)
    process.send_signal(signal.SIGTERM)
    lab.wait_exit(process, "the run that was told to end")
    process = start(lab, "--every", "0", "--json")
    wait_output(lab, process)
    finish(lab, process)
    told = [json.loads(line) for line in lab.read("err").splitlines()]
    names = [event["event"] for event in told]
    if names[0] != "started" or names[-2:] != ["last_saved", "resumed"] or set(names[1:-2]) != {"saved"}:
        raise Failure(f"{names}")
    if any(event["freeze_us"] <= 0 or event["bytes"] <= 0 for event in told[1:-1]):
        raise Failure(f"{told}")


# (What is printed in the middle of a print is an error of python's: the handler writes past it.)
LISTENER = """
import os, signal, sys
def note(number, frame):
    os.write(1, b'got ' + signal.Signals(number).name.encode() + b'\\n')
signal.signal(signal.SIGINT, note)
print('listening', flush=True)
for line in sys.stdin:
    print('read', line.strip(), flush=True)
    if line == 'end\\n':
        sys.exit(4)
"""


def terminal(lab, _options):
    """In an interactive shell: Ctrl-C arrives once, Ctrl-Z stops the job and fg continues it, input is the program's."""
    shell = Terminal(lab)
    command = f"{lab.stasis} run --every 0 --image job.img -- {PYTHON} {lab.write('listener.py', LISTENER)}; echo status $?"
    for life in range(2):
        shell.type(command)
        shell.expect("listening\n" if life == 0 else "goes on from job.img\n")
        shell.talk("one")
        shell.type("\x03")
        shell.expect("got SIGINT\n")
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("PROMPT> ")
        shell.type("fg")
        shell.talk("two")
        if shell.screen.text().count("got SIGINT") != life + 1:
            raise Failure(f"Ctrl-C came more than once: {shell.screen.text()[-300:]!r}")
        if life == 0:
            run = pathlib.Path(f"/proc/{shell.shell.pid}/task/{shell.shell.pid}/children").read_text().split()
            os.kill(int(run[0]), signal.SIGTERM)
            shell.expect("saved in job.img")
            shell.expect("PROMPT> ")
    shell.talk("end")
    # Bash forgets what came behind the job when it was stopped: the status is asked for.
    shell.expect("PROMPT> ")
    shell.type("echo status $?")
    shell.expect("status 4\n")
    shell.close()


CASES = {case.__name__: case for case in (
    killed_and_resumed, killed_at_any_moment, told_to_end, told_to_end_while_saving, exit_status, signals, ends_while_saving,
    images_cannot_be_written, directory_vanishes, time_is_up, one_run_at_a_time, damaged_image, usage, events, terminal)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
