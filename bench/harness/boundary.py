# SPDX-License-Identifier: Apache-2.0
"""What the boundary costs: the same call of weir.h, one at a time, at every place; beside a bare Run(). CPU is that of
the caller and of every server process together. The model runs inline, so that nothing else differs."""

import json
import os
import subprocess
import sys

from .base import BUILD, Failed, free_port, machine_share, machine_ticks, model_path, run_client
from .process import Process
from .servers import push, run_weir
from .stats import median

BARE = "bare Run()"
FAMILIES = {"mlp": {"place": "inline"}}


class Caller(Process):
    """bench/boundary as a process of which the CPU time is measured, with all that it starts."""

    def __init__(self, where, seconds, log):
        self.name, self.log, self.steady = f"boundary {where}", log, True
        with open(log, "wb") as err:
            self.child = subprocess.Popen([str(BUILD / "bench/boundary"), where, str(seconds)], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=err, text=True,
                                          env=dict(os.environ, WEIR_BINARY=str(BUILD / "weir")))

    def line(self):
        text = self.child.stdout.readline()
        if not text:
            self.child.wait()
            raise Failed(f"{self.name} ended:\n{self.said()}")
        return text

    def go_on(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()


def filled(run):
    """A data folder with the model in it, and a configuration that names it: for servers that an application has to
    itself."""
    p = run_weir(run, "weir-boundary-own", FAMILIES)
    try:
        push(p, "mlp")
    finally:
        p.stop()
    folder = run.scratch / "weir-boundary-own"
    conf = folder / "own.yaml"
    conf.write_text((folder / "weir.yaml").read_text() +
                    f"store: sqlite:{folder}/data/weir.db\nartifacts: {folder}/data/artifacts\n")
    return conf


def on_a_socket(run, path):
    """A server whose inference address is a unix socket."""
    folder, admin = run.scratch / "weir-boundary-unix", free_port()
    folder.mkdir(exist_ok=True)
    (folder / "weir.yaml").write_text(f"threads: {run.threads}\nfamilies:\n  mlp: {{place: inline}}\n")
    argv = [BUILD / "weir", "serve", "-c", folder / "weir.yaml", "--data", folder / "data", "--listen", f"unix:{path}",
            "--admin", f"127.0.0.1:{admin}"]
    p = Process("weir-boundary-unix", argv, run.scratch / "weir-boundary-unix.log", admin)
    p.admin = admin
    return p


def places(run):
    """name: (what weir_open is given, the server that is measured with it or None)."""
    conf, path = filled(run), run.scratch / "boundary.sock"
    tcp, unix = run_weir(run, "weir-boundary", FAMILIES), on_a_socket(run, path)
    run.processes += [tcp, unix]
    push(tcp, "mlp")
    push(unix, "mlp")
    return {"spawn": (f"spawn:{conf}", None), "unix": (f"unix:{path}", unix),
            "http": (f"http://127.0.0.1:{tcp.port}", tcp)}


def measure(run, name, where, server, seconds, number):
    machine = machine_ticks()
    caller = Caller(where, seconds, run.scratch / "boundary.log")
    run.processes.append(caller)
    if caller.line() != "ready\n":
        raise Failed(f"{caller.name} said something else than ready:\n{caller.said()}")
    pids = caller.pids() + (server.pids() if server else [])
    before = caller.cpu_s(pids)
    caller.go_on()
    result = json.loads(caller.line())
    cpu = caller.cpu_s(pids) - before
    caller.go_on()
    if caller.child.wait(30) != 0:
        raise Failed(f"{caller.name} ended with status {caller.child.returncode}:\n{caller.said()}")
    run.processes.remove(caller)
    other, stolen = machine_share(machine, cpu)
    return {"workload": "boundary", "server": name, "round": number, "calls_s": result["calls"] / result["seconds"],
            "p50_us": result["p50_us"], "p99_us": result["p99_us"], "cpu_us": cpu * 1e6 / result["calls"],
            "other_cpu_pct": other, "steal_pct": stolen}


def bare(run, seconds, number):
    machine = machine_ticks()
    r, _ = run_client([BUILD / "bench/bare", "-s", seconds, model_path("mlp")])
    other, stolen = machine_share(machine, r["cpu_us"] * r["runs_s"] * seconds / 1e6)
    return {"workload": "boundary", "server": BARE, "round": number, "calls_s": r["runs_s"], "p50_us": r["p50_us"],
            "p99_us": r["p99_us"], "cpu_us": r["cpu_us"], "other_cpu_pct": other, "steal_pct": stolen}


def run_boundary(run, peers_there):
    del peers_there  # theirs is HTTP alone
    rounds = run.options.rounds or (1 if run.options.quick else 5)
    seconds = 1 if run.options.quick else run.options.seconds or 2
    table, rows = places(run), []
    for number in range(1, rounds + 1):
        print(f"boundary: round {number} of {rounds}", file=sys.stderr, flush=True)
        rows.append(bare(run, seconds, number))
        rows += [measure(run, name, *of, seconds, number) for name, of in table.items()]
    run.stop()
    return rows


COLUMNS = (
    ("server", "place", "{}"), ("calls_s", "calls/s", "{}"), ("p50_us", "p50 us", "{}"),
    ("p99_us", "p99 us", "{}"), ("cpu_us", "CPU us/call", "{}"),
)


def figures(rows):
    def over(name, column):
        by_round = {r["round"]: r[column] for r in rows if r["server"] == BARE}
        return median([r[column] - by_round[r["round"]] for r in rows if r["server"] == name])

    names = list(dict.fromkeys(r["server"] for r in rows if r["server"] != BARE))
    return [(f"{n}: {what} over the bare Run(), us", over(n, column), "")
            for n in names for what, column in (("p50", "p50_us"), ("CPU a call", "cpu_us"))]
