# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a worker, again and again, under a load of 80 % of what one instance serves, deadline 5 s: not one unary
request may fail, with two instances and with one.

The next kill comes when all instances are ready again *and* what had to wait for the last one has been answered: with
one instance at 80 % load the time it was gone takes four times as long to make up, whoever serves; kills that did not
wait for it would measure an overload."""

import json
import os
import signal
import sys
import time
import urllib.request

from .base import Client, Failed, machine_share, machine_ticks, run_client
from .request import infer_json
from .servers import weir

MODEL = "steady"
CONNECTIONS = 256
DEADLINE_MS = 5000
LOAD = 0.8
WAIT_S = 60
LONGEST_S = 86400


def starter(instances):
    return weir(MODEL, f"{instances}", place="worker", instances=instances)


def ask(process, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{process.admin}{path}", timeout=30) as r:
        return r.read()


def version(process):
    return json.loads(ask(process, f"/admin/models/{MODEL}"))["versions"][0]


def retried(process):
    """Jobs that were given to an instance again after a death."""
    total = 0
    for line in ask(process, "/metrics").decode().splitlines():
        if line.startswith("weir_retries_total"):
            total += float(line.rsplit(" ", 1)[1])
    return int(total)


def wait(process, client, what, condition):
    end = time.monotonic() + WAIT_S
    while True:
        got = condition(version(process))
        if got:
            return got
        process.check()
        if client.child.poll() is not None:
            raise Failed(f"the load ended before its time: {client.child.stdout.read()[-500:]}")
        if time.monotonic() > end:
            raise Failed(f"{process.name}: {WAIT_S} s after a kill still not {what}:\n{process.said()}")
        time.sleep(0.005)


def settled(instances):
    """The pids, once all are ready and no more is in flight than a load of 80 % leaves."""

    def condition(v):
        ready = [w["pid"] for w in v["workers"] if w["state"] == "ready"]
        return ready if len(ready) == instances and v["stats"]["in_flight"] <= 4 * instances else None

    return condition


def restarted(instances, times):
    """All are ready, and so many were started again: a pid may come twice in a long run, a restart does not."""

    def condition(v):
        ready = [w for w in v["workers"] if w["state"] == "ready"]
        return len(ready) == instances and sum(w["restarts"] for w in v["workers"]) >= times

    return condition


def measure(run, instances, kills, rate):
    process, request = run.start(starter(instances)), infer_json(MODEL, DEADLINE_MS * 1000)
    client = Client(run.load_argv(process, request, "-c", CONNECTIONS, "-r", round(rate, 1), "-s", LONGEST_S,
                                  "-d", DEADLINE_MS, "-w", 30))
    machine, cpu = machine_ticks(), process.cpu_s(process.pids(), ended=True)
    down, began = [], time.monotonic()
    try:
        time.sleep(1)
        for i in range(kills):
            pids = wait(process, client, "settled", settled(instances))
            victim = pids[i % len(pids)]
            at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait(process, client, "ready", restarted(instances, i + 1))
            down.append((time.monotonic() - at) * 1000)
            if (i + 1) % 50 == 0:
                print(f"kills: {i + 1} of {kills}, {instances} instance(s)", file=sys.stderr, flush=True)
        wait(process, client, "settled", settled(instances))
        time.sleep(1)
        took = time.monotonic() - began
        client.stop()
        result, spent = client.result()
    except BaseException:
        client.child.kill()
        raise
    cpu = process.cpu_s(process.pids(), ended=True) - cpu
    other, stolen = machine_share(machine, cpu + spent)
    down.sort()
    return {
        "workload": "kills", "instances": instances, "kills": kills, "seconds": took, "offered_s": rate,
        "requests": result["offered"], "ok": result["ok"], "failed": result["offered"] - result["ok"],
        "refused": result["refused"], "expired": result["expired"], "other": result["other"],
        "broken": result["broken"], "unanswered": result["unanswered"], "unsent": result["unsent"],
        "late": result["ok"] - result["good"],
        "retried": retried(process), "restarts": sum(w["restarts"] for w in version(process)["workers"]),
        "p50_ms": result["ok_us"]["p50"] / 1000, "p99_ms": result["ok_us"]["p99"] / 1000,
        "max_ms": result["ok_us"]["max"] / 1000, "ready_again_p50_ms": down[len(down) // 2],
        "ready_again_max_ms": down[-1], "other_cpu_pct": other, "steal_pct": stolen,
    }


COLUMNS = (
    ("instances", "instances", "{}"), ("kills", "kills", "{:,}"), ("seconds", "seconds", "{:,.0f}"),
    ("offered_s", "offered/s", "{:,.0f}"), ("requests", "requests", "{:,}"), ("failed", "failed", "{:,}"),
    ("retried", "retried", "{:,}"), ("restarts", "restarts", "{:,}"), ("p50_ms", "p50 ms", "{:,.1f}"),
    ("p99_ms", "p99 ms", "{:,.1f}"), ("max_ms", "max ms", "{:,.0f}"),
    ("ready_again_p50_ms", "ready again ms", "{:,.0f}"), ("ready_again_max_ms", "at most", "{:,.0f}"),
)


def figures(rows):
    return [(f"{r['kills']} kills, {r['instances']} instance(s), {r['requests']:,} requests: failed", r["failed"],
             "<= 0") for r in rows]


def run_kills(run, _peers):
    kills = 5 if run.options.quick else run.options.kills
    process = run.start(starter(1))
    result, _ = run_client(run.load_argv(process, infer_json(MODEL), "-c", 8, "-s", 3))
    rate = LOAD * result["ok"] / result["seconds"]
    rows = []
    for instances in (2, 1):
        print(f"kills: {kills}, {instances} instance(s), {rate:,.0f} requests/s", file=sys.stderr, flush=True)
        rows.append(measure(run, instances, kills, rate))
    return rows
