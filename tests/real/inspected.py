#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`inspect` draws the tree and marks what is shared with whom, and `--json` says the same."""
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, json_of, run_cases  # noqa: E402  (the path comes first)
from tree_lab import PYTHON, script  # noqa: E402


def expect(found, what):
    if not found:
        raise Failure(f"{what} is not shown")


def who_shares_what(lab, _options):
    """A parent and a child with a pipe, a socket pair, an open file, a mapping and one file mapped by both."""
    process = lab.start([PYTHON, script(lab, "sharers.py")])
    lab.wait_for(lambda: lab.read("numbers").endswith("\n"), "sharing", process)
    parent, child, reader, writer, data, near, far, size = map(int, lab.read("numbers").split())
    image = lab.checkpoint(process.pid)
    text = lab.must("inspect", image).stdout.splitlines()
    tree = json_of(lab.must("inspect", image, "--json"))
    lab.write("stop", "")
    if lab.wait_exit(process, "the program"):
        raise Failure(f"the program failed: {lab.read('err')}")
    processes = {p["pid"]: p for p in tree["processes"]}
    expect(set(processes) == {parent, child} and processes[child]["parent"] == parent, "the tree")
    expect([line for line in text if line.startswith(f"{parent} ")], "the parent at the left")
    start = next(n for n, line in enumerate(text) if line.startswith(f"  {child} "))
    lines = {parent: text[:start], child: text[start:]}

    def descriptor(pid, fd, key, other, sign):
        """Both forms say that descriptor fd of pid has to do with the other one."""
        of_json = next(d for d in processes[pid]["descriptors"] if d["fd"] == fd)
        expect(of_json[key] == [{"pid": other[0], "fd": other[1]}], f"{pid}:{fd} {sign} {other} in JSON")
        line = next(line for line in lines[pid] if line.split()[:2] == ["fd", str(fd)])
        expect(line.endswith(f"  {sign} {other[0]}:{other[1]}"), f"{pid}:{fd} {sign} {other} in {line!r}")
    for a, b, key, sign in (((parent, writer), (child, reader), "connected_with", "with"),
                            ((parent, near), (child, far), "connected_with", "with"),
                            ((parent, data), (child, data), "shared_with", "=")):
        descriptor(*a, key, b, sign)
        descriptor(*b, key, a, sign)
    for pid, other in ((parent, child), (child, parent)):
        shared = [m for m in processes[pid]["mappings"] if m["protection"] == "rw-s" and m["shared_with"] == [other]]
        sizes = [int(m["end"], 16) - int(m["start"], 16) for m in shared]
        expect(sorted(sizes) == [size, size], f"two mappings that {pid} shares in JSON ({shared})")
        expect(len([line for line in lines[pid] if " rw-s " in line and line.endswith(f"  with {other}")]) == 2,
               f"two mappings that {pid} shares")
        private = [m for m in processes[pid]["mappings"] if m["name"] == "[heap]"]
        expect(private and not private[0]["shared_with"], "a heap of its own")


CASES = {"who_shares_what": who_shares_what}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
