#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness: `make bench`, or `make bench BENCH="--quick --workload mlp"`.

Sets the peers up, starts every server of a workload, checks that all of them give the same answer to the same request,
then lets a client load one after the other, in alternation, for a number of rounds. Every figure is a median over the
rounds; every ratio is the median of the ratios within one round, because what disturbs a machine disturbs neighbours in
time alike. Writes one CSV a workload and prints the tables. bench/README.md says what is measured and how to read it;
harness/ has the parts."""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile

from harness import boundary, kills, overload, peers, report, start
from harness.base import BENCH, BUILD, Failed, model_path
from harness.measure import Run, run_workload
from harness.stats import spread_rows
from harness.workloads import WORKLOADS

SPECIAL = {
    "overload": ("2x overload, open loop", overload.run_overload, overload),
    "kills": ("kill -9 of a worker under load", kills.run_kills, kills),
    "start": ("start to ready, idle memory, size", start.run_start, start),
    "boundary": ("one call of weir.h at every place", boundary.run_boundary, boundary),
}
SPREAD = {"start": ("ready_ms", "rss_mb", "pss_mb", "processes"),
          "boundary": ("calls_s", "p50_us", "p99_us", "cpu_us")}
MODELS = {"overload": ("cnn", "steady"), "kills": ("steady",), "start": ("mlp",), "boundary": ("mlp",)}



def arguments():
    p = argparse.ArgumentParser(description="Measures Weir beside its yardsticks and its peers on this machine.")
    p.add_argument("--workload", action="append", choices=[*WORKLOADS, *SPECIAL],
                   help="only this one (may be given again)")
    p.add_argument("--peers", metavar="NAMES",
                   help=f"with commas between, or none (default {','.join(peers.NAMES)}; quick: the first three)")
    p.add_argument("--rounds", type=int, help="how many (default 3; quick: 1)")
    p.add_argument("--seconds", type=int, help="of one run (default: the workload's)")
    p.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 2),
                   help="connection threads of every server for the tiny model (default %(default)s)")
    p.add_argument("--overload-seconds", type=int, default=30,
                   help="of one overload (default %(default)s; the record: 300)")
    p.add_argument("--kills", type=int, default=50, help="of workers (default %(default)s; the record: 1000)")
    p.add_argument("--starts", type=int, default=11, help="of each server, three of each peer (default %(default)s)")
    p.add_argument("--quick", action="store_true",
                   help="one round of 1 s, to see that it works; kept in the build folder")
    p.add_argument("--out", type=pathlib.Path, help="folder for the CSV files (default bench/results)")
    o = p.parse_args()
    if o.rounds is not None and o.rounds < 1 or o.seconds is not None and o.seconds < 1 or not 1 <= o.threads <= 64:
        p.error("--rounds from 1, --seconds from 1, --threads from 1 to 64")
    if min(o.overload_seconds, o.kills, o.starts) < 1:
        p.error("--overload-seconds, --kills and --starts from 1")
    usual = peers.NAMES[:3] if o.quick else peers.NAMES
    o.peers = list(usual) if o.peers is None else [] if o.peers == "none" else o.peers.split(",")
    wrong = [n for n in o.peers if n not in peers.NAMES]
    if wrong:
        p.error(f"no peer is called '{wrong[0]}'; there are: {', '.join(peers.NAMES)}, or none")
    return o


def print_notes(notes):
    for name, why in notes:
        print(f"{name}: {why}")


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = options.out or (BUILD / "bench/results" if options.quick else BENCH / "results")
        self.command = " ".join(["bench/run.py", *sys.argv[1:]])
        self.peers, self.missing = peers.available(options.peers)
        self.errors, self.unmet, self.ahead = 0, [], []

    def facts(self, title, **more):
        return report.settings(title, self.options.threads, self.command, **more)

    def head(self, title, facts):
        print(f"\n{title}: medians [least..most]")
        print(f"{facts['cpu']}; {facts['runtime']}; {facts['weir']} ({facts['commit']})\n")

    def closed(self, run, name):
        w, rounds = WORKLOADS[name], self.options.rounds or (1 if self.options.quick else 3)
        rows, seconds, measured = run_workload(run, name, rounds, self.peers)
        notes = [*self.missing.items(), *run.notes]
        facts = self.facts(w.title, rounds=f"{rounds} of {seconds:g} s")
        path = report.write_csv(self.folder, name, facts, rows, notes)
        self.head(f"{w.title}: {facts['rounds']}, {facts['server threads']} server threads", facts)
        report.print_rows(rows)
        print_notes(notes)
        self.unmet += [f"{name}: {x}" for x in report.print_ratios(w.ratios, rows)]
        self.ahead += [f"{name}: {x}" for x in report.print_behind(rows, w.ours, measured)]
        report.print_machine(rows)
        print(f"Written to {os.path.relpath(path)}\n", flush=True)
        self.errors += sum(r["errors"] for r in rows if r["server"] not in measured)

    def special(self, run, name):
        title, call, module = SPECIAL[name]
        rows = call(run, self.peers)
        notes = [*self.missing.items(), *run.notes]
        facts = self.facts(title)
        path = report.write_csv(self.folder, name, facts, rows, notes)
        self.head(title, facts)
        shown = spread_rows(rows, "server", SPREAD[name]) if name in SPREAD else rows
        report.print_table(shown, module.COLUMNS)
        print_notes(notes)
        self.unmet += [f"{name}: {x}" for x in report.print_figures(module.figures(rows))]
        report.print_machine(rows)
        print(f"Written to {os.path.relpath(path)}\n", flush=True)

    def workload(self, name):
        with tempfile.TemporaryDirectory(prefix="weir-bench-", ignore_cleanup_errors=True) as scratch:
            run = Run(self.options, pathlib.Path(scratch))
            try:
                (self.closed if name in WORKLOADS else self.special)(run, name)
            finally:
                run.stop()

    def summary(self):
        print("Not met: " + ("nothing" if not self.unmet else ""))
        for x in self.unmet:
            print(f"  {x}")
        if self.peers:
            print("Peers that are not behind: " + ("none" if not self.ahead else ""))
            for x in self.ahead:
                print(f"  {x}")
        print_notes(self.missing.items())


def main():
    options = arguments()
    names = options.workload or [*WORKLOADS, *SPECIAL]
    needed = [BUILD / "weir", BUILD / "bench/bare", BUILD / "bench/floor", BUILD / "bench/load", model_path("mlp")]
    needed += [model_path(WORKLOADS[w].model) for w in names if w in WORKLOADS]
    needed += [model_path(m) for w in names for m in MODELS.get(w, ())]
    for path in needed:
        if not path.exists():
            raise Failed(f"{path} is missing: `make bench` builds everything and then runs this")
    if not shutil.which("wrk"):
        raise Failed("wrk is missing: `tools/setup.sh bench` installs it")
    # SIGTERM like Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options)
    for name in names:
        bench.workload(name)
    bench.summary()
    if bench.errors:
        raise Failed(f"{bench.errors} requests failed: the figures above say nothing until that is mended")


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        sys.exit(f"bench: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
