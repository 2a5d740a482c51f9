# SPDX-License-Identifier: Apache-2.0
"""Families on other servers: a real Weir that is killed and comes back, servers that lie, hang and refuse, names with a
dead address, and an upstream as one arm of a rollout."""

import json
import pathlib
import socket
import struct
import threading
import time

import pytest

import flow

INTENT = flow.tensor("text", "BYTES", [1, 1], ["where is my parcel"])
ADD = [flow.tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("b", "FP32", [1, 4], [1, 1, 1, 1])]


def stay(server):
    """From its next start on it has the addresses that it has now."""
    server.conf += f"\nlisten: {server.data[0]}:{server.data[1]}\nadmin: {server.admin[0]}:{server.admin[1]}\n"


def at(server, family, scheme="http", **more):
    rest = "".join(f", {k}: {v}" for k, v in more.items())
    return f"families:\n  {family}: {{place: \"{scheme}://127.0.0.1:{server.data[1]}\"{rest}}}\n"


def outputs(reply):
    assert reply.status == 200, reply
    return reply.json()["outputs"]


# ---- another Weir ---------------------------------------------------------------------------------------------------


def test_one_trace_over_both(serve):
    """The far server is told the request's id and the trace; what failed there is said to have failed there."""
    far = serve("trace_sample: 0%\n", name="far")
    far.push("spin", flow.MODELS / "spin")
    near = serve("trace_sample: 0%\n" + at(far, "spin"), name="near")
    near.push("spin", flow.MODELS / "spin")
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "X-Request-Id": "order-17",
               "tracestate": "shop=1,other=2"}

    def spin(trips, headers):
        return near.infer("spin", [flow.tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("trips", "INT64", [],
                                                                                              [trips])], headers)

    assert spin(10000, headers).status == 200
    peer = f"127.0.0.1:{far.data[1]}"
    both = f"{near.admin_url},{far.admin_url}"
    trace = flow.weir("trace", "order-17", "--server", both, "--json").json()["traces"][0]
    here, there = trace["spans"]
    assert here["span"]["peer"] == peer and here["span"]["place"] == "remote" and there["span"]["place"] == "worker"
    assert there["span"]["parent"] == here["span"]["span"] and there["span"]["request_id"] == "order-17"
    assert there["depth"] == 1 and here["offset_ms"] <= there["offset_ms"]
    assert "went into computing spin v1 on " in trace["slow"] and trace["failed"] is None
    shown = flow.weir("trace", "order-17", "--server", both).out
    assert f"  at {peer} " in shown and "compute, worker 0 (pid " in shown, shown
    alone = near.ok("trace", "order-17").out
    assert f"no span of {peer}: ask that server too" in alone and f"went into the time at {peer} " in alone, alone
    # too slow there
    late = spin(100000000, {"X-Request-Id": "late", "X-Weir-Timeout": "500ms"})
    assert late.status == 504 and peer in late.error, late
    failed = flow.weir("trace", "late", "--server", both, "--json").json()["traces"][0]["failed"]
    assert "504" in failed, failed
    far.stop()
    gone = spin(10, {"X-Request-Id": "gone", "X-Weir-Timeout": "2s"})
    assert gone.status in (503, 504) and peer in gone.error, gone
    assert near.get("/admin/traces?id=gone")["spans"][0]["error"] == gone.error


def test_a_family_elsewhere(serve):
    far = serve(name="far")
    far.push_example("intent", 1)
    near = serve(at(far, "intent"), name="near")
    pushed = near.push_example("intent", 1)
    assert pushed["serving"] == "stable"
    for line in (flow.EXAMPLES / "intent" / "1" / "samples.ndjson").read_text().splitlines()[:40]:
        inputs = json.loads(line)["inputs"]
        assert outputs(near.infer("intent", inputs)) == outputs(far.infer("intent", inputs))
    near_info, far_info = (s.ask("GET", "/v2/models/intent").json() for s in (near, far))
    assert near_info["inputs"] == far_info["inputs"] and near_info["outputs"] == far_info["outputs"]
    version = near.version("intent", 1)
    assert version["workers"] == [] and version["place"] == f"http://127.0.0.1:{far.data[1]}"
    assert version["far_side"].endswith("1 of 1 addresses up"), version["far_side"]
    assert f"http://127.0.0.1:{far.data[1]}" in near.ok("models").out
    assert "far side http" in near.ok("models", "intent").out
    checks = {c["name"]: c for c in near.get("/admin/doctor")["checks"]}
    assert checks["far sides"]["ok"] and "1 versions run on other servers" in checks["far sides"]["text"]
    assert near.version("intent", 1)["stats"]["ok"] == 40 == far.version("intent", 1)["stats"]["ok"] / 2
    wrong = near.infer("intent", [flow.tensor("text", "BYTES", [1, 1], ["x"])], parameters={"timeout": -1})
    assert wrong.status == 400


def test_it_is_killed_under_load_and_comes_back(serve):
    far = serve(name="far")
    far.push_example("intent", 1)
    near = serve(at(far, "intent"), name="near")
    near.push_example("intent", 1)
    stay(far)
    load = flow.Load(near, "intent", flow.Samples("intent"), [f"u{i}" for i in range(50)], connections=8)
    load.start()

    def answered():
        return near.version("intent", 1)["stats"]["ok"]

    flow.until("answers", lambda: answered() > 300)
    for away_s in (0, 4):
        far.kill()
        time.sleep(away_s)
        if away_s:
            flow.until("its end seen", lambda: near.version("intent", 1)["state"] != "ready")
            assert not {c["name"]: c for c in near.get("/admin/doctor")["checks"]}["far sides"]["ok"]
        far.start()
        seen = answered()
        flow.until("answers again", lambda: answered() > seen + 300, 40)
    load.stop()
    assert not load.failed(), load.failed()[:5]
    flow.until("ready", lambda: near.version("intent", 1)["state"] == "ready")


def test_it_is_not_there_when_the_gateway_starts(serve):
    far = serve(name="far")
    far.push_example("intent", 1)
    near = serve(at(far, "intent"), name="near")
    near.push_example("intent", 1)
    near.stop()
    stay(far)
    far.kill()
    near.start()
    assert near.version("intent", 1)["state"] == "cold"
    assert "refused" in near.version("intent", 1)["error"]
    assert near.ask("GET", "/v2/health/ready").status == near.ask("GET", "/v2/models/intent/ready").status == 503
    far.start()
    assert near.infer("intent", [INTENT]).status == 200  # who asks loads it
    assert near.ask("GET", "/v2/health/ready").status == near.ask("GET", "/v2/models/intent/ready").status == 200
    near.ok("push", "other", flow.EXAMPLES / "intent" / "1")  # of the default family: here


def test_a_model_that_it_has_not(serve):
    far = serve(name="far")
    near = serve(at(far, "intent"), name="near")
    done = near.weir("push", "intent", flow.EXAMPLES / "intent" / "1")
    assert done.status == 1 and "404" in done.err and "intent" in done.err, done
    assert near.weir("models", "intent").status == 1  # nothing was registered


@pytest.mark.parametrize("place, words", [
    ("moon", ["place", "moon", "worker"]), ("https://a:1", ["https://", "not part of this server yet"]),
    ("grpc://a:1", ["grpc://", "not part of this server yet"]), ("ftp://a:1", ["ftp", "http://"]),
    ("http://a:1/path", ["http://a:1/path", "port"]), ("http://", ["host is missing"])])
def test_places_that_are_none(tmp_path, place, words):
    (tmp_path / "weir.yaml").write_text(f"families:\n  x: {{place: \"{place}\"}}\n")
    done = flow.weir("serve", "-c", tmp_path / "weir.yaml", "--data", tmp_path / "data")
    assert done.status == 1, done
    for word in [*words, "weir.yaml:2"]:
        assert word in done.err, done.err


# ---- servers that behave badly --------------------------------------------------------------------------------------


class Fake:
    """A server of the protocol on loopback with add/1; answer(connection, head, body) does what it wants with a job."""

    META = {"name": "add", "versions": ["1"], "platform": "fake",
            "inputs": [{"name": n, "datatype": "FP32", "shape": [-1, 4]} for n in "ab"],
            "outputs": [{"name": n, "datatype": "FP32", "shape": [-1, 4]} for n in "cd"]}

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.data = ("127.0.0.1", self.port)
        self.heads, self.closed, self.connections = [], 0, 0
        self.meta, self.answer = self.META, self.right
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.sock.close()

    def _accept(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        left = b""
        try:
            while True:
                while b"\r\n\r\n" not in left:
                    got = c.recv(1 << 16)
                    if not got:
                        return
                    left += got
                head, left = left.split(b"\r\n\r\n", 1)
                lines = head.decode().split("\r\n")
                fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
                n = int(fields.get("content-length", 0))
                while len(left) < n:
                    left += c.recv(1 << 16)
                body, left = left[:n], left[n:]
                if lines[0].startswith("GET"):
                    c.sendall(reply(200, json.dumps(self.meta).encode()))
                else:
                    self.heads.append(fields)
                    out = self.answer(c, fields, body)
                    if out is None:
                        return
                    c.sendall(out)
        except OSError:
            pass
        finally:
            self.closed += 1
            c.close()

    def right(self, _, fields, body):
        n = int(fields["inference-header-content-length"])
        asked = json.loads(body[:n])
        assert [t["name"] for t in asked["inputs"]] == ["a", "b"] and len(body) == n + 32
        a, b = struct.unpack_from("<4f", body, n), struct.unpack_from("<4f", body, n + 16)
        return answer([[x + y for x, y in zip(a, b)], [x - y for x, y in zip(a, b)]])


def reply(status, body, headers=()):
    rows = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(rows).encode() + b"\r\n\r\n" + body


def answer(values, head=None, tail=None, **changes):
    """A binary answer of add; changes are made to the first output."""
    outs = [{"name": n, "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}} for n in "cd"]
    outs[0].update(changes)
    text = json.dumps({"outputs": outs}).encode() if head is None else head
    data = b"".join(struct.pack("<4f", *v) for v in values) if tail is None else tail
    return reply(200, text + data, [f"Inference-Header-Content-Length: {len(text)}"])


@pytest.fixture
def fake():
    f = Fake()
    yield f
    f.close()


@pytest.fixture
def gate(serve, fake):
    near = serve(at(fake, "add"), name="near")
    near.push("add", flow.MODELS / "add", "--version", "1")
    return near


def test_a_plain_server(fake, gate):
    got = outputs(gate.infer("add", ADD))
    assert [o["data"] for o in got] == [[2, 3, 4, 5], [0, 1, 2, 3]]
    assert fake.heads[-1]["host"] == f"127.0.0.1:{fake.port}"
    for _ in range(50):
        outputs(gate.infer("add", ADD))
    assert fake.connections < 20  # they are used again
    # One that knows no binary tensors answers with arrays, flat or nested.
    fake.answer = lambda *_: reply(200, json.dumps({"outputs": [
        {"name": "d", "datatype": "FP32", "shape": [1, 4], "data": [[0, 1.5, None, -3]]},
        {"name": "c", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 1e300]}]}).encode())
    c, d = outputs(gate.infer("add", ADD))
    assert c["data"][:3] == [1, 2, 3] and d["data"] == [0, 1.5, None, -3]


C, D = [2, 3, 4, 5], [0, 1, 2, 3]
LIES = {
    "more dimensions than data": answer([C, D], shape=[1, 5]),
    "a shape that overflows": answer([C, D], shape=[2**31, 2**31, 2**31]),
    "negative": answer([C, D], shape=[-1, 4]),
    "nine dimensions": answer([C, D], shape=[1] * 9),
    "a size that is too large": answer([C, D], parameters={"binary_data_size": 2**40}),
    "a size that is none": answer([C, D], parameters={"binary_data_size": "16"}),
    "too few bytes": answer([C]),
    "too many bytes": answer([C, D, C]),
    "another datatype": answer([C, D], datatype="FP64"),
    "an unknown output": answer([C, D], name="e"),
    "an output twice": answer([C, D], name="d"),
    "no outputs": reply(200, b'{"outputs":[]}'),
    "no JSON": reply(200, b"<html>hello</html>"),
    "no object": reply(200, b"[]"),
    "nothing": reply(200, b""),
    "deep": reply(200, b"[" * 100000),
    "a length of the JSON beyond it": reply(200, b"{}", ["Inference-Header-Content-Length: 3"]),
    "a length of the JSON that is none": reply(200, b"{}", ["Inference-Header-Content-Length: -1"]),
    "too few numbers": reply(200, b'{"outputs":[{"name":"c","datatype":"FP32","shape":[1,4],"data":[1,2,3]}]}'),
    "words for numbers": reply(200, b'{"outputs":[{"name":"c","datatype":"FP32","shape":[1,4],"data":["a","b",3,4]}]}'),
}


@pytest.mark.parametrize("name", list(LIES))
def test_answers_that_are_none(module_gate, name):
    fake, near = module_gate
    fake.answer = lambda *_: LIES[name]
    said = near.infer("add", ADD)
    assert said.status == 500 and "the far side's answer is none" in said.error, said
    assert said.headers["x-weir-error"] == "model"
    fake.answer = fake.right
    assert near.infer("add", ADD).status == 200


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01 hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
                                     b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
                                     b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000])
def test_replies_that_are_no_http(module_gate, garbage):
    fake, near = module_gate

    def send(c, *_):
        c.sendall(garbage)

    fake.answer = send
    said = near.infer("add", ADD, parameters={"timeout": 5000000 * flow.SLOWER})
    assert said.status in (500, 503), said
    fake.answer = fake.right
    flow.until("right again", lambda: near.infer("add", ADD).status == 200)


@pytest.fixture(scope="module")
def module_gate(module_serve):
    f = Fake()
    near = module_serve(at(f, "add"), name="near")
    near.push("add", flow.MODELS / "add", "--version", "1")
    yield f, near
    f.close()


@pytest.mark.parametrize("status, said, ours", [(400, 400, "invalid"), (422, 422, "refused"), (429, 429, "quota"),
                                                (500, 500, "model"), (404, 503, "unavailable"),
                                                (401, 503, "unavailable"), (504, 504, "timeout")])
def test_what_a_status_becomes(module_gate, status, said, ours):
    fake, near = module_gate
    fake.answer = lambda *_: reply(status, b'{"error": "because\\nof it"}')
    got = near.infer("add", ADD)
    assert (got.status, got.headers["x-weir-error"]) == (said, ours), got
    assert f"answered {status}: because of it" in got.error, got.error
    fake.answer = lambda *_: reply(500, b"{}", ["X-Weir-Error: internal"])
    assert near.infer("add", ADD).headers["x-weir-error"] == "internal"
    fake.answer = fake.right
    flow.until("right again", lambda: near.infer("add", ADD).status == 200)


def until_gone(c, gone):
    """Does not answer, and says when the other end has closed."""
    c.settimeout(20 * flow.SLOWER)
    try:
        c.recv(1)
    except TimeoutError:
        return
    except OSError:
        pass
    gone.set()


def test_a_deadline_goes_along_and_closes_the_connection(fake, gate):
    gone = threading.Event()
    fake.answer = lambda c, *_: until_gone(c, gone)
    said = gate.infer("add", ADD, {"X-Weir-Timeout": f"{400 * flow.SLOWER}ms"})
    assert said.status == 504, said
    assert gone.wait(10 * flow.SLOWER)
    sent = fake.heads[-1]["x-weir-timeout"]
    assert sent.endswith("us") and 0 < int(sent[:-2]) <= 400000 * flow.SLOWER


def test_a_client_that_leaves_takes_its_work_along(fake, gate):
    begun, gone = threading.Event(), threading.Event()

    def slow(c, *_):
        begun.set()
        return until_gone(c, gone)

    fake.answer = slow
    with gate.wire() as w:
        w.send(flow.request("POST", "/v2/models/add/infer", {"inputs": ADD}))
        assert begun.wait(10 * flow.SLOWER)
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert gone.wait(5 * flow.SLOWER)


def test_back_pressure(fake, gate):
    fake.answer = lambda *_: reply(503, b'{"error": "full"}', ["Retry-After: 30"])
    said = gate.infer("add", ADD)
    assert said.status == 503 and "full" in said.error and int(said.headers["retry-after"]) >= 1, said
    n = len(fake.heads)
    assert n == 1  # it is not asked again before its time
    fake.answer = lambda *_: reply(503, b'{"error": "full"}')
    for _ in range(5):
        assert gate.infer("add", ADD).status == 503
    assert len(fake.heads) - n <= 15  # the budget of retries has a test of its own
    fake.answer = fake.right
    flow.until("right again", lambda: gate.infer("add", ADD).status == 200)


def test_a_connection_that_breaks_before_the_answer_is_tried_again(fake, gate):
    fails = [2]

    def break_off(c, fields, body):
        if fails[0] > 0:
            fails[0] -= 1
            return None
        return fake.right(c, fields, body)

    fake.answer = break_off
    assert gate.infer("add", ADD).status == 200
    fails[0] = 1000
    said = gate.infer("add", ADD)
    assert said.status == 503 and fails[0] >= 1000 - 4, said


def test_a_version_without_a_model_is_there(serve, fake, tmp_path):
    near = serve(at(fake, "add"), name="near")
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "model.yaml").write_text("description: it has it\n")
    near.push("add", tmp_path / "version")
    assert near.infer("add", ADD).status == 200


def test_it_describes_itself_badly(serve, fake):
    near = serve(at(fake, "add"), name="near")
    bad = [
        [], {}, {"inputs": [], "outputs": []}, dict(Fake.META, inputs="a"),
        dict(Fake.META, inputs=[{"name": "a", "datatype": "FP31", "shape": [1]}]),
        dict(Fake.META, inputs=[{"name": "a" * 300, "datatype": "FP32", "shape": [1]}]),
        dict(Fake.META, inputs=[{"name": "a", "datatype": "FP32", "shape": [-2]}]),
        dict(Fake.META, inputs=[{"name": "a", "datatype": "FP32", "shape": [2**40]}]),
        dict(Fake.META, inputs=[{"name": "a", "datatype": "FP32", "shape": [1] * 9}]),
        dict(Fake.META, outputs=[{"name": "c", "datatype": "FP32", "shape": [1]}] * 2),
    ]
    for meta in bad:
        fake.meta = meta
        done = near.weir("push", "add", flow.MODELS / "add", "--version", "1")
        assert done.status == 1 and "far side" in done.err, (meta, done)
    fake.meta = Fake.META
    near.push("add", flow.MODELS / "add", "--version", "1")


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(flow.SANITIZED, reason="a preloaded resolver and a sanitizer's own do not go together")
def test_a_name_with_a_dead_address(serve, fake):
    near = serve(f"families:\n  add: {{place: \"http://far.test:{fake.port}\"}}\n", name="near",
                 env={"LD_PRELOAD": str(flow.BUILD / "tests" / "preload" / "two_addresses.so"),
                      "WEIR_TEST_NAME": "far.test", "WEIR_TEST_ADDRESSES": "127.0.0.2,127.0.0.1"})
    near.push("add", flow.MODELS / "add", "--version", "1")
    for _ in range(200):
        assert near.infer("add", ADD).status == 200
    assert near.version("add", 1)["far_side"].endswith("1 of 2 addresses up"), near.version("add", 1)
    assert fake.heads[-1]["host"] == f"far.test:{fake.port}"


# ---- an upstream in a rollout ---------------------------------------------------------------------------------------


def upstream(tmp_path, **keys):
    folder = tmp_path / f"up{len(list(tmp_path.glob('up*')))}"
    folder.mkdir()
    rows = "".join(f"  {k}: {json.dumps(str(v))}\n" for k, v in keys.items())
    (folder / "model.yaml").write_text(f"description: elsewhere\nupstream:\n{rows}")
    return folder


def test_an_upstream_is_a_canary(serve, tmp_path):
    far = serve(name="far")
    far.push("other", flow.EXAMPLES / "intent" / "2", "--version", "7")
    near = serve(flow.watched("30%"), name="near")
    near.push_example("intent", 1)
    folder = upstream(tmp_path, url=f"http://127.0.0.1:{far.data[1]}", model="other", version="7")
    pushed = near.push("intent", folder, "--rollout", "watched")
    assert pushed["serving"] == "canary" and near.version("intent", 2)["backend"] == "upstream"
    users = [f"user-{i}" for i in range(200)]
    load = flow.Load(near, "intent", flow.Samples("intent"), users, connections=4, feedback=4)
    events = load.run(3000)
    assert not load.failed()
    canary = {e.user for e in events if e.version == 2}
    assert 30 < len(canary) < 90 and {e.user for e in events if e.version == 1} == set(users) - canary
    assert far.version("other", 7)["stats"]["ok"] == sum(e.version == 2 for e in events)
    arms = near.arms("intent")
    assert arms["canary"]["feedback"]["accuracy"] < arms["stable"]["feedback"]["accuracy"]
    near.ok("promote", "intent")
    assert near.infer("intent", [INTENT]).headers["x-weir-version"] == "2"
    near.ok("rollback", "intent")
    assert near.infer("intent", [INTENT]).headers["x-weir-version"] == "1"


def test_upstreams_that_are_none(serve, tmp_path):
    near = serve(name="near")
    near.push_example("intent", 1)
    for keys, words in (({"model": "x"}, "url is missing"), ({"url": "https://a:1"}, "not part of this server yet"),
                        ({"url": "weir://a:1"}, "upstream is http://"), ({"url": "http://a:1/x"}, "port"),
                        ({"url": "http://a:1", "model": "a/b"}, "a name has letters"),
                        ({"url": "http://a:1", "modle": "a"}, "its keys are url, model and version")):
        done = near.weir("push", "intent", upstream(tmp_path, **keys))
        assert done.status == 1 and words in done.err, (keys, done)
    both = upstream(tmp_path, url="http://127.0.0.1:1")
    (both / "model.onnx").write_bytes((flow.MODELS / "add" / "model.onnx").read_bytes())
    done = near.weir("push", "intent", both)
    assert done.status == 1 and "there is a model beside it" in done.err, done
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.yaml").write_text("description: nothing\n")
    done = near.weir("push", "intent", alone)
    assert done.status == 1 and "no model in it" in done.err, done
    # Inputs that are not the stable version's: it is no canary.
    fake = Fake()
    done = near.weir("push", "intent", upstream(tmp_path, url=f"http://127.0.0.1:{fake.port}", model="add"),
                     "--canary", "5%")
    fake.close()
    assert done.status == 1 and "can not share traffic" in done.err, done


# ---- the inference role ---------------------------------------------------------------------------------------------


@pytest.fixture
def pair(serve):
    """A server in the inference role, and a gateway whose family `intent` is there."""
    far = serve("hold: 3s\n", name="far", args=["--role", "inference"])
    return far, serve(at(far, "intent", "weir") + flow.watched("30%"), name="near")


def test_a_far_side_is_given_the_version(pair):
    far, near = pair
    pushed = near.push_example("intent", 1)
    assert pushed["serving"] == "stable"
    theirs = far.version("intent", 1)
    assert theirs["digest"] == pushed["digest"] and theirs["state"] == "ready"
    assert near.version("intent", 1)["far_side"].startswith(f"weir://127.0.0.1:{far.data[1]}")
    load = flow.Load(near, "intent", flow.Samples("intent"), [f"u{i}" for i in range(200)], connections=4, feedback=4)
    load.run(500)
    near.push_example("intent", 2, "--rollout", "watched")
    load.run(2000)
    assert not load.failed()
    counts = {v: sum(e.version == v for e in load.events) for v in (1, 2)}
    assert counts[2] > 200 and {v: far.version("intent", v)["stats"]["ok"] for v in (1, 2)} == counts
    near.ok("rollback", "intent")
    assert near.infer("intent", [INTENT]).headers["x-weir-version"] == "1"
    time.sleep(4)  # longer than the far side keeps what nobody asks for
    assert far.version("intent", 1)["state"] == "ready"
    assert near.infer("intent", [INTENT]).status == 200


def test_it_lets_go_of_what_nobody_holds(pair):
    far, near = pair
    near.push_example("intent", 1)
    assert far.workers("intent")
    near.stop()
    flow.until("unloaded", lambda: far.version("intent", 1)["state"] == "registered", 15)
    flow.until("its process gone", lambda: far.version("intent", 1)["workers"] == [])
    near.start()  # it is there: nothing is sent
    assert near.infer("intent", [INTENT]).status == 200
    assert not [r for r in near.rows() if "sending a version" in r["text"]]


def test_two_gateways_share_it(pair, serve):
    far, near = pair
    near.push_example("intent", 1)
    other = serve(at(far, "intent", "weir"), name="other")
    other.push("intent", flow.EXAMPLES / "intent" / "2", "--version", "1")  # another one of the same name and number
    other.push("intent", flow.EXAMPLES / "intent" / "1", "--version", "2")  # the same one by another number
    assert [v["version"] for v in far.model("intent")["versions"]] == [1, 2]
    assert near.infer("intent", [INTENT]).status == 200
    assert other.infer("intent", [INTENT]).status == 200
    assert far.version("intent", 1)["stats"]["ok"] == far.version("intent", 2)["stats"]["ok"] == 1
    near.stop()
    time.sleep(4)
    assert {v["version"]: v["state"] for v in far.model("intent")["versions"]} == {1: "ready", 2: "ready"}


def test_it_takes_no_rollouts_and_does_not_route(pair):
    far, near = pair
    near.push_example("intent", 1)
    for words in (["rollback", "intent"], ["promote", "intent"], ["rollout", "pause", "intent"],
                  ["rollout", "start", "intent", "--version", "1", "--share", "5%"],
                  ["shadow", "start", "intent", "--version", "1"],
                  ["push", "intent", flow.EXAMPLES / "intent" / "2", "--canary", "5%"]):
        done = far.weir(*words)
        assert done.status == 1 and "inference role" in done.err, (words, done)
    said = far.infer("intent", [INTENT])
    assert said.status == 409 and "name the version" in said.error, said
    assert far.ask("POST", "/v2/models/intent/versions/1/infer", {"inputs": [INTENT]}).status == 200
    meta = far.ask("GET", "/v2").json()
    assert meta["role"] == "inference" and meta["admin_port"] == far.admin[1]
    said = near.ask_admin("POST", "/admin/models/intent/hold", {"digest": "a" * 64})
    assert said.status == 409 and "not in the inference role" in said.error


def test_it_is_killed_and_loses_its_disk(pair):
    far, near = pair
    near.push_example("intent", 1)
    stay(far)
    load = flow.Load(near, "intent", flow.Samples("intent"), [f"u{i}" for i in range(50)], connections=8)
    load.start()
    for fresh in (False, True):
        flow.until("answers", lambda: near.version("intent", 1)["stats"]["in_flight"] > 0)
        far.kill()
        if fresh:
            far.data_dir = far.folder / "another"
        far.start()
        seen = near.version("intent", 1)["stats"]["ok"]
        flow.until("answers again", lambda: near.version("intent", 1)["stats"]["ok"] > seen + 300, 40)
    load.stop()
    assert not load.failed(), load.failed()[:5]
    assert far.version("intent", 1)["state"] == "ready"


def test_its_errors_arrive_as_they_were(serve):
    far = serve("families:\n  spin: {queue_requests: 2, timeout: 60s}\n", name="far", args=["--role", "inference"])
    near = serve(at(far, "spin", "weir"), name="near")
    near.push("spin", flow.MODELS / "spin", "--version", "1")
    long = [flow.tensor("x", "FP32", [1, 4], [1] * 4), flow.tensor("trips", "INT64", [], [1000000])]  # some 2 s
    with near.wire() as a, near.wire() as b:
        for w in (a, b):
            w.send(flow.request("POST", "/v2/models/spin/infer", {"inputs": long}, {"X-Weir-Timeout": "50s"}))
        flow.until("a full queue there", lambda: far.version("spin", 1)["stats"]["in_flight"] == 2)
        full = near.infer("spin", long, {"X-Weir-Timeout": "900ms"})  # too short for the Retry-After of a second
        assert full.status == 503 and full.headers["x-weir-error"] == "unavailable", full
        assert "requests waiting or running" in full.error and "answered 503" in full.error, full.error
        assert int(full.headers["retry-after"]) >= 1
        assert far.version("spin", 1)["stats"]["errors_by"] == {"unavailable": 1}
        assert [w.read().status for w in (a, b)] == [200, 200]
    said = near.infer("spin", long, {"X-Weir-Timeout": "500ms"})
    assert said.status in (503, 504), said  # there or here
    flow.until("it left there, too", lambda: far.version("spin", 1)["stats"]["in_flight"] == 0, 10)


def test_places_that_are_no_inference_role(serve, fake):
    plain = serve(name="plain")
    near = serve(f"families:\n  a: {{place: \"weir://127.0.0.1:{plain.data[1]}\"}}\n"
                 f"  b: {{place: \"weir://127.0.0.1:{fake.port}\"}}\n", name="near")
    for model in "ab":
        done = near.weir("push", model, flow.MODELS / "add")
        assert done.status == 1 and "is no Weir in the inference role" in done.err, done


def test_a_token(serve, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    far = serve(f"admin_token_file: {token}\nrole: inference\n", name="far")
    near = serve(at(far, "intent", "weir"), name="near")
    done = near.weir("push", "intent", flow.EXAMPLES / "intent" / "1")
    assert done.status == 1 and "401" in done.err, done
    with_token = serve(at(far, "intent", "weir", token_file=token), name="with")
    with_token.push_example("intent", 1)
    assert with_token.infer("intent", [INTENT]).status == 200
