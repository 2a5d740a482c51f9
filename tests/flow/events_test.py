# SPDX-License-Identifier: Apache-2.0
"""Events as they happen: streams that see every line of history once, wherever they begin and whatever ends them; and
the webhook, with a small receiver of its own."""

import base64
import ctypes
import hashlib
import hmac
import http.server
import json
import socket
import threading
import time

import pytest

import flow

NAMES = {"registered": "model.registered", "pushed": "version.pushed", "rollout_started": "rollout.started",
         "share_set": "rollout.step", "promoted": "rollout.promoted", "rolled_back": "rollout.rolled_back"}


class Stream:
    """GET /admin/events: next() is the next event, None after a proper end; flow.Closed if it was cut off."""

    def __init__(self, server, query="", headers=(), receive=None):
        if receive:  # a client that takes little
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            self.sock.settimeout(30 * flow.SLOWER)
            self.sock.connect(server.admin)
            self.left = b""
        else:
            wire = flow.Wire(server.admin)
            self.sock, self.left = wire.sock, b""
        self.sock.sendall(flow.request("GET", "/admin/events" + query, headers=headers))
        head = self._until(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        self.text, self.last = b"", None

    def _more(self):
        try:
            got = self.sock.recv(1 << 16)
        except ConnectionResetError:
            got = b""
        if not got:
            raise flow.Closed(self.left)
        self.left += got

    def _until(self, mark):
        while mark not in self.left:
            self._more()
        at = self.left.index(mark) + len(mark)
        got, self.left = self.left[:at], self.left[at:]
        return got

    def _chunk(self):
        n = int(self._until(b"\r\n"), 16)
        while len(self.left) < n + 2:
            self._more()
        got, self.left = self.left[:n], self.left[n + 2:]
        return got

    def next(self):
        while True:
            while b"\n\n" not in self.text:
                got = self._chunk()
                if not got:
                    return None
                self.text += got
            block, self.text = self.text.split(b"\n\n", 1)
            fields = {}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(": ")
                assert name not in fields, block
                fields[name] = value
            if "id" in fields:
                self.last = int(fields["id"])
            if "data" in fields:
                row = json.loads(fields["data"])
                assert row["seq"] == self.last
                row["event"] = fields["event"]
                return row

    def take(self, n):
        return [self.next() for _ in range(n)]

    def rest(self):
        rows = []
        while (row := self.next()) is not None:
            rows.append(row)
        return rows

    def close(self):
        self.sock.close()


def history(server, model=None):
    """All lines, oldest first, as the streams must have told them."""
    if model:
        rows = server.get(f"/admin/models/{model}/history?limit=1000")["history"]
    else:
        names = [m["name"] for m in server.get("/admin/models")["models"]]
        rows = [row for name in names for row in history(server, name)]
    return sorted(rows, key=lambda row: row["seq"])


def same(events, rows):
    common = ("seq", "at", "model", "version", "kind", "actor", "text")
    assert [tuple(e[k] for k in common) for e in events] == [tuple(r[k] for k in common) for r in rows]
    for e in events:
        assert e["event"] == NAMES.get(e["kind"], e["event"]) and set(e) == {*common, "serving", "evidence", "event"}


def some_history(s):
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--canary", "5%")
    s.ok("promote", "intent")
    s.ok("rollback", "intent")


def test_as_they_happen(serve):
    s = serve()
    stream, other = Stream(s), Stream(s, "?model=other")
    assert stream.status == 200 and stream.headers["content-type"] == "text/event-stream"
    some_history(s)
    rows = history(s)
    same(stream.take(len(rows)), rows)
    kinds = [row["kind"] for row in rows]
    assert "pushed" in kinds and "promoted" in kinds and "rolled_back" in kinds
    s.push("other", flow.MODELS / "mlp")
    assert stream.next()["model"] == "other"
    assert other.next()["model"] == "other"  # and nothing before it
    s.stop()  # ends them, and is not held up by them
    assert stream.rest() == [] and other.rest() == []


def test_replay(serve):
    s = serve()
    some_history(s)
    s.push("other", flow.MODELS / "mlp")
    rows = history(s)
    for after in (0, rows[0]["seq"], rows[2]["seq"], rows[-1]["seq"]):
        want = [row for row in rows if row["seq"] > after]
        for query, headers in ((f"?after={after}", {}), ("", {"Last-Event-ID": after}),
                               ("?after=0", {"Last-Event-ID": after})):
            stream = Stream(s, query, headers)
            same(stream.take(len(want)), want)
            stream.close()
    stream = Stream(s, "?model=intent&after=0")
    intent = history(s, "intent")
    same(stream.take(len(intent)), intent)
    s.push("other", flow.MODELS / "add")
    s.ok("promote", "intent", "--version", "2")
    assert stream.next() == Stream(s, f"?after={rows[-1]['seq']}&model=intent").next()
    for bad in ("?after=x", "?model=../etc", "?since=3"):
        assert s.ask_admin("GET", "/admin/events" + bad).status == 400


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restart(serve, end):
    """Who was there before comes back with the id it had, and gets what it missed and what happens then."""
    s = serve()
    stream = Stream(s)
    s.push_example("intent", 1)
    first = stream.next()
    s.push_example("intent", 2)
    missed = [row for row in history(s) if row["seq"] > first["seq"]]
    assert missed
    getattr(s, end)()
    s.start()
    now, late = Stream(s, "", {"Last-Event-ID": first["seq"]}), Stream(s)
    s.push("other", flow.MODELS / "mlp")
    rows = history(s)
    want = [row for row in rows if row["seq"] > first["seq"]]
    same(now.take(len(want)), want)
    want = [row for row in rows if row["seq"] > missed[-1]["seq"]]
    same(late.take(len(want)), want)


def test_many_come_and_go(serve):
    """Streams that begin anywhere while things happen: every one has every line after its place once."""
    s = serve()
    s.push_example("intent", 1)
    got, wrong = {}, []

    def follow(number):
        try:
            place, rows = 0, []
            while len(rows) < 60:  # comes back after each few
                stream = Stream(s, "", {"Last-Event-ID": place})
                rows += stream.take(min(1 + number, 60 - len(rows)))
                place = rows[-1]["seq"]
                stream.close()
            got[number] = rows
        except Exception as e:  # noqa: BLE001
            wrong.append(e)

    threads = [threading.Thread(target=follow, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    with flow.Wire(s.admin) as w:
        for i in range(70):
            assert w.ask("POST", "/admin/models", {"name": f"m{i}"}).status == 201
    for t in threads:
        t.join(60 * flow.SLOWER)
    assert not wrong, wrong
    rows = history(s)[:60]
    for number in range(8):
        same(got[number], rows)


def test_slow_reader(serve, tmp_path):
    """Cut off, without harm to anybody; it misses nothing when it comes back."""
    s = serve(f"admin: unix:{tmp_path}/admin\n")
    slow, quick = Stream(s, receive=4096), Stream(s)
    long = "x" * 100
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(quick.rest()))
    reader.start()
    wires = [flow.Wire(s.admin) for _ in range(4)]
    for i in range(0, 8000, 40):
        for k, w in enumerate(wires):
            w.send(b"".join(flow.request("POST", "/admin/models", {"name": f"{long}{i + k * 10 + n}"})
                            for n in range(10)))
        for w in wires:
            for _ in range(10):
                assert w.read().status == 201
        if "too slow" in s.log():
            break
    assert "too slow" in s.log()
    rows = []
    with pytest.raises(flow.Closed):
        while True:
            rows.append(slow.next())
    again = Stream(s, "", {"Last-Event-ID": slow.last or 0})
    newest = max(row["seq"] for row in history(s))
    while not rows or rows[-1]["seq"] < newest:
        rows.append(again.next())
    s.stop()
    reader.join(30)
    assert [row["seq"] for row in rows] == [row["seq"] for row in seen]
    assert rows == seen and len({row["seq"] for row in rows}) == len(rows)


def test_access(serve, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    s = serve(f"admin_token_file: {tmp_path}/token\n")
    assert s.ask_admin("GET", "/admin/events").status == 401
    assert Stream(s, headers={"Authorization": "Bearer 0123456789abcdef"}).status == 200
    s = serve()
    assert s.ask_admin("GET", "/admin/events", headers={"Origin": "http://evil.example"}).status == 403
    with flow.Wire(s.admin) as w:
        assert w.ask("HEAD", "/admin/events").status == 200
        assert w.ask("GET", "/admin/events/deliveries").json()["webhook"] is None


# ---- the webhook ----------------------------------------------------------------------------------------------------


def needs_curl():
    for name in ("libcurl.so.4", "libcurl-gnutls.so.4"):
        try:
            ctypes.CDLL(name)
            return
        except OSError:
            continue
    pytest.skip("no libcurl on this machine")


class Receiver:
    """Answers with the statuses in .answers, then 204; keeps (path, headers, body, status) in .got."""

    def __init__(self):
        outer = self
        self.answers, self.got = [], []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if outer.answers else 204
                outer.got.append((self.path, dict(self.headers.items()), body, status))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://localhost:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?key=hidden"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self):
        return [json.loads(body) for _, _, body, status in list(self.got) if status == 204]


@pytest.fixture
def receiver():
    needs_curl()
    r = Receiver()
    yield r
    r.server.shutdown()
    r.server.server_close()


def signature(secret, headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def delivered(s, receiver, n):
    flow.until(f"{n} deliveries", lambda: len(receiver.events()) >= n, 60)
    return s.get("/admin/events/deliveries")


def test_webhook(serve, receiver, tmp_path):
    """Signed, in order, again after a 500 and not elsewhere after a redirect."""
    key = bytes(range(32))
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(key).decode() + "\n")
    receiver.answers = [200 + 4, 500]  # the second event is not taken at first
    s = serve(f"events: {{webhook: \"{receiver.url}\", secret_file: {tmp_path}/secret}}\n")
    some_history(s)
    rows = history(s)
    log = delivered(s, receiver, len(rows))
    for path, headers, body, _ in receiver.got:
        headers = {k.lower(): v for k, v in headers.items()}
        assert path == "/hook?key=hidden"
        assert headers["content-type"].startswith("application/cloudevents+json")
        assert headers["webhook-signature"] == signature(key, headers, body)
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
        assert headers["webhook-id"] == json.loads(body)["id"]
    events = receiver.events()
    assert [e["data"]["seq"] for e in events] == [row["seq"] for row in rows]
    for e, row in zip(events, rows):
        assert e["specversion"] == "1.0" and e["source"] == s.admin_url and e["subject"] == row["model"]
        assert e["type"] == "weir." + NAMES.get(row["kind"], e["type"][5:]) and e["time"] == row["at"]
        assert e["datacontenttype"] == "application/json" and e["data"]["text"] == row["text"]
    assert receiver.got[1][3] == 500 and receiver.got[2][2] == receiver.got[1][2]
    assert log["signed"] and log["dropped"] == log["given_up"] == 0
    assert "hidden" not in json.dumps(log) and log["webhook"].startswith("http://127.0.0.1:")
    statuses = [row["status"] for row in reversed(log["deliveries"])]
    assert statuses[:3] == [204, 500, 204] and set(statuses[2:]) == {204}
    assert [row["attempt"] for row in reversed(log["deliveries"])][:3] == [1, 1, 2]
    s.stop()
    s.start()  # and nothing old comes again
    receiver.answers = [302]
    s.ok("promote", "intent", "--version", "2")
    delivered(s, receiver, len(rows) + 1)
    assert receiver.events()[-1]["data"]["kind"] == "promoted"
    assert len(receiver.got) == len(rows) + 1 + 2 and not [g for g in receiver.got if "elsewhere" in g[0]]


def test_webhook_that_is_not_there(serve, receiver):
    """Nobody waits for it, and the end of the server is not held up."""
    receiver.server.shutdown()
    receiver.server.server_close()
    s = serve(f"events: {{webhook: \"{receiver.url}\"}}\n")
    s.push_example("intent", 1)
    log = flow.until("an attempt", lambda: (d := s.get("/admin/events/deliveries"))["deliveries"] and d)
    assert log["deliveries"][0]["status"] is None and log["deliveries"][0]["error"]
    assert log["waiting"] >= 1 and not log["signed"]
    s.stop()
    assert "the webhook was not told everything" in s.log()


@pytest.mark.parametrize("conf,words", [("webhook: ftp://x", "http:// or https://"), ("secret_file: x", "webhook"),
                                        ("webhook: http://x, secret_file: /nowhere", "can not be read"),
                                        ("webhok: http://x", "webhok")])
def test_wrong_settings(tmp_path, conf, words):
    (tmp_path / "weir.yaml").write_text(f"events: {{{conf}}}\n")
    done = flow.weir("serve", "-c", tmp_path / "weir.yaml", "--data", tmp_path / "data", "--listen", "127.0.0.1:0",
                     "--admin", "127.0.0.1:0")
    assert done.status == 1 and words in done.err, done
