#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real runs for `weir advise`: records profiles, and holds the queueing formula against what an open loop sees.

    bench/advise.py record small|busy SECONDS > bench/profiles/NAME_shop.json
    bench/advise.py check SECONDS > bench/results/DATE-advise.csv

small: the example models for a shop of a few users, Poisson arrivals. busy: fifty times as many, in bursts (the gaps
between requests are hyperexponential, with a squared coefficient of variation of 4), and vision is the convolutional
network of the benchmarks (224 x 224, MobileNet's layers, raw tensors). Each model is a family of its own. Arrivals do
not wait for answers.

check: a model that always takes the same 5 ms, alone at several loads and in bursts, with two instances, and beside the
network on the same processors. A row has what the client measured from the moment a request was sent, and what the
formula says from the server's profile. The model takes the same time always, so what its runs took that
found nobody there tells how much the machine did besides: `disturbed` is their 90th percentile over their median. A
case is tried again a few times until that is low.
"""

import asyncio
import csv
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD") or ROOT / "build")
WEIR = BUILD / "weir"
EXAMPLES = ROOT / "examples" / "models"
CONNECTIONS = 48
TRIES, QUIET = 5, 1.15
# Of each model: the folder, requests a second, how unevenly they come (squared coefficient of variation of the gaps).
LOADS = {
    "small": {"intent": (EXAMPLES / "intent/1", 2.0, 1), "recommend": (EXAMPLES / "recommend/1", 6.0, 1),
              "vision": (EXAMPLES / "vision/1", 1.0, 1)},
    "busy": {"intent": (EXAMPLES / "intent/1", 100.0, 4), "recommend": (EXAMPLES / "recommend/1", 200.0, 4),
             "vision": (BUILD / "models/cnn", 20.0, 4)},
}


def gaps(rate, cv2, seed):
    """Endless gaps in seconds: exponential, or of two exponentials with balanced means."""
    rng = random.Random(seed)
    if cv2 <= 1:
        while True:
            yield rng.expovariate(rate)
    share = (1 + ((cv2 - 1) / (cv2 + 1)) ** .5) / 2
    while True:
        yield rng.expovariate(2 * share * rate) if rng.random() < share else rng.expovariate(2 * (1 - share) * rate)


async def exchange(reader, writer, request):
    """True: it was answered well. IncompleteReadError: the server had closed the idle connection."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:"))
    await reader.readexactly(length)
    return head[9:12] == b"200"


async def client(port, requests, queue, took):
    """One connection: sends what is due and reads the answer, again and again. Rows of (sent, answered, well)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while await queue.get():
        request, sent = random.choice(requests), time.monotonic()
        try:
            well = await exchange(reader, writer, request)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent = time.monotonic()
            well = await exchange(reader, writer, request)
        took.append((sent, time.monotonic(), well))
    writer.close()


def requests_of(model, folder):
    """The samples as JSON; without any, one raw image."""
    head = b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\n" % model.encode()
    samples = folder / "samples.ndjson"
    if model == "steady":
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        raw = json.dumps({"inputs": [x]}).encode()
        return [head + b"Content-Length: %d\r\n\r\n%s" % (len(raw), raw)]
    if not samples.exists():
        raw = random.Random(1).randbytes(3 * 224 * 224) * 4  # four bytes a number
        raw = bytes(b & 0x3f for b in raw)  # small positive floats
        return [head + b"Inference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw)]
    bodies = [json.dumps({"inputs": json.loads(x)["inputs"]}).encode() for x in samples.read_text().splitlines()]
    return [head + b"Content-Length: %d\r\n\r\n%s" % (len(b), b) for b in bodies]


async def load(port, model, folder, rate, cv2, seconds, seed):
    requests = requests_of(model, folder)
    queue, took = asyncio.Queue(), []
    clients = [asyncio.create_task(client(port, requests, queue, took)) for _ in range(CONNECTIONS)]
    due = start = time.monotonic()
    for gap in gaps(rate, cv2, seed):
        due += gap
        if due > start + seconds:
            break
        await asyncio.sleep(max(0, due - time.monotonic()))
        queue.put_nowait(True)
    for _ in clients:
        queue.put_nowait(False)
    await asyncio.gather(*clients)
    if any(not ok for _, _, ok in took):
        print(f"{model}: {sum(not ok for _, _, ok in took)} of {len(took)} were not answered well", file=sys.stderr)
    return sorted(took)


def start(folder, families, instances):
    rows = "".join(f"  {f}: {{place: worker, instances: {instances}}}\n" for f in families)
    (folder / "weir.yaml").write_text(f"families:\n{rows}")
    log = open(folder / "log", "wb")
    process = subprocess.Popen([WEIR, "serve", "-c", folder / "weir.yaml", "--data", folder / "data", "--listen",
                                "127.0.0.1:0", "--admin", "127.0.0.1:0"], stdout=log, stderr=log, cwd=folder)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for line in (folder / "log").read_text().splitlines():
            if '"listening"' in line:
                row = json.loads(line)
                return process, row["data"], row["admin"]
        time.sleep(.05)
    process.kill()
    raise SystemExit("the server did not start")


class Server:
    """A server with these models, each a family of so many instances."""

    def __init__(self, models, instances=1):
        self.models, self.instances = models, instances

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.process, data, self.admin = start(pathlib.Path(self.temporary.name), self.models, self.instances)
        self.port = int(data.rsplit(":", 1)[1])
        for model, folder in self.models.items():
            subprocess.run([WEIR, "push", model, folder, "--server", self.admin], check=True,
                           stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.temporary.cleanup()

    def profile(self):
        return json.loads(subprocess.run([WEIR, "advise", "--record", "--server", self.admin], check=True,
                                         stdout=subprocess.PIPE).stdout)


async def all_loads(port, loads, seconds):
    """loads: {model: (folder, rate, cv2)}; the rows of each model's requests."""
    got = await asyncio.gather(*(load(port, m, folder, rate, cv2, seconds, i)
                                 for i, (m, (folder, rate, cv2)) in enumerate(loads.items())))
    return dict(zip(loads, got))


def record(name, seconds):
    loads = LOADS[name]
    with Server({m: folder for m, (folder, _, _) in loads.items()}) as server:
        asyncio.run(all_loads(server.port, loads, seconds))
        profile = server.profile()
    models = profile.pop("models")
    rows = ",\n".join("  " + json.dumps(m) for m in models)  # a line each
    print(f'{json.dumps(profile)[:-1]},\n "models": [\n{rows}\n ]}}')


# ---- the formula against real runs ----------------------------------------------------------------------------------

STEADY, CNN = BUILD / "models/steady", BUILD / "models/cnn"
CASES = [  # name, instances, {model: (folder, load of its instances, cv2 of the gaps)}
    ("alone", 1, {"steady": (STEADY, .3, 1)}),
    ("alone", 1, {"steady": (STEADY, .5, 1)}),
    ("alone", 1, {"steady": (STEADY, .7, 1)}),
    ("in bursts", 1, {"steady": (STEADY, .5, 4)}),
    ("two instances", 2, {"steady": (STEADY, .5, 1)}),
    ("shared", 1, {"steady": (STEADY, .3, 1), "cnn": (CNN, .4, 1)}),
]


async def service_of(port, model, folder):
    """Seconds of one request that finds nobody there: the median of some."""
    queue, took = asyncio.Queue(), []
    for _ in range(40):
        queue.put_nowait(True)
    queue.put_nowait(False)
    await client(port, requests_of(model, folder), queue, took)
    return statistics.median(done - sent for sent, done, _ in took)


def alone(rows):
    """What those took that found nobody there."""
    out, until = [], 0
    for sent, done, _ in rows:
        if sent >= until:
            out.append(done - sent)
        until = max(until, done)
    return sorted(out)


def check_case(name, instances, models, seconds):
    """A row for each model."""
    out = []
    with Server({m: folder for m, (folder, _, _) in models.items()}, instances) as server:
        loads = {}
        for m, (folder, at, cv2) in models.items():
            loads[m] = (folder, at * instances / asyncio.run(service_of(server.port, m, folder)), cv2)
        before = {m["model"]: m["requests"] for m in server.profile()["models"]}
        rows = asyncio.run(all_loads(server.port, loads, seconds))
        profile = server.profile()
    for m in profile["models"]:  # of the stretch alone
        m["requests"] -= before[m["model"]]
        m["seconds"] = seconds
    plan = json.loads(subprocess.run([WEIR, "advise", "--profile", "-", "--json"], input=json.dumps(profile).encode(),
                                     stdout=subprocess.PIPE, check=True).stdout)
    for fit in plan["fit"]:
        took = sorted(done - sent for sent, done, _ in rows[fit["model"]])
        mean, p99 = 1e3 * sum(took) / len(took), 1e3 * took[int(.99 * len(took))]
        base = alone(rows[fit["model"]])
        out.append({
            "case": name, "instances": instances, "model": fit["model"], "gaps_cv2": models[fit["model"]][2],
            "seconds": seconds, "requests": len(took), "load": round(fit["load"], 3),
            "disturbed": round(base[int(.9 * len(base))] / base[len(base) // 2], 2),
            "mean_ms": round(mean, 3), "formula_ms": round(fit["predicted_ms"], 3),
            "off": f"{100 * (fit['predicted_ms'] / mean - 1):+.1f}%",
            "p99_ms": round(p99, 3), "formula_p99_ms": round(fit["predicted_p99_ms"], 3),
            "p99_off": f"{100 * (fit['predicted_p99_ms'] / p99 - 1):+.1f}%"})
    return out


COLUMNS = ["case", "instances", "model", "gaps_cv2", "seconds", "requests", "load", "disturbed", "mean_ms",
           "formula_ms", "off", "p99_ms", "formula_p99_ms", "p99_off"]


def check(seconds):
    print(f"# advise check, {seconds:g} s a stretch, at most {TRIES} tries a case for one that is undisturbed "
          f"(below {QUIET}), {os.cpu_count()} processors")
    out = csv.DictWriter(sys.stdout, COLUMNS)
    out.writeheader()
    for case in CASES:
        best = None
        for _ in range(TRIES):
            rows = check_case(*case, seconds)
            if best is None or rows[0]["disturbed"] < best[0]["disturbed"]:
                best = rows
            if best[0]["disturbed"] < QUIET:
                break
        out.writerows(best)
        sys.stdout.flush()


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "record" and sys.argv[2] in LOADS:
        record(sys.argv[2], float(sys.argv[3]))
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(float(sys.argv[2]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
