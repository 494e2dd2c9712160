# SPDX-License-Identifier: Apache-2.0
"""usage: steps.py [FINISH]    a hash over 1, 2, 3...; every thousandth number with its hash is a line of standard output.
Ends once the file FINISH is there, with the exit status it holds. SIGUSR1 and SIGHUP are counted (in FINISH.signals),
SIGINT and SIGTERM are left to Python and the kernel."""
import hashlib
import os
import signal
import sys
import time


def count(number, _frame):
    with open(FINISH + ".signals", "a") as file:
        file.write(signal.Signals(number).name + "\n")


FINISH = sys.argv[1] if len(sys.argv) > 1 else "finish"
for wanted in (signal.SIGUSR1, signal.SIGHUP):
    signal.signal(wanted, count)
number, digest = 0, b""
while True:
    number += 1
    digest = hashlib.sha256(digest + str(number).encode()).digest()
    if number % 1000:
        continue
    print(number, digest.hex(), flush=True)
    if os.path.exists(FINISH):
        with open(FINISH) as file:
            sys.exit(int(file.read() or 0))
    time.sleep(0.001)
