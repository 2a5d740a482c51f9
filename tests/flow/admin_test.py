# SPDX-License-Identifier: Apache-2.0
"""The admin plane: who may use it, what its JSON looks like, /metrics read by a strict parser, and the page."""

import datetime
import html.parser
import json
import math
import re

import pytest

import flow

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("threads: 2\nfamilies:\n  default: {place: worker}\n  recommend: {place: inline}\n")
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--canary", "30%")
    s.push_example("recommend", 1)
    s.load = flow.Load(s, "intent", flow.Samples("intent"), [f"u{i}" for i in range(300)], connections=2, feedback=3)
    s.load.run(1200)
    assert not s.load.failed()
    for body in (b"{}", b"nope"):
        s.ask("POST", "/v2/models/intent/infer", body, {"X-Weir-User": "u1"})
    return s


# ---- access ---------------------------------------------------------------------------------------------------------


def ask(address, rows, path="/admin/models"):
    with flow.Wire(address) as w:
        w.send(f"GET {path} HTTP/1.1\r\n{''.join(r + chr(13) + chr(10) for r in rows)}\r\n".encode())
        return w.read()


def test_foreign_host_and_origin(server):
    port = server.admin[1]
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}", "[::1]:1", "LOCALHOST"):
        assert ask(server.admin, [f"Host: {host}"]).status == 200, host
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example",
                 "localhost:x", "", "localhost@evil.example", "localhost:80:80", "0.0.0.0"):
        reply = ask(server.admin, [f"Host: {host}"])
        assert reply.status in (400, 403), host
        for path in ("/", "/metrics", "/admin/server"):
            assert ask(server.admin, [f"Host: {host}"], path).status in (400, 403), (host, path)
    here = f"Host: localhost:{port}"
    assert ask(server.admin, [here, f"Origin: http://localhost:{port}"]).status == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{port}.evil.example", "http://localhost:1", "",
                   f"ftp://localhost:{port}", "http://localhost"):
        reply = ask(server.admin, [here, f"Origin: {origin}"])
        assert reply.status == 403 and "origin" in reply.error, origin
    assert "access-control-allow-origin" not in ask(server.admin, [here]).headers


def test_token(serve, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    s = serve(f"admin_token_file: {tmp_path}/token\n")
    for value in (None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN,
                  "Bearer " + "0" * 32):
        for path in ("/admin/models", "/metrics", "/", "/admin/doctor"):
            reply = ask(s.admin, ["Host: x"] + ([] if value is None else [f"Authorization: {value}"]), path)
            assert reply.status == 401 and "token" in reply.error, (value, reply)
    for scheme in ("Bearer", "bearer"):
        assert ask(s.admin, ["Host: any.example", f"Authorization: {scheme} {TOKEN}"]).status == 200
    assert ask(s.admin, ["Host: x", f"Authorization: Bearer {TOKEN}", "Authorization: Bearer x"]).status in (400, 401)
    assert s.weir("models").status == 1
    assert s.weir("models", "--token-file", tmp_path / "token").status == 0
    assert s.ask("GET", "/v2").status == 200, "the data plane needs none"


def test_short_token_is_refused(serve, tmp_path):
    (tmp_path / "token").write_text("short\n")
    s = serve(f"admin_token_file: {tmp_path}/token\n", start=False)
    s.start(wait=False)
    assert s.process.wait(20) == 1 and "at least 16" in s.log()
    flow.LIVE.remove(s)


def test_unix_sockets(serve, tmp_path):
    s = serve(f"listen: unix:{tmp_path}/data.sock\nadmin: unix:{tmp_path}/admin.sock\n")
    assert s.get("/admin/server")["data"] == f"unix:{tmp_path}/data.sock"
    s.push_example("recommend", 1)
    assert s.ask("POST", "/v2/models/recommend/infer", flow.Samples("recommend").rows[0][0]).status == 200
    assert s.ok("infer", "recommend").status == 0
    for end in (s.stop, s.kill):
        end()
        s.start()  # over the sockets that the one before left
        assert s.ask("GET", "/v2/health/ready").status == 200


def test_data_and_admin_are_apart(server):
    assert server.ask("GET", "/metrics").status == 404
    assert server.ask_admin("GET", "/v2").status == 404
    assert server.ask("GET", "/admin/models/intent/experiment").status == 404


# ---- JSON -----------------------------------------------------------------------------------------------------------

NUMBER, TEXT, MAYBE_TEXT = (int, float), str, (str, type(None))
TIMES = {"p50": NUMBER, "p95": NUMBER, "p99": NUMBER, "mean": NUMBER}
NO_TIMES = {k: type(None) for k in TIMES}
STATS = {"requests": int, "ok": int, "errors": int, "errors_by": dict, "error_rate": NUMBER, "in_flight": int,
         "users": int, "keyless": int, "latency_ms": TIMES, "queue_ms": TIMES, "compute_ms": TIMES,
         "feedback": {"n": int, "correct": int, "accuracy": (int, float, type(None)), "reward_n": int,
                      "reward_mean": (int, float, type(None))}, "classes": list}
TENSOR = {"name": str, "datatype": str, "shape": list}
VERSION = {"version": int, "digest": str, "backend": str, "bytes": int, "created": str, "state": str,
           "error": MAYBE_TEXT, "serving": str, "workers": list, "inputs": [TENSOR], "outputs": [TENSOR],
           "batch": {"max": int, "on": bool}, "stats": dict}
MODEL = {"name": str, "family": str, "place": str, "instances": int, "stable": (int, type(None)),
         "previous": (int, type(None)), "versions": [VERSION], "rollout": (dict, type(None)),
         "feedback": {"joined": int, "orphan": int, "late": int, "duplicate": int, "superseded": int}}
ROLLOUT = {"id": str, "state": str, "stable": int, "canary": int, "share_bp": int, "started": str, "ended": MAYBE_TEXT,
           "reason": str, "counting_since": MAYBE_TEXT, "policy": dict, "phase": str, "step": int, "steps": [int],
           "pause": MAYBE_TEXT, "spent_s": NUMBER, "earliest_s": (int, float, type(None)), "waits_for": MAYBE_TEXT,
           "verdict": (dict, type(None)), "slow_ms": (dict, type(None)), "exposed": (dict, type(None)), "held": bool}


def fits(value, shape, at="$"):
    if isinstance(shape, dict):
        assert isinstance(value, dict), at
        for key, below in shape.items():
            assert key in value, f"{at}.{key} is missing"
            fits(value[key], below, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list) and value, at
        for i, item in enumerate(value):
            fits(item, shape[0], f"{at}[{i}]")
    else:
        assert isinstance(value, shape) and (shape is bool or not isinstance(value, bool)), f"{at} is {value!r}"


def test_server_json(server):
    got = server.get("/admin/server")
    fits(got, {"name": str, "version": str, "pid": int, "uptime_s": NUMBER, "data": str, "admin": str, "threads": int,
               "store": str, "artifacts": str, "runtimes": dict})
    assert got["pid"] == server.pid and got["data"] == server.data_url and got["admin"] == server.admin_url
    assert got["threads"] == 2 and got["store"].startswith("sqlite:")


def test_models_json(server):
    models = server.get("/admin/models")["models"]
    assert [m["name"] for m in models] == ["intent", "recommend"]
    fits(models, [MODEL])
    intent, recommend = models
    assert (intent["place"], recommend["place"], recommend["family"]) == ("worker", "inline", "recommend")
    assert recommend["versions"][0]["workers"] == [] and recommend["rollout"] is None
    for version in intent["versions"]:
        (worker,) = version["workers"]
        assert worker["state"] == "ready" and worker["restarts"] == 0 and worker["pid"] in server.session()
        assert re.fullmatch(r"[0-9a-f]{64}", version["digest"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", version["created"])
        fits(version["stats"], STATS)
    assert intent["versions"][0]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    fits(intent["rollout"], ROLLOUT)
    assert server.model("intent")["name"] == "intent"
    missing = server.ask_admin("GET", "/admin/models/nope")
    assert missing.status == 404 and "there is intent, recommend" in missing.error


def test_rollout_json(server):
    got = server.get("/admin/models/intent/rollout")
    fits(got, {"model": str, "rollout": ROLLOUT, "arms": [dict(STATS, arm=str, version=int, share_bp=int)]})
    assert [a["arm"] for a in got["arms"]] == ["stable", "canary"]
    assert [a["share_bp"] for a in got["arms"]] == [7000, 3000]
    for arm in got["arms"]:
        assert arm["requests"] == arm["ok"] + arm["errors"] + arm["client_errors"]
        assert sum(c["share"] for c in arm["classes"]) == pytest.approx(1, abs=1e-4)
        assert sum(c["count"] for c in arm["classes"]) == arm["ok"]
        for times in ("latency_ms", "compute_ms"):
            t = arm[times]
            assert 0 < t["p50"] <= t["p95"] <= t["p99"]
    assert server.ask_admin("GET", "/admin/models/recommend/rollout").status == 404


def test_history_json(server):
    rows = server.get("/admin/models/intent/history")["history"]
    fits(rows, [{"seq": int, "at": str, "model": str, "version": (int, type(None)), "kind": str, "actor": str,
                 "text": str, "serving": (list, type(None)), "evidence": (dict, type(None))}])
    started = next(r for r in rows if r["kind"] == "rollout_started")
    assert {v["version"]: v["share_bp"] for v in started["serving"]} == {1: 7000, 2: 3000}
    first = server.get("/admin/models/intent/history?limit=1")["history"]
    assert first == rows[:1]
    assert server.get(f"/admin/models/intent/history?before={first[0]['seq']}")["history"] == rows[1:]
    for query in ("limit=0", "limit=x", "before=0", "limti=1", "limit=1&limit=2", "limit=%zz", "at=now", "at=",
                  "at=2026-02-30T00:00:00Z", "at=2026-11-23T21:40:31Z&limit=1"):
        assert server.ask_admin("GET", f"/admin/models/intent/history?{query}").status == 400, query


def test_who_served_then(server):
    """By the time in a line of history, as text, as milliseconds and with the command."""
    rows = server.history("intent")
    pushed, started = rows[-1], next(r for r in rows if r["kind"] == "rollout_started")
    for line, shares in ((pushed, {1: 10000}), (started, {1: 7000, 2: 3000})):
        got = server.get(f"/admin/models/intent/history?at={line['at']}")
        assert {v["version"]: v["share_bp"] for v in got["serving"]} == shares and got["at"] == line["at"]
        assert got["since"]["seq"] == line["seq"] and got["model"] == "intent"
        assert all(re.fullmatch(r"[0-9a-f]{64}", v["digest"]) for v in got["serving"])
    ms = int(datetime.datetime.fromisoformat(started["at"].replace("Z", "+00:00")).timestamp() * 1000)
    assert server.get(f"/admin/models/intent/history?at={ms}")["since"] == started
    assert server.ask_admin("GET", "/admin/models/intent/history?at=1000").status == 404
    done = server.ok("history", "intent", "--at", started["at"])
    assert "v1  70 %" in done.out and "v2  30 %" in done.out and started["text"] in done.out, done.out
    assert server.ok("history", "intent", "--at", started["at"], "--json").json()["serving"] == started["serving"]
    assert server.weir("history", "intent", "--at", "noon").status == 1
    assert server.weir("history", "intent", "--at", started["at"], "--limit", "3").status == 2


TIMES = ("spent_s", "earliest_s", "waits_for", "verdict", "phase")


def unmoved(rollout):
    """What no second changes."""
    return {k: v for k, v in rollout.items() if k not in TIMES}


@pytest.mark.parametrize("path, body, status", [
    ("/admin/models", {}, 400), ("/admin/models", {"name": "../x"}, 400), ("/admin/models", {"name": 5}, 400),
    ("/admin/models", {"name": "x", "famly": "y"}, 400), ("/admin/models", b"{", 400), ("/admin/models", [], 400),
    ("/admin/models", {"name": "intent"}, 409), ("/admin/models", {"name": "x", "family": "nope"}, 404),
    ("/admin/models/intent/rollout", {}, 400), ("/admin/models/intent/rollout", {"action": "dance"}, 400),
    ("/admin/models/intent/rollout", {"action": "set"}, 400),
    ("/admin/models/intent/rollout", {"action": "set", "share": "101%"}, 400),
    ("/admin/models/intent/rollout", {"action": "set", "share": "5"}, 400),
    ("/admin/models/intent/rollout", {"action": "set", "share": 5}, 400),
    ("/admin/models/intent/rollout", {"action": "set", "share": "5%", "version": 2}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "share": "5%"}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "share": "5%", "version": 9}, 404),
    ("/admin/models/intent/rollout", {"action": "start", "share": "5%", "version": 1}, 409),
    ("/admin/models/intent/rollout", {"action": "promote", "version": 1}, 409),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2, "share": "5%", "policy": "default"}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2, "share": "5%", "steps": "1%"}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2, "policy": "nope"}, 404),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2, "steps": "5%,1%"}, 400),
    ("/admin/models/intent/rollout", {"action": "start", "version": 2, "share": "5%", "retry": "yes"}, 400),
    ("/admin/models/intent/rollout", {"action": "pause", "share": "5%"}, 400),
    ("/admin/models/intent/rollout", {"action": "set", "share": "5%", "policy": "default"}, 400),
    ("/admin/models/intent/rollout", {"action": "resume"}, 409),
    ("/admin/models/intent/versions?canary=5%25&rollout=default", b"x", 400),
    ("/admin/models/intent/versions?rollout=nope", b"x", 404), ("/admin/models/intent/versions?retry=on", b"x", 400),
    ("/admin/models/intent/versions?steps=5%25,1%25", b"x", 400),
    ("/admin/models/intent/versions?rollout=default&retry=yes", b"x", 400),
    ("/admin/models/intent/rollback", {"force": True}, 400), ("/admin/models/nope/rollback", None, 404),
    ("/admin/models/intent/versions", None, 400)])
def test_wrong_orders(server, path, body, status):
    before = unmoved(server.get("/admin/models/intent/rollout")["rollout"])
    reply = server.ask_admin("POST", path, b"" if body is None else body)
    assert reply.status == status and reply.error, reply
    assert unmoved(server.get("/admin/models/intent/rollout")["rollout"]) == before


def test_big_and_late_bodies(server):
    reply = server.ask_admin("POST", "/admin/models", b"x" * 100000)
    assert reply.status == 413
    with flow.Wire(server.admin) as w:  # a client that leaves before the answer
        w.send(flow.request("GET", "/admin/models/intent/history"))
    assert server.ask_admin("GET", "/admin/server").status == 200


def test_doctor(server):
    checks = server.get("/admin/doctor")["checks"]
    fits(checks, [{"name": str, "ok": bool, "text": str, "mend": MAYBE_TEXT}])
    assert {"sandbox", "descriptors"} <= {c["name"] for c in checks}
    done = server.weir("doctor", "--json")
    assert done.status in (0, 1) and done.json()["checks"]


# ---- /metrics -------------------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')


def parse_metrics(text):
    """Prometheus text format 0.0.4, strictly: HELP and TYPE once each and before the samples, families together."""
    assert text.endswith("\n")
    families, helps, samples, closed, now = {}, {}, {}, set(), None
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name, words = line[7:].split(" ", 1)
            assert name not in helps and words, line
            helps[name] = words
            continue
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name not in families and name in helps and kind in ("counter", "gauge", "histogram", "summary"), line
            closed.add(now)
            families[name], now = kind, name
            continue
        assert line and not line.startswith("#"), line
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        owner = name
        if families.get(now) in ("histogram", "summary"):
            owner = re.sub(r"_(bucket|sum|count)$", "", name)
        assert owner == now and owner not in closed, f"{line} stands in {now}"
        rest, found = labels or "", []
        while rest:
            m = LABEL.match(rest)
            assert m, line
            found.append((m.group(1), m.group(2)))
            rest = rest[m.end():]
        assert len({k for k, _ in found}) == len(found), line
        key = (name, tuple(sorted(found)))
        assert key not in samples, f"{line} twice"
        samples[key] = float(value)
        if families[now] == "counter":
            assert name.endswith("_total") and samples[key] >= 0, line
    check_histograms(families, samples)
    return families, samples


def check_histograms(families, samples):
    for name in (n for n, kind in families.items() if kind == "histogram"):
        rows = {}
        for (sample, labels), value in samples.items():
            if sample == name + "_bucket":
                le = dict(labels)["le"]
                rows.setdefault(tuple(p for p in labels if p[0] != "le"), []).append((float(le), value))
        for labels, buckets in rows.items():
            assert [b for b, _ in buckets] == sorted(b for b, _ in buckets), (name, labels)
            assert buckets[-1][0] == math.inf, (name, labels)
            assert [v for _, v in buckets] == sorted(v for _, v in buckets), (name, labels)
            assert buckets[-1][1] == samples[(name + "_count", labels)], (name, labels)
            assert (name + "_sum", labels) in samples


def test_metrics(server):
    flow.until("a judgement", lambda: server.get("/admin/models/intent/rollout")["rollout"]["verdict"])
    reply = server.ask_admin("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families, samples = parse_metrics(reply.body.decode())
    assert all(name.startswith(("weir_", "process_")) for name in families), families
    for metric in ("weir_requests_total", "weir_version_requests_total"):
        total = sum(v for (name, labels), v in samples.items() if name == metric and ("model", "intent") in labels)
        assert total == len(server.load.events) + 2, metric

    def of(name, label):
        return {dict(labels).get(label): v for (n, labels), v in samples.items() if n == name}

    assert of("weir_rollout_step", "version") == {"2": 1}
    assert of("weir_rollout_paused", "reason") == dict.fromkeys(
        ("person", "ratio", "stable_sick", "nodata", "errors", "inconclusive", "step_timeout"), 0)
    guardrails = {"errors", "slow_p95", "slow_p99", "invalid", "wrong", "reward"}
    assert set(of("weir_judge_ln_e", "metric")) == set(of("weir_judge_trip", "metric")) == guardrails
    _, later = parse_metrics(server.ask_admin("GET", "/metrics").body.decode())
    for key, value in samples.items():
        if key[0].endswith("_total") or families.get(key[0].rsplit("_", 1)[0]) == "histogram":
            assert later.get(key, -1) >= value, key


def test_metrics_never_fall(serve):
    """A version's counter goes on through rollouts, rollbacks and promotions."""
    s = serve()
    s.push_example("intent", 1)
    load = flow.Load(s, "intent", flow.Samples("intent"), [f"u{i}" for i in range(50)], connections=2)

    def total():
        _, samples = parse_metrics(s.ask_admin("GET", "/metrics").body.decode())
        return sum(v for (name, _), v in samples.items() if name == "weir_version_requests_total")

    load.run(100)
    assert total() == 100
    s.push_example("intent", 2, "--canary", "50%")
    for step in ("rollback", "promote", "rollback"):
        load.run(100)
        assert total() == len(load.events)
        s.ok(step, "intent")
        flow.until(f"all counted after {step}", lambda: total() == len(load.events), 5)


# ---- the page -------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "hr", "img", "input", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def read_page(server):
    reply = server.ask_admin("GET", "/")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
    page = Page()
    page.feed(reply.body.decode())
    assert not page.open or page.open == ["p"], page.open
    assert not any(tag in ("script", "iframe", "object", "form") for tag, _ in page.tags)
    assert not any(k.startswith("on") or "javascript:" in (v or "") for _, attrs in page.tags for k, v in attrs.items())
    assert b"http" not in reply.body.replace(b"http-equiv", b"").replace(server.data_url.encode(), b"").replace(
        server.admin_url.encode(), b""), "nothing is fetched from elsewhere"
    return page, reply


def test_page(server):
    page, reply = read_page(server)
    for word in ("intent", "recommend", "canary", "stable"):
        assert word in page.text, word
    assert "content-security-policy" in reply.headers
    assert server.ask_admin("GET", "/style.css").headers["content-type"].startswith("text/css")


def test_page_says_what_the_judge_says(serve):
    """While a rollout runs its verdict and what it waits for; while it soaks that it is watched."""
    s = serve("threads: 2\n")
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "default")
    got = flow.until("a judgement", lambda: (r := s.get("/admin/models/intent/rollout")["rollout"])["verdict"] and r)
    page, _ = read_page(s)
    assert got["verdict"]["text"] in page.text and "next: warms up at 1 %" in page.text, page.text
    s.ok("promote", "intent")
    assert s.get("/admin/models/intent/rollout")["rollout"]["phase"] == "soak"
    page, _ = read_page(s)
    assert "promoted, is watched" in page.text and "1970" not in page.text, page.text
    assert "soak" in s.ok("models", "intent").out


def test_page_escapes(serve, tmp_path):
    """What a model says of itself reaches the page, the metrics and the JSON as text."""
    evil = "<script>alert(1)</script>\"'&\\"
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((flow.MODELS / "mlp" / "model.onnx").read_bytes())
    labels = [evil, "b\nb", "c\x01", "d"]
    (folder / "model.yaml").write_text(json.dumps({"labels": labels, "prediction": {"output": "y"}}))
    s = serve()
    s.push("evil", folder)
    s.push_example("intent", 1)
    s.push("evil", flow.MODELS / "mlp", "--canary", "50%")
    seen = set()
    for i in range(200):
        row = [0.0] * 16
        row[i % 16] = 5.0 if i < 16 else -5.0
        reply = s.infer("evil", [flow.tensor("x", "FP32", [1, 16], row)], {"X-Weir-User": f"<b>{i}"})
        assert reply.status == 200, reply
        seen.add(reply.headers["x-weir-version"])
    assert seen == {"1", "2"}
    page, reply = read_page(s)
    assert b"<script" not in reply.body and b"<b>" not in reply.body
    classes = {c["class"] for a in s.rollout("evil")["arms"] for c in a["classes"]}
    assert any("<script>" in c for c in classes if c) or classes, classes
    parse_metrics(s.ask_admin("GET", "/metrics").body.decode())
