# SPDX-License-Identifier: Apache-2.0
"""Hostile input on both ports: a table of broken requests and thousands of mutations of good ones. Each gets an answer
or the end of its connection; the server answers on, and its memory, descriptors and processes are as before."""

import json
import random
import socket
import struct
import time

import pytest

import flow
from flow import tensor

GOOD = {"inputs": [tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), tensor("b", "FP32", [1, 4], [1, 2, 3, 4])]}
GROWTH = (8 if not flow.SANITIZED else 64) << 20
PATH = b"/v2/models/add/infer"


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("threads: 2\nbody_max: 4MiB\n")
    s.push("add", flow.MODELS / "add")
    s.push("identity_bytes", flow.MODELS / "identity_bytes")
    s.push("gather", flow.MODELS / "gather")
    return s


class Watched:
    """Memory, descriptors and processes before and after."""

    def __init__(self, server):
        self.server = server
        for _ in range(200):  # pools and caches are filled
            assert server.ask("POST", PATH.decode(), GOOD).status == 200
        self.before = self.look()
        for _ in range(30):  # the last connections are on their way out
            time.sleep(0.01)
            self.before = min(self.before, self.look())
        self.rss = flow.rss(server.pid)

    def look(self):
        return len(flow.descriptors(self.server.pid)), sorted(self.server.session())

    def check(self):
        end = time.monotonic() + 15
        while self.look() != self.before and time.monotonic() < end:
            time.sleep(0.02)
        assert self.look() == self.before, "descriptors and processes"
        assert self.server.ask("POST", PATH.decode(), GOOD).status == 200
        assert self.server.ask_admin("GET", "/admin/models").status == 200
        grown = flow.rss(self.server.pid) - self.rss
        assert grown < GROWTH, f"{grown >> 10} KiB more"


def outcome(address, data, shut=True, limit_s=10):
    """Sends, then reads to the end: the statuses that came. Anything but replies, or silence, fails."""
    with socket.create_connection(address, timeout=limit_s * flow.SLOWER) as sock:
        got = b""
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            while piece := sock.recv(1 << 16):
                got += piece
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise AssertionError(f"neither an answer nor an end: {data[:300]!r} -> {got[:300]!r}") from None
    return statuses(got, data)


def statuses(got, data):
    found = []
    while got:
        head, mark, rest = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), (data[:300], got[:300])
        status = int(head[9:12])
        assert 100 <= status < 600
        found.append(status)
        if not mark:
            break
        length = 0
        for row in head.split(b"\r\n")[1:]:
            name, _, value = row.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if status >= 400 and rest[:length][:1] == b"{" and len(rest) >= length:
            assert json.loads(rest[:length])["error"]
        got = rest if data.startswith(b"HEAD") else rest[length:]
    return found


# ---- the table: bytes, and the statuses that may come first (None: the end without a word) ---------------------------

BODY = json.dumps(GOOD).encode()


def post(body, *rows, length=None, path=PATH):
    n = len(body) if length is None else length
    return b"POST %s HTTP/1.1\r\nHost: l\r\nContent-Length: %s\r\n%s\r\n%s" % (
        path, str(n).encode(), b"".join(r + b"\r\n" for r in rows), body)


def head(*rows, line=b"POST " + PATH + b" HTTP/1.1", host=True):
    return line + b"\r\n" + (b"Host: l\r\n" if host else b"") + b"".join(r + b"\r\n" for r in rows) + b"\r\n"


LINES = (
    b"", b"\x00", b"GET", b"GET /v2", b"GET  /v2 HTTP/1.1", b"GET /v2 HTTP/1.1 x", b"GET /v2 HTTP/2.0",
    b"GET /v2 HTTP/0.9", b"GET /v2 HTTX/1.1", b"GET v2 HTTP/1.1", b"GET /v2\x00 HTTP/1.1", b"GET /v 2 HTTP/1.1",
    b"GET ftp://x/v2 HTTP/1.1", b"G\xc3\xa9T /v2 HTTP/1.1", b"get /v2 HTTP/1.1", b"/v2 GET HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0", b"SSH-2.0-OpenSSH_9.0",
    b"GET /v2 HTTP/1.1\rX: y", b"A" * 20, b"GET /\x7f HTTP/1.1", b"CONNECT l:1 HTTP/1.1", b"GET /v2 HTTP/11",
    b"GET /v2 HTTP/1.")
HEADS = {
    "two lengths": [b"Content-Length: 5", b"Content-Length: 6"],
    "same length twice": [b"Content-Length: 5", b"Content-Length: 5"],
    "list of lengths": [b"Content-Length: 5, 5"],
    "both": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "both, other order": [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    "plus": [b"Content-Length: +5"],
    "minus": [b"Content-Length: -5"],
    "hex length": [b"Content-Length: 0x5"],
    "float length": [b"Content-Length: 5.0"],
    "empty length": [b"Content-Length:"],
    "huge length": [b"Content-Length: 99999999999999999999999"],
    "2^64": [b"Content-Length: 18446744073709551616"],
    "length in words": [b"Content-Length: five"],
    "length and space": [b"Content-Length: 5 5"],
    "xchunked": [b"Transfer-Encoding: xchunked"],
    "chunked twice": [b"Transfer-Encoding: chunked, chunked"],
    "chunked not last": [b"Transfer-Encoding: chunked, gzip"],
    "two codings": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
    "identity": [b"Transfer-Encoding: identity"],
    "tab chunked": [b"Transfer-Encoding:\x0bchunked"],
    "quoted chunked": [b'Transfer-Encoding: "chunked"'],
    "space before colon": [b"Content-Length : 5"],
    "tab before colon": [b"Transfer-Encoding\t: chunked"],
    "obs-fold": [b"X: a", b" b"],
    "folded length": [b"Content-Length:", b" 5"],
    "NUL in value": [b"X: a\x00b"],
    "NUL in name": [b"X\x00: a"],
    "CR in value": [b"X: a\rb"],
    "no colon": [b"Xyz"],
    "no name": [b": a"],
    "space in name": [b"X Y: a"],
    "latin name": [b"X\xe9: a"],
    "control in value": [b"X: a\x01b"],
    "leading space": [b" X: a"],
}
CHUNKS = (
    b"g\r\n", b"-1\r\n", b"5\r\nab", b"5\r\nabcdefg\r\n0\r\n\r\n", b"ffffffffffffffff\r\nx", b"10000000000000000\r\nx",
    b"5;\x00\r\nabcde\r\n0\r\n\r\n", b"5 \r\nabcde\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n", b"5\nabcde\n0\n\n",
    b"\r\n", b"5\r\nabcde0\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX: \x00\r\n\r\n", b"1;" + b"x" * 70000 + b"\r\n")
PATHS = (
    b"/v2/models/../../etc/passwd", b"/v2/models/%2e%2e%2fetc/infer", b"/v2/models/%00/infer", b"/v2/models//infer",
    b"/v2//models/add", b"/v2/models/add/infer/", b"/%", b"/%zz", b"/v2/models/%ff%fe/infer",
    b"/v2/models/" + b"a" * 300 + b"/infer", b"//", b"/?", b"/v2/models/add/versions/99999999999999999999/infer",
    b"/v2/models/add/versions/-1/infer", b"/v2/models/add%20/infer", b"/v2/models/add/versions/1e3/infer",
    b"/v2/models/add/versions/0x1/infer", b"/v2;x/models")


def http_cases():
    end = {400, None}
    behind = b"GET /v2 HTTP/1.1\r\nHost: l\r\n\r\n"  # must not be taken for a request
    for i, line in enumerate(LINES):
        yield f"line {i}", head(line=line), {400, 404, 405, 501, 505, None}
    yield "no host", head(line=b"GET /v2 HTTP/1.1", host=False), {400}
    yield "two hosts", head(b"Host: m", line=b"GET /v2 HTTP/1.1"), {400}
    for name, rows in HEADS.items():
        yield name, head(*rows) + behind, {400, 501} if "identity" in name or "codings" in name else {400}
    for i, body in enumerate(CHUNKS):
        yield f"chunk {i}", head(b"Transfer-Encoding: chunked") + body, {400, 413, 431, None}
    yield "bare LF", b"GET /v2 HTTP/1.1\nHost: l\n\n", end
    yield "long header", head(b"X: " + b"a" * 40000), {431}
    yield "many headers", head(*[b"X%d: a" % i for i in range(200)]), {431}
    yield "long line", head(line=b"GET /" + b"a" * 40000 + b" HTTP/1.1"), {414, 431}
    yield "long name", head(b"a" * 40000 + b": a"), {431}
    yield "cut head", head(b"X: a")[:-7], end
    for i in (0, 1, len(BODY) // 2, len(BODY) - 1):
        yield f"cut body {i}", post(BODY[:i], length=len(BODY)), end
    yield "too long body", post(b"", length=1 << 40), {413}
    yield "a bit too long", post(b" " * (4 << 20) + b"x"), {413}
    yield "body of GET", b"GET /v2 HTTP/1.1\r\nHost: l\r\nContent-Length: 3\r\n\r\nabc", {200, 400}
    yield "garbage behind", post(BODY) + b"\x00\x01garbage\r\n\r\n", {200}
    yield "upgrade", head(b"Upgrade: h2c", b"Connection: Upgrade", line=b"GET /v2 HTTP/1.1"), {200}
    yield "expect", head(b"Expect: nonsense", b"Content-Length: 5"), {417}
    yield "gzip", post(BODY, b"Content-Encoding: gzip"), {501}
    for i, path in enumerate(PATHS):
        yield f"path {i}", post(BODY, path=path), {400, 404, 405}


TEXTS = (
    b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"{", b"}", b"[", b"nan", b"\xef\xbb\xbf{}", b"\xff\xfe{}",
    b"{}{}", b"{},", b"{'a':1}", b'{"a":1,}', b'{"a" 1}', b'{"inputs":null}', b'{"inputs":[]}', b'{"inputs":[null]}',
    b'{"inputs":[1]}', b'{"inputs":[[]]}', b'{"inputs":[{}]}', b'{"inputs":"x"}',
    b'{"inputs":[' + b"{}," * 1000 + b"{}]}", b'{"inputs":[],"inputs":[]}', b'{"id":5,"inputs":[]}',
    b'{"id":"\xff","inputs":[]}', b'{"id":"' + b"x" * 100000 + b'"}', b'{"\\ud800":1}', b'{"a":"\\u00"}',
    b'{"a":"\x01"}', b'{"a":"\\x"}', b"\x00" * 100, b"/*x*/{}", b"{}" + b" " * 1000000)
MEMBERS = {  # of an input: what may stand in the place of each
    "name": (None, 5, [], {}, "", "A", "a\x00", "x" * 100000, "\ud83d\ude00"),
    "datatype": (None, 5, "", "fp32", "FP33", "FP", "x" * 10000),
    "shape": (None, 5, "1", {}, [], [1], [4], [1, 5], [4, 1], [0, 4], [-1, 4], [1.5, 4], ["1", 4], [None, 4], [True, 4],
              [[1], 4], [1 << 31, 4], [1 << 32, 1 << 32], [1 << 62, 4], [(1 << 64) - 1, 4], [1 << 70, 4], [1] * 40,
              [1] * 5000, [-1 << 63, 4]),
    "data": (None, 5, "x", {}, [], [1], [1] * 3, [1] * 5, [1] * 100000, [[1, 2, 3, 4], [1]], [[1, 2], [3, 4]],
             [[[[1, 2, 3, 4]]]], [1, 2, 3, None], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, {}], [1, 2, 3, [4]],
             [1e39, 0, 0, 0], [-1e39, 0, 0, 0]),
    "parameters": (None, 5, [], {"binary_data_size": 5}, {"binary_data_size": -1}, {"binary_data_size": "x"},
                   {"binary_data_size": 1 << 63}, {"shared_memory_region": "x"}, {"classification": -1},
                   {"binary_data_size": 1.5}),
}
NUMBERS = (
    b"1e400", b"-1e400", b"1" * 5000, b"0." + b"0" * 5000 + b"1", b"1e99999999999", b"NaN", b"Infinity", b"-", b"01",
    b"1.", b".5", b"+1", b"0x1", b"1e", b"1_0", b"--1")
WHOLES = {  # the same for members of the request
    "outputs": (5, {}, [5], [{}], [{"name": 5}], [{"name": "x"}], [{"name": "c"}] * 2, [{"name": "c"}] * 3000,
                [{"name": "c", "parameters": 5}], [{"name": "c", "parameters": {"classification": 0}}],
                [{"name": "c", "parameters": {"classification": 1 << 40}}],
                [{"name": "c", "parameters": {"classification": "x"}}],
                [{"name": "c", "parameters": {"binary_data": 5}}]),
    "parameters": (5, [], {"timeout": -1}, {"timeout": "x"}, {"timeout": 1 << 63}, {"timeout": 1.5}, {"sequence_id": 5},
                   {"binary_data_output": 5}, {"priority": -1}),
}


def json_cases():
    a, b = GOOD["inputs"]
    yield "deep array", b"[" * 100000 + b"]" * 100000
    yield "deep object", b'{"a":' * 50000 + b"1" + b"}" * 50000
    yield "deep data", BODY.replace(b"[1, 2, 3, 4]", b"[" * 3000 + b"1" + b"]" * 3000, 1)
    yield "deep parameters", b'{"parameters":' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b',"inputs":[]}'
    for i, text in enumerate(TEXTS):
        yield f"text {i}", text
    for key, values in MEMBERS.items():
        for i, value in enumerate(values):
            yield f"{key} {i}", json.dumps({"inputs": [dict(a, **{key: value}), b]}).encode()
    for i, text in enumerate(NUMBERS):
        yield f"number {i}", BODY.replace(b"[1, 2, 3, 4]", b"[1, 2, 3, " + text + b"]", 1)
    for key, values in WHOLES.items():
        for i, value in enumerate(values):
            yield f"{key} of it {i}", json.dumps(dict(GOOD, **{key: value})).encode()


def binary_post(sizes, tail, header=None):
    inputs = [{"name": "x", "datatype": "BYTES", "shape": [1, 3], "parameters": {"binary_data_size": n}} for n in sizes]
    text = json.dumps({"inputs": inputs}).encode()
    rows = b"Inference-Header-Content-Length: %d" % (len(text) if header is None else header)
    return post(text + tail, rows, path=b"/v2/models/identity_bytes/infer")


def binary_cases():
    good = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 1) + b"c" + struct.pack("<I", 5) + b"defgh"
    for i, tail in enumerate((b"", b"\0", b"\xff\xff\xff\xff", good[:-1], good + b"x", b"\xff\xff\xff\x7f" + good,
                              struct.pack("<I", 11) + good[4:], bytes(12) + b"x", bytes(11))):
        yield f"tail {i}", binary_post([len(tail)], tail)
    yield "sum over 64 bits", binary_post([1 << 63, 1 << 63], good)
    yield "claims more", binary_post([len(good) + 1], good)
    yield "claims less", binary_post([len(good) - 1], good)
    yield "border in the JSON", binary_post([len(good)], good, header=20)
    yield "border at the end", binary_post([len(good)], good, header=20000)
    yield "border beyond all", binary_post([len(good)], good, header=1 << 62)
    for i in range(24):  # one bit wrong, all the way through
        broken = bytearray(good)
        broken[i % len(broken)] ^= 0x80 if i < len(broken) else 1
        yield f"bit {i}", binary_post([len(broken)], bytes(broken))
    yield "header not a number", post(BODY, b"Inference-Header-Content-Length: abc")
    yield "header twice", post(BODY, b"Inference-Header-Content-Length: 5", b"Inference-Header-Content-Length: 6")
    yield "chunked", head(b"Transfer-Encoding: chunked", b"Inference-Header-Content-Length: 5") + (
        b"5\r\nabcde\r\n0\r\n\r\n")
    raw = b"Inference-Header-Content-Length: 0"
    yield "raw to two inputs", post(b"abc", raw)
    yield "raw odd", post(b"abc", raw, path=b"/v2/models/gather/infer")
    yield "raw far index", post(struct.pack("<q", 1 << 62), raw, path=b"/v2/models/gather/infer")


CASES = [(name, data, want) for name, data, want in http_cases()]
CASES += [(f"JSON {name}", post(text), None) for name, text in json_cases()]
CASES += [(f"binary {name}", data, None) for name, data in binary_cases()]


def test_table(server):
    assert len(CASES) >= 300
    watched = Watched(server)
    for name, data, want in CASES:
        got = outcome(server.data, data)
        first = got[0] if got else None
        if want is not None:
            assert first in want, (name, got, data[:200])
        else:
            assert first is not None, (name, data[:200])
            assert first == 200 or 400 <= first < 600, (name, got)
            assert first != 500 or "far index" in name, (name, got, data[:300])
        if name in HEADS:
            assert len(got) == 1, (name, got, "what stood behind was taken for a request")
    watched.check()


def test_table_on_the_admin_port(server):
    watched = Watched(server)
    for name, data, want in http_cases():
        data = data.replace(b"Host: l\r\n", b"Host: localhost\r\n")
        outcome(server.admin, data.replace(PATH, b"/admin/models"))
    for name, text in json_cases():
        for path in (b"/admin/models", b"/admin/models/add/rollout", b"/admin/models/add/rollback"):
            data = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (path, len(text), text)
            got = outcome(server.admin, data)
            assert got and got[0] in (400, 404, 409, 413, 501), (name, path, got)
    watched.check()
    assert [m["name"] for m in server.get("/admin/models")["models"]] == ["add", "identity_bytes", "gather"]


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at:at + rng.randrange(1, 20)] = b""
        elif kind == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif kind == 4:
            piece = data[at:at + rng.randrange(1, 60)]
            data[at:at] = piece
        elif kind == 5:
            data[at:at] = rng.choice((b"\r\n", b"\r\n\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
                                      b"99999999999", b"-", b"[[", b'"', b"\\u0000", b"null", b"1e999"))
        else:
            del data[at:]
            if not data:
                data += b"x"
    return bytes(data)


@pytest.mark.parametrize("port", ["data", "admin"])
def test_mutations(server, port):
    """Two thousand mutations each, always the same ones, from several requests."""
    manifest = b'{"files":[{"path":"model.onnx","size":3,"sha256":"' + b"a" * 64 + b'"}]}'
    seeds = {
        "data": [
            post(BODY), post(BODY, b"X-Weir-User: u", b"X-Request-Id: i"), flow.request("GET", "/v2/models/add"),
            binary_post([21], (struct.pack("<I", 3) + b"abc") * 3),
            head(b"Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
            post(b'{"id":"i","label":"x"}', path=b"/v2/models/add/feedback"), post(BODY) + post(BODY)],
        "admin": [
            flow.request("GET", "/admin/models/add/history?limit=5&before=100"), flow.request("GET", "/metrics"),
            flow.request("POST", "/admin/models/add/rollout", {"action": "set", "share": "5%"}),
            flow.request("POST", "/admin/models/zz/versions?canary=5%25", bytes(100)),
            flow.request("POST", "/admin/models/zz/versions", manifest + b"abc",
                         {"X-Weir-Manifest-Length": len(manifest)})]}[port]
    rng = random.Random(20)
    watched = Watched(server)
    for i in range(2000):
        data = mutated(rng, seeds[i % len(seeds)])
        try:
            outcome(getattr(server, port), data)
        except (AssertionError, ValueError) as e:
            raise AssertionError(f"mutation {i}: {data!r}: {e}") from e
    watched.check()


def test_slow_clients(serve):
    """A head that never ends and readers that do not read: closed in time, others served meanwhile."""
    s = serve()
    s.push("add", flow.MODELS / "add")
    watched = Watched(s)
    slow = [s.wire() for _ in range(50)]
    for i, w in enumerate(slow):
        w.send((b"GET /v2 HTTP/1.1\r\nHost: l\r\nX: " if i % 2 else b"G"))
    begin = time.monotonic()
    while time.monotonic() - begin < 8:  # drips do not extend it
        for w in slow[:10]:
            try:
                w.send(b"a")
            except OSError:
                pass
        assert s.ask("POST", PATH.decode(), GOOD).status == 200
        time.sleep(0.5)
    for w in slow:
        try:
            assert w.read().status == 408
        except flow.Closed as e:
            assert e.got == b""
        w.close()
    assert time.monotonic() - begin < 15 * flow.SLOWER
    watched.check()


def test_readers_that_do_not_read(server):
    """Replies pile up for a client that only sends: bounded, and nobody else waits."""
    watched = Watched(server)
    w = server.wire(timeout_s=2)
    data = flow.request("GET", "/v2/models/add") * 2000
    try:
        for _ in range(100):
            w.send(data)
    except TimeoutError:
        pass
    assert server.ask("POST", PATH.decode(), GOOD).status == 200
    w.close()
    watched.check()


def test_connections_that_come_and_go(server):
    watched = Watched(server)
    for i in range(1500):
        w = server.wire()
        if i % 3 == 0:
            w.send(b"POST /v2/models/add/infer HTTP/1.1\r\n")
        elif i % 3 == 1:
            w.send(post(BODY))
            w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        w.close()
    watched.check()
    assert flow.until("nothing in flight", lambda: server.model("add")["versions"][0]["stats"]["in_flight"] == 0)
