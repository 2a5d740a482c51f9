# SPDX-License-Identifier: Apache-2.0
"""Captured requests replayed against a version that no user has seen: the numbers are those of a computation here, over
the same answers; what can not be replayed is counted; a busy server is waited for."""

import collections
import http.server
import json
import math
import threading
import urllib.parse

import pytest

import flow

RTOL, ATOL = 1e-3, 1e-5


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("families:\n  default: {place: worker}\n")
    for model in ("intent", "recommend"):
        s.push_example(model, 1)
        s.push_example(model, 2)
    return s


def answer(wire, model, version, body):
    reply = wire.ask("POST", f"/v2/models/{model}/versions/{version}/infer", body)
    assert reply.status == 200, reply
    return reply.json()["outputs"]


def by_name(outputs):
    return {o["name"]: o["data"] for o in outputs}


def capture(s, model, n, predicted):
    """Lines as the server exports them, of requests that version 1 has answered; and the samples."""
    lines, rows = [], flow.Samples(model).rows[:n]
    with s.wire() as wire:
        for i, (body, label) in enumerate(rows):
            outputs = answer(wire, model, 1, body)
            lines.append({"kind": "request", "id": f"r{i}", "at_ms": 1760000000000 + i, "version": 1, "arm": "stable",
                          "user": f"u{i}", "latency_us": 1000 + i, "request": json.loads(body),
                          "response": {"outputs": outputs}, "predicted": predicted(by_name(outputs))})
            lines.append({"kind": "feedback", "id": f"r{i}", "at_ms": 1760000000500 + i, "label": label})
    return lines, rows


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def label_of(outputs):
    return outputs["label"][0]


def best(scores):
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def ln_e_half(x, n):
    """ln of the one-sided mixture e-value of x of n at 1/2, kappa 10, by summing the beta tail (integer a and b)."""
    def ln_beta(a, b):
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def upper(a, b):  # 1 - I_{1/2}(a, b)
        m = a + b - 1
        return sum(math.comb(m, k) for k in range(a)) / 2 ** m

    a, b, y = 5, 5, n - x
    return (ln_beta(a + x, b + y) - ln_beta(a, b) + n * math.log(2) + math.log(upper(a + x, b + y))
            - math.log(upper(a, b)))


def check_labels(labels, rows, old, new):
    right = collections.Counter((o == label, w == label) for (_, label), o, w in zip(rows, old, new))
    assert labels["both_right"] == right[True, True] and labels["both_wrong"] == right[False, False]
    assert labels["stable_right"] == right[True, False] and labels["candidate_right"] == right[False, True]
    assert labels["stable_accuracy"] == pytest.approx(sum(o == r[1] for o, r in zip(old, rows)) / len(rows))
    worse, better = right[True, False], right[False, True]
    assert labels["ln_e"] == pytest.approx(ln_e_half(max(worse, better), worse + better), abs=1e-6)


def test_the_numbers_are_those_of_both_versions(server, tmp_path):
    lines, rows = capture(server, "intent", 300, label_of)
    lines.insert(10, {"kind": "request", "id": "x1", "redacted": True})
    lines.insert(20, {"kind": "feedback", "id": "nobody", "label": "x"})
    lines.insert(30, {**lines[0], "id": "x2", "arm": "direct", "version": 2})
    path = write(tmp_path / "f", lines)
    with open(path, "ab") as f:
        f.write(b'{"kind":"request","id":"\xff"}\n')
    done = server.ok("backtest", "intent@2", "--file", path, "--json").json()
    assert done["records"] == done["replayed"] == 300 and done["errors"] == 0 and done["problem"] is None
    assert done["skipped"] == {"redacted": 1, "binary": 0, "direct": 1, "unreadable": 1, "without_answer": 0}
    assert done["unjoined"] == 1 and done["recorded"] == [{"version": 1, "requests": 300}]

    with server.wire() as wire:
        new = [by_name(answer(wire, "intent", 2, body)) for body, _ in rows]
    old = [by_name(line["response"]["outputs"]) for line in lines if line.get("arm") == "stable"]
    cells = collections.Counter((label_of(o), label_of(w)) for o, w in zip(old, new))
    agree = sum(n for (x, y), n in cells.items() if x == y)
    diff = done["diff"]
    assert diff["pairs"] == 300 and diff["agree"] == agree < 300
    assert {(c["stable"], c["candidate"]): c["count"] for c in diff["classes"]} == cells
    worst, relative, equal = [], [], 0
    for o, w in zip(old, new):
        pairs = list(zip(o["probabilities"], w["probabilities"]))
        worst.append(max(abs(y - x) for y, x in pairs))
        relative.append(max(abs(y - x) / max(abs(y), abs(x)) for y, x in pairs))
        equal += all(abs(y - x) <= ATOL + RTOL * abs(y) for y, x in pairs)
    numeric = diff["kinds"]["numeric"]
    assert numeric["n"] == 300 and numeric["equal"] == equal
    assert numeric["absolute"]["mean"] == pytest.approx(sum(worst) / 300)
    assert numeric["absolute"]["most"] == pytest.approx(max(worst))
    assert numeric["relative"]["mean"] == pytest.approx(sum(relative) / 300)
    check_labels(diff["labels"], rows, [label_of(o) for o in old], [label_of(w) for w in new])
    assert diff["labels"]["verdict"] == "worse"
    differ = {f"r{i}" for i, (o, w) in enumerate(zip(old, new)) if label_of(o) != label_of(w)}
    assert {x["id"] for x in diff["largest"] if x["kind"] == "class"} <= differ
    assert done["latency_ms"]["stable"]["p50"] == pytest.approx(1.15, rel=0.03)
    assert done["latency_ms"]["candidate"]["n"] == 300 and done["latency_ms"]["candidate"]["p50"] > 0

    text = server.ok("backtest", "intent@2", "--file", path).out
    assert f"300 pairs, {agree / 3:.2f} % agree" in text and "version 2 is worse" in text, text
    assert "left out      1 redacted, 1 that asked for a version by its number, 1 that can not be read" in text, text

    # Against what version 1 says now, which is what it said then.
    live = server.ok("backtest", "intent@2", "--against", "1", "--file", path, "--json").json()
    assert live["against"] == 1 and live["diff"]["agree"] == agree
    assert live["diff"]["labels"] == diff["labels"]
    same = server.ok("backtest", "intent@1", "--file", path, "--limit", "50", "--json").json()
    assert same["diff"]["pairs"] == 50 and same["diff"]["agreement"] == 1 and same["diff"]["largest"] == []


def test_scores_name_their_classes(server, tmp_path):
    lines, rows = capture(server, "recommend", 120, lambda o: str(best(o["scores"])[0]))
    done = server.ok("backtest", "recommend@2", "--file", write(tmp_path / "f", lines), "--json").json()
    with server.wire() as wire:
        new = [best(by_name(answer(wire, "recommend", 2, body))["scores"]) for body, _ in rows]
    old = [best(by_name(line["response"]["outputs"])["scores"]) for line in lines if line["kind"] == "request"]
    part = done["diff"]["kinds"]["class"]
    assert done["diff"]["agree"] == part["equal"] == sum(o[0] == w[0] for o, w in zip(old, new))
    assert part["top"]["mean"] == pytest.approx(sum(len(set(o[:5]) & set(w[:5])) for o, w in zip(old, new)) / 600)
    check_labels(done["diff"]["labels"], rows, [str(o[0]) for o in old], [str(w[0]) for w in new])


def test_what_the_version_can_not_answer_is_an_error(server, tmp_path):
    lines, _ = capture(server, "intent", 3, label_of)
    lines[0]["request"]["inputs"][0]["name"] = "other"
    del lines[2]["response"]
    done = server.ok("backtest", "intent@2", "--file", write(tmp_path / "f", lines), "--json").json()
    assert done["errors"] == 1 and done["replayed"] == 1 and done["skipped"]["without_answer"] == 1
    assert "other" in done["problem"]


@pytest.mark.parametrize("words,status,said", [
    (["intent"], 2, "NAME@VERSION"),
    (["intent@0"], 2, "NAME@VERSION"),
    (["intent@2", "--against", "2"], 2, "against itself"),
    (["intent@2", "--against", "now"], 2, "'recorded' or a version's number"),
    (["intent@2", "--file", "f", "--since", "1h"], 2, "goes without --file"),
    (["intent@9", "--file", "nothing"], 1, "has no version 9"),
    (["intent@2", "--file", "/nowhere/f"], 1, "--file /nowhere/f"),
])
def test_called_wrong(server, words, status, said):
    done = server.weir("backtest", *words)
    assert done.status == status and said in done.err, done


def test_nothing_to_replay(server, tmp_path):
    done = server.weir("backtest", "intent@2", "--file", write(tmp_path / "f", [{"kind": "request", "redacted": True}]))
    assert done.status == 1 and "1 of the lines are redacted" in done.err


class Admin(http.server.BaseHTTPRequestHandler):
    """An admin plane with a capture, in front of the real one; and a data plane that is busy at first."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        own = self.server
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/admin/models/intent/capture/records":
            query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
            own.queries.append(query)
            lines = [line for line in own.lines if line["kind"] == query["kind"]]
            self.send(200, "".join(json.dumps(line) + "\n" for line in lines).encode())
        elif url.path == "/admin/server":
            real = own.real.get("/admin/server")
            real["data"] = f"http://127.0.0.1:{own.server_port}"
            self.send(200, json.dumps(real).encode())
        else:
            reply = own.real.ask_admin("GET", self.path)
            self.send(reply.status, reply.body)

    def do_POST(self):
        own = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        own.priorities.add(self.headers.get("X-Weir-Priority"))
        with own.lock:
            own.seen[body] += 1
            busy = own.seen[body] <= own.refusals
        if busy:
            self.send(503, b'{"error":"too much to do"}', [("Retry-After", "0")])
        else:
            reply = own.real.ask("POST", self.path, body)
            self.send(reply.status, reply.body)


@pytest.fixture
def captured(server):
    own = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    own.real, own.queries, own.priorities = server, [], set()
    own.seen, own.lock, own.refusals = collections.Counter(), threading.Lock(), 2
    own.daemon_threads = True
    thread = threading.Thread(target=own.serve_forever, daemon=True)
    thread.start()
    yield own
    own.shutdown()
    own.server_close()
    thread.join(10)


def test_from_the_capture_of_a_busy_server(server, captured):
    lines, _ = capture(server, "intent", 20, label_of)
    captured.lines = lines
    url = f"http://127.0.0.1:{captured.server_port}"
    done = flow.weir("backtest", "intent@2", "--since", "2h", "--limit", "500", "--json", "--server", url)
    assert done.status == 0, done
    got = done.json()
    assert got["replayed"] == 20 and got["errors"] == 0 and got["retried"] == 40
    assert captured.priorities == {"sheddable"}
    assert got["diff"]["labels"]["n"] == 20
    asked, told = captured.queries
    assert asked["kind"] == "request" and told["kind"] == "feedback" and asked["limit"] == "500"
    assert int(asked["until"]) - int(asked["since"]) == 7200 * 1000
    assert (told["since"], told["until"]) == (asked["since"], asked["until"])

    captured.refusals = 100  # it never has room
    captured.seen.clear()
    captured.lines = lines[:1]
    done = flow.weir("backtest", "intent@2", "--json", "--server", url)
    assert done.status == 1
    got = done.json()
    assert got["replayed"] == 0 and got["errors"] == 1 and got["retried"] == 5
    assert got["problem"] == "too much to do"
    captured.lines = []
    done = flow.weir("backtest", "intent@2", "--server", url)
    assert done.status == 1 and "nothing was captured" in done.err


def test_from_the_servers_own_capture(serve, tmp_path):
    s = serve("capture: {sample: 100%}\n")
    s.push_example("intent", 1)
    s.push_example("intent", 2)
    rows, old, new = flow.Samples("intent").rows[:80], [], []
    with s.wire() as wire:
        for i, (body, label) in enumerate(rows):
            reply = wire.ask("POST", "/v2/models/intent/infer", body, {"X-Request-Id": f"r{i}", "X-Weir-User": "u"})
            old.append(label_of(by_name(reply.json()["outputs"])))
            told = wire.ask("POST", "/v2/models/intent/feedback", {"id": f"r{i}", "label": label})
            assert told.status == 200
            new.append(label_of(by_name(answer(wire, "intent", 2, body))))  # captured too, and left out

    def written():
        state = s.get("/admin/models/intent/capture")
        return state["written"] >= 240

    flow.until("all lines", written)
    done = s.ok("backtest", "intent@2", "--json").json()
    assert done["replayed"] == 80 and done["errors"] == 0 and done["skipped"]["direct"] == 80, done
    assert done["recorded"] == [{"version": 1, "requests": 80}]
    assert done["diff"]["agree"] == sum(a == b for a, b in zip(old, new)) < 80
    check_labels(done["diff"]["labels"], rows, old, new)

    path = tmp_path / "export"
    path.write_text(s.ok("capture", "intent", "--export").out)
    again = s.ok("backtest", "intent@2", "--file", path, "--json").json()
    assert again["replayed"] == 80
    for key in ("pairs", "agree", "labels"):
        assert again["diff"][key] == done["diff"][key]
