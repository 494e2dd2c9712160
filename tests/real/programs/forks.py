# SPDX-License-Identifier: Apache-2.0
"""A tree of os.fork: three levels, sessions and process groups of their own, pages inherited and partly overwritten, a
zombie, an orphan that a subreaper takes. Argument: rounds of each member."""
import ctypes
import hashlib
import os
import signal
import sys

ROUNDS = int(sys.argv[1])
INHERITED = bytearray(os.urandom(0)) + bytes(range(256)) * 4096


def compute(path):
    own = hashlib.sha256(path.encode()).digest()
    for i in range(ROUNDS):
        own = hashlib.sha256(own + INHERITED[i % 1000 * 256:i % 1000 * 256 + 512]).digest()
        if i % 7 == 0:
            INHERITED[i * 4096 % len(INHERITED)] = own[0]
    return hashlib.sha256(own + INHERITED).hexdigest()


def place(path):
    """What ps would say of this member, in terms that do not depend on pids."""
    return (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.getpgid(0) == os.getpgid(os.getppid()),
            signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN, len(path))


def grow(path, depth):
    if len(path) % 2:
        os.setsid()
    elif path.endswith("1"):
        os.setpgid(0, 0)
    if path.endswith("2"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    zombie = os.fork()
    if zombie == 0:
        os._exit(len(path) + 40)
    children = []
    for number in range(3 if depth else 0):
        INHERITED[number] = depth
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                out.write(grow(f"{path}{number}", depth - 1))
                out.flush()
                os._exit(number + 1)
        os.close(writer)
        children.append((pid, reader))
    lines = [f"{path or 'root'} {compute(path)} {place(path) if path else ''}"]
    for pid, reader in children:
        with os.fdopen(reader) as text:
            lines.append(text.read())
        lines.append(f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    lines.append(f"zombie {os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1])}")
    return "\n".join(lines)


ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
middle = os.fork()
if middle == 0:
    if os.fork() == 0:
        compute("orphan")
        os._exit(99)
    os._exit(0)
os.waitpid(middle, 0)
print(grow("", 2))
print("orphan", os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]))
