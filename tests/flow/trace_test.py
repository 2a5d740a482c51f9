# SPDX-License-Identifier: Apache-2.0
"""Traces: what a request met in the server, why it was answered by this version, what is kept of it and what is not."""

import os
import re
import signal
import time
import urllib.parse

import pytest

import flow
from canary_test import murmur3_x86_32

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
CONF = "threads: 2\ntrace_sample: 0%\ntrace_slow: 1h\nfamilies:\n  intent: {place: worker}\n  tiny: {place: inline}\n"
BODY = flow.Samples("intent").rows[0][0]
INFER = "/v2/models/intent/infer"


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve(CONF)
    s.push_example("intent", 1)
    s.push("add", flow.MODELS / "add")
    return s


def ask(s, headers=(), path=INFER, body=BODY, status=200):
    reply = s.ask("POST", path, body, headers)
    assert reply.status == status, reply
    return reply


def spans(s, ident):
    reply = s.ask_admin("GET", f"/admin/traces?id={urllib.parse.quote(ident, safe='')}")
    return [] if reply.status == 404 else reply.json()["spans"]


def span(s, ident):
    found = spans(s, ident)
    assert len(found) == 1, found
    return found[0]


def test_a_sampled_request_is_kept_with_its_times(server):
    reply = ask(server, {"traceparent": PARENT, "X-Request-Id": "order-17"})
    got = re.fullmatch(f"00-{TRACE}-([0-9a-f]{{16}})-01", reply.headers["traceparent"])
    assert got and got[1] != CALLER and reply.headers["x-request-id"] == "order-17"
    one = span(server, "order-17")
    assert one == span(server, TRACE) == server.get(f"/admin/traces/{TRACE}")["spans"][0]
    assert (one["trace"], one["span"], one["parent"]) == (TRACE, got[1], CALLER)
    assert one["sampled"] and one["kept"] == "asked" and one["code"] == "ok" and one["status"] == 200
    assert one["error"] is None and one["failed_in"] is None
    assert (one["model"], one["version"], one["arm"], one["rollout"]) == ("intent", 1, "stable", None)
    assert one["why"] == "no candidate takes traffic: the stable version answers all"
    assert one["key"] == "request_id" and one["bucket"] is None
    times = [one[f"{k}_ms"] for k in ("headers", "body", "submitted", "given", "done", "written")]
    assert times == sorted(times) and one["total_ms"] == one["written_ms"] > 0, one
    assert 0 < one["compute_ms"] <= one["done_ms"] - one["given_ms"] + .002, one
    assert one["joined"] == 1 and one["deaths"] == 0 and one["body_bytes"] == len(BODY)
    assert one["place"] == "worker" and one["instance"] == 0 and one["pid"] == server.workers("intent")[0]
    assert one["peer"] is None and one["moved_from"] is None
    told = server.get("/admin/traces")["server"]
    assert told["host"] == os.uname().nodename and told["data"] == server.data_url and told["pid"] == server.pid


def test_only_what_is_asked_for_is_kept(server):
    reply = ask(server)
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-02", reply.headers["traceparent"])
    assert spans(server, reply.headers["x-request-id"]) == []
    assert spans(server, reply.headers["traceparent"][3:35]) == []
    reply = ask(server, {"X-Weir-Trace": "1"})
    assert reply.headers["traceparent"].endswith("-03")  # sampled, for who is asked after us
    one = span(server, reply.headers["x-request-id"])
    assert one["parent"] is None and one["kept"] == "asked" and one["key"] == "made"
    reply = ask(server, {"X-Weir-Trace": "0", "traceparent": PARENT[:-1] + "0"})
    assert reply.headers["traceparent"].startswith(f"00-{TRACE}-") and reply.headers["traceparent"].endswith("-00")
    assert spans(server, reply.headers["x-request-id"]) == []
    missing = server.weir("trace", reply.headers["x-request-id"])
    assert missing.status == 1 and "no span of" in missing.err and "X-Weir-Trace: 1" in missing.err


@pytest.mark.parametrize("sent", [
    "", "00", PARENT + "-x", PARENT.upper(), f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01",
    "ff" + PARENT[2:], PARENT[:40], PARENT.replace("-", "_"), "x" * 8000, PARENT + "\u00e9"])
def test_a_malformed_parent_begins_a_new_trace(server, sent):
    reply = ask(server, {"traceparent": sent, "tracestate": "a=1", "X-Weir-Trace": "1"})
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-03", reply.headers["traceparent"])
    assert TRACE not in reply.headers["traceparent"]
    assert span(server, reply.headers["x-request-id"])["parent"] is None


def test_of_two_parents_none_is_believed_and_a_later_version_is(server):
    reply = ask(server, [("traceparent", PARENT), ("traceparent", PARENT)])
    assert TRACE not in reply.headers["traceparent"]
    reply = ask(server, {"traceparent": f"42-{TRACE}-{CALLER}-09-later"})
    assert reply.headers["traceparent"].startswith(f"00-{TRACE}-") and reply.headers["traceparent"].endswith("-01")
    for state in ("a", "a=1," * 40, "a=" + "x" * 7000, "\u00e9=1"):
        reply = ask(server, {"traceparent": PARENT, "tracestate": state})
        assert reply.headers["traceparent"].startswith(f"00-{TRACE}-")
    ask(server, [("traceparent", PARENT)] + [("tracestate", "a=1")] * 50)


def test_errors_are_kept_and_say_where(server):
    headers = {"X-Request-Id": "wrong-1"}
    ask(server, headers, body=b"{", status=400)
    one = span(server, "wrong-1")
    assert one["kept"] == "refused" and one["failed_in"] == "request" and "JSON" in one["error"], one
    reply = ask(server, {"X-Request-Id": "nobody"}, path="/v2/models/nobody/infer", status=404)
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-02", reply.headers["traceparent"])
    one = span(server, "nobody")
    assert one["model"] == "nobody" and one["version"] is None and one["why"] is None and one["arm"] is None
    late = {"inputs": [flow.tensor("a", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("b", "FP32", [1, 4], [1, 2, 3, 4])]}
    reply = server.ask("POST", "/v2/models/add/infer", late, {"X-Request-Id": "too-late", "X-Weir-Timeout": "1us"})
    one = span(server, "too-late")  # it was not queued, or its time was over while it was
    code, where = {503: ("unavailable", "admission"), 504: ("timeout", "queue")}[reply.status]
    assert (one["kept"], one["code"], one["failed_in"], one["error"]) == ("error", code, where, reply.error), one
    errors = server.ok("trace", "--errors", "add", "--json").json()["spans"]
    assert [e["request_id"] for e in errors] == ["too-late"]
    shown = server.ok("trace", "--errors")
    assert "too-late" in shown.out and "wrong-1" not in shown.out
    shown = server.ok("trace", "too-late")
    said = {503: "before it was taken in: 503 ", 504: "in the queue: 504 "}[reply.status]
    assert f"\nfailed: {os.uname().nodename}, {said}{reply.error}\n" in shown.out, shown
    assert server.ok("trace", "--errors", "intent").out == "no requests of intent that failed\n"


def test_the_client_that_left(server):
    wire = server.wire()
    wire.send(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nX-Request-Id: left\r\nContent-Length: 1000\r\n\r\n{{".encode())
    wire.close()
    one = flow.until("the span of who left", lambda: spans(server, "left"))[0]
    assert one["code"] == "cancelled" and one["failed_in"] == "client" and one["kept"] == "refused"


def test_any_printable_id_is_found(server):
    for ident in ("a b&c=d%/..", "\u00e4\u00f6\u00fc", '"quoted"', "x" * 128):
        headers = [("X-Request-Id", ident), ("X-Weir-Trace", "1")]
        with server.wire() as w:
            w.send(flow.request("POST", INFER, BODY, headers))
            assert w.read().status == 200
        assert span(server, ident)["request_id"] == ident
        assert ident[:20] in server.ok("trace", ident, "--json").out.replace('\\"', '"').replace("\\/", "/")
    # an id that looks like an option is not one
    ask(server, {"X-Request-Id": "--json", "X-Weir-Trace": "1"})
    assert server.ok("trace", "--", "--json").out.startswith("trace ")


def test_wrong_questions(server):
    for query in ("limit=0", "limit=1001", "kept=all", "code=bad", "slower=5", "model=%2F", "id=", "who=me",
                  "id=" + "x" * 129):
        reply = server.ask_admin("GET", f"/admin/traces?{query}")
        assert reply.status == 400, (query, reply)
    assert server.ask_admin("GET", "/admin/traces/none").status == 404
    assert server.get("/admin/traces?model=none")["spans"] == []
    for words in ((), ("--slow", "--errors"), ("id", "--limit", "3"), ("--slow", "a/b")):
        assert server.weir("trace", *words).status == 2
    done = flow.weir("models", "--server", f"{server.admin_url},{server.admin_url}")
    assert done.status != 0  # several servers are for trace alone


def test_the_filters_of_the_list(server):
    for i in range(4):
        ask(server, {"X-Request-Id": f"filter-{i}", "X-Weir-Trace": "1"})
    got = server.get("/admin/traces?kept=asked&model=intent&code=ok&limit=3")["spans"]
    assert [g["request_id"] for g in got] == ["filter-3", "filter-2", "filter-1"]
    assert server.get("/admin/traces?slower=1h")["spans"] == []
    assert len(server.get("/admin/traces?slower=1us&limit=1")["spans"]) == 1


def test_what_is_kept_is_bounded(server):
    """Far more than there are places for: the newest are there, and the errors of before are not pushed out."""
    ask(server, {"X-Request-Id": "before"}, body=b"{", status=400)
    with server.wire() as w:  # one connection: one thread
        for i in range(1200):
            w.send(flow.request("POST", INFER, BODY, {"X-Request-Id": f"many-{i}", "X-Weir-Trace": "1"}))
            assert w.read().status == 200
        got = server.get("/admin/traces?kept=asked&limit=1000")["spans"]
        many = [g["request_id"] for g in got if g["request_id"].startswith("many-")]
        assert many == [f"many-{i}" for i in range(1199, 1199 - 512, -1)]
    assert span(server, "before")["code"] == "invalid"


def test_slow_by_the_setting_and_a_sample_of_the_rest(serve):
    s = serve("threads: 1\ntrace_slow: 1us\ntrace_sample: 0%\nfamilies:\n  intent: {place: inline}\n")
    s.push_example("intent", 1)
    ident = ask(s).headers["x-request-id"]
    one = span(s, ident)
    assert one["kept"] == "slow" and one["place"] == "inline" and one["pid"] is None and one["sampled"] is False
    assert ident in s.ok("trace", "--slow", "intent").out
    s.stop()
    s = serve("threads: 1\ntrace_slow: 1h\ntrace_sample: 50%\nfamilies:\n  intent: {place: inline}\n", name="sample")
    s.push_example("intent", 1)
    kept = {}
    with s.wire() as w:
        for i in range(300):  # the trace's id decides, whoever asks
            trace = f"{i + 1:032x}"
            headers = {"traceparent": f"00-{trace}-{CALLER}-00"}
            assert w.ask("POST", INFER, BODY, headers).status == 200
            kept[trace] = murmur3_x86_32(bytes.fromhex(trace)) % 10000 < 5000
    got = {g["trace"] for g in s.get("/admin/traces?kept=chance&limit=1000")["spans"]}
    assert got == {trace for trace, yes in kept.items() if yes} and 100 < len(got) < 200


def test_why_this_arm(serve):
    s = serve("threads: 2\nfamilies:\n  intent: {place: inline}\n" + flow.watched("50%"))
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "watched")
    salt = s.rollout("intent")["rollout"]["id"]
    for i in range(8):
        reply = ask(s, {"X-Weir-User": f"user-{i}", "X-Weir-Trace": "1"})
        one = span(s, reply.headers["x-request-id"])
        bucket = murmur3_x86_32(f"{salt}:user-{i}".encode()) % 10000
        arm, version, side = ("canary", 2, "below") if bucket < 5000 else ("stable", 1, "not below")
        assert (one["arm"], one["version"], one["bucket"], one["rollout"]) == (arm, version, bucket, salt)
        assert one["key"] == "user" and one["share_bp"] == 5000
        assert one["why"] == (f"bucket {bucket} of 10000 of the user is {side} the canary's share of 50 % "
                              f"in rollout {salt}")
    ask(s, {"X-Request-Id": "mine", "X-Weir-Trace": "1"})
    assert " of the request's id is " in span(s, "mine")["why"]
    reply = ask(s, {"X-Weir-Trace": "1"}, body=BODY[:-1] + b', "id": "in-json"}')
    assert reply.headers["x-request-id"] == "in-json" and span(s, "in-json")["key"] == "request_id"
    reply = ask(s, {"X-Weir-Trace": "1"})
    assert " of an id that the server made is " in span(s, reply.headers["x-request-id"])["why"]
    reply = ask(s, {"X-Weir-Trace": "1"}, path="/v2/models/intent/versions/2/infer")
    one = span(s, reply.headers["x-request-id"])
    assert (one["arm"], one["version"], one["why"]) == ("direct", 2, "the request names this version")
    shown = s.ok("trace", "mine").out
    assert f"in rollout {salt}" in shown and "trace " in shown
    s.ok("rollback", "intent")
    s.ok("experiment", "start", "intent", "--version", "2", "--goal", "reward", "--share", "10%", "--retry")
    whys = set()
    for i in range(40):
        reply = ask(s, {"X-Weir-User": f"user-{i}", "X-Weir-Trace": "1"})
        one = span(s, reply.headers["x-request-id"])
        kind = "outside" if "is in neither arm of experiment" in one["why"] else one["arm"]
        assert kind == "outside" or "is in this arm's range of experiment" in one["why"], one
        assert one["arm"] == {"outside": "direct"}.get(kind, kind)
        whys.add(kind)
    assert "outside" in whys and len(whys) > 1


def test_the_worker_that_died_with_it(serve):
    """It was answered by the next one: kept, though the client saw nothing of it."""
    s = serve("threads: 1\ntrace_sample: 0%\ntrace_slow: 1h\nfamilies:\n  spin: {place: worker}\n")
    s.push("spin", flow.MODELS / "spin")
    pid = s.workers("spin")[0]
    trips = 500000 // flow.SLOWER
    body = {"inputs": [flow.tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("trips", "INT64", [], [trips])]}
    wire = s.wire()
    wire.send(flow.request("POST", "/v2/models/spin/infer", body, {"X-Request-Id": "mended"}))
    flow.until("its run", lambda: s.version("spin", 1)["stats"]["in_flight"] == 1)
    time.sleep(.05)  # it is queued and given; had it not been, the kill would be nothing to it
    os.kill(pid, signal.SIGKILL)
    assert wire.read().status == 200
    wire.close()
    one = span(s, "mended")
    assert one["kept"] == "error" and one["code"] == "ok" and one["deaths"] == 1 and one["pid"] != pid, one
    shown = s.ok("trace", "mended").out
    assert "1 instance ended with it" in shown and "failed:" not in shown
    assert " went into computing spin v1 on " in shown


def test_two_servers_one_trace(serve):
    """Spans of two servers become one picture, whichever is asked first: here a client hands the trace on."""
    a = serve("threads: 2\nfamilies:\n  intent: {place: inline}\n", name="a")
    b = serve("threads: 2\nfamilies:\n  intent: {place: worker}\n", name="b")
    a.push_example("intent", 1)
    b.push_example("intent", 1)
    first = ask(a, {"traceparent": PARENT, "X-Request-Id": "both"})
    ask(b, {"traceparent": first.headers["traceparent"], "X-Request-Id": "both"})
    done = flow.weir("trace", "both", "--server", f"{a.admin_url},{b.admin_url}", "--json").json()
    assert len(done["traces"]) == 1
    trace = done["traces"][0]
    assert trace["trace"] == TRACE and trace["request_id"] == "both" and trace["failed"] is None
    assert [(s["depth"], s["server"]["data"]) for s in trace["spans"]] == [(0, a.data_url), (1, b.data_url)]
    assert [s["error"] for s in done["servers"]] == [None, None]
    other = flow.weir("trace", TRACE, "--server", f"{b.admin_url.removeprefix('http://')},{a.admin_url}")
    assert other.status == 0 and other.out.count("intent v1 stable") == 2, other
    assert f"its caller's span is {CALLER}" in other.out
    half = flow.weir("trace", "both", "--server", f"{a.admin_url},http://127.0.0.1:1")
    assert half.status == 0 and "http://127.0.0.1:1 has none: " in half.out, half
    assert flow.weir("trace", "both", "--server", "http://127.0.0.1:1").status == 1
