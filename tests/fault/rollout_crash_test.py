# SPDX-License-Identifier: Apache-2.0
"""Kills the server at every write of a whole rollout, from its start to the end of its soak; each time it must go on
where it was, and come to its end.

strace is attached to the store's thread, which does all disk work, and injects SIGKILL at the N-th call of one kind.
What the database then says is what the next start must say: the same rollout, step and share; and requests go on."""

import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import flow  # noqa: E402
from tracing import Strace, copy, inject, strace_works  # noqa: E402

pytestmark = [pytest.mark.skipif(not strace_works(), reason="strace is missing or may not trace here"),
              pytest.mark.skipif(flow.SANITIZED, reason="the sanitizer's own calls would be counted")]

CONF = ("threads: 1\nrollouts:\n  quick: {steps: \"10%,50%\", bake: 200ms, warmup: 100ms, interval: 100ms, "
        "min_requests: 3, soak: 300ms}\nfamilies:\n  default: {place: inline}\n")
START = ("POST", "/admin/models/m/rollout", {"action": "start", "version": 2, "policy": "quick"})
X = [flow.tensor("x", "FP32", [1, 16], [0] * 16)]


class Traffic:
    """Requests for as long as there is a server, of ever new users; 503 while it starts."""

    def __init__(self, server):
        self.server, self.over, self.wrong = server, threading.Event(), []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        i = 0
        while not self.over.is_set():
            try:
                with flow.Wire(self.server.data) as wire:
                    while not self.over.is_set():
                        i += 1
                        reply = wire.ask("POST", "/v2/models/m/infer", {"inputs": X}, {"X-Weir-User": f"u{i}"})
                        if reply.status not in (200, 503):
                            self.wrong.append(reply)
                        time.sleep(0.003)
            except (flow.Closed, OSError):
                time.sleep(0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(20)
        assert not self.wrong, self.wrong[:3]


def rollout(server):
    reply = server.ask_admin("GET", "/admin/models/m/rollout")
    return reply.json()["rollout"] if reply.status == 200 else None


def on_disk(server):
    """(state, share, step) of the last rollout that was begun, as the database has it; None: there is none."""
    db = sqlite3.connect(server.data_dir / "weir.db")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        row = db.execute("SELECT state, share_bp, progress FROM rollout ORDER BY rowid DESC LIMIT 1").fetchone()
        assert [r[0] for r in db.execute("SELECT seq FROM history ORDER BY seq")] == \
            list(range(1, 1 + db.execute("SELECT count(*) FROM history").fetchone()[0])), "history has a hole"
    finally:
        db.close()
    return row and (row[0], row[1], json.loads(row[2])["step"] + 1)


def ended(server):
    now = rollout(server)
    return now is not None and now["state"] == "promoted"


@pytest.fixture
def base(tmp_path):
    """Two versions, the second without traffic; and every call that a whole rollout makes of the disk."""
    s = flow.Server(tmp_path / "base", CONF).start()
    s.push("m", flow.MODELS / "mlp" / "model.onnx")
    import onnx
    from onnx import numpy_helper

    made = onnx.load(str(flow.MODELS / "mlp" / "model.onnx"))
    weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
    weights[0, 0] += 1
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, made.graph.initializer[0].name))
    onnx.save(made, tmp_path / "other.onnx")
    s.push("m", tmp_path / "other.onnx")
    s.stop()
    copy(s.data_dir, tmp_path / "copy")
    s.start()
    log = tmp_path / "calls"
    strace = Strace(s, "-e", "trace=?write,?pwrite64,?fsync,?fdatasync", log=log)
    with Traffic(s):
        assert s.ask_admin(*START).status == 200
        flow.until("the end of a rollout", lambda: ended(s), 30)
    strace.detach()
    s.stop()
    made = [line.split("(")[0].split()[-1] for line in log.read_text().splitlines() if "(" in line]
    shutil.rmtree(s.data_dir)
    return tmp_path / "copy", made


def test_killed_at_every_write_of_a_rollout(base, tmp_path):
    data, made = base
    count, killed, seen = {}, 0, set()
    assert {"fsync", "fdatasync"} & set(made) and len(made) > 20, made
    for call in made:
        count[call] = count.get(call, 0) + 1
        where = f"{call} {count[call]}"
        shutil.rmtree(tmp_path / "trial", ignore_errors=True)
        (tmp_path / "trial").mkdir()
        copy(data, tmp_path / "trial" / "data")
        s = flow.Server(tmp_path / "trial", CONF).start()
        strace = Strace(s, *inject(call, f"signal=SIGKILL:when={count[call]}"))
        with Traffic(s):
            try:
                reply = s.ask_admin(*START)
            except (flow.Closed, OSError):
                reply = None
            began = reply is not None and reply.status == 200
            try:
                s.process.wait(4)
                killed += 1
            except subprocess.TimeoutExpired:  # not every run makes as many calls
                strace.detach()
                os.kill(s.pid, 9)
                s.process.wait(20)
            strace.detach()
            s._gone()
            left = on_disk(s)
            assert left or not began, f"{where}: acknowledged and lost"
            s.start()
            now = rollout(s)
            if left is None:
                assert now is None, where
            else:
                seen.add(left)
                assert now["state"] == left[0] or (left[0], now["state"]) == ("soaking", "promoted"), (where, left, now)
                assert now["step"] >= left[2], (where, left, now)
                if left[0] == "running":
                    assert now["share_bp"] >= left[1], (where, left, now)
                assert s.model("m")["stable"] == (1 if now["state"] == "running" else 2) or now["state"] == "running"
                flow.until(f"the end after {where}", lambda: ended(s), 30)
                assert s.model("m")["stable"] == 2, where
        s.stop()
    states = {(state, share) for state, share, _ in seen}
    print(f"{len(made)} calls, {killed} deaths; it was left at {sorted(seen)}")
    assert killed > 0.6 * len(made), (killed, made)
    assert {("running", 1000), ("running", 5000), ("soaking", 5000)} <= states, seen
