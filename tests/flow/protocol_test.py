# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol over HTTP/1.1 as a client meets it: documents, tensors of every dtype, errors that say
what was wrong, and the manners of the connection."""

import json
import struct
import threading

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton

import flow
from flow import tensor

DTYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
          "FP64", "BYTES"]
NUMPY = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
         "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
         "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64}
OTHERS = ["add", "scalar", "constant", "gather", "grow", "fixed", "spin", "mlp"]


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("body_max: 8MiB\n"
                     "families:\n  default: {place: worker, output_bytes: 8MiB}\n  mlp: {place: inline}\n")
    for name in [f"identity_{d.lower()}" for d in DTYPES] + OTHERS:
        s.push(name, flow.MODELS / name)
    s.push_example("vision", 1)
    s.push_example("intent", 1)
    return s


@pytest.fixture
def wire(server):
    with server.wire() as w:
        yield w


def infer(wire, model, body, headers=()):
    return wire.ask("POST", f"/v2/models/{model}/infer", body, headers)


# ---- documents ------------------------------------------------------------------------------------------------------


def test_server_and_health(wire):
    reply = wire.ask("GET", "/v2")
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.json()["name"] == "weir" and reply.json()["version"]
    assert {"binary_tensor_data", "classification"} <= set(reply.json()["extensions"])
    for path, body in (("/v2/health/live", {"live": True}), ("/v2/health/ready", {"ready": True}),
                       ("/v2/models/add/ready", {"name": "add", "ready": True}),
                       ("/v2/models/add/versions/1/ready", {"name": "add", "ready": True})):
        reply = wire.ask("GET", path)
        assert reply.status == 200 and reply.json() == body, path


def test_model_metadata(wire):
    want = {"name": "add", "versions": ["1"], "platform": "onnxruntime_onnx",
            "inputs": [{"name": n, "datatype": "FP32", "shape": [-1, 4]} for n in "ab"],
            "outputs": [{"name": n, "datatype": "FP32", "shape": [-1, 4]} for n in "cd"]}
    for path in ("/v2/models/add", "/v2/models/add/versions/1"):
        assert wire.ask("GET", path).json() == want
    intent = wire.ask("GET", "/v2/models/intent").json()
    assert intent["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]


def test_not_ready(serve):
    """A name without a version: known, but 503 with Retry-After, and the server as a whole is not spoilt by it."""
    s = serve()
    assert s.ask("GET", "/v2/health/ready").status == 200
    assert s.ask_admin("POST", "/admin/models", {"name": "empty"}).status == 201
    reply = s.infer("empty", [])
    assert reply.status == 503 and reply.headers["retry-after"] == "1"
    assert reply.error == "model 'empty' has no version in service yet"
    ready = s.ask("GET", "/v2/models/empty/ready")
    assert ready.status == 503 and ready.json()["ready"] is False and "no version" in ready.error


# ---- tensors --------------------------------------------------------------------------------------------------------


def values_of(dtype):
    """Rows of three that reach the ends of the dtype."""
    if dtype == "BYTES":
        return [[b"", b"a", "ä\u20ac\U0001f600".encode()], [b"x" * 3000, b'"\\\n', b"0"]]
    if dtype == "BOOL":
        return [[True, False, True]]
    if dtype.startswith(("U", "I")):
        info = np.iinfo(NUMPY[dtype])
        return [[int(info.min), 0, int(info.max)], [1, 2, 3]]
    if dtype in ("FP16", "BF16"):
        info = ml_dtypes.finfo(NUMPY[dtype])
        return [[float(info.max), float(info.smallest_subnormal), -0.0], [1.5, -2.25, 1024.0]]
    info = np.finfo(NUMPY[dtype])
    return [[float(info.max), float(info.smallest_subnormal), -0.0], [0.1, -1e-9, 3.0]]


def bytes_of(dtype, rows):
    if dtype == "BYTES":
        return b"".join(struct.pack("<I", len(v)) + v for row in rows for v in row)
    return np.array([v for row in rows for v in row], NUMPY[dtype]).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(wire, dtype):
    rows, model = values_of(dtype), f"identity_{dtype.lower()}"
    raw = bytes_of(dtype, rows)
    flat = [v.decode() if dtype == "BYTES" else v for row in rows for v in row]
    nested = [[v.decode() if dtype == "BYTES" else v for v in row] for row in rows]
    shape = [len(rows), 3]

    def check(output):
        assert output["datatype"] == dtype and output["shape"] == shape and output["name"] == "y"
        if dtype == "BYTES":
            assert output["data"] == flat
        else:
            assert np.array(output["data"], NUMPY[dtype]).tobytes() == raw

    for data in (flat, nested):  # JSON in both forms
        reply = infer(wire, model, {"inputs": [tensor("x", dtype, shape, data)]})
        assert reply.status == 200, reply
        check(reply.json()["outputs"][0])
    head = json.dumps({"inputs": [{"name": "x", "datatype": dtype, "shape": shape,
                                   "parameters": {"binary_data_size": len(raw)}}],
                       "parameters": {"binary_data_output": True}}).encode()
    reply = infer(wire, model, head + raw, {"Inference-Header-Content-Length": len(head)})
    assert reply.status == 200 and reply.headers["content-type"] == "application/octet-stream", reply
    n = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.body[:n])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(raw) and reply.body[n:] == raw
    head = head.replace(b"true", b"false")
    reply = infer(wire, model, head + raw, {"Inference-Header-Content-Length": len(head)})
    check(reply.json()["outputs"][0])  # binary in, JSON out


def test_nan_and_infinity(wire):
    """JSON has none: null; as bytes they come through untouched."""
    raw = np.array([[np.nan, np.inf, -np.inf]], np.float32).tobytes()
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3],
                                   "parameters": {"binary_data_size": 12}}]}).encode()
    reply = infer(wire, "identity_fp32", head + raw, {"Inference-Header-Content-Length": len(head)})
    assert reply.json()["outputs"][0]["data"] == [None, None, None]
    reply = infer(wire, "identity_fp32", {"inputs": [tensor("x", "FP32", [1, 3], [1e39, 0, 0])]})
    assert reply.status == 400 and "element 0" in reply.error


def test_empty_and_odd_shapes(wire):
    reply = infer(wire, "identity_fp32", {"inputs": [tensor("x", "FP32", [0, 3], [])]})
    assert reply.status == 200 and reply.json()["outputs"][0] == tensor("y", "FP32", [0, 3], [])
    reply = infer(wire, "scalar", {"inputs": [tensor("x", "FP32", [], [41])]})
    assert reply.status == 200 and reply.json()["outputs"][0] == tensor("y", "FP32", [], [42]), reply
    reply = infer(wire, "constant", {"inputs": []})
    assert reply.status == 200 and reply.json()["outputs"][0]["data"] == [1, 2, 3], reply
    reply = infer(wire, "grow", {"inputs": [tensor("n", "INT64", [1], [100000])]})
    assert reply.status == 200 and reply.json()["outputs"][0]["shape"] == [100000]
    reply = infer(wire, "grow", {"inputs": [tensor("n", "INT64", [1], [100_000_000])]})
    assert reply.status == 500 and "larger than the space for it" in reply.error, reply


def test_raw_request(wire):
    """Inference-Header-Content-Length: 0: the body is the only input's bytes."""
    idx = np.array([3, 0], np.int64)
    reply = infer(wire, "gather", idx.tobytes(), {"Inference-Header-Content-Length": "0"})
    assert reply.status == 200, reply
    n = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:n])["outputs"][0]["shape"] == [2, 4]
    assert np.frombuffer(reply.body[n:], np.float32).tolist() == [12, 13, 14, 15, 0, 1, 2, 3]
    reply = infer(wire, "gather", b"12345", {"Inference-Header-Content-Length": "0"})
    assert reply.status == 400 and "5 bytes do not fill input 'idx'" in reply.error
    reply = infer(wire, "add", b"12345", {"Inference-Header-Content-Length": "0"})
    assert reply.status == 400 and "this one has 2" in reply.error


def test_id_parameters_and_outputs(wire):
    a, b = tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), tensor("b", "FP32", [1, 4], [10, 20, 30, 40])
    body = {"id": "my id", "inputs": [b, a], "outputs": [{"name": "d"}],
            "parameters": {"whatever": 1, "timeout": 5000000}}
    reply = infer(wire, "add", body)
    assert reply.status == 200, reply
    assert reply.headers["x-request-id"] == "my id" and reply.headers["x-weir-version"] == "1"
    assert "x-weir-arm" not in reply.headers
    assert reply.json() == {"model_name": "add", "model_version": "1", "id": "my id",
                            "outputs": [tensor("d", "FP32", [1, 4], [-9, -18, -27, -36])]}
    reply = infer(wire, "add", {"inputs": [a, b], "outputs": [{"name": "d"}, {"name": "c"}]}, {"X-Request-Id": "h"})
    assert [o["name"] for o in reply.json()["outputs"]] == ["d", "c"] and reply.headers["x-request-id"] == "h"
    made = infer(wire, "add", {"inputs": [a, b]}).headers["x-request-id"]
    assert len(made) == 16 and made != infer(wire, "add", {"inputs": [a, b]}).headers["x-request-id"]


def test_one_output_binary_the_other_not(wire):
    a = tensor("a", "FP32", [1, 4], [1, 2, 3, 4])
    body = {"inputs": [a, dict(a, name="b")],
            "outputs": [{"name": "c", "parameters": {"binary_data": True}}, {"name": "d"}]}
    reply = infer(wire, "add", body)
    n = int(reply.headers["inference-header-content-length"])
    c, d = json.loads(reply.body[:n])["outputs"]
    assert c["parameters"] == {"binary_data_size": 16} and "data" not in c and d["data"] == [0, 0, 0, 0]
    assert np.frombuffer(reply.body[n:], np.float32).tolist() == [2, 4, 6, 8]


def test_classification(server, wire):
    rows = flow.Samples("vision").rows[:2]
    body = json.loads(rows[0][0])
    body["outputs"] = [{"name": "probabilities", "parameters": {"classification": 3}}]
    (output,) = infer(wire, "vision", body).json()["outputs"]
    assert output["datatype"] == "BYTES" and output["shape"] == [1, 3]
    values, indexes, names = zip(*(v.split(":") for v in output["data"]))
    labels = "bag book bottle chair lamp mug phone shirt shoe watch".split()
    assert [labels[int(i)] for i in indexes] == list(names)
    plain = infer(wire, "vision", rows[0][0]).json()["outputs"][0]["data"]
    assert sorted(plain, reverse=True)[:3] == pytest.approx([float(v) for v in values], abs=1e-5)
    client = triton.InferenceServerClient(f"{server.data[0]}:{server.data[1]}")
    x = triton.InferInput("x", [2, 16], "FP32")
    x.set_data_from_numpy(np.random.default_rng(1).standard_normal((2, 16), np.float32))
    got = client.infer("mlp", [x], outputs=[triton.InferRequestedOutput("y", class_count=2)]).as_numpy("y")
    assert got.shape == (2, 2) and all(v.count(b":") == 1 for v in got.reshape(-1))
    client.close()


# ---- errors say what was wrong --------------------------------------------------------------------------------------

A, B = tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), tensor("b", "FP32", [1, 4], [1, 2, 3, 4])
WRONG = {  # name: (model, body, status, words of the error)
    "dtype": ("add", {"inputs": [dict(A, datatype="INT32"), B]}, 400, ["'a'", "INT32", "FP32"]),
    "unknown dtype": ("add", {"inputs": [dict(A, datatype="FLOAT"), B]}, 400, ["inputs[0].datatype", "FLOAT", "BF16"]),
    "rank": ("add", {"inputs": [dict(A, shape=[4]), B]}, 400, ["'a'", "[4]", "[-1,4]"]),
    "dimension": ("add", {"inputs": [tensor("a", "FP32", [1, 5], [0] * 5), B]}, 400, ["'a'", "[1,5]", "[-1,4]"]),
    "too many elements": ("add", {"inputs": [dict(A, shape=[1 << 31, 1 << 31, 1 << 31]), B]}, 400, ["'a'", "too many"]),
    "negative dimension": ("add", {"inputs": [dict(A, shape=[-1, 4]), B]}, 400, ["a", "shape"]),
    "huge dimension": ("add", {"inputs": [dict(A, shape=[1 << 62, 4]), B]}, 400,
                       ["inputs[0].shape[0]", "4611686018427387904"]),
    "few": ("add", {"inputs": [dict(A, data=[1, 2, 3]), B]}, 400, ["'a'", "3 elements", "needs 4"]),
    "many": ("add", {"inputs": [dict(A, data=[1] * 5), B]}, 400, ["'a'", "more than 4", "needs 4"]),
    "element": ("add", {"inputs": [dict(A, data=[1, 2, "x", 4]), B]}, 400, ["'a'", "element 2"]),
    "null element": ("add", {"inputs": [dict(A, data=[1, None, 3, 4]), B]}, 400, ["'a'", "element 1"]),
    "missing": ("add", {"inputs": [A]}, 400, ["1 of the model's 2 inputs", "missing: 'b'"]),
    "twice": ("add", {"inputs": [A, A]}, 400, ["both named 'a'"]),
    "unknown input": ("add", {"inputs": [A, dict(B, name="z")]}, 400, ["no input 'z'", "a", "b"]),
    "unknown output": ("add", {"inputs": [A, B], "outputs": [{"name": "e"}]}, 400, ["no output 'e'", "c", "d"]),
    "no inputs": ("add", {}, 400, ["inputs"]),
    "inputs not array": ("add", {"inputs": {}}, 400, ["inputs"]),
    "no data": ("add", {"inputs": [{k: A[k] for k in ("name", "shape", "datatype")}, B]}, 400, ["'a'", "neither data"]),
    "not JSON": ("add", b"hello", 400, ["JSON"]),
    "cut JSON": ("add", b'{"inputs":[{"name":"a"', 400, ["JSON"]),
    "no body": ("add", b"", 400, ["no body"]),
    "deep": ("add", b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"inputs":[]}', 400, ["deep"]),
    "out of range": ("identity_uint8", {"inputs": [tensor("x", "UINT8", [1, 3], [0, 256, 0])]}, 400,
                     ["element 1", "256"]),
    "negative": ("identity_uint8", {"inputs": [tensor("x", "UINT8", [1, 3], [0, -1, 0])]}, 400, ["element 1", "-1"]),
    "fraction": ("identity_int32", {"inputs": [tensor("x", "INT32", [1, 3], [0, 1.5, 0])]}, 400, ["element 1", "1.5"]),
    "fixed shape": ("fixed", {"inputs": [tensor("x", "FP32", [1, 8], [0] * 8)]}, 400, ["'x'", "[1,8]", "[4,8]"]),
    "sequence": ("add", {"inputs": [A, B], "parameters": {"sequence_id": 1}}, 501, ["sequences"]),
    "shared memory": ("add", {"inputs": [dict(A, parameters={"shared_memory_region": "r"}), B]}, 501,
                      ["shared memory"]),
    "long id": ("add", {"id": "x" * 300, "inputs": [A, B]}, 400, ["id"]),
    "no model": ("nothing", {"inputs": []}, 404, ["no model 'nothing'", "add"]),
    "bad index": ("gather", {"inputs": [tensor("idx", "INT64", [1], [99])]}, 400, ["99", "[-10,9]"]),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong(wire, case):
    model, body, status, words = WRONG[case]
    reply = infer(wire, model, body)
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    for word in words:
        assert word in reply.error, reply.error
    assert infer(wire, "add", {"inputs": [A, B]}).status == 200, "the same connection goes on"


@pytest.mark.parametrize("size, tail, words", [
    (11, 12, ["add up to 11 bytes", "12 follow"]), (12, 11, ["12", "11"]), (8, 8, ["'x'", "is 8", "FP32 needs 12"]),
    (1 << 63, 12, ["binary_data_size"]), (-1, 12, ["binary_data_size"])])
def test_wrong_binary_length(wire, size, tail, words):
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3],
                                   "parameters": {"binary_data_size": size}}]}).encode()
    reply = infer(wire, "identity_fp32", head + bytes(tail), {"Inference-Header-Content-Length": len(head)})
    assert reply.status == 400, reply
    for word in words:
        assert word in reply.error, reply.error


def test_wrong_binary_header(wire):
    body = json.dumps({"inputs": []}).encode()
    for value in (len(body) + 1, "-1", "1e1", "0x10", "", "18446744073709551616"):
        reply = infer(wire, "identity_fp32", body, {"Inference-Header-Content-Length": value})
        assert reply.status == 400 and "Inference-Header-Content-Length" in reply.error, (value, reply)
    for broken in (struct.pack("<I", 100) + b"abc", b"\x01", struct.pack("<I", 0xFFFFFFFF)):
        head = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 3],
                                       "parameters": {"binary_data_size": len(broken)}}]}).encode()
        reply = infer(wire, "identity_bytes", head + broken, {"Inference-Header-Content-Length": len(head)})
        assert reply.status == 400 and "'x'" in reply.error, reply
    head = json.dumps({"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1, 3],
                                   "parameters": {"binary_data_size": 3}}]}).encode()
    reply = infer(wire, "identity_bool", head + b"\0\2\1", {"Inference-Header-Content-Length": len(head)})
    assert reply.status == 400 and "element 1" in reply.error and "2" in reply.error


def test_routes(wire):
    for method, path, status in (
            ("GET", "/", 404), ("GET", "/v3", 404), ("GET", "/v2/models/nope", 404),
            ("GET", "/v2/models/add/versions/9", 404),
            ("GET", "/v2/models/add/versions/x", 404), ("GET", "/v2/models/add/versions/0", 404),
            ("GET", "/v2/models/add/infer", 405), ("DELETE", "/v2/models/add", 405), ("PUT", "/v2", 405),
            ("GET", "/v2/models/add/config", 501), ("POST", "/v1/chat/completions", 501), ("GET", "/admin/models", 404),
            ("GET", "/v2/models/%2e%2e/ready", 400), ("GET", "/v2/models/a%00b", 400), ("GET", "/v2/models/%zz", 400)):
        reply = wire.ask(method, path, b"{}" if method == "POST" else None)
        assert reply.status == status, (method, path, reply)
        assert reply.error
        if status == 405:
            assert "POST" in reply.headers["allow"] or "GET" in reply.headers["allow"]
    assert wire.ask("GET", "/v2/models/%61dd").status == 200


def test_too_large(server):
    """Refused on its headers: the answer comes though the body has not."""
    with server.wire() as w:
        w.send(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: l\r\nContent-Length: 9000000\r\n\r\n")
        reply = w.read()
        assert reply.status == 413 and "8388608" in reply.error
    with server.wire() as w:  # and to a client that sends it all the same
        w.send(flow.request("POST", "/v2/models/add/infer", bytes(9_000_000)))
        assert w.read().status == 413
    with server.wire() as w:  # chunked: found out on the way
        w.send(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(100):
                w.send(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
        except OSError:
            pass
        assert w.read().status == 413


# ---- the connection -------------------------------------------------------------------------------------------------


def test_head(wire):
    full = wire.ask("GET", "/v2")
    head = wire.ask("HEAD", "/v2")
    assert head.status == 200 and head.headers["content-length"] == str(len(full.body))
    assert wire.ask("GET", "/v2").body == full.body


def test_chunked(wire):
    body = json.dumps({"inputs": [A, B]}).encode()
    for size in (1, 7, 1000):
        wire.send(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x;ext=1\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size))
            + b"0\r\nTrailer: x\r\n\r\n")
        reply = wire.read()
        assert reply.status == 200 and reply.json()["outputs"][0]["data"] == [2, 4, 6, 8]


def test_pipelining(wire):
    """Answers in order, whatever each of them takes."""
    one = flow.request("POST", "/v2/models/spin/infer", {"id": "slow", "inputs": [
        tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), tensor("trips", "INT64", [], [20000])]})
    many = [flow.request("POST", "/v2/models/add/infer", {"id": f"r{i}", "inputs": [A, B]}) for i in range(60)]
    wire.send(one + b"".join(many) + flow.request("GET", "/v2/nothing") + flow.request("GET", "/v2"))
    assert wire.read().json()["id"] == "slow"
    for i in range(60):
        assert wire.read().json()["id"] == f"r{i}"
    assert wire.read().status == 404
    assert wire.read().status == 200


def test_bytes_one_by_one(server):
    data = flow.request("POST", "/v2/models/add/infer", {"inputs": [A, B]})
    with server.wire() as w:
        for i in range(len(data)):
            w.send(data[i:i + 1])
        assert w.read().status == 200


def test_expect(server):
    body = json.dumps({"inputs": [A, B]}).encode()
    with server.wire() as w:
        w.send(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: l\r\nExpect: 100-continue\r\n"
               b"Content-Length: %d\r\n\r\n" % len(body))
        while b"\r\n\r\n" not in w.left:
            w._more()
        assert w.left == b"HTTP/1.1 100 Continue\r\n\r\n"
        w.send(body)
        assert w.read().status == 200
    with server.wire() as w:  # refused: no 100 before it
        w.send(b"POST /v2/models/nope/infer HTTP/1.1\r\nHost: l\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
        while b"\r\n\r\n" not in w.left:
            w._more()
        assert w.left.startswith(b"HTTP/1.1 404 ")
    with server.wire() as w:
        w.send(b"GET /v2 HTTP/1.1\r\nHost: l\r\nExpect: a miracle\r\n\r\n")
        assert w.read().status == 417


def test_keep_alive(server):
    with server.wire() as w:
        for _ in range(50):
            assert "connection" not in w.ask("GET", "/v2").headers
        assert w.ask("GET", "/v2", headers={"Connection": "close"}).headers["connection"] == "close"
        assert w.at_end()
    with server.wire() as w:
        w.send(b"GET /v2 HTTP/1.0\r\n\r\n")
        assert w.read().status == 200
        assert w.at_end()


def test_many_connections(server):
    wires = [server.wire() for _ in range(300)]
    for w in wires:
        w.send(flow.request("POST", "/v2/models/add/infer", {"inputs": [A, B]}))
    assert all(w.read().status == 200 for w in wires)
    for w in wires:
        w.close()


def test_deadline(wire):
    """parameters.timeout (microseconds) is kept: 504, and the connection goes on."""
    body = {"inputs": [tensor("x", "FP32", [1, 4], [0] * 4), tensor("trips", "INT64", [], [200000])],
            "parameters": {"timeout": 20000}}
    reply = infer(wire, "spin", body)
    assert reply.status == 504, reply
    assert wire.ask("GET", "/v2").status == 200


def test_queue_is_bounded(serve):
    """More than a version may hold is refused at once, with 503 and Retry-After; what was let in is answered."""
    s = serve("families:\n  default: {queue_requests: 4}\n")
    s.push("spin", flow.MODELS / "spin")
    data = flow.request("POST", "/v2/models/spin/infer", {"inputs": [
        tensor("x", "FP32", [1, 4], [0] * 4), tensor("trips", "INT64", [], [100000])]})
    wires = [s.wire() for _ in range(12)]
    for w in wires:
        w.send(data)
    replies = [w.read() for w in wires]
    for w in wires:
        w.close()
    count = {status: sum(r.status == status for r in replies) for status in (200, 503)}
    assert count[200] + count[503] == 12 and 4 <= count[200] <= 8, replies
    for reply in replies:
        if reply.status == 503:
            assert reply.headers["retry-after"] == "1" and "requests waiting or running" in reply.error


# ---- feedback -------------------------------------------------------------------------------------------------------


def feedback(wire, model, **body):
    return wire.ask("POST", f"/v2/models/{model}/feedback", body)


def test_feedback(server, wire):
    body, label = flow.Samples("intent").rows[0]
    before = server.version("intent", 1)["stats"]["feedback"]
    for rid in ("right", "wrong", "told", "paid"):
        assert infer(wire, "intent", body, {"X-Request-Id": rid}).status == 200
    told = feedback(wire, "intent", id="right", label=label)
    assert told.json() == {"model": "intent", "version": 1, "arm": "stable", "counted": True, "correct": True}
    assert feedback(wire, "intent", id="right", label="complaint").json()["counted"] is False, "the first one counts"
    wrong = feedback(wire, "intent", id="wrong", label="no such class").json()
    assert wrong["counted"] is True and wrong["correct"] is False
    assert feedback(wire, "intent", id="told", correct=True).json()["counted"] is True
    assert feedback(wire, "intent", id="paid", reward=2.5).json()["counted"] is True
    assert feedback(wire, "intent", id="paid", reward=9).json()["counted"] is False
    assert feedback(wire, "intent", id="paid", correct=False).json()["counted"] is True
    after = server.version("intent", 1)["stats"]["feedback"]
    assert (after["n"] - before["n"], after["correct"] - before["correct"]) == (4, 2)
    assert after["reward_n"] == 1 and after["reward_mean"] == 2.5
    for body, words in (({"id": "right"}, "at least one"), ({"label": "x"}, "id is missing"),
                        ({"id": 5, "label": "x"}, "id"),
                        ({"id": "right", "label": 5}, "label is a string"), ([], "object"),
                        ({"id": "right", "label": "x", "correct": True}, "not both"), ({"id": "", "label": "x"}, "id")):
        reply = wire.ask("POST", "/v2/models/intent/feedback", body)
        assert reply.status == 400 and words in reply.error, (body, reply)
    reply = feedback(wire, "intent", id="never", label="x")
    assert reply.status == 404 and "no request with that id" in reply.error
    reply = feedback(wire, "add", id="right", label="x")
    assert reply.status == 404, "ids are a model's own"
    assert feedback(wire, "nope", id="right", label="x").status == 404


def test_feedback_from_other_connections(server):
    """Whatever thread answered and whatever thread hears of it: each is counted once."""
    samples = flow.Samples("intent")
    before = server.version("intent", 1)["stats"]["feedback"]["n"]
    asking, telling = [server.wire() for _ in range(8)], [server.wire() for _ in range(8)]
    counted = []

    def work(k):
        for i in range(40):
            rid = f"across-{k}-{i}"
            body, label = samples.rows[i]
            assert asking[k].ask("POST", "/v2/models/intent/infer", body, {"X-Request-Id": rid}).status == 200
            for w in (telling[k], asking[k]):
                reply = feedback(w, "intent", id=rid, label=label)
                counted.append(reply.json()["counted"] if reply.status == 200 else reply)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for w in asking + telling:
        w.close()
    assert counted.count(True) == counted.count(False) == 320, counted[:20]
    assert server.version("intent", 1)["stats"]["feedback"]["n"] - before == 320
