# SPDX-License-Identifier: Apache-2.0
"""From spawn to ready, idle memory, size of the binary: starts in alternation, medians. Peers start with the tiny MLP,
since they have no state without a model; so does Weir in two further rows (with the model in its store)."""

import shutil
import subprocess
import sys
import time

from . import peers
from .base import BUILD, Failed, machine_share, machine_ticks
from .servers import push, run_weir
from .stats import median

IDLE_S = 1.0


def size_mb():
    """The server without symbols, in MiB."""
    to = BUILD / "bench/weir-stripped"
    subprocess.run(["strip", "-o", to, BUILD / "weir"], check=True)
    size = to.stat().st_size
    to.unlink()
    return size / (1 << 20)


def weir_empty(run):
    return run_weir(run, "weir-empty", {})


def weir_with(place):
    name = f"weir-start-{place}"

    def start(run):
        if not (run.scratch / name / "data").exists():
            p = run_weir(run, name, {"mlp": {"place": place}})
            try:
                push(p, "mlp")
            finally:
                p.stop()
        return run_weir(run, name, {"mlp": {"place": place}})

    return start


def starts(names):
    rows = {"weir, no model": weir_empty, "weir, mlp inline": weir_with("inline"),
            "weir, mlp in a worker": weir_with("worker")}
    for n in names:
        def start(run, n=n):
            shutil.rmtree(run.scratch / f"{n}-mlp-0", ignore_errors=True)
            return peers.starter(n, "mlp")(run)
        rows[n] = start
    return rows


def measure(run, name, start, number):
    machine = machine_ticks()
    p = start(run)
    run.processes.append(p)
    time.sleep(IDLE_S)
    pids = p.pids()
    row = {"workload": "start", "server": name, "round": number, "ready_ms": p.start_s * 1000, "rss_mb": p.rss_mb(pids),
           "pss_mb": p.pss_mb(pids), "processes": len(pids)}
    row["other_cpu_pct"], row["steal_pct"] = machine_share(machine, p.cpu_s(pids))
    p.stop()
    run.processes.remove(p)
    return row


def run_start(run, peers_there):
    rounds = 2 if run.options.quick else run.options.starts
    table, rows = starts(peers_there), []
    for number in range(1, rounds + 1):
        print(f"start: round {number} of {rounds}", file=sys.stderr, flush=True)
        for name, start in list(table.items()):
            if name in peers_there and number > min(rounds, 3):
                continue  # they take seconds each
            try:
                rows.append(measure(run, name, start, number))
            except Failed as e:
                if name not in peers_there:
                    raise
                run.notes.append((name, f"not started: {e}"))
                del table[name]
    return rows


COLUMNS = (
    ("server", "server", "{}"), ("ready_ms", "ready ms", "{}"), ("rss_mb", "RSS MiB", "{}"),
    ("pss_mb", "PSS MiB", "{}"), ("processes", "processes", "{}"),
)


def figures(rows):
    def middle(column):
        return median([r[column] for r in rows if r["server"] == "weir, no model"])

    return [
        ("start to ready with no model, ms", middle("ready_ms"), "<= 50"),
        ("resident idle with no model, MiB", middle("rss_mb"), "<= 15"),
        ("binary without symbols and without the runtimes, MiB", size_mb(), "<= 5"),
    ]
