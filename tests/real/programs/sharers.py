# SPDX-License-Identifier: Apache-2.0
"""A parent and a child that share things; says in the file `numbers` what has which number, and waits for `stop`."""
import mmap
import os
import socket
import time

SIZE = 5 * mmap.PAGESIZE
reader, writer = os.pipe()
near, far = socket.socketpair()
data = open("data", "w+b")
with open("mapped", "w+b") as mapped:
    mapped.truncate(SIZE)
    file_memory, memory = mmap.mmap(mapped.fileno(), SIZE), mmap.mmap(-1, SIZE)
parent = os.getpid()
child = os.fork()
if child == 0:
    os.close(writer)
    near.close()
    far.send(b".")
    os.read(reader, 1)
    os._exit(0)
os.close(reader)
far_number = far.fileno()
far.close()
near.recv(1)  # the child has closed what is not its own
numbers = (parent, child, reader, writer, data.fileno(), near.fileno(), far_number, SIZE)
with open("numbers.new", "w") as file:
    print(*numbers, file=file)
os.rename("numbers.new", "numbers")
while not os.path.exists("stop"):
    time.sleep(0.01)
os.close(writer)
os.waitpid(child, 0)
