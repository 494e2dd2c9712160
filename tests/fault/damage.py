# SPDX-License-Identifier: Apache-2.0
"""Damaged images: none is taken for a good one, nothing comes out of one."""
import os
import pathlib
import random
import subprocess
import time

from victim import expect_error, good_image, nothing_left, restart_runs
from harness import Failure


def expect_bad_image(lab, path, what):
    result = subprocess.run([lab.stasis, "verify", path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            errors="replace", timeout=lab.seconds, check=False, **lab.identity())
    if result.returncode != 4 or len(result.stderr.splitlines()) != 1:
        raise Failure(f"{what}: verify ends with {result.returncode}: {result.stderr!r}")


def every_byte(lab, image):
    """Each byte of the image flipped in its turn, by as many processes as there are CPUs."""
    tool = lab.install(pathlib.Path(lab.program).parent.parent / "image" / "flip_bytes")
    count = os.cpu_count()
    workers = [lab.start([tool, image, number, count], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
               for number in range(count)]
    flipped = 0
    for worker in workers:
        said = worker.communicate(timeout=3000)[0].decode()
        if worker.returncode != 0:
            raise Failure(f"a flipped byte: status {worker.returncode}: {said}")
        flipped += int(said.split()[0])
    if flipped != image.stat().st_size:
        raise Failure(f"{flipped} bytes of {image.stat().st_size} were flipped")
    print(f"each of {flipped} bytes flipped and refused")


def damaged_image(lab, options):
    """Cut short at any length, or any byte changed: a one-line error, status 4; restart makes nothing of it. --long: every
    byte, by a program that verifies them in memory."""
    image = pathlib.Path(good_image(lab))
    whole = image.read_bytes()
    generator = random.Random(5)
    size = len(whole)
    cuts = {0, 1, 7, 8, 63, 64, size - 1, size - 8, size - 64, *generator.sample(range(size), 40)}
    flips = sorted({*range(0, 256, 5), *generator.sample(range(size), 150), *range(size - 128, size, 3)})
    bad = lab.path("small")
    started = time.monotonic()
    for cut in sorted(cuts):
        lab.write("small", whole[:cut], mode=0o600)
        expect_bad_image(lab, bad, f"cut to {cut} of {size} bytes")
    lab.write("small", whole + b"\0", mode=0o600)
    expect_bad_image(lab, bad, "one byte too long")
    lab.write("small", whole, mode=0o600)
    with open(bad, "r+b", buffering=0) as file:
        for place in flips:
            os.pwrite(file.fileno(), bytes([whole[place] ^ (1 << generator.randrange(8))]), place)
            expect_bad_image(lab, bad, f"byte {place} of {size} flipped")
            os.pwrite(file.fileno(), whole[place:place + 1], place)
    if options.long:
        every_byte(lab, image)
    for place in generator.sample(range(size), 1000 if options.long else 40):
        lab.write("small", whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:], mode=0o600)
        result = lab.command("restart", bad, "--detach", "--json")
        expect_error(result, 4)
        lab.log.clear()
        nothing_left(lab, set(), f"restart of an image with byte {place} flipped")
    for cut in generator.sample(range(size), 10):
        lab.write("small", whole[:cut], mode=0o600)
        if lab.command("restart", bad).returncode != 125:
            raise Failure(f"foreground restart of an image cut to {cut} bytes does not end with 125")
        nothing_left(lab, set(), f"restart of an image cut to {cut} bytes")
    print(f"{len(cuts)} cuts and {len(flips)} flips of {size} bytes in {time.monotonic() - started:.1f} s")
    (lab.dir / "small").unlink()
    restart_runs(lab, image)
