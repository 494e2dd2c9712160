# SPDX-License-Identifier: Apache-2.0
"""What bench/checkpoints runs, and what the machine itself needs for the same bytes."""
import ctypes
import json
import mmap
import os
import pathlib
import signal
import statistics
import struct
import time

PR_SET_CHILD_SUBREAPER = 36
USER = 61234  # an ordinary user without a name, whom root can become
BLOCK = 8 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


class CommandFailed(Exception):
    """A command ended with something else than 0."""


def adopt_orphans():
    """What is started here ends here, and none of it gets a descriptor of whoever started us."""
    for fd in range(3, 1024):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            pass
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def as_user(words, user):
    return (["/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if user else []) + words


def spawn(words, out="/dev/null", err="/dev/null", leader=False):
    """Starts a program without any of our descriptors; returns its pid."""
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    for fd, path in ((1, out), (2, err)):
        actions.append((os.POSIX_SPAWN_OPEN, fd, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    return os.posix_spawn(words[0], words, os.environ, file_actions=actions, setsid=leader)


def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def timed(words, out="/dev/null", err="/dev/null"):
    """Seconds from the start of a command to its end, which must be a good one."""
    begin = time.perf_counter()
    status = wait_for(spawn(words, out, err))
    taken = time.perf_counter() - begin
    if status != 0:
        said = pathlib.Path(err).read_text().strip() if err != "/dev/null" else ""
        raise CommandFailed(f"{' '.join(words)}: status {status} {said}")
    return taken


def end_group(leader):
    """Ends a tree; we are the reaper of its orphans, and none of its pids is in use afterwards."""
    os.killpg(leader, signal.SIGKILL)
    while True:
        try:
            os.waitpid(-leader, 0)
        except ChildProcessError:
            return


class Watch:
    """What a workload with memory tells of itself (struct watch of workload.c)."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)

    def get(self, index):
        return struct.unpack_from("Q", self.memory, index * 8)[0]

    def worst_gap(self):
        """Seconds, since the last call."""
        gap = self.get(0) * 1e-9
        struct.pack_into("Q", self.memory, 0, 0)
        return gap

    def rate(self, seconds):
        """Pages per second, by looking on for a while."""
        before, begin = self.get(1), time.perf_counter()
        time.sleep(seconds)
        return (self.get(1) - before) / (time.perf_counter() - begin)

    def written(self):
        return self.get(1)

    def dirty(self, pages):
        struct.pack_into("Q", self.memory, 16, pages)
        while self.get(2):
            time.sleep(0.001)


# Limits

def plain_write(path, size, direct=False):
    """Seconds for writing `size` bytes that are in memory to a new file, without and with fsync; None where O_DIRECT is
    not to be had."""
    block = mmap.mmap(-1, BLOCK)
    block.write(os.urandom(BLOCK))
    begin = time.perf_counter()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0), 0o600)
    except OSError:
        return None
    for at in range(0, size, BLOCK):
        os.pwrite(fd, block, at)
    written = time.perf_counter() - begin
    os.fsync(fd)
    synced = time.perf_counter() - begin
    os.close(fd)
    return written, synced


def touch_and_read(path, size):
    """Seconds for new memory of that size, pages of 4 KiB, filled from the file (whose pages are in the cache)."""
    fd = os.open(path, os.O_RDONLY)
    begin = time.perf_counter()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view = memoryview(memory)
    for at in range(0, size, BLOCK):
        os.preadv(fd, [view[at:at + BLOCK]], at)
    taken = time.perf_counter() - begin
    view.release()
    memory.close()
    os.close(fd)
    return taken


def memory_copy(size):
    """Seconds for copying so many bytes within memory that is there, by one thread."""
    part = 64 << 20
    blocks = [(ctypes.c_char * part).from_buffer(mmap.mmap(-1, part)) for _ in range(2)]
    for block in blocks:
        ctypes.memset(block, 1, part)
    begin = time.perf_counter()
    for _ in range(size // part):
        ctypes.memmove(blocks[0], blocks[1], part)
    return time.perf_counter() - begin


def drop_from_cache(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def summary(values, scale=1e3):
    """In milliseconds, if not told else."""
    return {"median": statistics.median(values) * scale, "min": min(values) * scale, "max": max(values) * scale,
            "runs": len(values)}


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())
