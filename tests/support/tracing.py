# SPDX-License-Identifier: Apache-2.0
"""strace on one thread of a running server: what it calls, and what is injected there (a signal, an error)."""

import os
import pathlib
import shutil
import subprocess


def strace_works():
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-qq", "-f", "-o", os.devnull, "-e", "trace=write", "-e", "inject=fsync:error=EIO", "true"]
    return subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0


class Strace:
    """strace on the store's thread of a running server, until it is detached or the server dies."""

    def __init__(self, server, *options, log=None):
        pid = server.pid
        tasks = pathlib.Path(f"/proc/{pid}/task")
        (tid,) = [t.name for t in tasks.iterdir() if (t / "comm").read_text().strip() == "weir-store"]
        self.process = subprocess.Popen(
            ["strace", "-o", str(log or os.devnull), *options, "-p", tid],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert "attached" in line, line

    def detach(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()


def inject(call, what):
    return ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]


def copy(folder, to):
    """With its hard links."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)
