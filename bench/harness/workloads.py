# SPDX-License-Identifier: Apache-2.0
"""The tables: for each workload the servers with their requests, the connections, the ratios and their limits (what the
project set itself to reach; bench/README.md says why each)."""

import dataclasses
import functools

from . import peers
from .request import fixed_reply, infer_binary, infer_json
from .servers import batching, floor, judged, weir
from .stats import at, figure, ratio


@dataclasses.dataclass(frozen=True)
class Server:
    """One row: a server under one workload. Rows with the same `start` share the process."""

    name: str
    start: object  # (Run) -> Process
    request: object  # () -> Request
    connections: tuple = None  # only these; None: the workload's
    peer: bool = False
    compare: bool = True  # its answer must be the others'


@dataclasses.dataclass(frozen=True)
class Workload:
    title: str
    model: str
    connections: tuple
    open: int  # connections of the open-loop run; 0: none
    seconds: float
    bare: dict  # row -> arguments of bench/bare
    servers: tuple
    peer_request: object  # (peer, model) -> () -> Request; None: no peer takes part
    peer_batch: int
    ours: str  # the row that peers are held against
    ratios: tuple


def in_form(form):
    return lambda name, model: peers.request(name, model, form)


MLP_INLINE, MLP_WORKER = weir("mlp", "inline", place="inline"), weir("mlp", "worker", place="worker")
MLP_INLINE_JUDGED = judged("mlp", "inline-judged", place="inline")
MLP_WORKER_JUDGED = judged("mlp", "worker-judged", place="worker")
# Servers that differ in nothing: what the figures of two processes differ by alone.
MLP_INLINE_AGAIN, MLP_WORKER_AGAIN = (weir("mlp", f"{place}-again", place=place) for place in ("inline", "worker"))
CNN_WORKER = weir("cnn", "worker", place="worker", instances=2)
MLP_FLOOR, CNN_FLOOR, DENSE_FLOOR = floor("mlp"), floor("cnn", 2), floor("mlp_wide", 2)
DENSE_BATCH = weir("mlp_wide", "batch", place="worker", **batching(16, "2ms"))
DENSE_GREEDY = weir("mlp_wide", "greedy", place="worker", **batching(16))
DENSE_SINGLE = weir("mlp_wide", "single", place="worker", instances=2, **batching(1))
mlp_json, cnn_binary = functools.partial(infer_json, "mlp"), functools.partial(infer_binary, "cnn")
dense_binary = functools.partial(infer_binary, "mlp_wide")


def mlp_ratios(n):
    return (
        ratio(f"inline / floor, server CPU, {n} connections", "<= 1.0",
              at("inline", n, "cpu_us"), at("floor", n, "cpu_us")),
        ratio(f"worker / floor, server CPU, {n} connections", "<= 1.6",
              at("worker", n, "cpu_us"), at("floor", n, "cpu_us")),
        ratio(f"inline / floor, requests/s, {n} connections", "", at("inline", n, "req_s"), at("floor", n, "req_s")),
        ratio(f"worker / floor, requests/s, {n} connections", "", at("worker", n, "req_s"), at("floor", n, "req_s")),
    )


WORKLOADS = {
    "mlp": Workload(
        "tiny MLP 16-32-4, JSON", "mlp", (1, 8, 64), 64, 3,
        {"bare": ["-b", 1], "bare, 16 rows": ["-b", 16], "bare, 2 threads": ["-t", 2]},
        (
            Server("floor", MLP_FLOOR, mlp_json),
            Server("fixed reply", MLP_INLINE, functools.partial(fixed_reply, "mlp")),
            Server("inline", MLP_INLINE, mlp_json),
            Server("worker", MLP_WORKER, mlp_json),
        ),
        in_form("json"), 0, "worker",
        mlp_ratios(64) + (
            ratio("fixed reply / floor, server CPU, 64 connections", "",
                  at("fixed reply", 64, "cpu_us"), at("floor", 64, "cpu_us")),
            ratio("floor / bare, CPU, 64 connections", "<= 4: an honest floor",
                  at("floor", 64, "cpu_us"), at("bare", 0, "cpu_us")),
            ratio("inline / (fixed reply + bare), p50, 1 connection", "<= 1.3", at("inline", 1, "p50_us"),
                  lambda r: at("fixed reply", 1, "p50_us")(r) + at("bare", 0, "p50_us")(r)),
            ratio("worker / (fixed reply + bare), p50, 1 connection", "<= 2.2", at("worker", 1, "p50_us"),
                  lambda r: at("fixed reply", 1, "p50_us")(r) + at("bare", 0, "p50_us")(r)),
        ),
    ),
    "judge": Workload(
        "tiny MLP 16-32-4, JSON, with and without a rollout that is judged, 1 % captured, events", "mlp", (64,), 0, 4,
        {"bare": ["-b", 1]},
        (
            Server("floor", MLP_FLOOR, mlp_json),
            Server("inline", MLP_INLINE, mlp_json),
            Server("inline, again", MLP_INLINE_AGAIN, mlp_json),
            Server("inline, judged", MLP_INLINE_JUDGED, mlp_json),
            Server("inline, judged, users", MLP_INLINE_JUDGED, functools.partial(infer_json, "mlp", user="u1")),
            Server("worker", MLP_WORKER, mlp_json),
            Server("worker, again", MLP_WORKER_AGAIN, mlp_json),
            Server("worker, judged", MLP_WORKER_JUDGED, mlp_json),
        ),
        None, 0, "worker",
        (
            ratio("inline, judged / not, server CPU", "<= 1.02",
                  at("inline, judged", 64, "cpu_us"), at("inline", 64, "cpu_us")),
            ratio("inline, judged, with a user's key / not, server CPU", "",
                  at("inline, judged, users", 64, "cpu_us"), at("inline", 64, "cpu_us")),
            ratio("worker, judged / not, server CPU", "<= 1.02",
                  at("worker, judged", 64, "cpu_us"), at("worker", 64, "cpu_us")),
            ratio("inline, another process of the same / not, server CPU", "",
                  at("inline, again", 64, "cpu_us"), at("inline", 64, "cpu_us")),
            ratio("worker, another process of the same / not, server CPU", "",
                  at("worker, again", 64, "cpu_us"), at("worker", 64, "cpu_us")),
        ),
    ),
    "mlp-binary": Workload(
        "tiny MLP 16-32-4, binary tensors", "mlp", (64,), 0, 3, {"bare": ["-b", 1]},
        (
            Server("floor", MLP_FLOOR, functools.partial(infer_binary, "mlp")),
            Server("inline", MLP_INLINE, functools.partial(infer_binary, "mlp")),
            Server("worker", MLP_WORKER, functools.partial(infer_binary, "mlp")),
        ),
        in_form("binary"), 0, "worker", mlp_ratios(64),
    ),
    "cnn": Workload(
        "MobileNet-like CNN 224x224, binary tensors (602 kB)", "cnn", (1, 8, 16, 64), 64, 4,
        {"bare": ["-b", 1], "bare, 2 threads": ["-t", 2]},
        (Server("floor", CNN_FLOOR, cnn_binary), Server("worker", CNN_WORKER, cnn_binary)),
        in_form("binary"), 0, "worker",
        tuple(
            row
            for c in (8, 16)
            for row in (
                ratio(f"worker / floor, server CPU, {c} connections", "<= 1.02",
                      at("worker", c, "cpu_us"), at("floor", c, "cpu_us")),
                ratio(f"worker / floor, images/s, {c} connections", ">= 1.0",
                      at("worker", c, "req_s"), at("floor", c, "req_s")),
                ratio(f"floor / bare with 2 threads, images/s, {c} connections", "about 0.9",
                      at("floor", c, "req_s"), at("bare, 2 threads", 0, "req_s")),
            )
        ),
    ),
    "cnn-json": Workload(
        "the CNN with a JSON body (0.67 MB)", "cnn", (8,), 0, 4, {"bare": ["-b", 1]},
        (
            Server("worker, binary", CNN_WORKER, cnn_binary),
            Server("floor", CNN_FLOOR, functools.partial(infer_json, "cnn")),
            Server("worker", CNN_WORKER, functools.partial(infer_json, "cnn")),
        ),
        in_form("json"), 0, "worker",
        (
            figure("worker, JSON - binary, ms of server CPU, 8 connections", "<= 3",
                   lambda r: (at("worker", 8, "cpu_us")(r) - at("worker, binary", 8, "cpu_us")(r)) / 1000),
        ),
    ),
    "dense": Workload(
        "dense MLP 1024-2048-2048-16 (25 MB), batching", "mlp_wide", (16,), 0, 4,
        {"bare": ["-b", 1], "bare, 8 rows": ["-b", 8], "bare, 16 rows": ["-b", 16]},
        (
            Server("floor", DENSE_FLOOR, dense_binary),
            Server("worker", DENSE_BATCH, dense_binary),
            Server("worker, JSON", DENSE_BATCH, functools.partial(infer_json, "mlp_wide")),
            Server("worker, no delay", DENSE_GREEDY, dense_binary),
            Server("worker, no batches", DENSE_SINGLE, dense_binary),
            Server("floor, tiny MLP", MLP_FLOOR, mlp_json, (64,), compare=False),
        ),
        peers.batched_request, 16, "worker",
        (
            ratio("worker / (bare row of 16 + 1.6 x floor of the tiny MLP), CPU", "<= 1.0", at("worker", 16, "cpu_us"),
                  lambda r: at("bare, 16 rows", 0, "cpu_us")(r) + 1.6 * at("floor, tiny MLP", 64, "cpu_us")(r)),
            ratio("the same with the bare row of a batch of 8", "", at("worker", 16, "cpu_us"),
                  lambda r: at("bare, 8 rows", 0, "cpu_us")(r) + 1.6 * at("floor, tiny MLP", 64, "cpu_us")(r)),
            ratio("worker / worker without a delay, CPU", "", at("worker", 16, "cpu_us"),
                  at("worker, no delay", 16, "cpu_us")),
            ratio("worker / worker without batches, CPU", "", at("worker", 16, "cpu_us"),
                  at("worker, no batches", 16, "cpu_us")),
            ratio("worker / worker without batches, requests/s", "", at("worker", 16, "req_s"),
                  at("worker, no batches", 16, "req_s")),
        ),
    ),
}


def peer_servers(workload, names):
    w = WORKLOADS[workload]
    if w.peer_request is None:
        return ()
    return tuple(Server(n, peers.starter(n, w.model, w.peer_batch), w.peer_request(n, w.model), peer=True)
                 for n in names)
