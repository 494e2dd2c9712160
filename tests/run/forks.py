# SPDX-License-Identifier: Apache-2.0
"""usage: forks.py MIB    a table of random pages and three children that have it from their parent. For each line of the
file `orders` every process says the digest of its table and how much private memory it has (KiB); `write` has the second child
rewrite a MiB of its own first. Ends at `end`."""
import hashlib
import os
import random
import sys
import time

CHILDREN = 3
MIB = 1 << 20


def private_kib():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def answer():
    return f"{hashlib.sha256(table).hexdigest()} {private_kib()}"


def serve(number, questions, answers):
    while True:
        question = os.read(questions, 1)
        if question in (b"", b"."):
            os._exit(0)
        if question == b"w" and number == 1:
            table[MIB:2 * MIB] = bytes(MIB)
        os.write(answers, (answer() + "\n").encode())


def ask(question):
    for to, _, _ in children:
        os.write(to, question)
    answers = [answer()]
    for _, back, _ in children:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(back, 1 << 12)
        answers.append(line.decode().strip())
    return answers


table = bytearray(random.Random(1).randbytes(int(sys.argv[1]) * MIB))
children = []
for number in range(CHILDREN):
    questions, to = os.pipe()
    back, answers = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to)
        os.close(back)
        serve(number, questions, answers)
    os.close(questions)
    os.close(answers)
    children.append((to, back, pid))
done = 0
print(done, *ask(b"?"), flush=True)
while True:
    orders = []
    if os.path.exists("orders"):
        with open("orders") as file:
            orders = file.read().splitlines()[done:]
    for order in orders:
        done += 1
        if order == "end":
            for to, _, pid in children:
                os.write(to, b".")
                os.waitpid(pid, 0)
            sys.exit(0)
        print(done, *ask(b"w" if order == "write" else b"?"), flush=True)
    time.sleep(0.01)
