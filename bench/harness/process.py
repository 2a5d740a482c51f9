# SPDX-License-Identifier: Apache-2.0
"""A server with all processes below it: start, readiness, CPU, memory, stop."""

import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import uuid

from .base import ROOT, TICK_S, Failed

START_S = 30


def http_status(port, path):
    """The status of a GET, or 0 when nobody answers."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        c.request("GET", path)
        r = c.getresponse()
        r.read()
        return r.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        c.close()


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def stat_of(pid):
    """The fields of /proc/PID/stat from the state on, or None when it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def started(pid):
    fields = stat_of(pid)
    return fields and fields[19]


def memory_kb(pid, file, name):
    try:
        m = re.search(rf"^{name}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/{file}").read_text(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(m.group(1)) if m else 0


class Process:
    """A server that runs. `steady`: its processes stay the same ones, and that one of them ends is an error. A peer's
    may come and go, and leave their parent: they are known by a mark in their environment, too.

    `pause`: it is stopped (SIGSTOP) while others are measured, because it works even when nobody asks it anything."""

    def __init__(self, name, argv, log, port, ready=None, env=None, cwd=ROOT, steady=True, pause=False,
                 limit_s=START_S):
        self.name, self.log, self.port, self.steady, self.pauses = name, log, port, steady, pause
        self.mark = f"WEIR_BENCH={uuid.uuid4().hex}"
        key, value = self.mark.split("=")
        self.paused = []
        self.began = time.monotonic()
        with open(log, "wb") as out:
            self.child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=subprocess.STDOUT, cwd=cwd,
                                          env=dict(os.environ, **(env or {}), **{key: value}))
        try:
            self._wait_ready(ready or (lambda: listens(port)), limit_s)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - self.began

    def _wait_ready(self, ready, limit_s):
        while not ready():
            self.check()
            if time.monotonic() > self.began + limit_s:
                raise Failed(f"{self.name} was not ready within {limit_s} s:\n{self.said()}")
            time.sleep(0.001 if self.steady else 0.02)

    def said(self):
        return self.log.read_text(errors="replace")[-2000:]

    def check(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.child.returncode}:\n{self.said()}")

    # ---- its processes

    def _marked(self):
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    if self.mark.encode() in pathlib.Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                        found.append(int(entry))
                except OSError:
                    pass  # ended, or another user's
        return found

    def pids(self):
        """This process and all below it that live."""
        found, todo = set(), [self.child.pid] + ([] if self.steady else self._marked())
        while todo:
            pid = todo.pop()
            if pid in found or not stat_of(pid):
                continue
            found.add(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
                try:
                    todo += [int(p) for p in (task / "children").read_text().split()]
                except (FileNotFoundError, ProcessLookupError):
                    pass  # the thread has ended meanwhile
        return sorted(found)

    def cpu_s(self, pids, ended=False):
        """CPU seconds of the processes; with `ended`, and where they come and go, also of their ended children."""
        ticks, ended = 0, ended or not self.steady
        for pid in pids:
            fields = stat_of(pid)
            if not fields and not ended:
                raise Failed(f"a process of {self.name} ended while it was measured:\n{self.said()}")
            ticks += sum(int(x) for x in fields[11 : 15 if ended else 13]) if fields else 0
        return ticks * TICK_S

    def peak_mb(self, pids):
        return sum(memory_kb(p, "status", "VmHWM") for p in pids) / 1024

    def rss_mb(self, pids):
        return sum(memory_kb(p, "status", "VmRSS") for p in pids) / 1024

    def pss_mb(self, pids):
        """What several processes share is counted once."""
        return sum(memory_kb(p, "smaps_rollup", "Pss") for p in pids) / 1024

    def settle(self):
        """Waits until what is still in flight has been answered."""
        before = None
        for _ in range(100):
            now = self.cpu_s(self.pids())
            if before is not None and now - before <= (0 if self.steady else TICK_S):
                return
            before = now
            time.sleep(0.05)

    # ---- pausing and stopping

    def _signal(self, pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def pause(self):
        if self.pauses and not self.paused:
            self.paused = self.pids()
            self._signal(self.paused, signal.SIGSTOP)

    def resume(self):
        if self.paused:
            self._signal(self.paused, signal.SIGCONT)
            self.paused = []
            time.sleep(0.2)

    def stop(self):
        """With everything that it started: what a peer leaves behind is ended too, known by pid and start time."""
        self.resume()
        before = {pid: started(pid) for pid in self.pids()}
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if not self.steady:
            self._signal([p for p, at in before.items() if at and started(p) == at], signal.SIGKILL)
            self._signal(self._marked(), signal.SIGKILL)
