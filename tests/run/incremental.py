#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Incremental checkpoints: a chain of images restarts as a whole one would, is as small as it should be, and notices when
one of its images is gone or another."""
import hashlib
import os
import pathlib
import random
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, json_of, run_cases  # noqa: E402  (the path comes first)

PYTHON = "/usr/bin/python3"
MIB = 16
PAGE = 4096


class Table:
    """dirty.py, and what it must print."""

    def __init__(self, lab):
        self.lab = lab
        self.data = bytearray(random.Random(1).randbytes(MIB * 256 * PAGE))
        self.generator = random.Random(2)
        self.orders = []
        self.expected = []
        self.note()
        self.process = lab.start([PYTHON, lab.write("dirty.py", (HERE / "dirty.py").read_bytes()), MIB])
        self.wait(self.process)

    def note(self):
        self.expected.append(f"{len(self.orders)} {hashlib.sha256(self.data).hexdigest()}\n")

    def wait(self, process=None):
        self.lab.wait_for(lambda: self.lab.read("out").count("\n") >= len(self.expected), "its output", process)
        self.check()

    def check(self):
        if self.lab.read("out") != "".join(self.expected):
            raise Failure("the table is not what it should be")

    def give_orders(self, orders):
        """Whole or not at all: it may be read at any moment."""
        os.rename(self.lab.write("orders.new", "\n".join(orders) + "\n"), self.lab.path("orders"))

    def change(self, pages, process=None):
        self.orders.append(str(pages))
        for _ in range(pages):
            page = self.generator.randrange(MIB * 256)
            self.data[page * PAGE + self.generator.randrange(PAGE)] ^= 1 + self.generator.randrange(255)
        self.note()
        self.give_orders(self.orders)
        self.wait(process)

    def end(self, process):
        self.give_orders([*self.orders, "end"])
        if self.lab.wait_exit(process, "the program") != 0:
            raise Failure(f"the program failed: {self.lab.read('err')}")
        self.check()


def checkpoint(lab, pid, *options, image=None):
    """The image's path and the report."""
    image = image or lab.next_image()
    return image, json_of(lab.must("checkpoint", pid, "-o", image, "--json", "--timeout", "5m", *options))


def expect_refusal(result, status, word):
    lines = result.stderr.splitlines()
    if result.returncode != status or len(lines) != 1 or word not in lines[0]:
        raise Failure(f"not refused with {status} and {word!r}: {result.returncode} {result.stderr!r}")


def make_chain(lab, table, *options):
    """Three images, the program being changed between them and killed with the last."""
    first, whole = checkpoint(lab, table.process.pid, *options)
    table.change(100, table.process)
    second, small = checkpoint(lab, table.process.pid, "--parent", first, *options)
    table.change(50, table.process)
    third, _ = checkpoint(lab, table.process.pid, "--parent", second, "--kill", *options)
    lab.wait_exit(table.process, "the killed program")
    if whole["inherited_pages"] != 0 or small["inherited_pages"] < MIB * 256 - 200:
        raise Failure(f"{whole} then {small}")
    if os.path.getsize(second) > os.path.getsize(first) // 4:
        raise Failure(f"the second image has {os.path.getsize(second)} bytes, the first {os.path.getsize(first)}")
    return [first, second, third]


def chain(lab, _options):
    for codec in ("none", "lz4"):
        table = Table(lab)
        images = make_chain(lab, table, "--compress", codec)
        report = json_of(lab.must("verify", images[2], "--json"))
        if [parent["path"] for parent in report["parents"]] != images[1::-1]:
            raise Failure(f"{report}")
        shown = json_of(lab.must("inspect", images[2], "--json"))
        if shown["parent"]["path"] != os.path.basename(images[1]) or shown["parent"]["bytes"] < MIB << 19:
            raise Failure(f"{shown['parent']}")
        if "only what differs from" not in lab.must("inspect", images[2]).stdout:
            raise Failure("inspect does not tell of the parent")
        lab.must("inspect", images[2], "--records")
        table.end(lab.restart_foreground(images[2]))
        for name in ("out", "orders"):
            os.truncate(lab.path(name), 0)


def restarted_between(lab, _options):
    """A chain goes on over restarts: the program that was restarted from one image is saved on top of it."""
    table = Table(lab)
    image, _ = checkpoint(lab, table.process.pid, "--kill")
    lab.wait_exit(table.process, "the killed program")
    for _ in range(3):
        pid = lab.restart_detached(image)
        table.change(20)
        image, report = checkpoint(lab, pid, "--parent", image, "--kill")
        lab.wait_gone(pid, "the killed program")
        if report["inherited_pages"] < MIB * 256 - 100:
            raise Failure(f"{report}")
    table.end(lab.restart_foreground(image))


def parent_gone(lab, _options):
    table = Table(lab)
    images = make_chain(lab, table)
    os.rename(images[0], lab.path("elsewhere"))
    for verb in (["restart"], ["verify"], ["merge", "-o", lab.path("whole")]):
        status = 125 if verb[0] == "restart" else 3
        expect_refusal(lab.command(verb[0], images[2], *verb[1:]), status, "parent image")
    shutil.copy(images[2], images[0])
    lab.give(images[0])
    expect_refusal(lab.command("restart", images[2]), 125, "is not the parent image that was there")
    os.unlink(images[0])
    # A page in the middle of the first image, which the last one still has.
    data = bytearray(pathlib.Path(lab.path("elsewhere")).read_bytes())
    data[len(data) // 2] ^= 1
    lab.write("image.1", bytes(data), mode=0o600)
    expect_refusal(lab.command("restart", images[2]), 125, "damaged")
    expect_refusal(lab.command("verify", images[2]), 3, "damaged")
    os.unlink(images[0])
    os.rename(lab.path("elsewhere"), images[0])
    os.chmod(images[0], 0o600)
    if os.path.exists(lab.path("whole")):
        raise Failure("merge left something behind")
    # Together they may be anywhere.
    moved = lab.dir / "moved"
    moved.mkdir()
    lab.give(moved)
    for image in images:
        os.rename(image, moved / os.path.basename(image))
    table.end(lab.restart_foreground(str(moved / os.path.basename(images[2]))))


def misuse(lab, _options):
    table = Table(lab)
    pid = table.process.pid
    image, _ = checkpoint(lab, pid)
    child, _ = checkpoint(lab, pid, "--parent", image)
    before = pathlib.Path(image).read_bytes()
    for output, parent, status, word in (
            (image, image, 2, "would be replaced"), (image, child, 2, "would be replaced"),
            (lab.path("new"), lab.path("nowhere"), 3, "parent image"), (lab.path("new"), str(lab.dir), 3, "no regular file"),
            (lab.path("new"), lab.write("text", "no image"), 3, "parent image")):
        expect_refusal(lab.command("checkpoint", pid, "-o", output, "--parent", parent), status, word)
    if pathlib.Path(image).read_bytes() != before or os.path.exists(lab.path("new")):
        raise Failure("a refused checkpoint changed something")
    # Another program's image is a parent without much in common.
    other = lab.start(["sleep", "100"])
    lab.wait_for(lambda: os.readlink(f"/proc/{other.pid}/exe") != lab.stasis, "sleep", other)
    foreign, report = checkpoint(lab, other.pid, "--parent", image, "--kill")
    lab.wait_exit(other, "sleep")
    lab.must("verify", foreign)
    if report["inherited_pages"] != 0:
        raise Failure(f"{report}")
    table.end(table.process)


def merged(lab, _options):
    """A chain folded into one image restarts without the others; the chain does, too."""
    table = Table(lab)
    images = make_chain(lab, table)
    whole = lab.path("whole")
    report = json_of(lab.must("merge", images[2], "-o", whole, "--json"))
    if report["images"] != 3 or os.path.getsize(whole) < MIB << 20:
        raise Failure(f"{report}")
    for image in images:
        os.unlink(image)
    if json_of(lab.must("verify", whole, "--json"))["parents"]:
        raise Failure("a merged image has a parent")
    table.end(lab.restart_foreground(whole))


CASES = {case.__name__: case for case in (chain, restarted_between, parent_gone, misuse, merged)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
