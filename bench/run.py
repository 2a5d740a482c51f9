#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness: `make bench`, or `make bench BENCH="--quick --workload mlp"`.

Starts every server of the table below, checks that all of them give the same answer to the same request, then lets wrk
load one after the other, in alternation, for a number of rounds. Every figure is a median over the rounds; every ratio
is the median of the ratios within one round, because what disturbs a machine disturbs neighbours in time alike. Writes
one CSV a workload and prints the tables. bench/README.md says what is measured and how to read it.
"""

import argparse
import csv
import dataclasses
import datetime
import functools
import http.client
import json
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD") or ROOT / "build").resolve()
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 30
COLUMNS = ["workload", "server", "connections", "round", "requests", "seconds", "req_s", "p50_us", "p90_us", "p99_us",
           "cpu_us", "client_cpu_us", "peak_mb", "errors", "other_cpu_pct", "steal_pct"]


class Failed(Exception):
    """Told to the user as one sentence."""


# ---- requests -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes
    headers: tuple  # of (name, value)
    infers: bool = True  # the answer holds the model's output

    def send(self, port):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            c.request(self.method, self.path, self.body, dict(self.headers))
            r = c.getresponse()
            body = r.read()
            if r.status != 200:
                raise Failed(f"{self.path} on port {port} answered {r.status}: {body[:300]!r}")
            return body, r.headers
        finally:
            c.close()

    def outputs(self, port):
        """The numbers of the first output."""
        body, headers = self.send(port)
        split = int(headers.get("Inference-Header-Content-Length") or 0)
        if split:
            size = json.loads(body[:split])["outputs"][0]["parameters"]["binary_data_size"]
            return struct.unpack(f"<{size // 4}f", body[split : split + size])
        return tuple(json.loads(body)["outputs"][0]["data"])


def mlp_body():
    rng = random.Random(16)
    data = [round(rng.uniform(-1, 1), 4) for _ in range(16)]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


@functools.cache
def mlp_json():
    return Request("POST", "/v2/models/mlp/infer", mlp_body(), (("Content-Type", "application/json"),))


@functools.cache
def mlp_fixed():
    """The same bytes sent to a route that reads them, runs no model and answers JSON of about the same size."""
    return Request("GET", "/v2/models/mlp", mlp_body(), (("Content-Type", "application/json"),), infers=False)


@functools.cache
def cnn_binary():
    rng = random.Random(224)
    n = 3 * 224 * 224
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": 4 * n}}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(head, separators=(",", ":")).encode()
    raw = struct.pack(f"<{n}f", *(rng.uniform(-1, 1) for _ in range(n)))
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(text))))
    return Request("POST", "/v2/models/cnn/infer", text + raw, headers)


# ---- servers --------------------------------------------------------------------------------------------------------


class Process:
    """A server that runs, with all processes below it."""

    def __init__(self, name, argv, ports, log):
        self.name, self.log, self.port = name, log, ports[0]
        with open(log, "wb") as out:
            self.child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=subprocess.STDOUT, cwd=ROOT)
        end = time.monotonic() + START_S
        for port in ports:
            while not self._listens(port):
                self.check()
                if time.monotonic() > end:
                    raise Failed(f"{name} did not listen on port {port} within {START_S} s:\n{self.said()}")
                time.sleep(0.02)

    @staticmethod
    def _listens(port):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    def said(self):
        return self.log.read_text(errors="replace")[-2000:]

    def check(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.child.returncode}:\n{self.said()}")

    def pids(self):
        """This process and all below it."""
        found, todo = [], [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
                try:
                    todo += [int(p) for p in (task / "children").read_text().split()]
                except (FileNotFoundError, ProcessLookupError):
                    pass  # the thread has ended meanwhile
        return sorted(found)

    def cpu_s(self, pids):
        ticks = 0
        for pid in pids:
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                raise Failed(f"a process of {self.name} ended while it was measured:\n{self.said()}") from None
            ticks += int(fields[11]) + int(fields[12])
        return ticks * TICK_S

    def peak_mb(self, pids):
        total = 0
        for pid in pids:
            m = re.search(r"^VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
            total += int(m.group(1)) if m else 0
        return total / 1024

    def settle(self):
        """Waits until what is still in flight has been answered."""
        before = None
        for _ in range(100):
            now = self.cpu_s(self.pids())
            if now == before:
                return
            before = now
            time.sleep(0.05)

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(15)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def model_path(name):
    return BUILD / "models" / name / "model.onnx"


def start_floor(run, name, model, threads):
    port = free_port()
    return Process(name, [BUILD / "bench/floor", model_path(model), port, threads], [port], run.scratch / f"{name}.log")


def start_weir(run, name, model, family):
    """A server of its own for each setting, so that CPU and memory are that setting's."""
    folder = run.scratch / name
    folder.mkdir()
    port, admin = free_port(), free_port()
    settings = ", ".join(f"{k}: {v}" for k, v in family.items())
    (folder / "weir.yaml").write_text(f"threads: {run.threads}\nfamilies:\n  {model}: {{{settings}}}\n")
    argv = [BUILD / "weir", "serve", "-c", folder / "weir.yaml", "--data", folder / "data",
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    p = Process(name, argv, [port, admin], run.scratch / f"{name}.log")
    run.processes.append(p)  # now, so that it is stopped should the push fail
    argv = [BUILD / "weir", "push", model, model_path(model).parent, "--server", f"http://127.0.0.1:{admin}"]
    push = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    if push.returncode != 0:
        raise Failed(f"{name}: weir push {model} failed:\n{push.stdout}\n{p.said()}")
    return p


def floor_mlp(run):
    return start_floor(run, "floor-mlp", "mlp", run.threads)


def floor_cnn(run):
    return start_floor(run, "floor-cnn", "cnn", 2)


def weir_inline(run):
    return start_weir(run, "weir-inline", "mlp", {"place": "inline"})


def weir_worker(run):
    return start_weir(run, "weir-worker", "mlp", {"place": "worker"})


def weir_cnn(run):
    return start_weir(run, "weir-cnn", "cnn", {"place": "worker", "instances": 2})


@dataclasses.dataclass(frozen=True)
class Server:
    """One row: a server under one workload. Rows with the same `start` share the process."""

    name: str
    workload: str
    start: object  # (Run) -> Process
    request: object  # () -> Request


SERVERS = [
    Server("floor", "mlp", floor_mlp, mlp_json),
    Server("fixed reply", "mlp", weir_inline, mlp_fixed),
    Server("inline", "mlp", weir_inline, mlp_json),
    Server("worker", "mlp", weir_worker, mlp_json),
    Server("floor", "cnn", floor_cnn, cnn_binary),
    Server("worker", "cnn", weir_cnn, cnn_binary),
]

# ---- workloads ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Workload:
    title: str
    model: str
    connections: tuple
    seconds: float
    bare: dict  # row -> arguments of bench/bare
    ratios: tuple  # of (what, limit, function of one round: (server, connections) -> row)


def ratio(what, limit, top, bottom):
    return (what, limit, lambda r: top(r) / bottom(r))


def at(server, connections, column):
    return lambda r: r[server, connections][column]


WORKLOADS = {
    "mlp": Workload(
        "tiny MLP 16-32-4, JSON", "mlp", (1, 8, 64), 3,
        {"bare": ["-b", 1], "bare, 16 rows": ["-b", 16], "bare, 2 threads": ["-t", 2]},
        (
            ratio("inline / floor, server CPU, 64 connections", "<= 1.0",
                  at("inline", 64, "cpu_us"), at("floor", 64, "cpu_us")),
            ratio("worker / floor, server CPU, 64 connections", "<= 1.6",
                  at("worker", 64, "cpu_us"), at("floor", 64, "cpu_us")),
            ratio("fixed reply / floor, server CPU, 64 connections", "",
                  at("fixed reply", 64, "cpu_us"), at("floor", 64, "cpu_us")),
            ratio("floor / bare, CPU, 64 connections", "<= 4: an honest floor",
                  at("floor", 64, "cpu_us"), at("bare", 0, "cpu_us")),
            ratio("inline / floor, requests/s, 64 connections", "",
                  at("inline", 64, "req_s"), at("floor", 64, "req_s")),
            ratio("worker / floor, requests/s, 64 connections", "",
                  at("worker", 64, "req_s"), at("floor", 64, "req_s")),
            ratio("inline / (fixed reply + bare), p50, 1 connection", "<= 1.3", at("inline", 1, "p50_us"),
                  lambda r: r["fixed reply", 1]["p50_us"] + r["bare", 0]["p50_us"]),
            ratio("worker / (fixed reply + bare), p50, 1 connection", "<= 2.2", at("worker", 1, "p50_us"),
                  lambda r: r["fixed reply", 1]["p50_us"] + r["bare", 0]["p50_us"]),
        ),
    ),
    "cnn": Workload(
        "MobileNet-like CNN 224x224, binary tensors (602 kB)", "cnn", (8, 16), 5,
        {"bare": ["-b", 1], "bare, 2 threads": ["-t", 2]},
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
}

# ---- measuring ------------------------------------------------------------------------------------------------------


def machine_ticks():
    """(all, busy, stolen) of all processors since boot, in ticks."""
    f = [int(x) for x in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(f), sum(f) - f[3] - f[4], f[7]


def run_client(argv):
    """Runs to the end; its output and its CPU seconds."""
    child = subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        child.kill()
        raise
    finally:
        child.stdout.close()
    if child.returncode != 0:
        raise Failed(f"{argv[0]} ended with status {child.returncode}:\n{out}")
    try:
        last = json.loads(out.strip().rsplit("\n", 1)[-1])
    except ValueError:
        raise Failed(f"{argv[0]} gave no result:\n{out}") from None
    return last, usage.ru_utime + usage.ru_stime


class Run:
    def __init__(self, options, scratch):
        self.options, self.scratch, self.threads = options, scratch, options.threads
        self.processes, self.by_start, self.body_files = [], {}, {}
        self.rows = []

    def start(self, server):
        if server.start not in self.by_start:
            p = server.start(self)
            if p not in self.processes:
                self.processes.append(p)
            self.by_start[server.start] = p
        return self.by_start[server.start]

    def stop(self):
        for p in reversed(self.processes):
            p.stop()

    def wrk(self, process, request, connections, seconds):
        if request not in self.body_files:
            path = self.scratch / f"body-{len(self.body_files)}"
            path.write_bytes(request.body)
            self.body_files[request] = path
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", BENCH / "wrk.lua",
                f"http://127.0.0.1:{process.port}{request.path}", "--", request.method, self.body_files[request]]
        for name, value in request.headers:
            argv += [name, value]
        return run_client(argv)

    def measure(self, server, connections, seconds, number):
        process, request = self.by_start[server.start], server.request()
        process.check()
        process.settle()
        pids = process.pids()
        machine, cpu = machine_ticks(), process.cpu_s(pids)
        result, client = self.wrk(process, request, connections, seconds)
        cpu = process.cpu_s(pids) - cpu  # at once: what is still in flight was not counted as served
        machine = [b - a for a, b in zip(machine, machine_ticks())]
        if process.pids() != pids:
            raise Failed(f"the processes of {process.name} changed while it was measured:\n{process.said()}")
        n = max(result["requests"], 1)
        other = machine[1] - machine[2] - (cpu + client) / TICK_S
        return {
            "workload": server.workload, "server": server.name, "connections": connections, "round": number,
            "requests": result["requests"], "seconds": result["duration_us"] / 1e6,
            "req_s": result["requests"] / (result["duration_us"] / 1e6),
            "p50_us": result["p50_us"], "p90_us": result["p90_us"], "p99_us": result["p99_us"],
            "cpu_us": cpu * 1e6 / n, "client_cpu_us": client * 1e6 / n, "peak_mb": process.peak_mb(pids),
            "errors": sum(result[k] for k in ("status", "connect", "read", "write", "timeout")),
            "other_cpu_pct": max(other, 0) * 100 / max(machine[0], 1),
            "steal_pct": machine[2] * 100 / max(machine[0], 1),
        }

    def bare(self, workload, name, seconds, number):
        w = WORKLOADS[workload]
        machine = machine_ticks()
        argv = [BUILD / "bench/bare", *w.bare[name], "-s", seconds, model_path(w.model)]
        result, client = run_client(argv)
        machine = [b - a for a, b in zip(machine, machine_ticks())]
        other = machine[1] - machine[2] - client / TICK_S
        return {
            "workload": workload, "server": name, "connections": 0, "round": number, "requests": result["runs"],
            "seconds": result["runs"] / result["runs_s"], "req_s": result["runs_s"], "p50_us": result["p50_us"],
            "p90_us": "", "p99_us": result["p99_us"], "cpu_us": result["cpu_us"], "client_cpu_us": "",
            "peak_mb": result["rss_mb"], "errors": 0, "other_cpu_pct": max(other, 0) * 100 / max(machine[0], 1),
            "steal_pct": machine[2] * 100 / max(machine[0], 1),
        }

    def same_answers(self, servers):
        """A server that answers another thing does another work: nothing is measured then."""
        first = None
        for s in servers:
            if not s.request().infers:
                s.request().send(self.by_start[s.start].port)
                continue
            got = s.request().outputs(self.by_start[s.start].port)
            if first is None:
                first, first_name = got, s.name
            elif len(got) != len(first) or any(abs(a - b) > 1e-4 + 1e-4 * abs(b) for a, b in zip(got, first)):
                raise Failed(f"{s.workload}: {s.name} and {first_name} answer differently: {got[:4]} and {first[:4]}")

    def workload(self, name, rounds):
        w = WORKLOADS[name]
        servers = [s for s in SERVERS if s.workload == name]
        seconds = 1 if self.options.quick else self.options.seconds or w.seconds
        for s in servers:
            self.start(s)
        self.same_answers(servers)
        for s in servers:
            self.wrk(self.by_start[s.start], s.request(), max(w.connections), 1)  # warm: memory, caches, clocks
        rows = []
        for number in range(1, rounds + 1):
            print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
            rows += [self.bare(name, b, min(seconds, 2), number) for b in w.bare]
            for c in w.connections:
                rows += [self.measure(s, c, seconds, number) for s in servers]
        return rows, seconds


# ---- reporting ------------------------------------------------------------------------------------------------------


def first_line(argv, otherwise):
    try:
        out = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return otherwise
    lines = out.stdout.strip().splitlines()
    return lines[0] if lines else otherwise


def settings(run, workload, rounds, seconds, command):
    git = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True)
    commit = git.stdout.strip() if git.returncode == 0 else "none"
    if git.returncode == 0 and first_line(["git", "status", "--porcelain", "--untracked-files=no"], ""):
        commit += " with changes"
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    os_name = re.search(r'^PRETTY_NAME="?([^"\n]+)', pathlib.Path("/etc/os-release").read_text(), re.M)
    runtime, _ = run_client([BUILD / "bench/bare", "-s", "0.01", model_path("mlp")])
    compiler = (BUILD / "flags").read_text().split(" ", 1)[0] if (BUILD / "flags").exists() else "gcc"
    return {
        "workload": WORKLOADS[workload].title,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit,
        "weir": first_line([BUILD / "weir", "version"], "unknown"),
        "runtime": f"ONNX Runtime {runtime['runtime']}, intra-op 1",
        "compiler": first_line([compiler, "--version"], "unknown"),
        "client": first_line(["wrk", "--version"], "wrk") + ", 1 thread",
        "system": f"{os_name.group(1) if os_name else platform.system()}, Linux {platform.release()}",
        "cpu": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} processors",
        "server threads": run.threads,
        "rounds": f"{rounds} of {seconds:g} s",
        "command": command,
    }


def write_csv(folder, workload, facts, rows):
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{facts['date'][:10]}-{workload}"
    path, n = folder / f"{stem}.csv", 1
    while path.exists():
        n += 1
        path = folder / f"{stem}-{n}.csv"
    with open(path, "w", newline="") as f:
        for key, value in facts.items():
            f.write(f"# {key}: {value}\n")
        out = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        out.writeheader()
        for row in rows:
            out.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return path


def spread(values, form="{:,.0f}"):
    median = form.format(statistics.median(values))
    return f"{median} [{form.format(min(values))}..{form.format(max(values))}]" if len(values) > 1 else median


def print_rows(rows):
    line = "{:<16} {:>5}  {:<30} {:<24} {:<24} {:<30} {:>8} {:>7}"
    print(line.format("server", "conns", "requests/s", "p50 us", "p99 us", "CPU us/request", "peak MB", "errors"))
    seen = []
    for r in rows:
        key = (r["server"], r["connections"])
        if key in seen:
            continue
        seen.append(key)
        mine = [x for x in rows if (x["server"], x["connections"]) == key]
        small = statistics.median(x["p50_us"] for x in mine) < 100
        form = "{:,.1f}" if small else "{:,.0f}"
        print(line.format(
            r["server"], r["connections"] or "-", spread([x["req_s"] for x in mine]),
            spread([x["p50_us"] for x in mine], form), spread([x["p99_us"] for x in mine], form),
            spread([x["cpu_us"] for x in mine], "{:,.2f}"), f"{max(x['peak_mb'] for x in mine):.1f}",
            sum(x["errors"] for x in mine)))


def print_ratios(workload, rows):
    rounds = {}
    for r in rows:
        rounds.setdefault(r["round"], {})[r["server"], r["connections"]] = r
    print("\n{:<56} {:<22} {}".format("ratio, of neighbours in time", "median [spread]", "to reach"))
    for what, limit, of in WORKLOADS[workload].ratios:
        print("{:<56} {:<22} {}".format(what, spread([of(r) for r in rounds.values()], "{:.2f}"), limit))
    other = statistics.median(r["other_cpu_pct"] for r in rows)
    steal = statistics.median(r["steal_pct"] for r in rows)
    worst = max(r["other_cpu_pct"] + r["steal_pct"] for r in rows)
    print(f"\nThe rest of the machine: other processes {other:.0f} % of all processors, stolen {steal:.0f} % (medians);"
          f" {worst:.0f} % both together in the worst run.")


# ---- the command ----------------------------------------------------------------------------------------------------


def arguments():
    p = argparse.ArgumentParser(description="Measures Weir beside its yardsticks on this machine.")
    p.add_argument("--workload", action="append", choices=WORKLOADS, help="only this one (may be given again)")
    p.add_argument("--rounds", type=int, help="how many (default 3; quick: 1)")
    p.add_argument("--seconds", type=int, help="of one run (default: the workload's)")
    p.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 2),
                   help="connection threads of every server for the tiny model (default %(default)s)")
    p.add_argument("--quick", action="store_true",
                   help="one round of 1 s, to see that it works; kept in the build folder")
    p.add_argument("--out", type=pathlib.Path, help="folder for the CSV files (default bench/results)")
    o = p.parse_args()
    if o.rounds is not None and o.rounds < 1 or o.seconds is not None and o.seconds < 1 or not 1 <= o.threads <= 64:
        p.error("--rounds from 1, --seconds from 1, --threads from 1 to 64")
    return o


def main():
    options = arguments()
    names = options.workload or list(WORKLOADS)
    needed = [BUILD / "weir", BUILD / "bench/bare", BUILD / "bench/floor"]
    needed += [model_path(WORKLOADS[w].model) for w in names]
    for path in needed:
        if not path.exists():
            raise Failed(f"{path} is missing: `make bench` builds everything and then runs this")
    if not shutil.which("wrk"):
        raise Failed("wrk is missing: `tools/setup.sh bench` installs it")
    rounds = options.rounds or (1 if options.quick else 3)
    folder = options.out or (BUILD / "bench/results" if options.quick else BENCH / "results")
    # SIGTERM like Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    errors = 0
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as scratch:
        run = Run(options, pathlib.Path(scratch))
        try:
            for name in names:
                rows, seconds = run.workload(name, rounds)
                facts = settings(run, name, rounds, seconds, " ".join(["bench/run.py", *sys.argv[1:]]))
                path = write_csv(folder, name, facts, rows)
                print(f"\n{WORKLOADS[name].title}: {facts['rounds']}, {facts['server threads']} server threads,"
                      f" medians [least..most]")
                print(f"{facts['cpu']}; {facts['runtime']}; {facts['weir']} ({facts['commit']})\n")
                print_rows(rows)
                print_ratios(name, rows)
                print(f"Written to {os.path.relpath(path)}\n", flush=True)
                errors += sum(r["errors"] for r in rows)
                run.stop()
        finally:
            run.stop()
    if errors:
        raise Failed(f"{errors} requests failed: the figures above say nothing until that is mended")


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        sys.exit(f"bench: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
