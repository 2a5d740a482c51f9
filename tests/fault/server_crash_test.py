# SPDX-License-Identifier: Apache-2.0
"""Kills the whole server, workers and all, at every disk call of push, promote and rollback; and lets the disk fail.

strace is attached to the store's thread, which does all disk work, and injects SIGKILL at the N-th call of one kind.
The server is then started again on what is left: it must be in the state before the operation or after it ("after" if
the client had its answer), with its history complete, the artifacts of its versions and no others, and no process left.
"""

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

CALLS = ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod", "rename", "renameat", "renameat2", "linkat",
         "unlink", "unlinkat", "mkdir", "mkdirat", "openat"]
MODEL = flow.MODELS / "mlp"


pytestmark = [pytest.mark.skipif(not strace_works(), reason="strace is missing or may not trace here"),
              pytest.mark.skipif(flow.SANITIZED, reason="the sanitizer's own calls would be counted")]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same network with one weight changed: another digest, the same inputs and outputs."""
    import onnx
    from onnx import numpy_helper

    made = onnx.load(str(MODEL / "model.onnx"))
    weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
    weights[0, 0] += 1
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, made.graph.initializer[0].name))
    folder = tmp_path_factory.mktemp("other")
    onnx.save(made, folder / "model.onnx")
    (folder / "model.yaml").write_text("labels: [a, b, c, d]\n")
    return folder


# ---- the operations: how the state before is made, and what is done --------------------------------------------------


def push(server, path, query=""):
    body = (pathlib.Path(path) / "model.onnx").read_bytes()
    return "POST", f"/admin/models/m/versions{query}", body


ROLLBACK = ("POST", "/admin/models/m/rollback", b"")
OPERATIONS = {
    "first push": ((), lambda s, other: push(s, MODEL)),
    "push": (("v1",), lambda s, other: push(s, other)),
    "canary": (("v1",), lambda s, other: push(s, other, "?canary=25%25")),
    "promote": (("v1", "canary"), lambda s, other: ("POST", "/admin/models/m/rollout", b'{"action":"promote"}')),
    "rollback": (("v1", "canary"), lambda s, other: ROLLBACK),
    "rollback of a promotion": (("v1", "canary", "promote"), lambda s, other: ROLLBACK),
    "switch": (("v1",), lambda s, other: ("POST", "/admin/families/m", b'{"place":"inline"}')),
}


def prepare(server, steps, other):
    for step in steps:
        if step == "v1":
            server.push("m", MODEL / "model.onnx")
        elif step == "canary":
            server.push("m", other / "model.onnx", "--canary", "25%")
        else:
            server.ok("promote", "m")


def picture(server):
    """The state as the admin plane tells it, less what differs from run to run."""
    models = []
    for m in server.get("/admin/models")["models"]:
        rollout = server.ask_admin("GET", f"/admin/models/{m['name']}/rollout")
        last = rollout.json()["rollout"] if rollout.status == 200 else None
        history = server.history(m["name"])
        assert [row["seq"] for row in history] == list(range(len(history), 0, -1)), "history has a hole"
        models.append({
            "name": m["name"], "stable": m["stable"], "previous": m["previous"], "place": m["place"],
            "versions": [(v["version"], v["digest"], v["state"], v["serving"]) for v in m["versions"]],
            "rollout": last and {k: last[k] for k in ("state", "stable", "canary", "share_bp")},
            "history": [(row["version"], row["kind"], row["text"]) for row in history]})
    return models


def check_disk(server):
    """Nothing on the disk that the database does not name, and the reverse; to be called when the server is down."""
    names = {p.name for p in server.data_dir.iterdir()}
    assert names <= {"artifacts", "weir.db", "weir.db.lock", "weir.db-wal", "weir.db-shm"}, names
    db = sqlite3.connect(server.data_dir / "weir.db")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        digests = {row[0] for row in db.execute("SELECT digest FROM version")}
    finally:
        db.close()
    artifacts = server.data_dir / "artifacts"
    assert {t.name for t in (artifacts / "trees").iterdir()} == digests
    assert not list((artifacts / "tmp").iterdir())
    named = {f["sha256"] for t in (artifacts / "trees").iterdir()
             for f in json.loads((t / "manifest.json").read_text())["files"]}
    assert {b.name for b in (artifacts / "blobs").glob("*/*")} == named


class Answer(threading.Thread):
    """The request of a client whose server may die under it."""

    def __init__(self, server, order):
        super().__init__(daemon=True)
        self.server, self.order, self.reply = server, order, None
        self.start()

    def run(self):
        try:
            self.reply = self.server.ask_admin(*self.order)
        except (flow.Closed, OSError):
            self.reply = None


def operate(server, order, limit_s=20):
    """The reply, or None when the server died first."""
    answer = Answer(server, order)
    answer.join(limit_s)
    assert not answer.is_alive(), "no answer and no end"
    return answer.reply


@pytest.fixture
def bench(tmp_path, request, other):
    """What the trials of one operation share: a prepared data folder, the states before and after, the calls made."""
    steps, order = OPERATIONS[request.param]
    base = flow.Server(tmp_path / "base", "threads: 1\n").start()
    prepare(base, steps, other)
    before = picture(base)
    base.stop()
    copy(base.data_dir, tmp_path / "copy")
    base.start()
    log = tmp_path / "calls"
    strace = Strace(base, "-e", "trace=" + ",".join("?" + c for c in CALLS), log=log)
    reply = operate(base, order(base, other))
    assert reply is not None and reply.status in (200, 201), reply
    time.sleep(0.1)
    strace.detach()
    after = picture(base)
    base.stop()
    check_disk(base)
    assert before != after
    made = [line.split("(")[0].split()[-1] for line in log.read_text().splitlines() if "(" in line]
    shutil.rmtree(base.data_dir)
    shutil.move(tmp_path / "copy", base.data_dir)
    return tmp_path, base.data_dir, before, after, lambda s: order(s, other), made


def points(made):
    """(call, N) for every call that was made."""
    count = {}
    for call in made:
        count[call] = count.get(call, 0) + 1
        yield call, count[call]


@pytest.mark.parametrize("bench", list(OPERATIONS), indirect=True)
def test_killed_at_a_call(bench):
    folder, base, before, after, order, made = bench
    assert {"fsync", "fdatasync"} & set(made) and {"write", "pwrite64"} & set(made), made
    shared = sorted(os.listdir("/dev/shm"))
    was_before = was_after = killed = 0
    for call, n in points(made):
        where = f"{call} {n}"
        shutil.rmtree(folder / "trial", ignore_errors=True)
        (folder / "trial").mkdir()
        copy(base, folder / "trial" / "data")
        s = flow.Server(folder / "trial", "threads: 1\n").start()
        strace = Strace(s, *inject(call, f"signal=SIGKILL:when={n}"))
        reply = operate(s, order(s))
        acknowledged = reply is not None and reply.status in (200, 201) and reply.json().get("durable") is not False
        try:
            s.process.wait(0.3)  # what comes after the answer may be what kills it
        except subprocess.TimeoutExpired:
            strace.detach()
            os.kill(s.pid, 9)
            s.process.wait(20)
        else:
            killed += 1
        strace.detach()
        s._gone()
        s.start()
        found = picture(s)
        assert found in (before, after), where
        assert found == after or not acknowledged, f"{where}: acknowledged and lost"
        if found and found[0]["stable"]:
            assert s.infer("m", [flow.tensor("x", "FP32", [1, 16], [0] * 16)]).status == 200, where
        was_before += found == before
        was_after += found == after
        s.stop()
        check_disk(s)
    assert sorted(os.listdir("/dev/shm")) == shared
    print(f"{len(made)} calls, {killed} deaths: {was_before} times before, {was_after} times after")
    assert killed > 0.8 * len(made) and was_before and was_after, (made, killed, was_before, was_after)


# ---- a disk that fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    s = flow.Server(tmp_path / "s", "threads: 1\n").start()
    yield s
    s.stop()


def version_asked(server):
    reply = server.infer("m", [flow.tensor("x", "FP32", [1, 16], [0] * 16)], {"X-Weir-User": "u"})
    assert reply.status == 200, reply
    return int(reply.headers["x-weir-version"])


def broken_while_rolling_back(server, other, error):
    """A rollback while the disk is broken: in force at once, and honest about it. Returns the strace that breaks it."""
    server.push("m", MODEL / "model.onnx")
    server.push("m", other / "model.onnx", "--canary", "100%")
    assert version_asked(server) == 2
    strace = Strace(server, *inject(*error))
    begin = time.monotonic()
    reply = server.ask_admin("POST", "/admin/models/m/rollback")
    took = time.monotonic() - begin
    assert reply.status == 200 and reply.json()["durable"] is False and took < 1, (reply, took)
    assert version_asked(server) == 1
    assert server.rollout("m")["rollout"]["state"] == "rolled_back"
    return strace


def test_rollback_with_a_full_disk(server, other):
    """It is written as soon as there is room again, and survives from then on."""
    strace = broken_while_rolling_back(server, other, ("write,pwrite64", "error=ENOSPC"))
    again = server.ask_admin("POST", "/admin/models/m/rollout", {"action": "start", "version": 2, "share": "100%"})
    assert again.status == 507 and again.headers["retry-after"], "nothing comes before the rollback is written"
    assert version_asked(server) == 1
    strace.detach()
    flow.until("written", lambda: server.history("m")[0]["kind"] == "rolled_back")
    server.ok("rollout", "start", "m", "--version", "2", "--share", "100%")
    assert version_asked(server) == 2
    server.ok("rollback", "m")
    server.kill()
    server.start()
    assert version_asked(server) == 1 and server.rollout("m")["rollout"]["state"] == "rolled_back"


def test_rollback_when_sync_fails(server, other):
    """What a failed fsync left on the disk is unknown: the store takes no more; the rollback is in force."""
    strace = broken_while_rolling_back(server, other, ("fsync,fdatasync", "error=EIO"))
    time.sleep(1.5)
    strace.detach()
    reply = server.ask_admin("POST", "/admin/models/m/rollout", {"action": "promote", "version": 2})
    assert reply.status == 507 and "read-only" in reply.error, reply
    assert version_asked(server) == 1
    server.kill()
    server.start()
    history = [r["kind"] for r in server.history("m")]
    assert version_asked(server) == (1 if "rolled_back" in history else 2), "as the history says"


@pytest.mark.parametrize("what", [
    "write,pwrite64:error=ENOSPC", "linkat,rename,renameat,renameat2:error=EIO", "openat:error=EMFILE"])
def test_push_to_a_broken_disk(server, other, what):
    """Refused with a reason; nothing of it is there; the same push works when the disk does."""
    server.push("m", MODEL / "model.onnx")
    before = picture(server)
    call, error = what.split(":")
    strace = Strace(server, *inject(call, error))
    reply = operate(server, push(server, other))
    assert reply is not None and reply.status in (500, 503, 507) and reply.error, reply
    assert version_asked(server) == 1
    strace.detach()
    assert picture(server) == before
    reply = operate(server, push(server, other, "?canary=100%25"))
    assert reply.status == 201 and version_asked(server) == 2, reply
    for _ in range(2):  # what could not be taken away then is at the next start
        server.stop()
        server.start()
    server.stop()
    check_disk(server)


def test_switch_with_a_full_disk(server):
    """It could not be remembered, so it is not made; with room again it is."""
    server.push("m", MODEL / "model.onnx")
    strace = Strace(server, *inject("write,pwrite64", "error=ENOSPC"))
    reply = server.ask_admin("POST", "/admin/families/m", {"place": "inline"})
    assert reply.status == 507 and version_asked(server) == 1, reply
    strace.detach()
    assert server.model("m")["place"] == "worker" and len(server.workers("m")) == 1
    assert [f["name"] for f in server.get("/admin/families")["families"]] == ["default"]
    assert server.ask_admin("POST", "/admin/families/m", {"place": "inline"}).status == 200
    server.kill()
    server.start()
    assert server.model("m")["place"] == "inline" and version_asked(server) == 1
