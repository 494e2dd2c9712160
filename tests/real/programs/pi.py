# SPDX-License-Identifier: Apache-2.0
"""usage: pi.py DIGITS [FILE]    prints pi in groups of ten digits as it finds them, then a digest; exit status 3.
With 11 of 12 parts printed it waits until there is a FILE: so it has not ended when a slow test comes to save it."""
import hashlib
import os
import sys
import time


def digits():
    """Gibbons' spigot: one exact decimal digit of pi after the other."""
    q, r, t, k, n, l = 1, 0, 1, 1, 3, 3
    while True:
        if 4 * q + r - t < n * t:
            yield n
            q, r, n = q * 10, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, l = q * k, (2 * q + r) * l, t * l, k + 1, (q * (7 * k + 2) + r * l) // (t * l), l + 2


wanted = int(sys.argv[1])
hold = wanted * 11 // 12 // 10 * 10 if len(sys.argv) > 2 else 0
text = ""
for digit in digits():
    text += str(digit)
    if len(text) % 10 == 0:
        print(len(text), text[-10:], flush=True)
    while len(text) == hold and not os.path.exists(sys.argv[2]):
        time.sleep(0.005)
    if len(text) == wanted:
        break
print("sha256", hashlib.sha256(text.encode()).hexdigest(), flush=True)
sys.exit(3)
