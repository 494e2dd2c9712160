# SPDX-License-Identifier: Apache-2.0
"""An image has the rights of its owner, whoever restarts it."""
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tempfile

from victim import expect_error, good_image, nothing_left, restart_runs
from harness import TEST_UID, Failure, Skip, proc_text


def users_image_as_root(lab, _options):
    """Root restarts an image that belongs to an ordinary user: the program is that user, and opens nothing more."""
    if not lab.as_user:
        raise Skip("is about root and an ordinary user")
    image = good_image(lab)

    def as_root(*words):
        return subprocess.run([lab.stasis, *map(str, words)], cwd=lab.dir, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, env=lab.environment(), timeout=lab.seconds, check=False)
    result = as_root("restart", image, "--detach", "--pidfile", lab.path("small"))
    if result.returncode:
        raise Failure(f"root can't restart a user's image: {result.stderr}")
    pid = int(lab.read("small"))
    (lab.dir / "small").unlink()
    ids = [line.split()[1:] for line in proc_text(pid, "status").splitlines() if line.startswith(("Uid:", "Gid:", "CapEff:"))]
    if ids != [[str(TEST_UID)] * 4, [str(TEST_UID)] * 4, ["0000000000000000"]]:
        raise Failure(f"the restarted program has ids and capabilities {ids}")
    end_restarted(lab, pid)
    # In a user namespace it would have every capability in its bounding set; what root lacks it goes without.
    result = as_root("restart", image, "--detach", "--pids", "namespace", "--files", "rollback", "--pidfile", lab.path("small"))
    if result.returncode:
        raise Failure(f"root can't restart a user's image in a namespace: {result.stderr}")
    pid = int(lab.read("small"))
    (lab.dir / "small").unlink()
    end_restarted(lab, pid)
    symlink_tricks(lab, image, as_root)
    # An image that its owner could not have made himself: of a program of root's.
    sleeper = subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd="/", start_new_session=True)
    lab.wait_for(lambda: proc_text(sleeper.pid, "comm") == "sleep" and " S " in proc_text(sleeper.pid, "stat"), "sleep")
    os.unlink(image)
    subprocess.run([lab.stasis, "checkpoint", str(sleeper.pid), "--kill", "-o", image], check=True)
    sleeper.wait()
    lab.give(image)
    for words in ((), ("--pids", "namespace")):
        result = as_root("restart", image, "--detach", *words)
        if result.returncode != 3 or len(result.stderr.splitlines()) != 1:
            raise Failure(f"a user's image of a program of root's: status {result.returncode} {result.stderr}")
    nothing_left(lab, set(), "a refused restart")


def end_restarted(lab, pid):
    """Sees that the counter counts, and ends it."""
    before = int(lab.read("count"))
    lab.wait_for(lambda: int(lab.read("count") or -1) > before + 1, "counting")
    lab.write("stop", "")
    lab.wait_gone(pid, "the restarted program")
    (lab.dir / "stop").unlink()


def symlink_tricks(lab, image, as_root):
    """The file that the program held, or a directory on the way to it, becomes a symlink to where only root may go."""
    closed = pathlib.Path(tempfile.mkdtemp(prefix="stasis-test-root-"))
    secret, digits = closed / "count", "0" * 21
    try:
        secret.write_text(digits)
        secret.chmod(0o600)
        kept = lab.dir / "out"

        def refused(what):
            for words in ((), ("--files", "relaxed"), ("--files", "rollback"), ("--pids", "namespace")):
                result = as_root("restart", image, "--detach", *words)
                if result.returncode == 0 or secret.read_text() != digits:
                    lab.write("stop", "")
                    raise Failure(f"{what}: root opened for a user's image what the user may not open")
                if result.returncode not in (3, 5) or len(result.stderr.splitlines()) != 1:
                    raise Failure(f"{what}: status {result.returncode}: {result.stderr}")
                nothing_left(lab, set(), what)
        (lab.dir / "count").rename(kept)
        (lab.dir / "count").symlink_to(secret)
        refused("a symlink to a file of root's")
        (lab.dir / "count").unlink()
        kept.rename(lab.dir / "count")
        # As the directory itself is the test's, its name is moved away for a moment.
        away = lab.dir.with_name(lab.dir.name + "-away")
        lab.dir.rename(away)
        try:
            lab.dir.symlink_to(closed)
            for words in ((), ("--files", "relaxed")):
                result = subprocess.run([away / "bin" / "stasis", "restart", away / "good.image", "--detach", *words],
                                        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=lab.seconds, check=False)
                if result.returncode == 0 or secret.read_text() != digits or os.listdir(closed) != ["count"]:
                    raise Failure(f"a directory that is a symlink: status {result.returncode} {result.stderr} "
                                  f"{os.listdir(closed)}")
        finally:
            lab.dir.unlink()
            away.rename(lab.dir)
        nothing_left(lab, set(), "a directory that is a symlink")
        restart_runs(lab, image)
    finally:
        shutil.rmtree(closed)


def handed_over(lab, fd):
    """A program of the ordinary user that was handed a descriptor by root."""
    if not lab.as_user:
        raise Skip("is about root and an ordinary user")
    process = lab.start(["/bin/sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(fd,))
    os.close(fd)
    lab.wait_for(lambda: " S " in proc_text(process.pid, "stat"), "sleep", process)
    return process


def deleted_device(lab, _options):
    """Only who may make devices restarts a program with a deleted one; others are told the capability."""
    node = lab.path("node")
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        fd = os.open(node, os.O_RDWR)
    except PermissionError:
        raise Skip("devices can't be made or opened here") from None
    finally:
        pathlib.Path(node).unlink(missing_ok=True)
    process = handed_over(lab, fd)
    image = lab.checkpoint(process.pid, "--kill", image=lab.path("good.image"))
    lab.wait_exit(process, "the killed program")
    result = lab.command("restart", image, "--detach")
    expect_error(result, 5)
    if "CAP_MKNOD" not in result.stderr or f"{node} again" not in result.stderr:
        raise Failure(f"neither the device nor the capability is named: {result.stderr}")
    nothing_left(lab, set(), "a refused restart")
    # Root may, once the image is its own.
    os.chown(image, 0, 0)
    done = subprocess.run([lab.stasis, "restart", image, "--detach", "--pidfile", lab.path("small")], cwd=lab.dir,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"root can't restart it: {done.stderr}")
    pid = int(lab.read("small"))
    links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
    os.kill(pid, signal.SIGKILL)
    lab.wait_gone(pid, "the restarted program")
    if not [link for link in links if ".stasis-" in link and link.endswith("(deleted)")]:
        raise Failure(f"no deleted device among {links}")
    nothing_left(lab, set(), "a restart")


def packet_socket(lab, _options):
    """Who may not make packet sockets can't save one, and is told the capability."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) if lab.is_root else socket.socket() as packets:
        process = handed_over(lab, packets.detach())
    for words in (("checkpoint", process.pid, "-o", lab.path("image")),
                  ("checkpoint", process.pid, "-o", lab.path("image"), "--kill"), ("check", process.pid)):
        result = lab.command(*words)
        if result.returncode not in (3, 5) or "a packet socket takes CAP_NET_RAW" not in result.stdout + result.stderr:
            raise Failure(f"{words[0]}: status {result.returncode}: {result.stdout}{result.stderr}")
    nothing_left(lab, {process.pid}, "a refused checkpoint")
    process.kill()
    lab.wait_exit(process, "the program")
