# SPDX-License-Identifier: Apache-2.0
"""The circuit breaker: a canary that does harm from the start is taken back without anybody's hand."""

import os
import signal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import flow

USERS = [f"u{i}" for i in range(40)]


def model(path, nodes, init=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], list(init))
    path.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "model.onnx")
    return path


@pytest.fixture
def paths(tmp_path):
    """A model that gives x back, and one that gives it back as often as its first value says: too often is too much."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
    grows = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["corner"]),
        helper.make_node("ReduceMax", ["corner"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["times", "one"], ["times1"]),
        helper.make_node("Concat", ["times1", "one"], ["repeats"], axis=0),
        helper.make_node("Tile", ["x", "repeats"], ["y"]),
    ]
    return (model(tmp_path / "same", [helper.make_node("Identity", ["x"], ["y"])]),
            model(tmp_path / "grows", grows, [one, zero]))


def ask(server, user, first=1e6):
    return server.infer("m", [flow.tensor("x", "FP32", [1, 4], [first, 0, 0, 0])], {"X-Weir-User": user})


def test_first_five_answers(serve, paths):
    s = serve("families:\n  default: {output_bytes: 1MiB}\n")
    s.push("m", paths[0])
    s.push("m", paths[1], "--canary", "50%")
    wrong = 0
    for i in range(400):
        reply = ask(s, USERS[i % len(USERS)])
        if reply.headers["x-weir-version"] == "1":
            assert reply.status == 200
        else:
            assert reply.status == 500 and reply.headers["x-weir-arm"] == "canary", reply
            wrong += 1
        if s.get("/admin/models/m/rollout")["rollout"]["state"] != "running":
            break
    assert wrong == 5
    got = s.rollout("m")["rollout"]
    assert got["state"] == "rolled_back" and "first five answers were all errors" in got["reason"] and got["ended"]
    (canary,) = [a for a in s.rollout("m")["arms"] if a["arm"] == "canary"]
    assert canary["errors"] == canary["requests"] == 5 and sum(canary["errors_by"].values()) == 5
    assert all(ask(s, u).headers["x-weir-version"] == "1" for u in USERS)
    row = s.history("m")[0]
    assert row["kind"] == "rolled_back" and row["actor"] == "weir (circuit breaker)" and "first five" in row["text"]
    assert "first five answers" in s.ok("rollout", "show", "m").out
    s.kill()
    s.start()
    assert s.rollout("m")["rollout"]["state"] == "rolled_back", "it was durable"


def test_one_good_answer_is_enough_to_wait(serve, paths):
    """Four errors and a success: that is a matter for the comparison, not for the breaker."""
    s = serve("families:\n  default: {output_bytes: 1MiB}\n")
    s.push("m", paths[0])
    s.push("m", paths[1], "--canary", "100%")
    for i in range(4):
        assert ask(s, "u").status == 500
    assert ask(s, "u", 1).status == 200
    for i in range(20):
        assert ask(s, "u").status == 500
    assert s.rollout("m")["rollout"]["state"] == "running"
    arm = s.arms("m")["canary"]
    assert (arm["requests"], arm["ok"], arm["errors"]) == (25, 1, 24)


def test_client_errors_are_not_the_canary_s(serve, paths):
    s = serve()
    s.push("m", paths[0])
    s.push("m", paths[1], "--canary", "100%")
    for _ in range(10):
        reply = s.infer("m", [flow.tensor("x", "FP32", [1, 3], [0, 0, 0])], {"X-Weir-User": "u"})
        assert reply.status == 400 and reply.headers["x-weir-arm"] == "canary"
    assert s.rollout("m")["rollout"]["state"] == "running"
    assert s.arms("m")["canary"]["errors"] == 0


def test_five_deaths(serve):
    """Five deaths of its own within a minute, under load: taken back; nobody's request failed."""
    s = serve(flow.watched("50%"))  # not for being slow, which it is
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "watched")
    load = flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=3)
    load.start()

    def canary_pid():
        (w,) = s.version("intent", 2)["workers"] or [{"state": "gone", "pid": 0}]
        return w["pid"] if w["state"] == "ready" else None

    dead = set()
    for _ in range(5):
        pid = flow.until("a new worker", lambda: (canary_pid() or 0) not in dead | {0} and canary_pid(), 40)
        dead.add(pid)
        os.kill(pid, signal.SIGABRT)
    flow.until("rolled back", lambda: s.rollout("intent")["rollout"]["state"] == "rolled_back")
    load.stop()
    assert not load.failed()
    got = s.rollout("intent")["rollout"]
    assert "its process died five times within 60 s" in got["reason"] and "signal 6" in got["reason"], got
    assert s.history("intent")[0]["actor"] == "weir (circuit breaker)"
    assert {flow.Wire(s.data).ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0],
                                  {"X-Weir-User": u}).headers["x-weir-version"] for u in USERS} == {"1"}


def test_a_stable_version_is_restarted(serve):
    """The same deaths of a stable version that has done work: it comes back, with pauses."""
    s = serve()
    s.push_example("recommend", 1)
    body = flow.Samples("recommend").rows[0][0]
    for _ in range(30):
        assert s.ask("POST", "/v2/models/recommend/infer", body).status == 200
    for _ in range(5):
        pid = flow.until("ready", lambda: s.workers("recommend"), 40)[0]
        os.kill(pid, signal.SIGABRT)
        flow.until("seen", lambda: pid not in (s.workers("recommend") or [pid]), 40)
    flow.until("an answer", lambda: s.ask("POST", "/v2/models/recommend/infer", body).status == 200, 60)
