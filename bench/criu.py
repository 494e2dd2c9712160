# SPDX-License-Identifier: Apache-2.0
"""The same work done by CRIU, where it is installed and works."""
import os
import shutil
import subprocess

import commands


def usable():
    """(True, version) or (False, why not)."""
    criu = shutil.which("criu")
    if criu is None:
        return False, "criu is not on the PATH"
    if os.geteuid() != 0:
        return False, "criu needs root"
    version = subprocess.run([criu, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    check = subprocess.run([criu, "check"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        # The first complaint is the reason, but for those of helpers that ended.
        said = [line for line in (check.stderr + check.stdout).splitlines() if "exited, status" not in line]
        return False, f"{version} does not work here: {said[0] if said else 'it does not say why'}"
    return True, version


def measure(start, place, runs):
    """Seconds of dumps that leave the program running and of restores. `start` starts the program and returns its pid."""
    criu, figures = shutil.which("criu"), {"checkpoint": [], "restart": []}
    images, pidfile = os.path.join(place, "criu"), os.path.join(place, "criu.pid")
    target = running = start()
    try:
        for _ in range(runs):
            shutil.rmtree(images, ignore_errors=True)
            os.mkdir(images)
            figures["checkpoint"].append(commands.timed(
                [criu, "dump", "-t", str(target), "-D", images, "--leave-running", "--shell-job", "-o", "dump.log"]))
        running = commands.end_group(target)
        for _ in range(runs):
            if os.path.exists(pidfile):
                os.unlink(pidfile)
            figures["restart"].append(commands.timed(
                [criu, "restore", "-D", images, "-d", "--shell-job", "--pidfile", pidfile, "-o", "restore.log"]))
            with open(pidfile) as file:
                running = int(file.read())
            running = commands.end_group(running)
    finally:
        if running:
            commands.end_group(running)
    return {name: commands.summary(values) for name, values in figures.items()}
