# SPDX-License-Identifier: Apache-2.0
"""The models that do harm (tests/support/make_models.py: harm_*) do what they are said to do, and only when they are
asked to: what tests of rollouts rely on."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import flow
from flow import tensor

GOOD, BAD = [1, 2, 3, 4], [101, 2, 3, 4]
MATRIX = np.arange(12).reshape(4, 3)


@pytest.fixture(scope="module")
def server(module_serve):
    return module_serve("threads: 1\n")


def push(server, name):
    """The model under its own name; a test that comes later finds it there."""
    return server.push(name, flow.MODELS / name)


def ask(server, name, *rows, headers=()):
    flat = [v for row in rows for v in row]
    return server.infer(name, [tensor("x", "FP32", [len(rows), 4], flat)], headers)


def answer(server, name, *rows):
    """(shape, data) of y."""
    reply = ask(server, name, *rows)
    assert reply.status == 200, reply
    (y,) = reply.json()["outputs"]
    assert y["name"] == "y" and y["datatype"] == "FP32"
    return y["shape"], y["data"]


def right(*rows):
    return [len(rows), 3], (np.array(rows) @ MATRIX).ravel().tolist()


@pytest.mark.parametrize("name", ["harm_nan", "harm_shape", "harm_error", "harm_slow", "harm_hang", "harm_good2"])
def test_good_until_it_is_asked_for_more(server, name):
    push(server, name)
    assert answer(server, name, GOOD) == right(GOOD)
    assert answer(server, name, GOOD, [100, 0, 0, 1], [-5, 0, 0, 0]) == right(GOOD, [100, 0, 0, 1], [-5, 0, 0, 0])


def test_good(server):
    first, second = push(server, "harm_good"), push(server, "harm_good2")
    assert first["digest"] != second["digest"]
    for name in ("harm_good", "harm_good2"):
        assert answer(server, name, GOOD, BAD) == right(GOOD, BAD)


def test_nan(server):
    push(server, "harm_nan")
    shape, data = answer(server, "harm_nan", GOOD, BAD)  # JSON has no NaN: null
    assert (shape, data) == ([2, 3], right(GOOD)[1] + [None] * 3)
    push(server, "harm_nan_always")
    assert answer(server, "harm_nan_always", GOOD) == ([1, 3], [None] * 3)


def test_shape(server):
    push(server, "harm_shape")
    assert answer(server, "harm_shape", BAD) == ([1, 2], right(BAD)[1][:2])
    assert answer(server, "harm_shape", GOOD) == right(GOOD)


@pytest.mark.parametrize("name, rows", [("harm_error", BAD), ("harm_error_always", GOOD)])
def test_error(server, name, rows):
    """The model's error, not the client's, and the worker lives on."""
    push(server, name)
    (pid,) = server.workers(name)
    for n in (1, 3, 7):
        reply = ask(server, name, *[rows] * n)
        assert reply.status == 500 and "the model failed" in reply.error, reply
    assert server.workers(name) == [pid]
    if name == "harm_error":
        assert answer(server, name, GOOD) == right(GOOD)


def trips(name):
    graph = onnx.load(flow.MODELS / name / "model.onnx").graph
    (count,) = [numpy_helper.to_array(t) for t in graph.initializer if t.name == "trips"]
    return int(count)


def test_slow():
    """What the model's clock says is the machine's matter; this is what it is made of."""
    assert trips("harm_slow") == 10 * trips("harm_good")


def test_hang(server):
    push(server, "harm_hang")
    (pid,) = server.workers("harm_hang")
    assert ask(server, "harm_hang", BAD, headers={"X-Weir-Timeout": "300ms"}).status == 504
    flow.until("the worker that hangs is replaced", lambda: server.workers("harm_hang") not in (None, [pid]), 30)
    assert answer(server, "harm_hang", GOOD) == right(GOOD)


def test_load(server):
    done = server.weir("push", "harm_load", flow.MODELS / "harm_load")
    assert done.status == 1 and "ONNX Runtime refuses the model" in done.err and "Frobnicate" in done.err, done
