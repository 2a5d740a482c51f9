# SPDX-License-Identifier: Apache-2.0
"""A rollout's page as a person sees it, through a pseudo-terminal; and as a program gets it, through a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading

import pytest

import flow

CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FIRST = "\x1b[H\x1b[2J"  # the only time that the screen is wiped
POLICY = "rollouts:\n  slow: {steps: \"20%,50%\", bake: 10m, warmup: 10m}\n"


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("threads: 2\n" + POLICY)
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "slow")
    return s


class Terminal:
    """A command on a terminal of its own; what it wrote is in text."""

    def __init__(self, server, *words, rows=60, **env):
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "LC_ALL", "LC_CTYPE")}
        env = dict(base, WEIR_SERVER=server.admin_url, **{"TERM": "xterm", "LANG": "C.UTF-8", **env})
        self.run = subprocess.Popen([str(flow.WEIR), *words], stdin=its, stdout=its, stderr=its, env=env)
        os.close(its)
        self.bytes, self.ours = b"", ours
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                got = os.read(self.ours, 65536)
            except OSError:  # the command has ended
                return
            if not got:
                return
            self.bytes += got

    @property
    def text(self):
        return self.bytes.decode().replace("\r\n", "\n")

    def end(self):
        status = self.run.wait(20 * flow.SLOWER)
        self.reader.join(20 * flow.SLOWER)
        os.close(self.ours)
        return status


def shown(server, *words, **env):
    t = Terminal(server, *words, **env)
    assert t.end() == 0, t.text
    return t.text


def test_a_page_takes_what_the_terminal_can(server):
    plain = server.ok("rollout", "show", "intent").out
    assert plain.isascii() and "\x1b" not in plain and "intent  v1 -> v2  [WARMUP]  canary takes 20 %" in plain, plain
    full = shown(server, "rollout", "show", "intent")
    assert "v1 → v2" in full and "20% ●" in full and "50% ○" in full and "\x1b[7m WARMUP \x1b[0m" in full, full
    assert max(map(len, CODES.sub("", full).splitlines())) <= 80, full
    bare = shown(server, "rollout", "show", "intent", LANG="C")
    assert CODES.sub("", bare).isascii() and "20% *" in bare and "\x1b[7m" in bare, bare
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in shown(server, "rollout", "show", "intent", **env), env
    assert "\x1b" not in shown(server, "rollout", "show", "intent", "--json")


def test_watch_draws_over_itself_until_the_end(server):
    """It is wiped once, then drawn over; it goes on through everything and ends by itself when the rollout does."""
    watch = Terminal(server, "rollout", "watch", "intent", rows=24)
    flow.until("two pages", lambda: watch.text.count("\x1b[H") >= 2)
    server.ok("rollout", "pause", "intent")
    flow.until("the pause", lambda: "PAUSED" in watch.text)
    assert watch.run.poll() is None
    server.ok("rollout", "abort", "intent")
    assert watch.end() == 0
    assert watch.text.startswith(FIRST) and watch.text.count("\x1b[2J") == 1
    for page in watch.text.split("\x1b[H")[1:]:
        assert page.count("\n") <= 23 and page.endswith("\x1b[J"), page
        assert all(line.endswith("\x1b[K") for line in page.split("\n")[:-1]), page
    assert "ABORTED" in watch.text.split("\x1b[H")[-1]
    again = server.ok("rollout", "watch", "intent").out  # it has ended: one page, at once
    assert "[ABORTED]" in again and "\x1b" not in again
