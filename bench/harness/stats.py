# SPDX-License-Identifier: Apache-2.0
"""Spreads and ratios: no input, no output.

A *row* is one measured run (a dictionary), known by (server, connections, loop) within its round. A ratio is made
within one round, because what disturbs a machine disturbs neighbours in time alike; its figure is the median over the
rounds."""

import dataclasses
import re
import statistics


def key(row):
    return row["server"], row["connections"], row["loop"]


def by_round(rows):
    """round -> key -> row."""
    rounds = {}
    for r in rows:
        rounds.setdefault(r["round"], {})[key(r)] = r
    return rounds


@dataclasses.dataclass(frozen=True)
class Limit:
    """'<= 1.02', '>= 1', or a remark that nothing is held against; what follows the number is a remark too."""

    text: str

    def met(self, value):
        """True, False, or None where there is nothing to meet."""
        m = re.match(r"(<=|>=)\s*([\d.]+)", self.text)
        if not m:
            return None
        # As printed: two decimals. A ratio of 1.004 is 1.00.
        value = round(value, 2)
        return value <= float(m.group(2)) if m.group(1) == "<=" else value >= float(m.group(2))


@dataclasses.dataclass(frozen=True)
class Ratio:
    what: str
    limit: Limit
    of: object  # (one round: key -> row) -> number; KeyError or TypeError: a row is not there


def ratio(what, limit, top, bottom):
    return Ratio(what, Limit(limit), lambda r: top(r) / bottom(r))


def figure(what, limit, of):
    return Ratio(what, Limit(limit), of)


def at(server, connections, column, loop="closed"):
    return lambda r: r[server, connections, loop][column]


def ratio_values(ratio, rows):
    """One number a round that has all rows of the ratio."""
    values = []
    for r in by_round(rows).values():
        try:
            values.append(ratio.of(r))
        except (KeyError, TypeError, ZeroDivisionError):
            continue
    return values


def median(values):
    return statistics.median(values)


# What a peer must be behind in: column, and whether more is better. Memory is what shared pages are counted once in.
BEHIND = (("req_s", True), ("p99_us", False), ("cpu_us", False), ("pss_mb", False))


def behind(rows, ours, peers):
    """For every (peer, connections, loop, column): (..., median of peer / ours, whether the peer is behind)."""
    found = []
    rounds = by_round(rows)
    cases = []
    for r in rows:
        if r["server"] in peers and key(r) not in cases:
            cases.append(key(r))
    for peer, connections, loop in cases:
        for column, more in BEHIND:
            if loop == "open" and column == "req_s":
                continue  # what is offered is the same for all
            values = []
            for r in rounds.values():
                mine, theirs = r.get((ours, connections, loop)), r.get((peer, connections, loop))
                if mine and theirs and mine[column] and theirs[column]:
                    values.append(theirs[column] / mine[column])
            if values:
                m = median(values)
                found.append((peer, connections, loop, column, m, m < 1 if more else m > 1))
    return found


def open_rate(capacities, floor):
    """The rate of the open-loop runs: half of what the median peer can do, so that most servers carry it; without peers
    half of the floor's. Two digits, so that runs on one machine mostly agree."""
    half = median(sorted(capacities)) / 2 if capacities else floor / 2
    digits = max(len(str(int(half))) - 2, 0)
    return max(int(half) // 10**digits * 10**digits, 1)


def spread_rows(rows, name, columns):
    """One row for each value of `name`, whose columns are texts "median [least..most]"."""
    out = []
    for value in dict.fromkeys(r[name] for r in rows):
        mine = [r for r in rows if r[name] == value]
        cells = {}
        for c in columns:
            of = [r[c] for r in mine]
            cells[c] = f"{median(of):,.1f} [{min(of):,.1f}..{max(of):,.1f}]" if min(of) != max(of) else f"{of[0]:g}"
        out.append({name: value} | cells)
    return out
