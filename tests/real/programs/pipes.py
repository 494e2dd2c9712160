# SPDX-License-Identifier: Apache-2.0
"""subprocess.Popen with pipes: a filter that answers line by line, one that answers at its end, a chain of three.
Argument: lines."""
import subprocess
import sys
import threading

LINES = int(sys.argv[1])
PIPE = subprocess.PIPE

sort = subprocess.Popen(["sort", "-n"], stdin=PIPE, stdout=PIPE, text=True)
generate = subprocess.Popen(["seq", str(LINES * 200)], stdout=PIPE)
reverse = subprocess.Popen(["rev"], stdin=generate.stdout, stdout=PIPE)
digest = subprocess.Popen(["sha256sum"], stdin=reverse.stdout, stdout=PIPE, text=True)
generate.stdout.close()
reverse.stdout.close()
echo = subprocess.Popen(["cat"], stdin=PIPE, stdout=PIPE, bufsize=0)
full = subprocess.Popen(["yes", "a full pipe"], stdout=PIPE)  # blocks in write() all the time

threading.Thread(target=lambda: [sort.stdin.write(f"{i * 7919 % LINES}\n") for i in range(LINES)]).start()
checksum = 0
for i in range(LINES):
    echo.stdin.write(b"%d\n" % i)
    checksum = (checksum * 31 + int(echo.stdout.readline())) % 1000003
    if i % 1000 == 0:
        assert subprocess.run(["sh", "-c", f"exit {i // 1000 % 100}"], check=False).returncode == i // 1000 % 100
assert all(full.stdout.readline() == b"a full pipe\n" for _ in range(20000))
full.stdout.close()
echo.stdin.close()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
out, _ = sort.communicate()
print(checksum, hash(tuple(map(int, out.split()))), digest.communicate()[0].strip())
print([p.wait() for p in (sort, generate, reverse, digest, echo, full)])
