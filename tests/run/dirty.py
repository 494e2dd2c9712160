# SPDX-License-Identifier: Apache-2.0
"""usage: dirty.py MIB    a table of random pages, some of which are rewritten at each line of the file `orders`; prints a
digest of the whole table after each. Ends at `end`. What it prints tells whether every page is what it was left as."""
import hashlib
import os
import random
import sys
import time

PAGE = 4096
count = int(sys.argv[1]) * 256
table = bytearray(random.Random(1).randbytes(count * PAGE))
generator = random.Random(2)
done = 0
print(done, hashlib.sha256(table).hexdigest(), flush=True)
while True:
    orders = open("orders").read().splitlines() if os.path.exists("orders") else []
    if len(orders) <= done:
        time.sleep(0.005)
        continue
    order = orders[done]
    done += 1
    if order == "end":
        sys.exit(0)
    for _ in range(int(order)):
        page = generator.randrange(count)
        table[page * PAGE + generator.randrange(PAGE)] ^= 1 + generator.randrange(255)
    print(done, hashlib.sha256(table).hexdigest(), flush=True)
