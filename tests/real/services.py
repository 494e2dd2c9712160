#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real services, each in the middle of work: checkpointed while they run on, killed and restarted twice, and asked by
their own clients after each step. A service that is not installed is skipped."""
import contextlib
import glob
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "harness"))
from harness import EVENT_SECONDS, Failure, Skip, descendants, proc_text, run_cases  # noqa: E402  (the path comes first)
from tree_lab import free_port, kill_tree, lives, need, script, wait_nobody  # noqa: E402


def say(lab, argv, **options):
    """Output of a client that must succeed."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, cwd=lab.dir, timeout=lab.seconds, check=False,
                          stdin=subprocess.DEVNULL, env=lab.environment(), **{**lab.identity(), **options})
    if done.returncode:
        raise Failure(f"{' '.join(map(str, argv))} ended with {done.returncode}: {done.stderr.strip()} {lab.read('err')[-300:]}")
    return done.stdout


def served(port):
    """Sockets of connections to this port, by which a server still holds them: it may close them after its client."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in proc_text("net", name).splitlines()[1:]]
    listening = "0A"
    return [f for f in lines if f[1].endswith(f":{port:04X}") and f[3] != listening and f[9] != "0"]


def get(lab, port, path="/"):
    """The answer of an HTTP server that may still be starting; the connection is gone."""
    answer = None

    def answered():
        nonlocal answer
        with contextlib.suppress(ConnectionRefusedError, urllib.error.URLError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=lab.seconds) as response:
                answer = response.read()
        return answer is not None
    lab.wait_for(answered, f"answer from port {port}")
    lab.wait_for(lambda: not served(port), f"end of the connections to port {port}")
    return answer


class Redis:
    """A client over redis' unix socket that is gone between two commands."""

    def __init__(self, path):
        self.path = path

    @staticmethod
    def encode(*words):
        words = [str(word).encode() for word in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def __call__(self, *commands):
        """Sends commands in one go; returns their answers."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(EVENT_SECONDS)
            peer.connect(self.path)
            stream = peer.makefile("rb")
            answers = []
            for start in range(0, len(commands), 500):
                peer.sendall(b"".join(self.encode(*command) for command in commands[start:start + 500]))
                answers += [self.answer(stream) for _ in commands[start:start + 500]]
            return answers

    def answer(self, stream):
        line = stream.readline().rstrip()
        if line[:1] == b"$":
            return None if line == b"$-1" else stream.read(int(line[1:]) + 2)[:-2].decode()
        if line[:1] == b"*":
            return [self.answer(stream) for _ in range(int(line[1:]))]
        if line[:1] == b":":
            return int(line[1:])
        if line[:1] != b"+":
            raise Failure(f"redis says {line!r}")
        return line[1:].decode()


def redis_server(lab):
    return lab.start(["redis-server", "--port", 0, "--unixsocket", "redis.sock", "--unixsocketperm", 700, "--dir", lab.dir,
                      "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no",
                      "--auto-aof-rewrite-percentage", 0, "--enable-debug-command", "yes"])


def redis(lab, options):
    """200,000 keys, an append-only file, and a child that is rewriting it."""
    need("redis-server")
    keys = 1000000 if options.long else 200000
    client = Redis(lab.path("redis.sock"))
    process = redis_server(lab)

    def ready():
        with contextlib.suppress(OSError, Failure):
            return client(("ping",)) == ["PONG"]
        return False

    lab.wait_for(ready, "answer from redis", process)
    for start in range(0, keys, 50000):
        client(*(("set", f"key:{i}", f"value {i}") for i in range(start, start + 50000)))
    client(("rpush", "list", *range(1000)), ("set", "short", "lived", "px", 86400000))
    client(("config", "set", "rdb-key-save-delay", 20))  # microseconds: the child is still writing when it is frozen
    client(("bgrewriteaof",))
    steps = 0

    def check():
        nonlocal steps
        steps += 1
        if client(("incr", "steps"), ("dbsize",)) != [steps, keys + 3]:
            raise Failure(f"step {steps}: {client(('get', 'steps'), ('dbsize',))}")
        sample = range(steps, keys, 997)
        if client(*(("get", f"key:{i}") for i in sample)) != [f"value {i}" for i in sample]:
            raise Failure("a value is wrong")
        if client(("lrange", "list", 0, -1))[0] != [str(i) for i in range(1000)] or client(("ttl", "short"))[0] < 80000:
            raise Failure("the list or the time to live is wrong")

    def rewriting():
        return "aof_rewrite_in_progress:1" in client(("info", "persistence"))[0]

    if not rewriting():
        raise Failure("the append-only file was rewritten too soon")
    lives(lab, process, check)
    client(("config", "set", "rdb-key-save-delay", 0))
    lab.wait_for(lambda: not rewriting(), "end of the rewriting")
    if "aof_last_bgrewrite_status:ok" not in client(("info", "persistence"))[0]:
        raise Failure("the append-only file could not be rewritten")
    with contextlib.suppress(Failure, ValueError):  # it hangs up without an answer
        client(("shutdown",))
    wait_nobody(lab, "end of redis")
    # What it wrote to disk before and after all that is right.
    process = redis_server(lab)
    lab.wait_for(ready, "answer from a new redis", process)
    check()
    process.terminate()
    lab.wait_exit(process, "redis")


NGINX = """\
worker_processes 2;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/err;
events {{ worker_connections 64; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  limit_req_zone $binary_remote_addr zone=visitors:1m rate=10000r/s;
  server {{ listen 127.0.0.1:{port}; root {dir}/pages; keepalive_timeout 0; limit_req zone=visitors burst=1000; }}
}}
"""


def nginx(lab, _options):
    """Master and workers serve again; a reload gives new workers, a signal ends all of it."""
    need("nginx")
    port = free_port()
    (lab.dir / "pages").mkdir()
    lab.give(lab.dir / "pages")
    page = "".join(f"line {i}\n" for i in range(100000))
    lab.write("pages/page.txt", page)
    if lab.is_root and not lab.as_user:
        lab.dir.chmod(0o755)  # the workers are somebody else
    process = lab.start(["nginx", "-p", lab.dir, "-e", lab.path("err"), "-c", lab.write("nginx.conf", NGINX.format(dir=lab.dir, port=port))])

    def check():
        for _ in range(5):
            if get(lab, port, "/page.txt") != page.encode():
                raise Failure("nginx serves something else")

    check()
    workers = [p for p in descendants(process.pid) if "worker" in proc_text(p, "cmdline")]
    if len(workers) != 2:
        raise Failure(f"{len(workers)} workers")
    target = lives(lab, process, check)
    before = set(descendants(target))
    os.kill(target, signal.SIGHUP)
    lab.wait_for(lambda: len(set(descendants(target)) - before) == 2 and not before & set(descendants(target)), "new workers")
    check()
    os.kill(target, signal.SIGQUIT)
    wait_nobody(lab, "end of nginx")
    if lab.read("access.log").count("GET /page.txt") < 25:
        raise Failure("the access log lacks lines")


POSTGRES_TREE = """\
# A server and a client with an open transaction.
postgres -D data -k "$PWD" -c listen_addresses= -c fsync=on -c autovacuum_naptime=1 &
until psql -h "$PWD" -U tester -d postgres -qc 'select 1' >/dev/null 2>&1; do sleep 0.1; done
psql -h "$PWD" -U tester -d postgres -q -v ON_ERROR_STOP=1 -f running.sql >running.out 2>&1
echo "client ended with $?" >>running.out
wait
"""
POSTGRES_RUNNING = r"""
create table numbers(n bigint primary key, text text);
insert into numbers select n, 'committed ' || n from generate_series(1, 20000) n;
begin;
insert into numbers select n, 'running ' || n from generate_series(20001, 30000) n;
delete from numbers where n <= 1000;
\! touch open
\! until [ -e go ]; do sleep 0.05; done
update numbers set text = 'updated' where n % 1000 = 0;
commit;
select count(*), sum(n) from numbers;
"""


def postgres_users(lab):
    """Popen options: who makes the data, and who serves it. postgres does not run as root, and initdb wants its
    user to have a name; the server does not."""
    if not lab.is_root:
        return {}, {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise Skip("there is no user postgres") from None
    named = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return named, lab.identity() if lab.as_user else named


def give_tree(path, identity):
    """Makes everything below a directory, and the directory, somebody's own."""
    for where, _, names in os.walk(path):
        for name in (where, *(os.path.join(where, name) for name in names)):
            os.lchown(name, identity["user"], identity["group"])


def without_namespaces(lab, target):
    """Once more restarted, with its old pids, among the System V objects of everybody. Somebody who has one of the pids by
    chance is gone soon; or else nothing can be said."""
    image = kill_tree(lab, target)
    for attempt in range(20):
        result = lab.command("restart", image, "--detach", "--pids", "keep", "--pidfile", lab.path(f"kept.{attempt}"))
        if result.returncode == 0:
            target = int(lab.read(f"kept.{attempt}"))
            if os.readlink(f"/proc/{target}/ns/ipc") != os.readlink("/proc/self/ns/ipc"):
                raise Failure("the restarted server is in an IPC namespace of its own")
            return target
        if "is in use by" not in result.stderr:
            raise Failure(f"a restart with the old pids ended with {result.returncode}: {result.stderr}")
    print("part skipped: the old pids are somebody else's")
    return lab.restart_detached(image)


def postgres(lab, _options):
    """Committed rows stay, those of a running transaction come with its commit; the write-ahead log is intact."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    if not found:
        raise Skip("postgresql is not installed")
    where = os.path.dirname(found[-1])
    maker, identity = postgres_users(lab)
    path = {"PATH": f"{where}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(lab.dir), "PGTZ": "UTC"}
    (lab.dir / "data").mkdir(mode=0o700)
    if identity:
        give_tree(lab.dir / "data", maker)
        os.chown(lab.dir, identity["user"], identity["group"])
        lab.dir.chmod(0o755)
    subprocess.run(["initdb", "-D", lab.dir / "data", "-U", "tester", "-A", "trust", "--no-sync"], check=True, cwd=lab.dir,
                   env=path, stdout=subprocess.DEVNULL, **maker)
    if identity:
        give_tree(lab.dir / "data", identity)
    lab.write("tree.sh", POSTGRES_TREE)
    lab.write("running.sql", POSTGRES_RUNNING)
    as_server = {} if lab.as_user else identity  # the Lab's own user is understood
    process = lab.start(["bash", "tree.sh"], env=path, **as_server)

    def ask(sql):
        return say(lab, ["psql", "-h", lab.dir, "-U", "tester", "-d", "postgres", "-Atc", sql])

    lab.wait_for((lab.dir / "open").exists, "open transaction", process)
    extra = 0

    def check():
        """Others see what is committed, and can commit more."""
        nonlocal extra
        extra += 1
        ask(f"insert into numbers values ({1000000 + extra}, 'between')")
        if ask("select count(*), sum(n) from numbers where n < 1000000") != "20000|200010000\n":
            raise Failure("others see something else than what is committed")
        if ask("set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; "
               "set parallel_tuple_cost = 0; select count(*) from numbers").split()[-1] != str(20000 + extra):
            raise Failure("a parallel query counts something else")

    target = lives(lab, process, check)
    if lab.is_root and not lab.as_user:
        target = without_namespaces(lab, target)
        check()
    lab.write("go", "")
    lab.wait_for(lambda: "client ended" in lab.read("running.out"), "end of the transaction")
    rows, total = 29000 + extra, sum(range(1001, 30001)) + sum(1000000 + i for i in range(1, extra + 1))
    if not {f"{rows} | {total}", "client ended with 0"} <= {line.strip() for line in lab.read("running.out").splitlines()}:
        raise Failure(f"the transaction's client says {lab.read('running.out')!r}, not {rows} | {total}")
    if ask("select count(*) from numbers where text = 'updated'") != "29\n":
        raise Failure("the transaction's update is not there")
    ask("checkpoint")
    server = next(p for p in (target, *descendants(target)) if proc_text(p, "cmdline").startswith("postgres -D"))
    os.kill(server, signal.SIGQUIT)  # at once, so that the next start must replay the log
    wait_nobody(lab, "end of postgres")
    again = lab.start(["postgres", "-D", "data", "-k", lab.dir, "-c", "listen_addresses="], env=path, **as_server)

    def answers():
        with contextlib.suppress(Failure):
            return ask("select 1") == "1\n"
        return False

    lab.wait_for(answers, "answer from a new postgres", again)
    if ask("select count(*), sum(n) from numbers") != f"{rows}|{total}\n":
        raise Failure("a new server finds other data")
    again.send_signal(signal.SIGINT)
    lab.wait_exit(again, "postgres")


def node(switches):
    def case(lab, _options):
        """Timers go on, the server counts on, its worker thread and its child answer."""
        need("node")
        port = free_port()
        process = lab.start(["node", script(lab, "service.js"), port], env=lab.environment(**switches))
        expected = 0
        for i in range(20000):
            expected = (expected * 31 + i) % 1000003
        visitors, said = 0, {"ticks": 0}

        def check(path="/"):
            nonlocal visitors, said
            visitors, before, said = visitors + 1, said, json.loads(get(lab, port, path))
            if said["visitors"] != visitors or said["early"] or said["sum"] != expected or said["ticks"] < before["ticks"]:
                raise Failure(f"visitor {visitors}: node says {said}, before {before}")
            if said["echoed"] != "".join(f"{i};" for i in range(1, visitors + 1)):
                raise Failure(f"visitor {visitors}: the child says {said['echoed']}")
            return said["ticks"] > before["ticks"]

        lives(lab, process, check)
        lab.wait_for(check, "ticks after the restart")
        lab.wait_for(lambda: check() and said["rang"] == 5, "all timers")
        check("/end")
        wait_nobody(lab, "end of node")
    return case


def java(lab, _options):
    """An HTTP server with a thread pool, a timer and a child."""
    need("java", "javac")
    subprocess.run(["javac", "-d", lab.dir, HERE / "programs/Service.java"], check=True)
    port = free_port()
    # No performance file: it would stay behind in /tmp where the JVM is killed.
    process = lab.start(["java", "-XX:-UsePerfData", "-Xmx128m", "-cp", lab.dir, "Service", port])
    visitors, ticks = 0, 0

    def check():
        nonlocal visitors, ticks
        visitors += 1
        word, visitor, now = get(lab, port).decode().split()
        if word != "visitor" or int(visitor) != visitors or int(now) < ticks:
            raise Failure(f"visitor {visitors}: java says {word} {visitor} {now} (ticks before: {ticks})")
        ticks = int(now)

    def more_ticks():
        before = ticks
        check()
        return ticks > before

    lives(lab, process, check)
    lab.wait_for(more_ticks, "ticks after the restart")
    get(lab, port, "/end")
    wait_nobody(lab, "end of java")


def tmux(lab, _options):
    """Two panes, each with a shell at work; after the restart both take commands, and a third can be opened."""
    need("tmux")
    server = ["tmux", "-S", lab.path("tmux.sock")]
    process = lab.start([*server, "-f", "/dev/null", "-D"])
    lab.wait_for((lab.dir / "tmux.sock").exists, "socket of tmux", process)
    shell = "PS1='$ ' exec bash --norc --noprofile -i"
    say(lab, [*server, "new-session", "-d", "-s", "work", "-x", 80, "-y", 24, shell])
    say(lab, [*server, "split-window", "-t", "work", shell])
    say(lab, [*server, "send-keys", "-t", "work.0", "for i in {1..1000000}; do echo $i >counter; sleep 0.02; done", "Enter"])
    say(lab, [*server, "send-keys", "-t", "work.1", "kept=4711; echo it is $kept", "Enter"])

    def shown(pane):
        return say(lab, [*server, "capture-pane", "-p", "-t", f"work.{pane}"])

    lab.wait_for(lambda: "it is 4711" in shown(1) and lab.read("counter"), "output in the panes", process)
    steps = 0

    def check():
        nonlocal steps
        steps += 1
        if "it is 4711" not in shown(1) or "for i in" not in shown(0):
            raise Failure(f"the panes show {shown(0)!r} and {shown(1)!r}")
        say(lab, [*server, "send-keys", "-t", "work.1", f"echo step $(({steps} + kept))", "Enter"])
        lab.wait_for(lambda: f"step {steps + 4711}" in shown(1), f"answer of the shell in step {steps}")
        before = lab.read("counter")
        lab.wait_for(lambda: lab.read("counter") not in (before, ""), "progress of the other shell")

    lives(lab, process, check)
    say(lab, [*server, "send-keys", "-t", "work.0", "C-c", ""])
    say(lab, [*server, "send-keys", "-t", "work.0", "echo interr''upted", "Enter"])
    lab.wait_for(lambda: "\ninterrupted" in shown(0), "Ctrl-C in the first pane")
    say(lab, [*server, "resize-window", "-t", "work", "-x", 100, "-y", 40])
    say(lab, [*server, "split-window", "-t", "work.1", shell])
    say(lab, [*server, "send-keys", "-t", "work.1", "stty size", "Enter"])
    lab.wait_for(lambda: " 100\n" in shown(1), "size of a pane")
    say(lab, [*server, "kill-server"])
    wait_nobody(lab, "end of tmux")


def sqlite_lock(mode):
    def case(lab, _options):
        """A shell in the middle of a transaction keeps its lock, and commits."""
        need("sqlite3")
        lab.write("tree.sh", "(cat begin.sql; until [ -e go ]; do sleep 0.05; done; cat end.sql) | sqlite3 -bail data.db")
        lab.write("begin.sql", f"pragma journal_mode={mode};\ncreate table t(n integer primary key, text);\n"
                               "with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000)\n"
                               "insert into t select n, 'before ' || n from c;\n"
                               "begin immediate;\nupdate t set text = 'after' where n <= 500;\n.shell touch open\n")
        lab.write("end.sql", "insert into t values (50000, 'last');\ncommit;\nselect count(*), sum(n) from t where text = 'after';\n")
        process = lab.start(["bash", "tree.sh"])
        lab.wait_for((lab.dir / "open").exists, "open transaction", process)

        def ask(sql):
            return subprocess.run(["sqlite3", "-bail", "data.db", sql], capture_output=True, text=True, cwd=lab.dir, check=False,
                                  stdin=subprocess.DEVNULL, **lab.identity())

        def check():
            locked = ask("insert into t values (60000, 'stolen');")
            if "locked" not in locked.stderr:
                raise Failure(f"the lock is not held: {locked}")
            if ask("select count(*) from t where text = 'after';").stdout != "0\n":
                raise Failure("others see what is not committed")

        lives(lab, process, check)
        lab.write("go", "")
        wait_nobody(lab, "end of the transaction")
        if lab.read("out") != f"{mode}\n500|125250\n" or lab.read("err"):
            raise Failure(f"the shell says {lab.read('out')!r} {lab.read('err')!r}")
        done = ask("pragma integrity_check; select count(*), max(n) from t; insert into t values (60000, 'free');")
        if done.stdout != "ok\n20001|50000\n" or done.returncode:
            raise Failure(f"afterwards: {done}")
    return case


CASES = {
    "redis": redis,
    "nginx": nginx,
    "postgres": postgres,
    "node": node({"UV_USE_IO_URING": "0"}),
    "node_plain": node({}),
    "java_service": java,
    "tmux": tmux,
    "sqlite_lock": sqlite_lock("delete"),
    "sqlite_wal": sqlite_lock("wal"),
}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__, ipc=("postgres",))
