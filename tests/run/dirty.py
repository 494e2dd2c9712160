# SPDX-License-Identifier: Apache-2.0
"""usage: dirty.py MIB    a table of random pages, some of which are rewritten at each line of the file `orders`; prints a
digest of the whole table after each. Ends at `end`. What it prints tells whether every page is what it was left as."""
import hashlib
import os
import random
import sys
import time

PAGE = 4096
orders_size = 0  # when it was read last


def read_orders(known):
    """Those behind the first `known`. The file is open only while the test waits for an answer, never when the program is
    saved: it changes until the restart."""
    global orders_size
    while True:
        now = os.path.getsize("orders") if os.path.exists("orders") else 0
        if now != orders_size:
            orders_size = now
            with open("orders") as file:
                orders = file.read().splitlines()[known:]
            if orders:
                return orders
        time.sleep(0.005)


count = int(sys.argv[1]) * 256
table = bytearray(random.Random(1).randbytes(count * PAGE))
generator = random.Random(2)
done, pending = 0, []
print(done, hashlib.sha256(table).hexdigest(), flush=True)
while True:
    order = (pending or (pending := read_orders(done))).pop(0)
    done += 1
    if order == "end":
        sys.exit(0)
    for _ in range(int(order)):
        page = generator.randrange(count)
        table[page * PAGE + generator.randrange(PAGE)] ^= 1 + generator.randrange(255)
    print(done, hashlib.sha256(table).hexdigest(), flush=True)
