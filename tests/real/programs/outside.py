# SPDX-License-Identifier: Apache-2.0
"""outside.py tcp|unix|listen|udp|itself ADDRESS: has a socket that leads out of the tree, or (itself) a TCP connection that
does not. Says `ready`, waits for `go`, uses the socket, and writes what came of it to `result`.
outside.py queue|terminal DESCRIPTOR: the same with a POSIX message queue, or the master of a terminal, that it was given."""
import ctypes
import errno
import os
import socket
import sys
import time

kind, address = sys.argv[1:]


def note(name, text):
    with open(name + ".new", "w") as file:
        file.write(text)
    os.rename(name + ".new", name)


def wait_for_go():
    note("ready", "")
    while not os.path.exists("go"):
        time.sleep(0.005)


def talk(peer, word):
    try:
        peer.sendall(word)
        return peer.recv(100).decode() or "end"
    except OSError as error:
        return errno.errorcode[error.errno]


if kind in ("tcp", "unix"):
    peer = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    peer.connect(address if kind == "unix" else ("127.0.0.1", int(address)))
    if talk(peer, b"first") != "answer to first":
        sys.exit("no answer to the first")
    wait_for_go()
    note("result", talk(peer, b"second"))
elif kind == "listen":
    server = socket.create_server(("127.0.0.1", 0))
    note("port", str(server.getsockname()[1]))
    wait_for_go()
    while True:  # what was there before is gone; the one that asks is new
        peer, _ = server.accept()
        if peer.recv(100) == b"new":
            peer.sendall(b"served")
            break
    note("result", "served")
elif kind == "itself":
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    client.sendall(b"before")
    wait_for_go()
    heard = peer.recv(100)
    peer.sendall(heard + b" and after")
    note("result", client.recv(100).decode())
elif kind == "queue":
    wait_for_go()
    buffer = ctypes.create_string_buffer(8192)
    ctypes.CDLL(None).mq_receive(int(address), buffer, ctypes.c_size_t(len(buffer)), None)
    note("result", buffer.value.decode())
elif kind == "terminal":
    wait_for_go()
    note("result", os.read(int(address), 100).decode().strip())
else:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    note("port", str(server.getsockname()[1]))
    wait_for_go()
    note("result", server.recv(100).decode())
