# SPDX-License-Identifier: Apache-2.0
"""2x overload: the peak goodput of a server is found by closed loops, then twice that is offered in an open loop, each
request with a deadline. A good server keeps its goodput, answers those that it admits by their deadline, refuses the
rest at once, holds no more memory at the end than near the beginning, and answers everybody.

Goodput counts the answers with 200 that came within the deadline of the moment they were *due*, in the time of the run.
What a client had no free connection for by then is "unsent": a server that refuses fast has none of those."""

import dataclasses
import functools
import statistics
import sys
import threading
import time

from . import peers
from .base import Client, Failed, machine_share, machine_ticks, run_client
from .measure import same_answers
from .request import infer_binary, infer_json
from .servers import weir
from .workloads import CNN_WORKER, Server

CONNECTIONS = 512
PEAK_CONNECTIONS = (8, 16)
SAMPLE_S = 0.5
STRETCH_S = 60


@dataclasses.dataclass(frozen=True)
class Case:
    model: str
    what: str
    deadline_ms: int
    server: Server
    peer_request: object


def timed(make, model, deadline_ms):
    return functools.partial(make, model, deadline_ms * 1000)


STEADY = weir("steady", "worker", place="worker", instances=2)
CASES = (
    Case("cnn", "CNN, binary", 250, Server("worker", CNN_WORKER, timed(infer_binary, "cnn", 250)), "binary"),
    Case("steady", "5 ms of one thread", 100, Server("worker", STEADY, timed(infer_json, "steady", 100)), "json"),
)


class Memory(threading.Thread):
    """Samples the memory of a server while it is loaded; what its processes share is counted once."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.samples, self.over = process, [], threading.Event()

    def run(self):
        while not self.over.wait(SAMPLE_S):
            self.samples.append(self.process.pss_mb(self.process.pids()))

    def stop(self):
        self.over.set()
        self.join()
        self.samples = self.samples or [self.process.pss_mb(self.process.pids())]


def peak(run, process, request, deadline_ms, seconds):
    """The most answers within the deadline a second that a closed loop gets."""
    best = 0
    for connections in PEAK_CONNECTIONS:
        result, _ = run_client(run.load_argv(process, request, "-c", connections, "-s", seconds, "-d", deadline_ms))
        best = max(best, result["good"] / result["seconds"])
    return best


SUMS = ("offered", "good", "ok", "refused", "early", "expired", "other", "broken", "unanswered", "unsent", "reopened")


def together(stretches):
    """The stretches as one: counts added up, the worst p99, the median p50."""
    all_ = {k: sum(r[k] for r in stretches) for k in SUMS}
    for k in ("ok_us", "ok_from_send_us", "refused_us", "lag_us"):
        all_[k] = {"p50": statistics.median(r[k]["p50"] for r in stretches),
                   "p99": max(r[k]["p99"] for r in stretches)}
    all_["good_in"] = [n for r in stretches for n in r["good_in"]]
    return all_


def overload(run, case, process, request, peaks, seconds):
    """One stretch of twice the last peak. The result, the server's CPU seconds and the client's."""
    cpu = process.cpu_s(process.pids())
    result, client = Client(run.load_argv(process, request, "-c", CONNECTIONS, "-r", round(2 * peaks[-1], 1), "-s",
                                          seconds, "-d", case.deadline_ms, "-w", 30)).result()
    process.check()
    return result, process.cpu_s(process.pids()) - cpu, client


def measure(run, case, server, seconds):
    """How fast a shared machine is changes by the minute: so the peak is found anew between stretches of a minute, and
    each stretch is held against the peaks before and behind it."""
    process, request = run.start(server.start), server.request()
    run.only(process)
    same_answers(run, [server])
    n = max(1, round(seconds / STRETCH_S))
    each, peak_seconds = max(1, seconds // n), min(5, max(2, seconds // 2))
    peaks, stretches, cpu, client, begun = [], [], 0, 0, 0
    memory, machine = Memory(process), machine_ticks()
    before = process.pss_mb(process.pids())
    memory.start()
    try:
        for i in range(n + 1):
            peaks.append(peak(run, process, request, case.deadline_ms, peak_seconds))
            if not peaks[-1]:
                raise Failed(f"{server.name}: not one answer within {case.deadline_ms} ms, even in a closed loop")
            if i < n:
                time.sleep(1)
                begun = begun or len(memory.samples)
                result, its, clients = overload(run, case, process, request, peaks, each)
                stretches.append(result)
                cpu, client = cpu + its, client + clients
    finally:
        memory.stop()
    other, stolen = machine_share(machine, cpu + client)
    result, pss = together(stretches), memory.samples[begun:] or memory.samples
    beside = [(a + b) / 2 for a, b in zip(peaks, peaks[1:])]
    peak_s, seconds = statistics.mean(beside), each * n
    parts = [r["good"] / each / p for r, p in zip(stretches, beside)]
    ok, refused = result["ok_us"], result["refused_us"]
    return {
        "workload": "overload", "model": case.what, "server": server.name, "deadline_ms": case.deadline_ms,
        "seconds": seconds, "peak_s": peak_s, "offered_s": result["offered"] / seconds,
        "goodput_s": result["good"] / seconds, "goodput_of_peak": result["good"] / seconds / peak_s,
        "first_of_peak": parts[0], "last_of_peak": parts[-1],
        "ok": result["ok"], "ok_p50_ms": ok["p50"] / 1000, "ok_p99_ms": ok["p99"] / 1000,
        "ok_from_send_p99_ms": result["ok_from_send_us"]["p99"] / 1000,
        "late": result["ok"] - result["good"], "refused": result["refused"],
        "refused_p50_ms": refused["p50"] / 1000, "refused_p99_ms": refused["p99"] / 1000,
        "early": result["early"], "expired": result["expired"], "other": result["other"], "broken": result["broken"],
        "unanswered": result["unanswered"], "unsent": result["unsent"], "reopened": result["reopened"],
        "client_lag_p99_ms": result["lag_us"]["p99"] / 1000, "pss_before_mb": before,
        "pss_10_mb": pss[len(pss) // 10], "pss_end_mb": pss[-1], "pss_peak_mb": max(pss),
        "peaks": " ".join(f"{p:.1f}" for p in peaks), "of_peak_each_stretch": " ".join(f"{p:.3f}" for p in parts),
        "good_each_second": " ".join(str(k) for k in result["good_in"]), "cpu_s": cpu,
        "client_cpu_s": client, "other_cpu_pct": other, "steal_pct": stolen,
    }


COLUMNS = (
    ("model", "model", "{}"), ("server", "server", "{}"), ("peak_s", "peak/s", "{:,.0f}"),
    ("offered_s", "offered/s", "{:,.0f}"), ("goodput_s", "goodput/s", "{:,.0f}"),
    ("goodput_of_peak", "of peak", "{:.2f}"), ("last_of_peak", "the last", "{:.2f}"),
    ("deadline_ms", "deadline ms", "{}"), ("ok_p99_ms", "p99 of ok ms", "{:,.0f}"), ("late", "late", "{:,}"),
    ("refused", "refused", "{:,}"), ("refused_p50_ms", "p50 ms", "{:,.1f}"), ("refused_p99_ms", "p99 ms", "{:,.1f}"),
    ("expired", "expired", "{:,}"),
    ("broken", "broken", "{:,}"), ("other", "other", "{:,}"), ("unanswered", "unanswered", "{:,}"),
    ("unsent", "unsent", "{:,}"), ("pss_10_mb", "MB at 10 %", "{:,.0f}"), ("pss_end_mb", "at the end", "{:,.0f}"),
    ("pss_peak_mb", "peak", "{:,.0f}"),
)


def figures(rows):
    """What Weir must reach: (what, value, limit)."""
    out = []
    for r in rows:
        if r["server"] == "worker":
            name = f"2x overload, {r['model']}"
            silent = r["broken"] + r["other"] + r["unanswered"] + r["unsent"]
            out += [
                (f"{name}: goodput / peak", r["goodput_of_peak"], ">= 0.95"),
                (f"{name}: p99 of admitted / deadline", r["ok_p99_ms"] / r["deadline_ms"], "<= 1.0"),
                (f"{name}: memory at the end / at 10 %", r["pss_end_mb"] / r["pss_10_mb"], "<= 1.05"),
                (f"{name}: requests without a proper answer", silent, "<= 0"),
            ]
    return out


def run_overload(run, peers_there):
    seconds = 4 if run.options.quick else run.options.overload_seconds
    rows = []
    for case in CASES:
        name = peers_there[0] if peers_there else None
        servers = [case.server]
        if name:
            request = peers.request(name, case.model, case.peer_request)
            servers.append(Server(name, peers.starter(name, case.model), request, peer=True))
        for s in servers:
            print(f"overload: {case.what}, {s.name}, {seconds} s", file=sys.stderr, flush=True)
            try:
                rows.append(measure(run, case, s, seconds))
            except Failed as e:
                if not s.peer:
                    raise
                run.notes.append((s.name, f"not measured under overload of {case.what}: {e}"))
            run.stop()
    return rows
