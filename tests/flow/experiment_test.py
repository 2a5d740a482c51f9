# SPDX-License-Identifier: Apache-2.0
"""A/B tests on the real server: fixed shares, a goal by feedback or by an output, shipped on evidence; a split that is
not as ordered hides the result; harm ends it; a restart in the middle goes on."""

import json
import random
import sqlite3
import statistics

import pytest

import flow
from canary_test import murmur3_x86_32

# Inline: on a busy machine two processes are not slowed down alike, which is what their guardrail looks for.
CONF = "threads: 2\nfamilies:\n  default: {place: inline, inline_max: 1s}\n"
GOOD = [0.5, -0.25, 1.0, 0.125]
BAD = [1000.0, 0.0, 0.0, 0.0]


def two_versions(serve, second="harm_good2"):
    s = serve(CONF)
    s.push("m", flow.MODELS / "harm_good")
    s.push("m", flow.MODELS / second)
    return s


def bucket(salt, user):
    return murmur3_x86_32(f"{salt}:{user}".encode()) % 10000


def status(s, model="m"):
    return s.get(f"/admin/models/{model}/experiment")


def experiment(s, model="m"):
    return status(s, model)["rollout"]["experiment"]


def outcome(s):
    return experiment(s)["outcome"]


class Client:
    """Asks as one user after the other; what it saw is in .seen: (user, arm, version, mean of the answer, reward). A
    reward that is true or false is told as such."""

    def __init__(self, server, reward=None):
        self.wire, self.reward, self.seen, self.rng = flow.Wire(server.data), reward, [], random.Random(7)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def ask(self, user, x=None):
        r = self.wire.ask("POST", "/v2/models/m/infer", {"inputs": [flow.tensor("x", "FP32", [1, 4], x or GOOD)]},
                          {"X-Weir-User": user})
        if r.status != 200:
            return r
        version, reward = int(r.headers["x-weir-version"]), None
        if self.reward:
            reward = self.reward(version, self.rng)
            value = {"correct" if isinstance(reward, bool) else "reward": reward}
            for first in (True, False):  # the first value counts
                told = self.wire.ask("POST", "/v2/models/m/feedback",
                                     dict(value, id=r.headers["x-request-id"])).json()
                assert told["counted"] is first and told["version"] == version, told
        self.seen.append((user, r.headers.get("x-weir-arm"), version, statistics.fmean(r.json()["outputs"][0]["data"]),
                          reward))
        return r

    def of(self, arm):
        return [row for row in self.seen if row[1] == arm]


def judged(s, n):
    """The experiment's finding, once it is of so many values."""
    def look():
        f = experiment(s)["finding"]
        return f and f["result"] != "hidden" and f["stable"]["n"] + f["canary"]["n"] >= n and f

    return flow.until(f"a finding of {n} values", look)


def better(version, rng):
    return (0.7 if version == 2 else 0.3) + rng.choice([-0.25, 0.25])


def right(version, rng):
    return rng.random() < (0.95 if version == 2 else 0.4)


def test_what_is_better_is_found_and_shipped(serve):
    s = two_versions(serve)
    assert s.ask_admin("GET", "/admin/models/m/experiment").status == 404
    none = s.weir("experiment", "ship", "m")
    assert none.status == 1 and "no experiment of 'm' is running" in none.err, none
    out = s.ok("experiment", "start", "m", "--version", "2", "--goal", "reward", "--share", "20%", "--min", "0s").out
    assert "version 2 is tested against version 1, each with 20 % of the users" in out, out
    early = s.weir("experiment", "ship", "m")
    assert early.status == 1 and "too few values yet" in early.err, early

    with Client(s, better) as c:
        for i in range(1500):
            c.ask(f"u{i}")
        salt = status(s)["rollout"]["id"]
        for user, arm, version, _, _ in c.seen:  # fixed ranges, of one size
            b = bucket(salt, user)
            assert arm == ("canary" if b < 2000 else "stable" if 5000 <= b < 7000 else None), (user, b, arm)
            assert version == (2 if arm == "canary" else 1)
        n = {arm: len(c.of(arm)) for arm in ("stable", "canary", None)}
        assert 220 < n["stable"] < 380 and 220 < n["canary"] < 380 and n[None] > 750, n
        f = judged(s, n["stable"] + n["canary"])
        for arm in ("stable", "canary"):
            assert f[arm]["n"] == n[arm] and f[arm]["dropped"] == 0
            assert f[arm]["mean"] == pytest.approx(statistics.fmean(r[4] for r in c.of(arm)), abs=1e-9)
        assert f["result"] == "better" and f["difference"]["low"] > 0.2 and f["difference"]["high"] < 0.6, f
        arms = {a["arm"]: a for a in status(s)["arms"]}
        assert {a: arms[a]["requests"] for a in arms} == {a: n[a] for a in arms}, arms
        assert arms["stable"]["share_bp"] == arms["canary"]["share_bp"] == 2000
        exposed = status(s)["rollout"]["exposed"]
        assert (exposed["stable"], exposed["canary"], exposed["ordered"]) == (n["stable"], n["canary"], 0.5)

    page = s.ok("experiment", "status", "m").out
    for part in ("RUNNING", "BETTER", "version 2 is better: reward 0.", "always-valid 95 %", "as ordered (p",
                 "weir experiment ship m", "weir experiment stop m"):
        assert part in page, page
    assert max(map(len, page.split("  guardrail")[0].splitlines())) <= 80, page
    assert "weir experiment status m" in s.ok("rollout", "show", "m").out
    for words in (("set", "m", "--share", "20%"), ("set", "m", "--share", "30%"), ("skip", "m"), ("pause", "m"),
                  ("resume", "m"), ("promote", "m")):
        no = s.weir("rollout", *words)
        assert no.status == 1 and "its shares are frozen until it ends" in no.err, no
    no = s.weir("rollout", "start", "m", "--version", "2", "--share", "5%")
    assert no.status == 1 and "an experiment with version 2 is running" in no.err, no

    out = s.ok("experiment", "ship", "m").out
    assert "version 2 is the stable version now" in out, out
    assert s.model("m")["stable"] == 2 and outcome(s) == "shipped"
    rows = {r["kind"]: r for r in s.history("m")}
    assert rows["experiment_started"]["text"].endswith("beside version 1")
    assert rows["promoted"]["evidence"]["goal"]["result"] == "better"
    assert "shipped: version 2 is better: reward 0." in rows["promoted"]["text"], rows["promoted"]
    s.ok("rollback", "m")
    assert s.model("m")["stable"] == 1


def test_a_split_that_is_not_as_ordered_hides_the_result(serve):
    """The users are the candidate's: as if something before the server sent the header for one arm only."""
    s = two_versions(serve)
    s.ok("experiment", "start", "m", "--version", "2", "--goal", "reward", "--min", "0s")
    with Client(s, better) as c:
        for i in range(400):
            c.ask(f"u{i}")
        judged(s, 400)
        assert experiment(s)["finding"]["result"] == "better"
        salt = status(s)["rollout"]["id"]
        mine = [u for u in (f"v{i}" for i in range(1000)) if bucket(salt, u) < 5000][:300]
        known = [row[0] for row in c.of("stable")]
        for i, user in enumerate(mine):  # by turns with users who are known: the guardrails see nothing odd
            c.ask(user)
            c.ask(known[i % len(known)])
    flow.until("the finding is hidden", lambda: experiment(s)["finding"]["result"] == "hidden")
    x = experiment(s)
    assert set(x["finding"]) == {"result", "text"} and x["may_ship"] is False, x
    assert all(a["feedback"]["reward_n"] == 0 and a["feedback"]["reward_mean"] is None for a in status(s)["arms"])
    assert all(v["stats"]["feedback"]["reward_n"] == 0 for v in s.model("m")["versions"])
    told = [f for f in status(s)["rollout"]["verdict"]["findings"] if f["metric"] in ("wrong", "reward")]
    assert len(told) == 2 and all(f[arm]["answered"] == 0 for f in told for arm in ("stable", "canary")), told
    page = s.ok("experiment", "status", "m").out
    assert "INVALID" in page and "HIDDEN" in page and "NOT AS ORDERED" in page, page
    assert "BETTER" not in page and "reward 0" not in page and "weir experiment ship" not in page, page
    for words in ((), ("--force",)):
        no = s.weir("experiment", "ship", "m", *words)
        assert no.status == 1 and "is invalid and can not be shipped" in no.err, no
    flow.until("it is written", lambda: stored(s, "progress").get("invalid"))
    s.kill()
    s.start()
    assert experiment(s)["finding"]["result"] == "hidden"
    s.ok("experiment", "stop", "m")
    assert outcome(s) == "invalid" and s.model("m")["stable"] == 1
    assert "better" not in str(status(s)["rollout"]["reason"])
    assert "INVALID" in s.ok("experiment", "status", "m").out


def test_a_restart_in_the_middle_goes_on(serve):
    s = two_versions(serve)
    s.ok("experiment", "start", "m", "--version", "2", "--goal", "accuracy", "--min", "0s")
    before = status(s)["rollout"]["id"]
    with Client(s, right) as c:
        for i in range(300):
            c.ask(f"u{i}")
    first = judged(s, 300)
    flow.until("it is written", lambda: written(s) >= 300, 30)
    s.kill()
    s.start()
    assert status(s)["rollout"]["id"] == before
    assert judged(s, 300)["canary"] == first["canary"]
    assert first["canary"]["mean"] == pytest.approx(statistics.fmean(r[4] for r in c.of("canary")), abs=1e-9)
    with Client(s, right) as c:
        for i in range(300, 500):
            c.ask(f"u{i}")
    f = judged(s, 500)
    assert f["stable"]["n"] + f["canary"]["n"] == 500 and f["result"] == "better", f
    s.ok("experiment", "stop", "m")
    assert outcome(s) == "kept" and s.model("m")["stable"] == 1
    assert experiment(s)["finding"]["stable"]["n"] == f["stable"]["n"]  # what it found stays
    assert "STOPPED, KEPT" in s.ok("experiment", "status", "m").out
    no = s.weir("experiment", "stop", "m")
    assert no.status == 1 and "no experiment of 'm' is running" in no.err, no


def stored(s, column):
    """What the store has of the last rollout."""
    db = sqlite3.connect(s.data_dir / "weir.db")
    try:
        (text,) = db.execute(f"SELECT {column} FROM rollout ORDER BY rowid DESC LIMIT 1").fetchone()
    finally:
        db.close()
    return json.loads(text) if text else {}


def written(s):
    """Values that the store has."""
    return sum(sum(arm) for arm in stored(s, "counts").get("goal", {}).get("n", []))


def test_harm_ends_it(serve):
    s = two_versions(serve, "harm_error")
    s.ok("experiment", "start", "m", "--version", "2", "--goal", "reward")
    with Client(s) as c:
        for i in range(200):
            c.ask(f"u{i}")
        for i in range(200, 1200):
            c.ask(f"u{i}", BAD if i % 2 else None)
            if i % 20 == 0 and outcome(s):
                break
    flow.until("the end", lambda: outcome(s) == "harm")
    got = status(s)["rollout"]
    assert got["state"] == "rolled_back" and "error" in got["reason"], got
    assert s.model("m")["stable"] == 1
    assert "STOPPED FOR HARM" in s.ok("experiment", "status", "m").out
    again = s.weir("experiment", "start", "m", "--version", "2", "--goal", "reward")
    assert again.status == 1 and "--retry" in again.err, again
    s.ok("experiment", "start", "m", "--version", "2", "--goal", "reward", "--retry")
    s.ok("rollback", "m")


def test_an_output_is_the_goal(serve):
    s = two_versions(serve)
    no = s.weir("experiment", "start", "m", "--version", "2", "--goal", "output:z")
    assert no.status == 1 and "no output 'z' with numbers; with numbers it has: y" in no.err, no
    s.ok("experiment", "start", "m", "--version", "2", "--goal", "output:y:lower", "--alpha", "0.01")
    rng = random.Random(3)
    with Client(s) as c:
        for i in range(300):
            c.ask(f"u{i}", [rng.uniform(-1, 1) for _ in range(4)])
        # A batch has one value, as any request.
        r = c.wire.ask("POST", "/v2/models/m/infer",
                       {"inputs": [flow.tensor("x", "FP32", [2, 4], GOOD + GOOD)]}, {"X-Weir-User": "twice"})
        assert r.status == 200
        c.seen.append(("twice", r.headers["x-weir-arm"], 0, statistics.fmean(r.json()["outputs"][0]["data"]), None))
    f = judged(s, 301)
    for arm in ("stable", "canary"):
        assert f[arm]["n"] == len(c.of(arm))
        assert f[arm]["mean"] == pytest.approx(statistics.fmean(r[3] for r in c.of(arm)), rel=1e-5)
    assert f["result"] == "unclear" and experiment(s)["lower"] is True and experiment(s)["alpha"] == 0.01
    assert "always-valid 99 %" in f["text"]
    early = s.weir("experiment", "ship", "m")
    assert early.status == 1 and "may be shipped in 6 d 23 h" in early.err, early
    s.ok("experiment", "ship", "m", "--force")
    assert s.model("m")["stable"] == 2 and outcome(s) == "shipped"


@pytest.mark.parametrize("words", [
    (), ("--version", "2"), ("--goal", "reward"), ("--version", "2", "--goal", "reward", "--min", "soon"),
    ("--version", "2", "--goal", "reward", "--force")])
def test_called_wrong(serve, words):
    done = flow.weir("experiment", "start", "m", *words)
    assert done.status == 2 and done.err, done


def test_what_the_server_refuses(serve):
    s = two_versions(serve)
    start = {"action": "start", "version": 2, "goal": "reward"}
    for body, why in (({"action": "begin"}, "must be start, ship or stop"), ({}, "must be start, ship or stop"),
                      (dict(start, goal="clicks"), "is no goal"), (dict(start, share="51%"), "at most 50%"),
                      (dict(start, share="0%"), "above 0%"), ({"action": "start", "version": 2}, 'needs "goal"'),
                      (dict(start, alpha="1"), "0.000001 to 0.5"),
                      (dict(start, min="2d", **{"for": "1d"}), "would end"),
                      (dict(start, **{"for": "0s"}), "a time like 7d"), (dict(start, min="366d"), "at most 365d"),
                      (dict(start, force=True), 'takes no "force"'),
                      ({"action": "stop", "goal": "reward"}, "takes no")):
        reply = s.ask_admin("POST", "/admin/models/m/experiment", body)
        assert reply.status == 400 and why in reply.error, (body, reply)
    assert s.ask_admin("POST", "/admin/models/m/experiment", dict(start, version=9)).status == 404
    assert s.ask_admin("POST", "/admin/models/m/experiment", dict(start, version=1)).status == 409
    s.ok("rollout", "start", "m", "--version", "2", "--share", "5%")
    reply = s.ask_admin("POST", "/admin/models/m/experiment", {"action": "stop"})
    assert reply.status == 409 and "weir rollout abort" in reply.error, reply
    reply = s.ask_admin("GET", "/admin/models/m/experiment")
    assert reply.status == 404 and "was no experiment" in reply.error, reply
