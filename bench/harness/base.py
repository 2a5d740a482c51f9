# SPDX-License-Identifier: Apache-2.0
"""Where things are, running a client, what the machine did meanwhile."""

import json
import os
import pathlib
import socket
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD") or ROOT / "build").resolve()
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Told to the user as one sentence."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def model_path(name):
    return BUILD / "models" / name / "model.onnx"


def machine_ticks():
    """(all, busy, stolen) of all processors since boot, in ticks."""
    f = [int(x) for x in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(f), sum(f) - f[3] - f[4], f[7]


def machine_share(before, ours_s):
    """(other, stolen) per cent of all processors since `before`; ours_s: CPU seconds that were not others'."""
    spent = [b - a for a, b in zip(before, machine_ticks())]
    other = spent[1] - spent[2] - ours_s / TICK_S
    return max(other, 0) * 100 / max(spent[0], 1), spent[2] * 100 / max(spent[0], 1)


class Client:
    """A client program that prints one line of JSON at its end."""

    def __init__(self, argv):
        self.argv = [str(a) for a in argv]
        self.child = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self):
        self.child.terminate()

    def result(self):
        """Waits for the end: what it printed, and its CPU seconds."""
        try:
            out = self.child.stdout.read()
            _, status, usage = os.wait4(self.child.pid, 0)
            self.child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            self.child.kill()
            raise
        finally:
            self.child.stdout.close()
        if self.child.returncode != 0:
            raise Failed(f"{self.argv[0]} ended with status {self.child.returncode}:\n{out}")
        try:
            return json.loads(out.strip().rsplit("\n", 1)[-1]), usage.ru_utime + usage.ru_stime
        except ValueError:
            raise Failed(f"{self.argv[0]} gave no result:\n{out}") from None


def run_client(argv):
    return Client(argv).result()
