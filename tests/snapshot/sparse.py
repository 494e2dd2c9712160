# SPDX-License-Identifier: Apache-2.0
"""usage: sparse.py FILE    Memory that need not stand in an image, and some that must: prints a digest of all of it,
once more when there is a file `go`, and ends."""
import hashlib
import mmap
import os
import sys
import time

MIB = 1 << 20
PRIVATE = mmap.MAP_PRIVATE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

with open(sys.argv[1], "rb") as file:
    read_only = mmap.mmap(file.fileno(), 16 * MIB, flags=PRIVATE, prot=mmap.PROT_READ)
    private = mmap.mmap(file.fileno(), 16 * MIB, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
untouched = mmap.mmap(-1, 64 * MIB, flags=ANONYMOUS)
zeros = mmap.mmap(-1, 32 * MIB, flags=ANONYMOUS)
mixed = mmap.mmap(-1, 4 * MIB, flags=ANONYMOUS)
for at in range(0, 32 * MIB, 4096):
    zeros[at] = 1
    zeros[at] = 0
for at in range(0, 4 * MIB, 4096):
    mixed[at] = 1
    if at % 8192:
        mixed[at] = 0
    else:
        mixed[at:at + 4096] = os.urandom(4096)
# A page of zeros where the file has none, and one of the process's own.
private[8192:12288] = bytes(4096)
private[40960:45056] = os.urandom(4096)


def digest():
    whole = hashlib.sha256()
    for part in (read_only, private, zeros, mixed):
        whole.update(part)
    return whole.hexdigest()


print(digest(), flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
untouched_is_zero = not any(untouched[at] for at in range(0, 64 * MIB, 4096))
print(digest() if untouched_is_zero else "untouched memory is not zero", flush=True)
