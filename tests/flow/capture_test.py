# SPDX-License-Identifier: Apache-2.0
"""The payload log of a whole server: what is exported is what was asked and answered, what is redacted is nowhere on
the disk, floods and broken disks cost records and nothing else, and a killed server loses no whole line."""

import collections
import hashlib
import json
import re
import socket
import sqlite3
import time

import ml_dtypes
import numpy as np
import pytest

import flow
from flow import tensor

NUMPY = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
         "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
         "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64}
ALL = "threads: 1\ncapture: {sample: 100%}\n"  # records of two threads within a millisecond come in any order
TEXT = {"name": "text", "datatype": "BYTES", "shape": [1, 1]}


def state(server, model):
    return server.get(f"/admin/models/{model}/capture")


def drained(server, model, sampled=None):
    """Waits until everything that was sampled is written or dropped."""
    def look():
        s = state(server, model)
        enough = sampled is None or s["sampled"] >= sampled
        return s if enough and s["sampled"] == s["written"] + sum(s["dropped"].values()) else None

    return flow.until(f"{model} to be written", look)


def export(server, model, query=""):
    connection = flow.stock(server.admin)
    connection.request("GET", f"/admin/models/{model}/capture/records{query}")
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    assert reply.status == 200, body
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in body.splitlines()]


def folder(server):
    return server.data_dir / "weir.db-capture"


def files(server, model):
    return sorted((folder(server) / model).glob("*.ndjson"))


def check_segments(server, model):
    """The digests are the files'; returns how many lines there are."""
    rows = state(server, model)["segments"]
    assert [r["file"] for r in rows] == [p.name for p in files(server, model)]
    for row in rows:
        content = (folder(server) / model / row["file"]).read_bytes()
        lines = [json.loads(line) for line in content.splitlines()]
        assert row["bytes"] == len(content) and row["records"] == len(lines)
        assert row["first_ms"] == min(r["at_ms"] for r in lines) and row["last_ms"] == max(r["at_ms"] for r in lines)
        assert row["sha256"] == (hashlib.sha256(content).hexdigest() if row["sealed"] else None)
    return sum(row["records"] for row in rows)


def ask_text(server, text, headers=()):
    reply = server.infer("intent", [dict(TEXT, data=[text])], headers)
    assert reply.status == 200, reply
    return reply


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_nothing_is_captured_unless_it_is_asked_for(serve):
    s = serve()
    s.push_example("intent", 1)
    ask_text(s, "where is my parcel")
    at_rest = state(s, "intent")
    assert at_rest["settings"]["sample_bp"] == 0 and at_rest["sampled"] == 0 and at_rest["segments"] == []
    assert export(s, "intent") == []
    assert "nothing is captured" in s.ok("capture", "intent").out
    s.stop()
    assert not folder(s).exists()


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve(ALL + "families:\n  identity_fp32: {place: inline}\n")
    for dtype in NUMPY:
        s.push(f"identity_{dtype.lower()}", flow.MODELS / f"identity_{dtype.lower()}")
    s.push("identity_bytes", flow.MODELS / "identity_bytes")
    s.push("add", flow.MODELS / "add")
    s.push_example("intent", 1)
    return s


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dtype", NUMPY)
def test_numbers(server, dtype, binary):
    """Asked in JSON or in bytes: the record has the same values, and asked again as it stands it gives them again."""
    model, kind = f"identity_{dtype.lower()}", NUMPY[dtype]
    values = np.array([[0, 1, 2], [1, 0, 3]]).astype(kind)
    if binary:
        raw = values.tobytes()
        head = json.dumps({"inputs": [{"name": "x", "datatype": dtype, "shape": [2, 3],
                                       "parameters": {"binary_data_size": len(raw)}}]}).encode()
        reply = server.ask("POST", f"/v2/models/{model}/infer", head + raw,
                           {"Inference-Header-Content-Length": len(head), "X-Request-Id": f"{dtype}-binary"})
    else:
        data = values.astype(bool if dtype == "BOOL" else float if "F" in dtype else int).ravel().tolist()
        reply = server.infer(model, [tensor("x", dtype, [2, 3], data)], {"X-Request-Id": f"{dtype}-json"})
    assert reply.status == 200, reply
    drained(server, model)
    record = next(r for r in export(server, model) if r["id"] == f"{dtype}-{'binary' if binary else 'json'}")
    (x,), (y,) = record["request"]["inputs"], record["response"]["outputs"]
    assert (x["name"], x["datatype"], x["shape"]) == ("x", dtype, [2, 3]) and y["name"] == "y"
    assert np.array_equal(np.array(x["data"]).astype(kind).reshape(2, 3), values) and y["data"] == x["data"]
    again = server.infer(model, record["request"]["inputs"])
    assert again.status == 200 and again.json()["outputs"][0]["data"] == record["response"]["outputs"][0]["data"]


def test_texts(server):
    plain, odd = ["", "a \"quote\"\n", "ü😀"], [b"\xff\x00", b"", b"way"]
    raw = b"".join(len(t).to_bytes(4, "little") + t for t in odd)
    head = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 3],
                                   "parameters": {"binary_data_size": len(raw)}}]}).encode()
    assert server.infer("identity_bytes", [tensor("x", "BYTES", [1, 3], plain)]).status == 200
    reply = server.ask("POST", "/v2/models/identity_bytes/infer", head + raw,
                       {"Inference-Header-Content-Length": len(head)})
    assert reply.status == 200
    drained(server, "identity_bytes", 2)
    first, second = export(server, "identity_bytes")
    assert first["request"]["inputs"][0]["data"] == plain and first["response"]["outputs"][0]["data"] == plain
    assert "encoding" not in first["request"]["inputs"][0]
    for t in (second["request"]["inputs"][0], second["response"]["outputs"][0]):
        assert t["encoding"] == "base64" and t["data"] == ["/wA=", "", "d2F5"]


def test_what_a_record_says(server):
    before = time.time() * 1000
    reply = server.infer("add", [tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), tensor("b", "FP32", [1, 4], [1] * 4)],
                         {"X-Request-Id": "sum", "X-Weir-User": "ann"}, outputs=[{"name": "d"}])
    assert reply.status == 200, reply
    direct = server.ask("POST", "/v2/models/add/versions/1/infer",
                        {"inputs": [tensor("b", "FP32", [1, 4], [1] * 4), tensor("a", "FP32", [1, 4], [0] * 4)]},
                        {"X-Weir-User": "ann"})
    assert direct.status == 200
    keyless = server.infer("add", [tensor("a", "FP32", [1, 4], [0] * 4), tensor("b", "FP32", [1, 4], [1] * 4)])
    wrong = server.infer("add", [tensor("a", "FP32", [1, 4], [0] * 4)])
    assert wrong.status == 400
    drained(server, "add", 3)
    one, two, three = export(server, "add")  # and nothing of what was refused
    assert one["kind"] == "request" and one["id"] == "sum" and one["version"] == 1 and one["arm"] == "stable"
    assert before - 1 <= one["at_ms"] <= time.time() * 1000 + 1 and 0 < one["latency_us"] < 60e6
    assert re.fullmatch("[0-9a-f]{16}", one["user"]) and two["user"] == one["user"] and three["user"] is None
    assert [t["name"] for t in one["request"]["inputs"]] == ["a", "b"]
    assert [(t["name"], t["data"]) for t in one["response"]["outputs"]] == [("d", [0, 1, 2, 3])]
    assert two["arm"] == "direct"
    assert {t["name"]: t["data"] for t in two["request"]["inputs"]} == {"a": [0] * 4, "b": [1] * 4}
    assert sorted(t["name"] for t in two["response"]["outputs"]) == ["c", "d"]
    assert three["id"] == keyless.headers["x-request-id"]


def test_feedback_is_kept_with_its_request(server):
    reply = ask_text(server, "where is my parcel", {"X-Request-Id": "f-1"})
    label = reply.json()["outputs"][0]["data"][0]
    for body in ({"id": "f-1", "label": "order \"x\""}, {"id": "f-1", "reward": 0.5},
                 {"id": "never-asked", "label": "x"}):
        server.ask("POST", "/v2/models/intent/feedback", body)
    drained(server, "intent", 3)
    records = [r for r in export(server, "intent") if r["id"] in ("f-1", "never-asked")]
    asked = [r for r in records if r["kind"] == "request"]
    said = [{k: v for k, v in r.items() if k != "at_ms"} for r in records if r["kind"] == "feedback"]
    assert len(asked) == 1 and asked[0]["predicted"] == label
    assert said == [{"kind": "feedback", "id": "f-1", "label": "order \"x\"", "version": 1},
                    {"kind": "feedback", "id": "f-1", "reward": 0.5, "version": 1}]
    assert [r["id"] for r in export(server, "intent", "?kind=feedback")] == ["f-1", "f-1"]


# ---- reading it -----------------------------------------------------------------------------------------------------


def test_commands(server):
    marks = []
    for i in range(6):
        ask_text(server, f"line {i}", {"X-Request-Id": f"c-{i}"})
        drained(server, "intent")
        marks.append(int(time.time() * 1000) + 1)
        time.sleep(0.005)
    rows = [json.loads(line) for line in server.ok("capture", "intent", "--export").out.splitlines()]
    assert rows == export(server, "intent")
    assert [r["id"] for r in rows[-6:]] == [f"c-{i}" for i in range(6)]
    assert [r["id"] for r in export(server, "intent", f"?since={marks[1]}&until={marks[4]}")] == ["c-2", "c-3", "c-4"]
    assert [r["id"] for r in export(server, "intent", f"?since={marks[1]}&limit=2")] == ["c-2", "c-3"]
    limited = server.ok("capture", "intent", "--export", "--since", "1d", "--limit", "2").out
    assert [json.loads(line) for line in limited.splitlines()] == rows[:2]
    assert server.ok("capture", "intent", "--export", "--since", "1us").out == ""
    shown = server.ok("capture", "intent").out
    assert "100 % of the answers are captured" in shown and files(server, "intent")[0].name in shown
    assert "still open" in shown
    assert server.ok("capture", "intent", "--json").json()["written"] == len(rows)
    assert server.weir("capture", "intent", "--since", "1d").status == 2
    assert server.weir("capture", "nobody").status == 1
    nobody = server.weir("capture", "nobody", "--export")
    assert nobody.status == 1 and nobody.out == "" and "no model 'nobody'" in nobody.err


@pytest.mark.parametrize("query, word", [
    ("?since=soon", "soon"), ("?limit=0", "limit"), ("?kind=answer", "kind"), ("?form=csv", "form")])
def test_queries_that_are_refused(server, query, word):
    reply = server.ask_admin("GET", f"/admin/models/intent/capture/records{query}")
    assert reply.status == 400 and word in reply.error


def test_metrics(server):
    written = drained(server, "intent")["written"]
    text = server.ask_admin("GET", "/metrics").body.decode()
    assert f'weir_capture_records_total{{model="intent"}} {written}\n' in text
    for reason in ("ring_full", "too_large", "broken", "disk"):
        assert f'weir_capture_dropped_total{{model="intent",reason="{reason}"}} 0\n' in text
    total = sum(p.stat().st_size for p in folder(server).rglob("*.ndjson"))
    assert f"weir_capture_bytes {total}\n" in text


def test_a_slow_reader_holds_nobody_up(serve, tmp_path):
    s = serve(ALL + f"admin: unix:{tmp_path}/admin\nfamilies:\n  default: {{place: inline}}\n")
    s.push("identity_uint8", flow.MODELS / "identity_uint8")
    rows = 30000
    body = flow.request("POST", "/v2/models/identity_uint8/infer",
                        {"inputs": [tensor("x", "UINT8", [rows, 3], [200] * (3 * rows))]})
    with s.wire() as w:
        for i in range(40):  # some 700 KB a line
            w.send(body)
            assert w.read().status == 200
            if i % 4 == 3:
                drained(s, "identity_uint8")
    written = drained(s, "identity_uint8", 40)["written"]
    assert written == 40
    readers = []
    for _ in range(4):
        r = socket.socket(socket.AF_UNIX)
        r.settimeout(60 * flow.SLOWER)
        r.connect(s.admin)
        r.sendall(flow.request("GET", "/admin/models/identity_uint8/capture/records"))
        assert r.recv(15) == b"HTTP/1.1 200 OK"
        readers.append(r)
    refused = s.ask_admin("GET", "/admin/models/identity_uint8/capture/records")
    assert refused.status == 503 and "4 clients" in refused.error
    resident = flow.rss(s.pid)
    time.sleep(0.5)
    assert flow.rss(s.pid) < resident + (24 << 20)  # what waits for a reader is bounded
    assert state(s, "identity_uint8")["written"] == 40
    for r in readers[1:]:
        r.close()
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        got += readers[0].recv(1 << 20)
    assert got.count(b'{"kind":"request"') == 40
    readers[0].close()
    flow.until("the places to be free", lambda: len(export_unix(s, "identity_uint8", 1)) == 1)


def export_unix(server, model, limit):
    done = server.weir("capture", model, "--export", "--limit", limit)
    return done.out.splitlines()


# ---- privacy and sampling -------------------------------------------------------------------------------------------


def test_what_is_redacted_is_nowhere(serve):
    s = serve("capture: {redact: [text, user]}\nfamilies:\n  intent: {capture: {sample: 100%}}\n"
              "  add: {capture: {sample: 100%, redact: []}}\n  vision: {}\n")
    s.push_example("intent", 1)
    s.push("add", flow.MODELS / "add")
    s.push_example("vision", 1)
    ask_text(s, "SECRETPHRASE where is my parcel", {"X-Weir-User": "SECRETUSER"})
    assert s.infer("add", [tensor(n, "FP32", [1, 4], [1] * 4) for n in "ab"], {"X-Weir-User": "bob"}).status == 200
    drained(s, "intent", 1)
    drained(s, "add", 1)
    (record,) = export(s, "intent")
    assert record["redacted"] is True and record["user"] is None
    assert record["request"]["inputs"] == [dict(TEXT, data=None, redacted=True)]
    assert record["response"]["outputs"][0]["data"] and record["predicted"]
    (other,) = export(s, "add")
    assert "redacted" not in other and other["user"]
    assert state(s, "intent")["settings"]["redact"] == ["text", "user"]
    assert state(s, "vision")["settings"]["sample_bp"] == 0 and state(s, "add")["settings"]["redact"] == []
    s.stop()
    for path in s.data_dir.rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes(), path


def test_a_share_by_the_request_id(serve):
    s = serve("capture: {sample: 25%}\nfamilies:\n  default: {place: inline}\n")
    s.push("mlp", flow.MODELS / "mlp")
    body = {"inputs": [tensor("x", "FP32", [1, 16], [0.5] * 16)]}
    with s.wire() as w:
        for _ in range(2):  # the same ids again: they are retries
            for i in range(600):
                assert w.ask("POST", "/v2/models/mlp/infer", body, {"X-Request-Id": f"id-{i}"}).status == 200
    drained(s, "mlp", 200)
    count = collections.Counter(r["id"] for r in export(s, "mlp"))
    assert 105 <= len(count) <= 200  # 150, and five standard deviations
    assert set(count.values()) == {2}
    for rid in ("id-0", "id-1", "id-2", "id-3", "id-4", "id-5", "id-6", "id-7"):
        assert s.ask("POST", "/v2/models/mlp/feedback", {"id": rid, "reward": 1}).status == 200
    time.sleep(0.5)
    drained(s, "mlp")
    assert {r["id"] for r in export(s, "mlp", "?kind=feedback")} == {f"id-{i}" for i in range(8)} & set(count)


# ---- bounds ---------------------------------------------------------------------------------------------------------


def binary_body(n):
    """A request of n bytes for identity_uint8."""
    raw = bytes(n)
    head = json.dumps({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [n // 3, 3],
                                   "parameters": {"binary_data_size": n}}]}).encode()
    return flow.request("POST", "/v2/models/identity_uint8/infer", head + raw,
                        {"Inference-Header-Content-Length": len(head)})


def test_a_flood_is_dropped_and_counted(serve):
    """The store can not seal, because another program holds the database's lock; nobody is kept waiting by that."""
    s = serve("threads: 1\ncapture: {sample: 100%, segment_bytes: 4096}\nfamilies:\n  default: {place: inline}\n")
    s.push("identity_uint8", flow.MODELS / "identity_uint8")
    body, huge = binary_body(900 * 1024 // 3 * 3), binary_body(1500 * 1024)
    db = sqlite3.connect(s.data_dir / "weir.db", isolation_level=None)
    with s.wire() as w:
        w.send(huge)
        assert w.read().status == 200
        db.execute("BEGIN IMMEDIATE")
        slowest = 0
        for _ in range(24):
            began = time.monotonic()
            w.send(body)
            assert w.read().status == 200
            slowest = max(slowest, time.monotonic() - began)
        db.execute("ROLLBACK")
    db.close()
    assert slowest < 1 * flow.SLOWER  # the store waits for two seconds at a time
    done = drained(s, "identity_uint8", 25)
    assert done["sampled"] == 25 and done["dropped"]["too_large"] == 1
    assert done["dropped"]["ring_full"] >= 5 and done["written"] >= 4
    assert done["dropped"]["disk"] == done["dropped"]["broken"] == 0
    assert len(export(s, "identity_uint8")) == done["written"]


def test_the_size_stays_below_the_bound(serve):
    s = serve("capture: {sample: 100%, max_bytes: 1MiB, segment_bytes: 64KiB}\nfamilies:\n  default: {place: inline}\n")
    s.push("mlp", flow.MODELS / "mlp")
    body = {"inputs": [tensor("x", "FP32", [16, 16], [0.123456] * 256)]}
    most = 0
    with s.wire() as w:
        for i in range(1200):
            assert w.ask("POST", "/v2/models/mlp/infer", body, {"X-Request-Id": f"id-{i}"}).status == 200
            if i % 20 == 19:
                drained(s, "mlp", i + 1)
                most = max(most, sum(path.stat().st_size for path in files(s, "mlp")))
    assert state(s, "mlp")["written"] == 1200
    assert 900 << 10 < most <= 1 << 20
    numbers = [int(r["id"][3:]) for r in export(s, "mlp")]
    assert numbers == list(range(numbers[0], 1200)) and 200 < len(numbers) < 1000
    assert check_segments(s, "mlp") == len(numbers)


def test_a_folder_that_can_not_be_had(serve):
    s = serve(ALL, start=False)
    s.data_dir.mkdir()
    folder(s).write_text("not a folder")
    s.start()
    s.push_example("intent", 1)
    for i in range(20):
        ask_text(s, f"number {i}")
    flow.until("it to be counted", lambda: 'reason="disk"} 20\n' in s.ask_admin("GET", "/metrics").body.decode())
    assert s.ask_admin("GET", "/admin/models/intent/capture").status == 507
    assert len([r for r in s.rows() if r["text"].startswith("captured requests are dropped")]) == 1
    assert folder(s).read_text() == "not a folder"


# ---- restarts -------------------------------------------------------------------------------------------------------


def test_a_kill_keeps_whole_lines(serve):
    s = serve(ALL + "families:\n  default: {place: inline}\n")
    s.push("mlp", flow.MODELS / "mlp")
    seen = 0
    for round_no in range(3):
        body = {"inputs": [tensor("x", "FP32", [1, 16], [round_no] * 16)]}
        with s.wire() as w:
            for i in range(300):
                assert w.ask("POST", "/v2/models/mlp/infer", body, {"X-Request-Id": f"{round_no}-{i}"}).status == 200
        time.sleep((0, 0.1, 0.6)[round_no])  # before it is written, meanwhile, or after
        known = state(s, "mlp")["written"]
        s.kill()
        s.start()
        records = export(s, "mlp")
        assert len(records) >= seen + known
        seen = len(records)
        assert check_segments(s, "mlp") == seen
        assert all(r["sealed"] for r in state(s, "mlp")["segments"])
        ids = [r["id"] for r in records]
        assert len(set(ids)) == len(ids)
    assert seen >= 300


def test_a_stop_writes_and_seals_everything(serve):
    s = serve(ALL + "families:\n  default: {place: inline}\n")
    s.push("mlp", flow.MODELS / "mlp")
    with s.wire() as w:
        for i in range(200):
            body = {"inputs": [tensor("x", "FP32", [1, 16], [i] * 16)]}
            assert w.ask("POST", "/v2/models/mlp/infer", body).status == 200
    s.stop()
    s.start()
    assert check_segments(s, "mlp") == 200
    assert [r["request"]["inputs"][0]["data"][0] for r in export(s, "mlp")] == list(range(200))
    assert all(r["sealed"] for r in state(s, "mlp")["segments"])
