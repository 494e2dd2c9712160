# SPDX-License-Identifier: Apache-2.0
"""multiprocessing: a Pool, named shared memory, a Lock, a Value, a Queue and a Barrier. Arguments: fork|spawn, works."""
import hashlib
import multiprocessing
import sys
from multiprocessing import shared_memory

CHUNK = 32


def first(lock, total, name):
    global LOCK, TOTAL, MEMORY
    LOCK, TOTAL, MEMORY = lock, total, shared_memory.SharedMemory(name)


def work(number):
    digest = str(number).encode()
    for _ in range(3000):
        digest = hashlib.sha256(digest).digest()
    MEMORY.buf[number * CHUNK:(number + 1) * CHUNK] = digest
    with LOCK:
        TOTAL.value += digest[0]
    return number, digest[1]


def meet(barrier, queue, rounds, number):
    for i in range(rounds):
        barrier.wait()
        queue.put((i, number))


def main():
    context = multiprocessing.get_context(sys.argv[1])
    works = int(sys.argv[2])
    memory = shared_memory.SharedMemory(create=True, size=works * CHUNK)
    lock, total = context.Lock(), context.Value("l", 0, lock=False)
    barrier, queue = context.Barrier(3), context.Queue()
    members = [context.Process(target=meet, args=(barrier, queue, works, i)) for i in range(3)]
    for member in members:
        member.start()
    with context.Pool(4, first, (lock, total, memory.name)) as pool:
        seen = dict(pool.imap_unordered(work, range(works), chunksize=3))
        pool.close()
        pool.join()
    met = sorted(queue.get() for _ in range(3 * works))
    for member in members:
        member.join()
    print(met == [(i, n) for i in range(works) for n in range(3)], [m.exitcode for m in members])
    print(total.value, sum(seen.values()), len(seen), hashlib.sha256(memory.buf).hexdigest())
    memory.close()
    memory.unlink()


if __name__ == "__main__":
    main()
