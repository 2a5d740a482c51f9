# SPDX-License-Identifier: Apache-2.0
"""Tables and CSV files."""

import csv
import datetime
import os
import pathlib
import platform
import re
import subprocess

from .base import BUILD, ROOT, model_path, run_client
from .stats import Limit, behind, key, median, ratio_values


def spread(values, form="{:,.0f}"):
    m = form.format(median(values))
    return f"{m} [{form.format(min(values))}..{form.format(max(values))}]" if len(values) > 1 else m


def mark(met):
    return {True: "met", False: "NOT MET", None: ""}[met]


# ---- tables ---------------------------------------------------------------------------------------------------------


def print_rows(rows):
    line = "{:<19} {:>6}  {:<30} {:<24} {:<26} {:<30} {:>8} {:>8} {:>6}"
    print(line.format("server", "conns", "requests/s", "p50 us", "p99 us", "CPU us/request", "peak MB", "PSS MB",
                      "errors"))
    seen = []
    for r in rows:
        if key(r) in seen:
            continue
        seen.append(key(r))
        mine = [x for x in rows if key(x) == key(r)]
        small = median([x["p50_us"] for x in mine]) < 100
        form = "{:,.1f}" if small else "{:,.0f}"
        print(line.format(
            r["server"], f"{r['connections'] or '-'}{' open' if r['loop'] == 'open' else ''}",
            spread([x["req_s"] for x in mine]),
            spread([x["p50_us"] for x in mine], form), spread([x["p99_us"] for x in mine], form),
            spread([x["cpu_us"] for x in mine], "{:,.2f}"), f"{max(x['peak_mb'] for x in mine):.1f}",
            f"{max(x['pss_mb'] for x in mine):.1f}", sum(x["errors"] for x in mine)))


def print_ratios(ratios, rows):
    """Prints each with its limit; returns those that are not met, as text."""
    missed = []
    line = "{:<64} {:<22} {:<24} {}"
    print("\n" + line.format("ratio, of neighbours in time", "median [spread]", "to reach", ""))
    for x in ratios:
        values = ratio_values(x, rows)
        if not values:
            print(line.format(x.what, "-", x.limit.text, "a row is missing"))
            continue
        met = x.limit.met(median(values))
        print(line.format(x.what, spread(values, "{:.2f}"), x.limit.text, mark(met)))
        if met is False:
            missed.append(f"{x.what}: {median(values):.2f}, to reach {x.limit.text}")
    return missed


NAMES = {"req_s": "requests/s", "p99_us": "p99", "cpu_us": "CPU", "pss_mb": "memory"}


def print_behind(rows, ours, peers):
    """Peer over `ours` for every case and metric; returns what the peer is not behind in."""
    found = behind(rows, ours, peers)
    if not found:
        return []
    cases = list(dict.fromkeys((p, c, l) for p, c, l, *_ in found))
    line = "{:<19} {:>8}  " + "{:>14} " * 4
    print(f"\npeer / {ours}, medians (behind: fewer requests/s, more of the rest; * where it is not)")
    print(line.format("peer", "conns", *NAMES.values()))
    for case in cases:
        cells = {col: f"{m:.2f}{'' if ok else ' *'}" for p, c, l, col, m, ok in found if (p, c, l) == case}
        print(line.format(case[0], f"{case[1]}{' open' if case[2] == 'open' else ''}",
                          *(cells.get(col, "-") for col in NAMES)))
    return [f"{p} is not behind in {NAMES[col]} at {c} connections, {l} loop: {m:.2f}"
            for p, c, l, col, m, ok in found if not ok]


def print_table(rows, columns):
    """Rows of a special workload: columns are (key, heading, format)."""
    cells = [[form.format(r[k]) if r[k] not in ("", None) else "-" for k, _, form in columns] for r in rows]
    width = [max(len(h), *(len(c[i]) for c in cells)) for i, (_, h, _) in enumerate(columns)]
    print("  ".join(h.ljust(width[i]) for i, (_, h, _) in enumerate(columns)))
    for c in cells:
        print("  ".join(x.ljust(width[i]) for i, x in enumerate(c)))


def print_figures(figures):
    """(what, value, limit): prints each; returns what is not met."""
    missed = []
    line = "{:<78} {:<12} {:<24} {}"
    print("\n" + line.format("figure", "", "to reach", ""))
    for what, value, limit in figures:
        met = Limit(limit).met(value)
        print(line.format(what, f"{value:,.2f}", limit, mark(met)))
        if met is False:
            missed.append(f"{what}: {value:,.2f}, to reach {limit}")
    return missed


def print_machine(rows):
    other = median([r["other_cpu_pct"] for r in rows])
    steal = median([r["steal_pct"] for r in rows])
    worst = max(r["other_cpu_pct"] + r["steal_pct"] for r in rows)
    print(f"\nThe rest of the machine: other processes {other:.0f} % of all processors, stolen {steal:.0f} % (medians);"
          f" {worst:.0f} % both together in the worst run.")


# ---- files ----------------------------------------------------------------------------------------------------------


def first_line(argv, otherwise):
    try:
        out = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return otherwise
    lines = out.stdout.strip().splitlines()
    return lines[0] if lines else otherwise


def settings(title, threads, command, **more):
    """What stands above a CSV: the machine, the versions, how it was called."""
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
        "workload": title,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit,
        "weir": first_line([BUILD / "weir", "version"], "unknown"),
        "runtime": f"ONNX Runtime {runtime['runtime']}, intra-op 1",
        "compiler": first_line([compiler, "--version"], "unknown"),
        "client": first_line(["wrk", "--version"], "wrk") + ", 1 thread; bench/load for open loops",
        "system": f"{os_name.group(1) if os_name else platform.system()}, Linux {platform.release()}",
        "cpu": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} processors",
        "server threads": threads,
        **more,
        "command": command,
    }


def write_csv(folder, workload, facts, rows, notes=()):
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{facts['date'][:10]}-{workload}"
    path, n = folder / f"{stem}.csv", 1
    while path.exists():
        n += 1
        path = folder / f"{stem}-{n}.csv"
    columns = list(dict.fromkeys(k for r in rows for k in r))
    with open(path, "w", newline="") as f:
        for k, value in facts.items():
            f.write(f"# {k}: {value}\n")
        for name, why in notes:
            f.write(f"# {name}: {why.splitlines()[0]}\n")
        out = csv.DictWriter(f, columns, lineterminator="\n")
        out.writeheader()
        for row in rows:
            out.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return path
