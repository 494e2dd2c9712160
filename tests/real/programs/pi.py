# SPDX-License-Identifier: Apache-2.0
"""usage: pi.py DIGITS    prints pi in groups of ten digits as it finds them, then a digest; exit status 3."""
import hashlib
import sys


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
text = ""
for digit in digits():
    text += str(digit)
    if len(text) % 10 == 0:
        print(len(text), text[-10:], flush=True)
    if len(text) == wanted:
        break
print("sha256", hashlib.sha256(text.encode()).hexdigest(), flush=True)
sys.exit(3)
