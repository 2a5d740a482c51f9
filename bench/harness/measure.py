# SPDX-License-Identifier: Apache-2.0
"""A workload: every server is started and checked, then loaded in alternation, round by round."""

import sys

from .base import BENCH, BUILD, Failed, machine_share, machine_ticks, model_path, run_client
from .stats import open_rate
from .workloads import WORKLOADS, peer_servers


class Run:
    """What lives as long as one workload: the processes and the scratch folder."""

    def __init__(self, options, scratch):
        self.options, self.scratch, self.threads = options, scratch, options.threads
        self.processes, self.by_start, self.body_files = [], {}, {}
        self.notes = []  # told below the table: peers that could not be measured, and why

    def start(self, start):
        if start not in self.by_start:
            p = start(self)
            if p not in self.processes:
                self.processes.append(p)
            self.by_start[start] = p
        return self.by_start[start]

    def stop(self):
        for p in reversed(self.processes):
            p.stop()
        self.processes, self.by_start = [], {}

    def only(self, process):
        """Lets one server have the machine."""
        for p in self.processes:
            if p is not process:
                p.pause()
        process.resume()

    def body_file(self, request):
        if request not in self.body_files:
            path = self.scratch / f"body-{len(self.body_files)}"
            path.write_bytes(request.body)
            self.body_files[request] = path
        return self.body_files[request]

    def wrk(self, process, request, connections, seconds):
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", BENCH / "wrk.lua",
                f"http://127.0.0.1:{process.port}{request.path}", "--", request.method, self.body_file(request)]
        for pair in request.headers:
            argv += pair
        return run_client(argv)

    def load_argv(self, process, request, *options):
        argv = [BUILD / "bench/load", *options, process.port, request.method, request.path, self.body_file(request)]
        for pair in request.headers:
            argv += pair
        return argv


# ---- one run --------------------------------------------------------------------------------------------------------


def from_wrk(result):
    return {"offered_s": "", "requests": result["requests"], "seconds": result["duration_us"] / 1e6,
            "req_s": result["requests"] / (result["duration_us"] / 1e6),
            "p50_us": result["p50_us"], "p90_us": result["p90_us"], "p99_us": result["p99_us"],
            "errors": sum(result[k] for k in ("status", "connect", "read", "write", "timeout"))}


def from_load(result):
    """Latencies are those of the answers with 200, counted from when the request was due."""
    times, s = result["ok_us"], result["seconds"]
    return {"offered_s": result["offered"] / s, "requests": result["ok"], "seconds": s, "req_s": result["good"] / s,
            "p50_us": times["p50"], "p90_us": times["p90"], "p99_us": times["p99"],
            "errors": result["offered"] - result["ok"]}


def measure(run, workload, server, connections, seconds, number, rate=None):
    process, request = run.by_start[server.start], server.request()
    run.only(process)
    process.check()
    process.settle()
    pids = process.pids()
    machine, cpu = machine_ticks(), process.cpu_s(pids)
    if rate:
        result, client = run_client(run.load_argv(process, request, "-c", connections, "-r", rate, "-s", seconds))
        row = from_load(result)
    else:
        result, client = run.wrk(process, request, connections, seconds)
        row = from_wrk(result)
    if not process.steady:
        pids = process.pids()
    cpu = process.cpu_s(pids) - cpu  # at once: what is still in flight was not counted as served
    other, stolen = machine_share(machine, cpu + client)
    if process.steady and process.pids() != pids:
        raise Failed(f"the processes of {process.name} changed while it was measured:\n{process.said()}")
    n = max(row["requests"], 1)
    return row | {
        "workload": workload, "server": server.name, "connections": connections, "loop": "open" if rate else "closed",
        "round": number, "cpu_us": cpu * 1e6 / n, "client_cpu_us": client * 1e6 / n,
        "peak_mb": process.peak_mb(pids), "pss_mb": process.pss_mb(pids), "other_cpu_pct": other, "steal_pct": stolen,
    }


def measure_bare(workload, name, seconds, number):
    """CPU and time are of one row where a run has several."""
    w = WORKLOADS[workload]
    machine = machine_ticks()
    result, client = run_client([BUILD / "bench/bare", *w.bare[name], "-s", seconds, model_path(w.model)])
    other, stolen = machine_share(machine, client)
    rows = result["rows_s"] / result["runs_s"]
    return {
        "workload": workload, "server": name, "connections": 0, "loop": "closed", "round": number, "offered_s": "",
        "requests": result["runs"], "seconds": result["runs"] / result["runs_s"], "req_s": result["rows_s"],
        "p50_us": result["p50_us"], "p90_us": "", "p99_us": result["p99_us"], "cpu_us": result["cpu_us"] / rows,
        "client_cpu_us": "", "peak_mb": result["rss_mb"], "pss_mb": result["rss_mb"], "errors": 0,
        "other_cpu_pct": other, "steal_pct": stolen,
    }


# ---- a workload -----------------------------------------------------------------------------------------------------


def same_answers(run, servers):
    """A server that answers another thing does another work: nothing is measured then."""
    first = None
    for s in servers:
        process = run.by_start[s.start]
        run.only(process)
        if not s.request().infers or not s.compare:
            s.request().send(process.port)
            continue
        got = s.request().outputs(process.port)
        if first is None:
            first, first_name = got, s.name
        elif len(got) != len(first) or any(abs(a - b) > 1e-4 + 1e-4 * abs(b) for a, b in zip(got, first)):
            raise Failed(f"{s.name} and {first_name} answer differently: {got[:4]} and {first[:4]}")


def start_all(run, w, servers):
    """Starts and checks them; a peer that fails is noted and left out, anything else ends the run."""
    up = []
    for s in servers:
        try:
            run.start(s.start)
            same_answers(run, [up[0], s] if up and s.peer else [s])
        except Failed as e:
            if not s.peer:
                raise
            run.notes.append((s.name, f"not measured: {e}"))
            continue
        up.append(s)
    same_answers(run, [s for s in up if not s.peer])
    return up


def warm(run, w, servers):
    """Memory, caches, clocks; what each can do, for the rate of the open loop."""
    capacity = {}
    for s in servers:
        run.only(run.by_start[s.start])
        result, _ = run.wrk(run.by_start[s.start], s.request(), max(s.connections or w.connections), 1)
        capacity[s.name] = result["requests"] / (result["duration_us"] / 1e6)
    return capacity


def run_workload(run, name, rounds, peers_there):
    """(rows, seconds of one run, names of the peers measured)."""
    w = WORKLOADS[name]
    seconds = 1 if run.options.quick else run.options.seconds or w.seconds
    servers = start_all(run, w, w.servers + peer_servers(name, peers_there))
    capacity = warm(run, w, servers)
    rate = open_rate([capacity[s.name] for s in servers if s.peer], capacity[servers[0].name]) if w.open else None
    carry = [s for s in servers if rate and capacity[s.name] > 1.2 * rate]
    if rate:
        run.notes += [(s.name, f"not in the open loop: it cannot carry {rate} requests/s") for s in servers
                      if s not in carry]
    rows, lost = [], set()

    def add(s, *how):
        """A peer that ends while it is measured is noted and not asked again."""
        try:
            rows.extend([] if s in lost else [measure(run, name, s, *how)])
        except Failed as e:
            if not s.peer:
                raise
            lost.add(s)
            run.notes.append((s.name, f"measured no further: {e}"))

    for number in range(1, rounds + 1):
        print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
        rows += [measure_bare(name, b, min(seconds, 2), number) for b in w.bare]
        for c in sorted({c for s in servers for c in s.connections or w.connections}):
            for s in servers:
                if c in (s.connections or w.connections):
                    add(s, c, seconds, number)
        for s in carry:
            add(s, w.open, max(seconds, 2), number, rate)
    return rows, seconds, [s.name for s in servers if s.peer]
