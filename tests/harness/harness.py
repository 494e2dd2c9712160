# SPDX-License-Identifier: Apache-2.0
"""What the test runners share: programs under test, the stasis command, and what may be left behind.

A Lab is one test's own directory, user and processes. It is a child subreaper, so that whatever a test starts (or Stasis
starts for it) stays below it: at the end nothing may be left, and only what is below it is ever killed."""
import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
# An ordinary user without a name. Only root can become it; otherwise tests run as who started them.
TEST_UID = 61234
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
# How long a single event may take before it counts as never to come. A machine may be busy with a hundred other things,
# and no test is about time: so long that only what hangs is caught.
EVENT_SECONDS = 200
# The same for what Stasis itself gives up by default.
PATIENCE = ("--timeout", "3m")


class Failure(Exception):
    """The test failed; the text says how."""


class Skip(Exception):
    """The test can't run here; the text says why."""


def descendants(root=None):
    """Pids of all living processes below `root` (default: this process), children before their parents."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it may end while it is read
                with open(f"/proc/{entry}/stat", "rb") as file:
                    children.setdefault(int(file.read().rsplit(b")", 1)[1].split()[1]), []).append(int(entry))
    found, queue = [], [root or os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found[::-1]


def proc_text(pid, name, task=None):
    where = f"/proc/{pid}/task/{task}/{name}" if task else f"/proc/{pid}/{name}"
    try:
        with open(where, "rb") as file:
            return file.read().decode(errors="replace").replace("\0", " ").strip()
    except OSError as error:
        return f"({error.strerror})"


def process_state(pid):
    """State, wait channel and kernel stack of every thread of `pid`, for a person who reads a failed test."""
    lines = [f"--- pid {pid}: {proc_text(pid, 'cmdline')}"]
    with contextlib.suppress(OSError):
        for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int)[:40]:
            status = {line.split(":")[0]: line.split(":", 1)[1].strip()
                      for line in proc_text(pid, "status", task).splitlines() if ":" in line}
            lines.append(f"  {task} {status.get('Name')} {status.get('State')} tracer {status.get('TracerPid')} "
                         f"wchan {proc_text(pid, 'wchan', task)} syscall {proc_text(pid, 'syscall', task)[:60]}")
            stack = proc_text(pid, "stack", task).splitlines()[:6]
            lines += [f"      {frame}" for frame in stack]
    return "\n".join(lines)


def shared_objects():
    """Names of the SysV objects and POSIX shared memory on this machine (as far as visible here)."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(OSError):
            with open(f"/proc/sysvipc/{kind}") as file:
                found |= {f"SysV {kind} {' '.join(line.split()[:2])}" for line in file.readlines()[1:]}
    for place in ("/dev/shm", "/dev/mqueue"):
        with contextlib.suppress(OSError):
            found |= {entry.path for entry in os.scandir(place) if not entry.is_dir(follow_symlinks=False)}
    return found


class Namespaces:
    """Those that a test made. They are held open, so that their numbers are nobody else's: whoever is in one of them or
    has it open, at the end, was left by this test."""
    KINDS = ("user", "pid", "ipc", "mnt")

    def __init__(self):
        self.outside = {os.readlink(f"/proc/self/ns/{kind}") for kind in self.KINDS}
        self.held = {}

    def see(self):
        for pid in descendants():
            for kind in self.KINDS:
                with contextlib.suppress(OSError):  # it may end while it is looked at
                    name = os.readlink(f"/proc/{pid}/ns/{kind}")
                    if name not in self.outside and name not in self.held:
                        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                        name = os.readlink(f"/proc/self/fd/{fd}")
                        if name in self.outside or self.held.setdefault(name, fd) != fd:
                            os.close(fd)

    def left(self):
        """Who is in them; they are given up."""
        problems = set()
        for pid in [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()] if self.held else []:
            with contextlib.suppress(OSError):
                links = [f"/proc/{pid}/ns/{kind}" for kind in self.KINDS]
                for link in links + [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]:
                    with contextlib.suppress(OSError):
                        if os.readlink(link) in self.held:
                            problems.add(f"namespace {os.readlink(link)} of {pid} ({proc_text(pid, 'comm')})")
        for fd in self.held.values():
            os.close(fd)
        self.held = {}
        return sorted(problems)


def mounts():
    with open("/proc/self/mountinfo") as file:
        return {" ".join(line.split()[3:5]) for line in file}


class Lab:
    """One test: `with Lab("name", user=True) as lab:`. Its directory is removed if the test passed, else kept in
    `keep`/NAME and said so. user=True: everything runs as an ordinary user (if this is root; else as who we are)."""

    def __init__(self, name, stasis=None, user=False, keep=None, seconds=EVENT_SECONDS, compare_ipc=False):
        self.name, self.keep, self.compare_ipc = name, keep, compare_ipc
        self.is_root = os.geteuid() == 0
        self.user = user
        self.as_user = user and self.is_root
        self.seconds = seconds
        self.log = []
        self.generation = 0
        self.source_stasis = stasis
        self.program = None
        self.fake_boot = self.failing = None

    def __enter__(self):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="stasis-test-"))
        self.tmp = self.dir / "tmp"
        self.tmp.mkdir()
        self.bin = self.dir / "bin"
        self.bin.mkdir()
        for path in (self.dir, self.tmp, self.bin):
            self.give(path)
        self.stasis = self.install(self.source_stasis) if self.source_stasis else None
        self.mounts_before = mounts()
        self.ipc_before = shared_objects()
        self.namespaces = Namespaces()
        return self

    def __exit__(self, kind, error, trace):
        leftovers = self.end_processes(failed=kind is not None) + self.namespaces.left()
        if kind is None:
            problems = leftovers + self.leftover_objects()
            if problems:
                kind, error = Failure, Failure("left behind: " + "; ".join(problems))
        if kind is None or kind is Skip:
            shutil.rmtree(self.dir, ignore_errors=True)
            return False
        self.explain(error)
        raise error

    def explain(self, error):
        print(f"FAIL {self.name}: {error}")
        print("\n".join(self.log))
        if self.keep:
            kept = pathlib.Path(self.keep) / self.name.replace("/", "-").replace(" ", "-")
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.dir, kept)
            print(f"files of the failed test: {kept}")
        sys.stdout.flush()

    def leftover_objects(self):
        problems = [f"file {p}" for p in self.tmp.rglob("*")]
        problems += [f"mount {m}" for m in mounts() - self.mounts_before]
        problems += [f"file {p.name}" for p in self.dir.rglob("*") if ".stasis-" in p.name or p.name.endswith(".tmp")]
        if self.compare_ipc:
            self.remove_owned_objects()
            # Somebody who does other things on this machine takes his away again.
            limit = time.monotonic() + 60
            while shared_objects() - self.ipc_before and time.monotonic() < limit:
                time.sleep(0.05)
            problems += sorted(shared_objects() - self.ipc_before)
        return problems

    def remove_owned_objects(self):
        """A program that was killed leaves its System V objects, and if it was restarted in another namespace it never
        removes them: it names them in the file `objects` ("shm 5", "sem 3", "msg 2"), or POSIX queues ("mq /name")."""
        libc = ctypes.CDLL(None, use_errno=True)
        for line in (self.read("objects") or "").splitlines():
            kind, _, what = line.partition(" ")
            if kind == "shm":
                libc.shmctl(int(what), 0, None)
            elif kind == "sem":
                libc.semctl(int(what), 0, 0)
            elif kind == "msg":
                libc.msgctl(int(what), 0, None)
            elif kind == "mq":
                libc.mq_unlink(what.encode())

    def owned_objects(self):
        """The objects that the program names (see above), as far as they exist, POSIX queues with how much is in them."""
        libc = ctypes.CDLL(None, use_errno=True)
        named = self.read("objects").splitlines()
        # "SysV shm KEY ID"
        found = {text for text in shared_objects() if text.startswith("SysV") and " ".join(text.split()[1::2]) in named}
        for line in named:
            kind, _, name = line.partition(" ")
            queue = libc.mq_open(name.encode(), os.O_RDONLY | os.O_CLOEXEC) if kind == "mq" else -1
            if queue >= 0:
                attributes = (ctypes.c_long * 8)()  # mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs
                libc.mq_getattr(queue, attributes)
                os.close(queue)
                found.add(f"{line}: {attributes[3]} messages")
        return found

    def end_processes(self, failed):
        """Ends what is still below us; returns it as problems (those that are ending get their time)."""
        limit = time.monotonic() + (0 if failed else 60)
        while True:
            self.reap()
            alive = descendants()
            if not alive or time.monotonic() >= limit:
                break
            time.sleep(0.01)
        problems = [f"process {pid} ({proc_text(pid, 'cmdline') or proc_text(pid, 'comm')})" for pid in alive]
        self.log += [process_state(pid) for pid in alive]
        limit = time.monotonic() + 60
        while alive and time.monotonic() < limit:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            self.reap()
            alive = descendants()
        return problems

    @staticmethod
    def reap():
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # Files

    def give(self, path):
        if self.as_user:
            os.chown(path, TEST_UID, TEST_UID)

    def path(self, name):
        return str(self.dir / name)

    def write(self, name, text, mode=0o644):
        """Whole or not at all: programs that wait for a file read it as soon as it is there."""
        self.namespaces.see()
        path = self.dir / name
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.chmod(mode)
        self.give(new)
        new.replace(path)
        return str(path)

    def read(self, name):
        try:
            return (self.dir / name).read_text(errors="replace")
        except OSError:
            return ""

    def install(self, program):
        """A program where the test's user can reach it (the build directory may be closed to others)."""
        if not self.as_user:
            return os.path.abspath(program)
        target = self.bin / os.path.basename(program)
        if not target.exists():
            shutil.copy(program, target)
            target.chmod(0o755)
        return str(target)

    # Processes

    def environment(self, **more):
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
               "HOME": str(self.dir), "TMPDIR": str(self.tmp), "SCENARIO_DIR": str(self.dir)}
        env.update({k: v for k, v in os.environ.items() if k.startswith("STASIS_")})
        env.update(more)
        return env

    def identity(self):
        return {"user": TEST_UID, "group": TEST_UID, "extra_groups": []} if self.as_user else {}

    def start(self, argv, stdin=subprocess.DEVNULL, stdout=None, stderr=None, env=None, **options):
        """Starts a program in a session of its own; output goes to the files `out` and `err` of the test's directory."""
        opened = []

        def output(given, name):
            if given is not None:
                return given
            path = self.dir / name
            opened.append(open(path, "ab"))
            self.give(path)
            return opened[-1]
        try:
            return subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=output(stdout, "out"),
                                    stderr=output(stderr, "err"), cwd=options.pop("cwd", self.dir),
                                    env=env or self.environment(),
                                    start_new_session=options.pop("start_new_session", True), **self.identity(), **options)
        finally:
            for file in opened:
                file.close()

    def wait_for(self, condition, what, alive=None):
        """Waits until condition() is true; fails when that takes for ever or process `alive` has ended. `what` is a text, or makes one."""
        limit = time.monotonic() + self.seconds
        while not condition():
            if alive is not None and alive.poll() is not None:
                if condition():
                    return
                raise Failure(f"ended with {alive.returncode} before {what() if callable(what) else what}\n"
                              f"{self.read('err')}{self.read('out')}")
            if time.monotonic() > limit:
                raise Failure(f"no {what() if callable(what) else what} within {self.seconds} s")
            time.sleep(0.005)

    def wait_exit(self, process, what):
        """Exit status of a Popen."""
        self.wait_for(lambda: process.poll() is not None, f"end of {what}")
        return process.returncode

    def wait_gone(self, pid, what):
        """Waits until `pid`, which may be nobody's Popen, has ended; reaps it where it is our child by adoption."""
        def gone():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            return not os.path.exists(f"/proc/{pid}")
        self.wait_for(gone, f"end of {what} (pid {pid})")

    # The command

    def command(self, *arguments, env=None, below=(), **options):
        """Runs stasis (below another program); returns its CompletedProcess (text). A time-out is a failure that shows
        who hangs."""
        if arguments and arguments[0] in ("checkpoint", "restart") and "--timeout" not in arguments:
            arguments += PATIENCE
        argv = [*map(str, below), self.stasis, *map(str, arguments)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=self.dir, env=self.environment(**(env or {})), text=True, errors="replace",
                                   **self.identity(), **options)
        try:
            out, err = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            self.log += [process_state(p) for p in descendants()]
            process.kill()
            process.wait()
            raise Failure(f"stasis {' '.join(argv[1:])} does not end") from None
        self.log.append(f"$ stasis {' '.join(argv[1:])}  -> {process.returncode}\n{err}{out[-2000:]}".rstrip())
        self.namespaces.see()
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def run_tool(self, tool, *arguments):
        """Runs a helper program as the test's user; it must succeed."""
        argv = [self.install(tool), *map(str, arguments)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.dir,
                              env=self.environment(), timeout=self.seconds, check=False, **self.identity())
        self.log.append(f"$ {' '.join(argv)}  -> {done.returncode}\n{done.stderr}".rstrip())
        if done.returncode:
            raise Failure(f"{os.path.basename(tool)} ended with {done.returncode}: {done.stderr.strip()}")

    def must(self, *arguments, **options):
        result = self.command(*arguments, **options)
        if result.returncode:
            raise Failure(f"stasis {' '.join(map(str, arguments))} ended with {result.returncode}: {result.stderr.strip()}")
        return result

    def next_image(self):
        self.generation += 1
        return self.path(f"image.{self.generation}")

    def checkpoint(self, pid, *options, image=None):
        """Checkpoints `pid` into a new image that must be a published file of mode 0600; returns its path."""
        image = image or self.next_image()
        self.must("checkpoint", pid, "-o", image, *options)
        if not os.path.isfile(image) or os.stat(image).st_mode & 0o777 != 0o600:
            raise Failure(f"image {image} is not there with mode 0600")
        return image

    def checkpoint_and_kill(self, process, *options):
        """Checkpoints with --kill a Popen, or a pid that is ours by adoption, and sees it gone."""
        pid = process if isinstance(process, int) else process.pid
        image = self.checkpoint(pid, "--kill", *options)
        if isinstance(process, int):
            self.wait_gone(pid, "the killed program")
        else:
            status = self.wait_exit(process, "the killed program")
            if status not in (-signal.SIGKILL, 128 + signal.SIGKILL):
                raise Failure(f"after --kill the program's status is {status}")
        return image

    def restart_foreground(self, image, *options, **popen):
        """Starts `stasis restart` in the foreground; returns its Popen."""
        self.log.append(f"$ stasis restart {image} {' '.join(options)} &")
        return self.start([self.stasis, "restart", image, *PATIENCE, *options], **popen)

    def restart_detached(self, image, *options):
        """Restarts detached; returns the pid of the root task as seen from here."""
        pidfile = self.path(f"pid.{self.generation}.{time.monotonic_ns()}")
        self.must("restart", image, "--detach", "--pidfile", pidfile, *options)
        try:
            pid = int(pathlib.Path(pidfile).read_text())
            os.kill(pid, 0)
        except (OSError, ValueError) as error:
            raise Failure(f"after restart --detach: {error}") from None
        return pid


def cpu_seconds(pid):
    """CPU time that all threads of `pid` have used so far; 0 if it is gone."""
    fields = proc_text(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else 0.0


def json_of(result):
    try:
        return json.loads(result.stdout)
    except ValueError:
        raise Failure(f"no JSON object on stdout: {result.stdout[:200]!r}") from None


def main(function):
    """Runs a test program's function: exit status 0, 1 (a Failure, already explained) or 77 (Skip)."""
    try:
        function()
    except Skip as skip:
        print(f"skipped: {skip}")
        sys.exit(SKIPPED)
    except Failure as failure:
        print(f"FAIL: {failure}")
        sys.exit(1)


def run_cases(cases, description=None, ipc=()):
    """The main program of a file of cases: PROGRAM [--stasis FILE] [--keep DIR] [--long] CASE root|user.
    A case is a function (lab, options). Those of `ipc`, which hold ctest's lock of that name, leave no shared objects."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--stasis", default="build/stasis")
    parser.add_argument("--keep", help="directory for the files of failed tests")
    parser.add_argument("--program", help="the victim built for these tests")
    parser.add_argument("--long", action="store_true", help="the sizes and counts of `make test-all`")
    parser.add_argument("case", choices=cases)
    parser.add_argument("who", choices=["root", "user"])
    options = parser.parse_args()

    def run():
        name = f"{options.case}-{options.who}"
        with Lab(name, options.stasis, user=options.who == "user", keep=options.keep, compare_ipc=options.case in ipc,
                 seconds=EVENT_SECONDS * (10 if options.long else 1)) as lab:
            lab.program = options.program
            cases[options.case](lab, options)
            print(f"PASS {name}")
    main(run)
