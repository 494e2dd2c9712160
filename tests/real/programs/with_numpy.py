# SPDX-License-Identifier: Apache-2.0
"""Matrix products and an FFT with numpy and its BLAS threads; prints a digest of exact integers."""
import hashlib
import sys

import numpy

rounds = int(sys.argv[1])
generator = numpy.random.default_rng(7)
matrix = generator.integers(0, 50, (300, 300)).astype(float)
total = numpy.zeros((300, 300))
for i in range(rounds):
    total = numpy.mod(matrix @ total + matrix, 1009.0)  # exact: far below 2**53
    if i % (rounds // 10) == 0:
        print("round", i, flush=True)
signal = generator.standard_normal(1 << 16)
back = numpy.fft.ifft(numpy.fft.fft(signal)).real
assert numpy.allclose(signal, back)
print(hashlib.sha256(total.astype(numpy.int64).tobytes()).hexdigest())
