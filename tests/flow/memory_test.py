# SPDX-License-Identifier: Apache-2.0
"""The memory budget: what does not fit is refused with the numbers, idle versions go for what is wanted, the least
recently used first, and come back on first use, once, while their callers wait."""

import json
import shutil
import threading
import time

import pytest

import flow

ROW = json.dumps({"inputs": [flow.tensor("a", "FP32", [1, 4], [1, 2, 3, 4]),
                             flow.tensor("b", "FP32", [1, 4], [4, 3, 2, 1])]})
MODELS = ("first", "second", "third")


@pytest.fixture
def measured(serve, tmp_path):
    """measured(families, room) gives a server that knows three models, with room for so many of them."""
    def make(room, families="", models=MODELS):
        server = serve(families, name="server")
        for name in models:
            server.push(name, flow.MODELS / "add")
        for name in models:
            ok(server, name)
        cost = memory(server, "first")
        assert cost["basis"] == "measured" and cost["residency"] == "resident", cost
        assert budget(server)["used"] == len(models) * cost["bytes"]
        server.stop()
        server.conf = f"memory: {int(room * cost['bytes'])}\n{families}"
        server.start()
        server.cost = cost["bytes"]
        return server

    return make


def memory(server, name, version=1):
    return server.version(name, version)["memory"]


def budget(server):
    (host,) = server.get("/admin/models")["memory"]
    assert host["device"] == "host"
    return host


def residencies(server):
    return {m["name"]: [v["memory"]["residency"] for v in m["versions"]] for m in server.get("/admin/models")["models"]}


def resident(server):
    return {name for name, all_ in residencies(server).items() if all_ == ["resident"]}


def settled(server):
    """Nothing is on its way in or out."""
    flow.until("loads and unloads to end",
               lambda: all(r in ("resident", "cold", "none") for all_ in residencies(server).values() for r in all_))
    return resident(server)


def ask(server, name, path=""):
    return server.ask("POST", f"/v2/models/{name}{path}/infer", ROW)


def ok(server, name, path=""):
    reply = ask(server, name, path)
    assert reply.status == 200, reply
    return reply.json()["outputs"][0]["data"]


def starts(server, name):
    return sum(1 for row in server.rows() if row["text"] == "a version is ready" and row["model"] == name)


def a_tick():
    """Use is noticed within a second or two: what is used before is older than what is used after."""
    time.sleep(2.5)


def other(tmp_path, text):
    """A model of other bytes that does the same."""
    folder = tmp_path / f"model-{text}"
    shutil.copytree(flow.MODELS / "add", folder)
    (folder / "note.txt").write_text(text)
    return folder


def test_a_push_that_can_not_fit_is_refused_with_the_numbers(serve, tmp_path):
    server = serve("memory: 24MiB\nfamilies:\n  pinned: {pin: on, memory: 0}\n")
    big = other(tmp_path, "big")
    (big / "more.bin").write_bytes(bytes(5 << 20))
    done = server.weir("push", "big", big)
    assert done.status != 0 and "needs about 26.0 MiB of host memory" in done.err, done
    assert "more than the whole budget of 24.0 MiB" in done.err, done
    assert flow.children(server.pid) == []  # nothing was ever started for it
    assert server.get("/admin/models")["models"] == []
    server.push("small", flow.MODELS / "add", "--family", "pinned")
    used = budget(server)["used"]
    done = server.weir("push", "big", other(tmp_path, "16 MiB and pinned ones in the way"))
    if used + (16 << 20) > 24 << 20:
        assert done.status != 0 and "small/1" in done.err and "pinned" in done.err, done
        assert "nothing idle can make room" in done.err, done
    else:  # this machine's workers are very small
        assert done.status == 0, done
    ok(server, "small")


def test_what_was_measured_is_known_after_a_restart_and_decides_what_is_loaded(measured):
    server = measured(2.5)
    for name in MODELS:
        assert memory(server, name)["basis"] == "measured"
        assert memory(server, name)["bytes"] == server.cost
    assert settled(server) == {"first", "second"}
    assert server.version("third", 1)["state"] == "cold"
    assert "is not loaded" in server.log() and "third/1 needs about" in server.version("third", 1)["error"]
    assert budget(server)["used"] == 2 * server.cost
    table = server.ok("models").out
    assert "cold" in table and "host memory:" in table, table
    metrics = server.ask_admin("GET", "/metrics").body.decode()
    assert f'weir_memory_used_bytes{{device="host"}} {2 * server.cost}' in metrics
    assert 'weir_version_memory_bytes{model="third",version="1"} 0' in metrics


def test_the_least_recently_used_goes_and_comes_back(measured):
    server = measured(2.5)
    ok(server, "second")
    a_tick()
    ok(server, "first")
    a_tick()
    assert ok(server, "third") == [5, 5, 5, 5]
    assert settled(server) == {"first", "third"}
    assert server.version("second", 1)["state"] == "cold"
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert server.ask("GET", "/v2/models/second/ready").status == 200
    a_tick()
    assert ok(server, "second", "/versions/1") == [5, 5, 5, 5]
    assert settled(server) == {"second", "third"}
    assert budget(server)["used"] == 2 * server.cost
    for name in 3 * MODELS:
        ok(server, name)
        assert budget(server)["used"] <= budget(server)["limit"]


def test_twenty_first_callers_share_one_load(measured):
    server = measured(4, "families:\n  default: {load: lazy}\n")
    assert settled(server) == set() and budget(server)["used"] == 0
    assert all(server.version(name, 1)["state"] == "cold" for name in MODELS)
    answers, gate = [], threading.Barrier(20)

    def call(i):
        with server.wire() as w:
            gate.wait()
            if i % 2:
                answers.append(w.ask("POST", "/v2/models/first/infer", ROW))
            else:  # the body comes late, and in pieces
                data = flow.request("POST", "/v2/models/first/infer", ROW)
                w.send(data[:-20])
                time.sleep(0.05)
                w.send(data[-20:])
                answers.append(w.read())

    threads = [threading.Thread(target=call, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [a.status for a in answers] == 20 * [200]
    assert all(a.json()["outputs"][0]["data"] == [5, 5, 5, 5] for a in answers)
    assert starts(server, "first") == 1 and settled(server) == {"first"}


def test_callers_of_a_cold_version_that_leave_or_run_out_of_time(measured):
    server = measured(4, "families:\n  default: {load: lazy, timeout: 5s}\n")
    told = server.ask("GET", "/v2/models/third")  # what it takes is known when it is loaded: this is a first use too
    assert told.status == 200 and [t["name"] for t in told.json()["inputs"]] == ["a", "b"], told
    assert settled(server) == {"third"}
    bare = server.ask("POST", "/v2/models/first/infer")
    assert bare.status in (400, 411), bare
    late = server.ask("POST", "/v2/models/first/infer", ROW, {"X-Weir-Timeout": "1ms"})
    assert late.status == 504 and "was not loaded before the deadline" in late.error, late
    for _ in range(5):
        w = server.wire()
        w.send(flow.request("POST", "/v2/models/second/infer", ROW)[:-5])
        w.close()
    for name in MODELS:
        ok(server, name)
    assert starts(server, "first") == 1 and starts(server, "second") == 1


def test_pinned_ones_never_go(measured):
    server = measured(2.5, "families:\n  first: {pin: on}\n  second: {pin: on}\n")
    assert settled(server) == {"first", "second"}
    reply = ask(server, "third")
    assert reply.status == 503 and "retry-after" in reply.headers, reply
    assert "first/1" in reply.error and "pinned" in reply.error and "nothing idle can make room" in reply.error
    assert settled(server) == {"first", "second"}
    ok(server, "first")


def test_arms_of_a_rollout_never_go_and_those_that_serve_nobody_go_first(measured, tmp_path):
    server = measured(3.5, models=("first",))
    note = other(tmp_path, "two")
    server.push("first", note, "--canary", "10%")
    server.push("second", flow.MODELS / "add")
    assert residencies(server) == {"first": ["resident", "resident"], "second": ["resident"]}
    a_tick()
    ok(server, "second")  # the most recently used, and yet the only one that may go
    a_tick()
    server.push("third", flow.MODELS / "add")
    settled(server)
    assert residencies(server) == {"first": ["resident", "resident"], "second": ["cold"], "third": ["resident"]}
    server.ok("rollout", "abort", "first")
    a_tick()
    ok(server, "first")
    ok(server, "third")
    a_tick()
    ok(server, "first", "/versions/2")  # used last, but it serves nobody
    a_tick()
    ok(server, "second")
    settled(server)
    assert residencies(server) == {"first": ["resident", "cold"], "second": ["resident"], "third": ["resident"]}


def test_a_rollback_to_a_cold_version_flips_at_once_and_loads_it(measured, tmp_path):
    server = measured(2.5, models=("first",))
    server.push("first", other(tmp_path, "two"))
    server.ok("promote", "first", "--version", "2")
    server.push("second", flow.MODELS / "add")
    settled(server)
    assert residencies(server) == {"first": ["cold", "resident"], "second": ["resident"]}
    back = server.weir("rollback", "first")
    assert back.status == 0, back
    assert server.model("first")["stable"] == 1
    reply = ask(server, "first")
    assert reply.status == 200 and reply.headers["x-weir-version"] == "1"
    # and a promotion of one that is cold loads it before it serves
    for name in ("second", "first"):
        a_tick()
        ok(server, name)
    settled(server)
    assert residencies(server)["first"] == ["resident", "cold"]
    server.ok("promote", "first", "--version", "2")
    assert ask(server, "first").headers["x-weir-version"] == "2"
