# SPDX-License-Identifier: Apache-2.0
"""Going down: what was accepted is answered, the exit status is 0, and nobody stays behind."""

import os
import signal
import time

import pytest

import flow

SPIN = {"inputs": [flow.tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("trips", "INT64", [], [150000])]}


@pytest.mark.parametrize("place", ["worker", "inline"])
def test_under_load(serve, place):
    s = serve(f"families:\n  default: {{place: {place}}}\n")
    s.push_example("intent", 1)
    load = flow.Load(s, "intent", flow.Samples("intent"), [f"u{i}" for i in range(50)], connections=8)
    load.may_be_refused = True
    load.start()
    flow.until("load", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > 500)
    workers = s.workers("intent") or []
    at = time.monotonic()
    os.kill(s.pid, signal.SIGTERM)
    s.stop()
    took = time.monotonic() - at
    load.stop()
    assert took < 5 * flow.SLOWER, took
    for e in load.events:
        if e.status != 200:  # it came when the door was closed already: no answer at all, never half of one
            assert e.status == 0 and e.sent > at - 0.005 and "closed after 0 bytes" in e.why, (e.why, e.sent - at)
    assert not any(flow.stat_of(pid) for pid in workers)


def test_what_runs_is_finished(serve):
    """Slow requests in flight, one half sent, one behind another in the same connection: all are answered."""
    s = serve()
    s.push("spin", flow.MODELS / "spin")
    slow = flow.request("POST", "/v2/models/spin/infer", SPIN)
    running = [s.wire() for _ in range(3)]
    for w in running:
        w.send(slow)
    behind = s.wire()
    behind.send(slow + slow)
    half = s.wire()
    half.send(slow[:-20])
    idle = s.wire()
    assert idle.ask("GET", "/v2").status == 200
    flow.until("all at work", lambda: s.model("spin")["versions"][0]["stats"]["in_flight"] >= 4)
    os.kill(s.pid, signal.SIGTERM)
    s.wait_line("stopping: no new connections, requests may finish")
    assert idle.at_end()
    half.send(slow[-20:])
    for w in [*running, half]:
        reply = w.read()
        assert reply.status == 200 and reply.headers["connection"] == "close"
        assert w.at_end()
    assert behind.read().status == 200
    with pytest.raises(OSError):
        s.wire()
    s.stop()
    for w in [*running, half, behind, idle]:
        w.close()


def test_admin_work_is_finished(serve):
    """A push whose bytes are on their way when the signal comes is either done and durable, or was never there."""
    s = serve()
    data = (flow.EXAMPLES / "intent" / "1" / "model.onnx").read_bytes()
    with flow.Wire(s.admin) as w:
        w.send(flow.request("POST", "/admin/models/intent/versions", data)[:-10])
        time.sleep(0.1)
        os.kill(s.pid, signal.SIGTERM)
        s.wait_line("stopping: no new connections, requests may finish")
        w.send(data[-10:])
        reply = w.read()
        assert reply.status in (201, 503), reply
    s.stop()
    s.start()
    assert [m["name"] for m in s.get("/admin/models")["models"]] == (["intent"] if reply.status == 201 else [])


def test_a_client_that_never_ends(serve):
    """The drain has a limit: then what is left is cut off, and the end is orderly all the same."""
    s = serve("drain: 1s\n")
    s.push_example("intent", 1)
    w = s.wire()
    w.send(b"POST /v2/models/intent/infer HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\nhalf")
    time.sleep(0.1)
    begin = time.monotonic()
    s.stop()
    assert 0.8 < time.monotonic() - begin < 8 * flow.SLOWER
    w.close()


def test_second_signal(serve):
    s = serve()
    w = s.wire()
    w.send(b"POST /v2/models/x/infer HTTP/1.1\r\nHost: l\r\nContent-")
    time.sleep(0.1)
    os.kill(s.pid, signal.SIGINT)
    s.wait_line("stopping: no new connections, requests may finish")
    begin = time.monotonic()
    s.stop()
    assert time.monotonic() - begin < 5 * flow.SLOWER
    w.close()


def test_while_loading(serve):
    """A signal while versions are loaded: they are given up."""
    s = serve()
    for name in ("intent", "recommend", "vision"):
        s.push_example(name, 1)
    s.stop()
    s.start(wait=False)
    s.wait_line("listening")
    s.stop()
    s.start()
    assert s.ask("GET", "/v2/health/ready").status == 200


def test_parent_gone(serve):
    """--parent-fd: the end of the other end is the order to stop."""
    ours, theirs = os.pipe()
    s = serve(start=False, args=["--parent-fd", str(ours)])
    s.start(pass_fds=(ours,))
    os.close(ours)
    s.push_example("intent", 1)
    assert s.ask("GET", "/v2/health/ready").status == 200
    os.close(theirs)
    assert s.process.wait(20) == 0
    assert "the process that started it has gone" in s.log()
    s.stop()


def test_killed_server_takes_its_workers(serve):
    s = serve("families:\n  default: {instances: 2}\n")
    s.push_example("intent", 1)
    s.push_example("vision", 1)
    assert len(s.session()) == 5
    s.kill()
