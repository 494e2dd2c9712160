#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sockets that lead out of the process tree, to this test: refused by default, with the other end's name; given up, kept
or connected again as --tcp and --unix-external say. And a TCP connection within the tree;
message queues and terminals that another process has, too."""
import contextlib
import ctypes
import os
import pathlib
import socket
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import EVENT_SECONDS, Failure, run_cases  # noqa: E402  (the path comes first)
from tree_lab import PYTHON, script  # noqa: E402


def expect(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what}: {found!r}, not {wanted!r}")


def refused(lab, process, words, status=3, options=()):
    """By check, if there are no options, and by checkpoint."""
    image = lab.path("image")
    for command in (("check", process.pid), ("checkpoint", process.pid, "-o", image, *options)):
        if command[0] == "check" and options:
            continue
        result = lab.command(*command)
        text = result.stdout + result.stderr
        if result.returncode != status or [word for word in words if word not in text] or os.path.exists(image):
            raise Failure(f"{command[0]}: status {result.returncode}, and {words} are not all in: {text}")


class Client:
    """outside.py as a client of this test's server, after its first question."""

    def __init__(self, lab, kind):
        self.lab = lab
        self.server = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        self.server.bind(lab.path("server") if kind == "unix" else ("127.0.0.1", 0))
        if kind == "unix":
            lab.give(lab.path("server"))
        self.server.listen()
        self.server.settimeout(EVENT_SECONDS)
        self.address = self.server.getsockname() if kind == "unix" else str(self.server.getsockname()[1])
        self.process = lab.start([PYTHON, script(lab, "outside.py"), kind, self.address])
        self.peer = self.accept()
        self.answer(b"first")
        lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", self.process)

    def accept(self):
        peer, _ = self.server.accept()
        peer.settimeout(EVENT_SECONDS)
        return peer

    def answer(self, word, peer=None):
        peer = peer or self.peer
        expect(peer.recv(100), word, "what the program says")
        peer.sendall(b"answer to " + word)

    def go(self):
        self.lab.write("go", "")

    def result(self):
        self.lab.wait_for(lambda: self.lab.read("result"), "result")
        return self.lab.read("result")

    def is_open(self):
        """Nothing, not even an end, has come from the program."""
        self.peer.setblocking(False)
        try:
            raise Failure(f"the other end hears {self.peer.recv(100)!r}")
        except BlockingIOError:
            self.peer.settimeout(EVENT_SECONDS)

    def goes_on(self):
        """The program was left alone: its connection works."""
        self.is_open()
        self.go()
        self.answer(b"second")
        expect(self.result(), "answer to second", "the program's connection")
        expect(self.lab.wait_exit(self.process, "the program"), 0, "its status")

    def refused(self, words, status=3, options=()):
        refused(self.lab, self.process, words, status, options)

    def restarted(self, *options):
        return self.lab.restart_foreground(self.lab.checkpoint_and_kill(self.process, *options))


def tcp_refused(lab, _options):
    client = Client(lab, "tcp")
    client.refused(["a TCP connection leads out of the process tree", f"127.0.0.1:{client.address}", "--tcp close"])
    client.goes_on()


def tcp_close(lab, _options):
    client = Client(lab, "tcp")
    lab.checkpoint(client.process.pid, "--tcp", "close")
    client.is_open()
    restart = client.restarted("--tcp", "close")
    client.go()
    if client.result() not in ("ECONNRESET", "EPIPE"):
        raise Failure(f"the program's connection: {client.result()}")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


def tcp_close_left_running(lab, _options):
    client = Client(lab, "tcp")
    lab.checkpoint(client.process.pid, "--tcp", "close")
    client.goes_on()


def tcp_keep(lab, _options):
    client = Client(lab, "tcp")
    if lab.user:
        client.refused(["CAP_NET_ADMIN"], 5, ("--tcp", "keep"))
        client.goes_on()
        return
    lab.checkpoint(client.process.pid, "--tcp", "keep")
    client.is_open()
    restart = client.restarted("--tcp", "keep")
    client.is_open()
    client.go()
    client.answer(b"second")
    expect(client.result(), "answer to second", "the program's connection")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


def tcp_to_itself(lab, _options):
    """A connection within the tree goes on where it was; an ordinary user is told which capability that takes."""
    process = lab.start([PYTHON, script(lab, "outside.py"), "itself", "-"])
    lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", process)
    if lab.user:
        refused(lab, process, ["CAP_NET_ADMIN"], 5)
    else:
        process = lab.restart_foreground(lab.checkpoint_and_kill(process))
    lab.write("go", "")
    expect(lab.wait_exit(process, "the program"), 0, "its status")
    expect(lab.read("result"), "before and after", "the program's connection")


def unix_refused(lab, _options):
    client = Client(lab, "unix")
    # A user can't look who root's process is.
    owner = "a process that we may not look at" if lab.as_user else f"pid {os.getpid()}"
    client.refused([client.address, owner, "--unix-external close|reconnect"])
    client.goes_on()


def unix_close(lab, _options):
    client = Client(lab, "unix")
    restart = client.restarted("--unix-external", "close")
    client.go()
    if client.result() not in ("EPIPE", "ECONNRESET", "end"):
        raise Failure(f"the program's connection: {client.result()}")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


def unix_reconnect(lab, _options):
    client = Client(lab, "unix")
    restart = client.restarted("--unix-external", "reconnect")
    peer = client.accept()
    client.go()
    client.answer(b"second", peer)
    expect(client.result(), "answer to second", "the program's connection")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


def server(lab, kind):
    process = lab.start([PYTHON, script(lab, "outside.py"), kind, "-"])
    lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", process)
    return process, int(lab.read("port"))


def waiting_connection(lab, _options):
    """Somebody outside waits to be accepted: refused, or given up."""
    process, port = server(lab, "listen")
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.settimeout(EVENT_SECONDS)
        image = lab.path("image")
        result = lab.command("checkpoint", process.pid, "-o", image)
        if result.returncode != 3 or "1 connections from outside" not in result.stderr or os.path.exists(image):
            raise Failure(f"status {result.returncode}: {result.stderr}")
        restart = lab.restart_foreground(lab.checkpoint_and_kill(process, "--tcp", "close"))
        with contextlib.suppress(ConnectionResetError):
            expect(waiting.recv(100), b"", "what the one that waited hears")
    lab.write("go", "")

    def connect():
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=EVENT_SECONDS)
        return None
    new = None

    def connected():
        nonlocal new
        new = connect()
        return new is not None
    lab.wait_for(connected, "listening again")
    with new:
        new.sendall(b"new")
        expect(new.recv(100), b"served", "what a new connection hears")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


def datagram_from_outside(lab, _options):
    """It is lost, as on a network, and the image says so."""
    process, port = server(lab, "udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.sendto(b"lost", ("127.0.0.1", port))
        image = lab.checkpoint_and_kill(process)
        if '"dropped": 1' not in lab.must("inspect", image, "--json", "--records").stdout.replace('":1', '": 1'):
            raise Failure("the image says nothing of the datagram that was dropped")
        restart = lab.restart_foreground(image)
        lab.write("go", "")

        def heard():
            outside.sendto(b"new", ("127.0.0.1", port))
            return lab.read("result")
        lab.wait_for(heard, "datagram", restart)
    expect(lab.read("result"), "new", "what the program hears")
    expect(lab.wait_exit(restart, "the restarted program"), 0, "its status")


HOLDER = """
import os, time
print('holds', flush=True)
while not os.path.exists('go'):
    time.sleep(0.005)
"""


def held_by_another(lab, kind, given, held, words):
    """The program is given one descriptor, another process the other one: refused by that one's name, and it goes on."""
    holder = lab.start([PYTHON, "-S", "-c", HOLDER], pass_fds=[held])
    process = lab.start([PYTHON, script(lab, "outside.py"), kind, given], pass_fds=[given])
    for number in {given, held}:
        os.close(number)
    lab.wait_for(lambda: "holds" in lab.read("out"), "the holder", holder)
    lab.wait_for(lambda: os.path.exists(lab.path("ready")), "ready", process)
    refused(lab, process, [f"pid {holder.pid} (python3", words, "checkpoint the process that started both"])
    lab.write("go", "")
    expect(lab.wait_exit(process, "the program"), 0, "its status")
    expect(lab.read("result"), "kept", "what waited for the program")
    expect(lab.wait_exit(holder, "the holder"), 0, "its status")


def queue_refused(lab, _options):
    libc = ctypes.CDLL(None, use_errno=True)
    name = f"/stasis-outside-{os.getpid()}".encode()
    queue = libc.mq_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, None)
    if queue < 0 or libc.mq_unlink(name) or libc.mq_send(queue, b"kept", ctypes.c_size_t(4), 1):
        raise Failure(f"no message queue: {os.strerror(ctypes.get_errno())}")
    held_by_another(lab, "queue", queue, queue, "has this message queue, too")


def terminal_refused(lab, _options):
    master, slave = os.openpty()
    os.write(slave, b"kept\n")
    held_by_another(lab, "terminal", master, slave, "has the other end of this terminal")


CASES = {case.__name__: case for case in (
    tcp_refused, tcp_close, tcp_close_left_running, tcp_keep, tcp_to_itself, unix_refused, unix_close, unix_reconnect,
    waiting_connection, datagram_from_outside, queue_refused, terminal_refused)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
