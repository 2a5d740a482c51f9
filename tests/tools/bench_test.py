# SPDX-License-Identifier: Apache-2.0
"""The parts of bench/ that compute: ratios within a round, limits, who is behind; and bench/load against a server that
answers early, refuses, hangs up or stays silent: every request must be counted once, as what it was."""

import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from harness import overload, peers  # noqa: E402
from harness.base import Failed  # noqa: E402
from harness.stats import Limit, at, behind, open_rate, ratio, ratio_values, spread_rows  # noqa: E402


def row(server, number, connections=8, loop="closed", **columns):
    return {"server": server, "connections": connections, "loop": loop, "round": number, "req_s": 100, "p99_us": 10,
            "cpu_us": 1, "pss_mb": 5} | columns


# ---- ratios ---------------------------------------------------------------------------------------------------------


def test_a_ratio_is_made_within_a_round():
    rows = [row("a", 1, cpu_us=10), row("b", 1, cpu_us=5), row("a", 2, cpu_us=90), row("b", 2, cpu_us=30)]
    assert ratio_values(ratio("a / b", "", at("a", 8, "cpu_us"), at("b", 8, "cpu_us")), rows) == [2, 3]


def test_a_round_without_one_of_the_rows_gives_no_ratio():
    rows = [row("a", 1, cpu_us=10), row("a", 2, cpu_us=8), row("b", 2, cpu_us=2), row("b", 1, loop="open")]
    assert ratio_values(ratio("a / b", "", at("a", 8, "cpu_us"), at("b", 8, "cpu_us")), rows) == [4]
    assert ratio_values(ratio("a / c", "", at("a", 8, "cpu_us"), at("c", 8, "cpu_us")), rows) == []


@pytest.mark.parametrize("text, value, met", [
    ("<= 1.0", 1.0, True), ("<= 1.0", 1.004, True), ("<= 1.0", 1.006, False), ("<= 4: an honest floor", 4.2, False),
    (">= 0.95", 0.95, True), (">= 0.95", 0.94, False), ("about 0.9", 0.1, None), ("", 7, None),
    ("<= 0", 0, True), ("<= 0", 1, False),
])
def test_limits(text, value, met):
    assert Limit(text).met(value) is met


def test_who_is_behind():
    rows = [row("worker", 1), row("slow", 1, req_s=50, p99_us=40, cpu_us=3, pss_mb=50),
            row("lean", 1, req_s=50, p99_us=40, cpu_us=3, pss_mb=2)]
    found = {(p, column): (m, ok) for p, _, _, column, m, ok in behind(rows, "worker", ["slow", "lean"])}
    assert found["slow", "req_s"] == (0.5, True) and found["slow", "p99_us"] == (4, True)
    assert found["lean", "pss_mb"] == (0.4, False) and found["lean", "cpu_us"] == (3, True)


def test_behind_in_an_open_loop_says_nothing_of_requests():
    rows = [row("worker", 1, loop="open"), row("peer", 1, loop="open", req_s=90)]
    assert {column for _, _, _, column, _, _ in behind(rows, "worker", ["peer"])} == {"p99_us", "cpu_us", "pss_mb"}


def test_rates_and_shares():
    assert open_rate([200, 1600, 12345], 80000) == 800
    assert open_rate([], 81234) == 40000
    assert open_rate([1.2], 5) == 1


def test_stretches_of_an_overload_together():
    def one(good, p50, p99):
        times = {"p50": p50, "p99": p99}
        return dict.fromkeys(overload.SUMS, good) | {
            "ok_us": times, "ok_from_send_us": times, "refused_us": times, "lag_us": times, "good_in": [good, good]}

    got = overload.together([one(10, 1, 5), one(20, 3, 9), one(30, 2, 7)])
    assert got["good"] == got["refused"] == 60 and got["good_in"] == [10, 10, 20, 20, 30, 30]
    assert got["ok_us"] == got["lag_us"] == {"p50": 2, "p99": 9}


def test_spread_rows():
    rows = [{"server": s, "ms": ms} for s, ms in (("a", 3.0), ("a", 1.0), ("a", 2.0), ("b", 4))]
    assert spread_rows(rows, "server", ["ms"]) == [{"server": "a", "ms": "2.0 [1.0..3.0]"}, {"server": "b", "ms": "4"}]


# ---- peers ----------------------------------------------------------------------------------------------------------


def test_a_peer_that_cannot_be_set_up_is_named_with_the_reason_and_tried_again(tmp_path, monkeypatch):
    calls = []

    def call(argv, cwd=None):
        calls.append(str(argv[0]))
        if "pip" in argv:
            raise Failed("ERROR: no such release")

    monkeypatch.setattr(peers, "home", lambda name: tmp_path / name)
    monkeypatch.setattr(peers, "call", call)
    for _ in range(2):
        there, missing = peers.available(["mlserver", "fastify"])
        assert there == ["fastify"] and missing == {"mlserver": "not set up: ERROR: no such release"}
    assert calls.count("npm") == 1 and len(calls) == 5, "fastify was installed once, mlserver tried twice"


@pytest.mark.parametrize("name", peers.NAMES)
def test_everything_that_a_peer_is_made_of_is_pinned(name):
    folder = peers.source(name)
    if name == "fastify":
        lock = json.loads((folder / "package-lock.json").read_text())["packages"]
        wanted = json.loads((folder / "package.json").read_text())["dependencies"]
        assert all(lock[f"node_modules/{n}"]["version"] == v for n, v in wanted.items())
        assert all("integrity" in v for n, v in lock.items() if n)
        return
    lines = [x for x in (folder / "requirements.txt").read_text().splitlines() if not x.startswith("#")]
    assert len(lines) > 10 and all(len(x.split("==")) == 2 for x in lines)
    assert [x for x in lines if x.startswith("onnxruntime==")] == ["onnxruntime==1.30.0"]


# ---- the open-loop client -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    compiler = os.environ.get("CC") or next((c for c in ("gcc", "clang", "cc") if shutil.which(c)), None)
    if not compiler:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("load") / "load"
    subprocess.run([*shlex.split(compiler), "-std=gnu17", "-O1", "-g", "-D_GNU_SOURCE=", str(ROOT / "bench/load.c"),
                    "-lm", "-o", str(program)], check=True)
    return program


class Peer:
    """Accepts connections and plays `act(socket, first bytes)` for each request, until it returns False."""

    def __init__(self, act):
        self.act, self.requests, self.lock = act, 0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)  # not as large as the kernel likes
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with s:
            try:
                while first := s.recv(1 << 16):
                    with self.lock:
                        self.requests += 1
                    if not self.act(s, first):
                        return
            except OSError:
                pass


def rest_of_body(s, first):
    head, _, body = first.partition(b"\r\n\r\n")
    need = int(next(x for x in head.split(b"\r\n") if x.startswith(b"Content-Length:")).split(b":")[1])
    got = len(body)
    while got < need:
        got += len(s.recv(1 << 20))


def answer(status, head=b"", body=b"{}"):
    return b"HTTP/1.1 %d Said\r\n%sContent-Length: %d\r\n\r\n%s" % (status, head, len(body), body)


def ask(load, peer, tmp_path, *options, size=10):
    body = tmp_path / "body"
    body.write_bytes(b"x" * size)
    done = subprocess.run([str(load), *map(str, options), str(peer.port), "POST", "/x", str(body), "X-Name", "value"],
                          stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    peer.listener.close()
    r = json.loads(done.stdout)
    outcomes = r["ok"] + r["refused"] + r["expired"] + r["other"] + r["broken"] + r["unanswered"] + r["unsent"]
    assert outcomes == r["offered"] and r["sent"] == r["offered"] - r["unsent"]
    return r


def test_every_request_is_answered(load, tmp_path):
    seen = []

    def act(s, first):
        seen.append(first)
        rest_of_body(s, first)
        s.sendall(answer(200))
        return True

    peer = Peer(act)
    r = ask(load, peer, tmp_path, "-c", 4, "-r", 100, "-e", "-s", 1, "-d", 5000)
    assert r["ok"] == r["sent"] == peer.requests and 98 <= r["offered"] <= 100
    assert r["ok_us"]["n"] == r["ok"] and r["ok_us"]["p50"] <= r["ok_us"]["p99"] <= r["ok_us"]["max"]
    assert sum(r["ok_in"]) <= r["ok"] and r["reopened"] == 0
    assert b"\r\nX-Weir-Timeout: 5000ms\r\n" in seen[0] and b"\r\nX-Name: value\r\n" in seen[0]


def test_arrivals_of_a_seed_are_the_same_and_of_another_differ(load, tmp_path):
    def act(s, first):
        s.sendall(answer(200))
        return True

    counts = [ask(load, Peer(act), tmp_path, "-c", 2, "-r", 300, "-s", 1, "-S", seed)["offered"] for seed in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2] and all(200 < n < 400 for n in counts)


def test_a_closed_loop_asks_again_when_it_has_the_answer(load, tmp_path):
    def act(s, first):
        s.sendall(answer(200))
        return True

    r = ask(load, Peer(act), tmp_path, "-c", 2, "-s", 1)
    assert r["ok"] == r["sent"] > 20


@pytest.mark.parametrize("chunked", [False, True])
def test_statuses(load, tmp_path, chunked):
    turn = []

    def act(s, first):
        turn.append(1)
        status = (200, 429, 503, 500, 504)[len(turn) % 5]
        if chunked:
            s.sendall(b"HTTP/1.1 %d Said\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{" % status)
            s.sendall(b"}\r\n0\r\n\r\n")
        else:
            s.sendall(answer(status))
        return True

    r = ask(load, Peer(act), tmp_path, "-c", 1, "-r", 80, "-e", "-s", 1)
    assert r["broken"] == r["unanswered"] == 0
    assert abs(r["refused"] - r["sent"] * 2 / 5) <= 1 and abs(r["other"] - r["expired"]) <= 1
    assert r["last_other"] == 500 and r["refused_us"]["n"] == r["refused"]


BIG = 8 << 20  # more than the sockets hold


def test_an_early_refusal_on_a_connection_that_is_kept(load, tmp_path):
    def act(s, first):
        s.sendall(answer(503))
        time.sleep(0.05)
        rest_of_body(s, first)
        return True

    r = ask(load, Peer(act), tmp_path, "-c", 2, "-r", 20, "-e", "-s", 1, size=BIG)
    assert r["refused"] == r["sent"] and r["reopened"] == 0 and r["early"] > 0


def test_an_early_refusal_and_the_connection_is_closed(load, tmp_path):
    def act(s, first):
        s.sendall(answer(503, b"Connection: close\r\n"))
        s.shutdown(socket.SHUT_WR)
        time.sleep(0.05)  # nobody reads: the client sees the answer before it could send everything
        while s.recv(1 << 16):
            pass
        return False

    r = ask(load, Peer(act), tmp_path, "-c", 2, "-r", 20, "-e", "-s", 1, size=BIG)
    assert r["refused"] == r["sent"] and r["early"] > 0 and r["reopened"] >= r["refused"] - 2


def test_a_connection_that_ends_without_an_answer_is_broken(load, tmp_path):
    def act(s, first):
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        return False

    r = ask(load, Peer(act), tmp_path, "-c", 2, "-r", 50, "-e", "-s", 1)
    assert r["broken"] == r["sent"] and r["ok"] == 0


def test_silence_is_unanswered_and_what_found_no_connection_unsent(load, tmp_path):
    r = ask(load, Peer(lambda s, first: True), tmp_path, "-c", 3, "-r", 50, "-e", "-s", 1, "-w", 0)
    assert r["unanswered"] == 3 and r["unsent"] == r["offered"] - 3 and r["ok"] == 0
