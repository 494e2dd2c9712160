# SPDX-License-Identifier: Apache-2.0
"""Four threads hash, one sleeps and counts, the main thread collects; prints its progress."""
import hashlib
import queue
import sys
import threading
import time

rounds = int(sys.argv[1])
results = queue.Queue()
ticks = []
done = threading.Event()


def work(number):
    digest = bytes([number])
    for i in range(rounds):
        digest = hashlib.sha256(digest).digest()
        if i % (rounds // 5) == 0:
            results.put((number, i))
    results.put((number, digest.hex()))


def tick():
    while not done.wait(0.02):
        ticks.append(time.monotonic())


threads = [threading.Thread(target=work, args=(n,), name=f"worker {n}") for n in range(4)]
ticker = threading.Thread(target=tick)
ticker.start()
for thread in threads:
    thread.start()
found = {}
progress = 0
while len(found) < 4:
    number, value = results.get()
    if isinstance(value, str):
        found[number] = value
    progress += 1
    print("progress", progress, flush=True)
done.set()
ticker.join()
assert ticks and ticks == sorted(ticks), "time went back"
for number in sorted(found):
    print(number, found[number])
