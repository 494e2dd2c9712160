#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""restart --lazy: the program runs at once, and its memory is right whatever it does while that is still coming, whatever
becomes of the image, and whoever is killed. Where the middle matters, nothing comes but what is touched
(STASIS_FILL_AHEAD=off), so that it lasts."""
import contextlib
import os
import pathlib
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, descendants, proc_text, run_cases  # noqa: E402  (the path comes first)

TOUCHED_ONLY = {"STASIS_FILL_AHEAD": "off"}


def start(lab):
    for name in ("ready", "go", "result", "what"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lab.path(name))
    process = lab.start([lab.install(lab.program)])
    lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", process)
    return process


def image_of_program(lab, *options):
    return lab.checkpoint_and_kill(start(lab), *options)


def server(lab, name="stasis-pages"):
    """The pid of the page server (or its guard), if there is one."""
    lab.reap()
    return next((pid for pid in descendants() if proc_text(pid, "comm") == name and " Z " not in proc_text(pid, "stat")), None)


def without_server(lab):
    lab.wait_for(lambda: server(lab) is None and server(lab, "stasis-guard") is None, "end of the page server")


def prepare(lab, deed):
    for name in ("result", "err", "out"):
        lab.write(name, "")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lab.path("go"))
    lab.write("what", deed)


def expect_pass(lab, status, what):
    result = lab.read("result")
    if result != "PASS\n" or status != 0:
        raise Failure(f"{what}: status {status}\n{result}{lab.read('err')}{lab.read('out')}")


WAYS = [("foreground", ()), ("detached", ()), ("foreground", ("--pids", "namespace")), ("detached", ("--pids", "namespace"))]


def do_in_all_ways(lab, image, deed):
    for how, options in WAYS:
        for env in ({}, TOUCHED_ONLY):
            what = f"{deed} {how} {options} {env}"
            prepare(lab, deed)
            options_all = ("--lazy", "--files", "relaxed", *options)
            if how == "foreground":
                process = lab.restart_foreground(image, *options_all, env=lab.environment(**env))
                lab.write("go", "")
                status = lab.wait_exit(process, what)
            else:
                with environment(env):
                    pid = lab.restart_detached(image, *options_all)
                lab.write("go", "")
                lab.wait_gone(pid, what)
                status = 0
            expect_pass(lab, status, what)
            without_server(lab)


@contextlib.contextmanager
def environment(more):
    """Of the commands that the Lab runs: it passes on what begins with STASIS_."""
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


def needs_root(case):
    """As a user a lazy restart is refused; the case `refused` looks at that."""
    def run(lab, options):
        if lab.is_root and not lab.as_user:
            case(lab, options)
    run.__name__ = case.__name__
    return run


def deed(name):
    def run(lab, _options):
        do_in_all_ways(lab, image_of_program(lab), name)
    run.__name__ = name
    return needs_root(run)


def restart_in_the_middle(lab, image, deed_name="touch", *options):
    """A foreground restart, most of whose memory never comes by itself."""
    prepare(lab, deed_name)
    return lab.restart_foreground(image, "--lazy", "--files", "relaxed", *options, env=lab.environment(**TOUCHED_ONLY))


def running(lab, process):
    """Waits until the program runs: nobody traces it any more."""
    def runs():
        return any(proc_text(pid, "comm") == "lazy_program" and "TracerPid:\t0" in proc_text(pid, "status")
                   for pid in descendants(process.pid))
    lab.wait_for(runs, "running program", process)


@needs_root
def two_generations(lab, _options):
    """What was restarted lazily is saved when all is there, and restarted again."""
    image = image_of_program(lab)
    for options in ((), ("--pids", "namespace")):
        prepare(lab, "touch")
        pid = lab.restart_detached(image, "--lazy", "--files", "relaxed", *options)
        without_server(lab)
        image = lab.checkpoint_and_kill(pid)
    do_in_all_ways(lab, image, "touch")


@needs_root
def saved_while_filled(lab, _options):
    """A checkpoint waits until all is there; if that does not come to be in time, it is refused by name."""
    image = image_of_program(lab)
    prepare(lab, "touch")
    with environment(TOUCHED_ONLY):
        pid = lab.restart_detached(image, "--lazy", "--files", "relaxed")
    result = lab.command("checkpoint", pid, "-o", lab.next_image(), "--timeout", "300ms")
    if result.returncode != 3 or "lazy restart" not in result.stderr or len(result.stderr.splitlines()) != 1:
        raise Failure(f"checkpoint while it is filled: {result.returncode} {result.stderr}")
    lab.write("go", "")
    lab.wait_gone(pid, "the program")
    expect_pass(lab, 0, "after a refused checkpoint")
    without_server(lab)
    prepare(lab, "touch")
    pid = lab.restart_detached(image, "--lazy", "--files", "relaxed")
    image = lab.checkpoint_and_kill(pid)
    do_in_all_ways(lab, image, "touch")


@needs_root
def chain(lab, _options):
    """Pages that are in parent images."""
    process = start(lab)
    parent = lab.checkpoint(process.pid)
    child = lab.checkpoint(process.pid, "--parent", parent)
    image = lab.checkpoint_and_kill(process, "--parent", child)
    do_in_all_ways(lab, image, "touch")
    do_in_all_ways(lab, image, "move")


@needs_root
def compressed(lab, _options):
    for codec in ("lz4", "zstd"):
        do_in_all_ways(lab, image_of_program(lab, "--compress", codec), "forks")


def expect_killed(lab, process, image, why):
    status = lab.wait_exit(process, f"program whose image is {why}")
    if status != -signal.SIGKILL:
        raise Failure(f"{why}: status {status} instead of SIGKILL\n{lab.read('result')}{lab.read('err')}")
    if lab.read("result"):
        raise Failure(f"{why}: the program got to its end: {lab.read('result')}")
    lines = [line for line in lab.read("err").splitlines() if line.startswith("stasis: ")]
    if len(lines) != 1 or image not in lines[0] or "the program is killed" not in lines[0]:
        raise Failure(f"{why}: what is said of it: {lab.read('err')}")
    without_server(lab)
    return lines[0]


def copy_of(lab, image):
    copy = lab.next_image()
    data = pathlib.Path(image).read_bytes()
    fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
    return copy


def each_way(lab, image, spoil, why):
    for options in ((), ("--pids", "namespace")):
        for deed_name in ("touch", "fork_storm"):
            copy = copy_of(lab, image)
            process = restart_in_the_middle(lab, copy, deed_name, *options)
            running(lab, process)
            spoil(copy)
            lab.write("go", "")
            line = expect_killed(lab, process, copy, why)
            if why not in line:
                raise Failure(f"it is not said why: {line}")
            os.unlink(copy)


@needs_root
def truncated(lab, _options):
    """The image ends where pages were: no zeros are given for them."""
    image = image_of_program(lab)
    each_way(lab, image, lambda copy: os.truncate(copy, os.path.getsize(copy) // 2), "ends too early")


@needs_root
def damaged(lab, _options):
    """One bit of a page that has not been read yet."""
    image = image_of_program(lab)

    def flip(copy):
        with open(copy, "r+b") as file:
            file.seek(os.path.getsize(copy) // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 16]))
    each_way(lab, image, flip, "is damaged")


@needs_root
def server_killed(lab, _options):
    """kill -9 of the page server: its guard ends the program."""
    image = image_of_program(lab)
    for options in ((), ("--pids", "namespace")):
        process = restart_in_the_middle(lab, image, "touch", *options)
        running(lab, process)
        os.kill(server(lab), signal.SIGKILL)
        expect_killed(lab, process, image, "was killed")


@needs_root
def guard_killed(lab, _options):
    """kill -9 of the guard: there is another one."""
    image = image_of_program(lab)
    process = restart_in_the_middle(lab, image)
    running(lab, process)
    for _ in range(3):
        old = server(lab, "stasis-guard")
        os.kill(old, signal.SIGKILL)
        lab.wait_for(lambda: server(lab, "stasis-guard") not in (None, old), "new guard", process)
    os.kill(server(lab), signal.SIGKILL)
    expect_killed(lab, process, image, "was killed")
    process = restart_in_the_middle(lab, image)
    running(lab, process)
    os.kill(server(lab, "stasis-guard"), signal.SIGKILL)
    lab.write("go", "")
    expect_pass(lab, lab.wait_exit(process, "the program"), "after its guard was killed")
    without_server(lab)


def refused(lab, _options):
    """What it takes is said: a file, and rights."""
    image = image_of_program(lab)
    prepare(lab, "touch")
    if lab.as_user or not lab.is_root:
        for words, expected in ((("--detach",), 5), ((), 125)):
            result = lab.command("restart", image, "--lazy", *words)
            if result.returncode != expected or "CAP_SYS_PTRACE" not in result.stderr or len(result.stderr.splitlines()) != 1:
                raise Failure(f"--lazy without rights: {result.returncode} {result.stderr}")
        return
    with open(image, "rb") as file:
        data = file.read()
    read_end, write_end = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(read_end)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with open(write_end, "wb") as pipe:
            pipe.write(data)
        os._exit(0)
    os.close(write_end)
    result = lab.command("restart", f"/proc/{os.getpid()}/fd/{read_end}", "--lazy", "--detach")
    os.close(read_end)
    os.waitpid(writer, 0)
    if result.returncode != 3 or "stream" not in result.stderr or len(result.stderr.splitlines()) != 1:
        raise Failure(f"--lazy from a stream: {result.returncode} {result.stderr}")


def mappings(pid):
    """What /proc/PID/smaps says of the mappings, without how much of them is in memory."""
    with open(f"/proc/{pid}/smaps") as file:
        return [line for line in file if "-" in line.split()[0] or line.startswith("VmFlags")]


@needs_root
def no_trace(lab, _options):
    """Afterwards the program's mappings and descriptors are what they were, and nothing of ours is there."""
    process = start(lab)
    before, descriptors = mappings(process.pid), sorted(os.listdir(f"/proc/{process.pid}/fd"))
    image = lab.checkpoint_and_kill(process)
    prepare(lab, "touch")
    pid = lab.restart_detached(image, "--lazy", "--files", "relaxed")
    without_server(lab)
    after = mappings(pid)
    if after != before:
        changes = [f"{a!r} != {b!r}" for a, b in zip(before, after) if a != b]
        raise Failure(f"the mappings differ ({len(before)} and {len(after)} lines): {changes[:4]}")
    if sorted(os.listdir(f"/proc/{pid}/fd")) != descriptors:
        raise Failure("the descriptors differ")
    lab.write("go", "")
    lab.wait_gone(pid, "the program")
    expect_pass(lab, 0, "the program")


DEEDS = ("touch", "forks", "fork_storm", "wipe_on_fork", "unmap", "empty", "move", "protect", "system_calls", "storm",
         "execute", "leave")
CASES = {name: deed(name) for name in DEEDS}
CASES |= {case.__name__: case for case in (two_generations, saved_while_filled, chain, compressed, truncated, damaged,
                                           server_killed, guard_killed, refused, no_trace)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
