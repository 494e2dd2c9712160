#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Objects that can't be saved: `check` and `checkpoint` name the object, the reason and what helps, before anything is
changed; the program (odd.c) goes on and still has its object."""
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import Failure, Skip, json_of, run_cases  # noqa: E402  (the path comes first)

# What the refusal must say, and the name of its error. `check` takes no descriptor and may know less.
UNSUPPORTED = "unsupported_object"
KINDS = {
    "io_uring": (["an io_uring can't be saved", "UV_USE_IO_URING=0"], UNSUPPORTED),
    "io_uring_mapped": (["io_uring", "UV_USE_IO_URING=0"], None),
    "aio": (["asynchronous I/O context", "innodb_use_native_aio=0"], "unsupported_memory"),
    "perf": (["a performance counter can't be saved", "close the profiler first"], UNSUPPORTED),
    "bpf": (["BPF objects can't be saved"], UNSUPPORTED),
    "userfaultfd": (["a userfaultfd can't be saved"], UNSUPPORTED),
    "fanotify": (["fanotify"], UNSUPPORTED),
    "packet_ring": (["a packet socket with a ring"], UNSUPPORTED),
    "packet_fanout": (["a packet socket in a fanout group"], UNSUPPORTED),
    "netfilter": (["a netlink socket of family 12 can't be saved"], UNSUPPORTED),
    "netlink_unread": (["unread messages wait in a netlink socket", "try again"], UNSUPPORTED),
    "igmp": (["IGMP"], UNSUPPORTED),
    "unaccepted_bytes": (["5 bytes wait in a connection that is not accepted yet", "try again"], UNSUPPORTED),
    "network_namespace": (["namespaces of its own", "net", "nsenter"], "unsupported_task"),
    "undo": (["SEM_UNDO"], UNSUPPORTED),
    "traced_child": (["it is traced by process", "end the debugger"], "already_traced"),
    "vfork": (["waits in vfork for its child to run another program"], None),
    "device": (["a character device can't be saved", "(device 10:2"], UNSUPPORTED),
    "lost_directory": (["working directory", "its path does not lead to it"], "unsupported_task"),
}
# `check` sees sockets from outside only, and does not stop those that fill or empty them.
ONLY_CHECKPOINT = ("netfilter", "vfork")


def refused(kind):
    def case(lab, _options):
        words, name = KINDS[kind]
        lab.compare_ipc = kind == "undo"
        process = lab.start([lab.install(lab.program), kind, lab.dir])
        lab.wait_for(lambda: lab.read("ready"), "start", process)
        there = lab.read("ready") == "yes"
        if there:
            image = lab.path("image")
            limit = ("--timeout", "1s") if kind == "vfork" else ()  # what may pass is waited for
            commands = [("checkpoint", process.pid, "-o", image, *limit), ("checkpoint", process.pid, "-o", image, "--kill", *limit)]
            if kind not in ONLY_CHECKPOINT:
                commands.append(("check", process.pid))
            for command in commands:
                result = lab.command(*command)
                text = result.stdout + result.stderr
                if result.returncode != 3 or [word for word in words if word not in text]:
                    raise Failure(f"{command[0]}: status {result.returncode}, and {words} are not all in: {text}")
                if command[0] == "checkpoint" and len(result.stderr.splitlines()) != 1:
                    raise Failure(f"a refusal is one line: {result.stderr}")
                if os.path.exists(image) or process.poll() is not None:
                    raise Failure("there is an image, or the program is gone")
            found = json_of(lab.command("checkpoint", process.pid, "-o", image, "--json", *limit))
            if name and name not in str(found):
                raise Failure(f"{name} is not in {found}")
        lab.write("stop", "")
        if lab.wait_exit(process, "the program") != 0:
            raise Failure("the program has lost its object")
        if not there:
            raise Skip(f"no such object here: {kind}")
    return case


CASES = {kind: refused(kind) for kind in KINDS}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
