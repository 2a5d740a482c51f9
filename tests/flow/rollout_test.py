# SPDX-License-Identifier: Apache-2.0
"""Rollouts that go by themselves: an equal version goes through all steps, a harmful one goes back and says why, one
without traffic holds, one that can not load never gets a request; and a person may step in at any time."""

import random
import threading
import time

import pytest

import flow

QUICK = ("threads: 2\nrollouts:\n  quick: {steps: \"10%,50%\", bake: 1s, warmup: 300ms, interval: 100ms, "
         "min_requests: 40, soak: 2s}\n")
# Both versions on the same threads: what slows one process of a shared machine slows both of them.
SAME = "families:\n  default: {place: inline, inline_max: 1s}\n"
GOOD = [0.5, -0.25, 1.0, 0.125]
BAD = [1000.0, 0.0, 0.0, 0.0]


class Users:
    """Requests without end, each by another user, `rate` a second over a few connections; what is sent may change."""

    def __init__(self, server, model="m", connections=6, rate=300):
        self.server, self.model, self.pause = server, model, connections / rate
        self.x = lambda i: GOOD
        self.replies, self.over, self.lock, self.n = [], threading.Event(), threading.Lock(), 0
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]

    def _run(self):
        wire, rng = None, random.Random()
        while not self.over.is_set():
            with self.lock:
                i, self.n = self.n, self.n + 1
            try:
                wire = wire or flow.Wire(self.server.data)
                r = wire.ask("POST", f"/v2/models/{self.model}/infer",
                             {"inputs": [flow.tensor("x", "FP32", [1, 4], self.x(i))]}, {"X-Weir-User": f"u{i}"})
                with self.lock:
                    self.replies.append((time.monotonic(), r.status, r.headers.get("x-weir-version")))
            except (flow.Closed, OSError):
                wire = None
                if self.over.wait(0.05):
                    break
            time.sleep(self.pause * rng.uniform(0.5, 1.5))
        if wire:
            wire.close()

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(60 * flow.SLOWER)

    def of(self, version):
        with self.lock:
            return [r for r in self.replies if r[2] == str(version)]


def state(s, model="m"):
    return s.get(f"/admin/models/{model}/rollout")["rollout"]


def kinds(s, model="m"):
    return [row["kind"] for row in reversed(s.history(model))]


def models(name):
    path = flow.MODELS / name
    assert path.exists(), path
    return path


def test_an_equal_version_goes_through_all_steps(serve):
    s = serve(QUICK + SAME)
    s.push("m", models("harm_good"))
    with Users(s) as users:
        flow.until("a baseline", lambda: len(users.replies) > 200)
        pushed = s.push("m", models("harm_good2"), "--rollout", "quick")
        assert pushed["serving"] == "canary" and pushed["share_bp"] == 1000
        flow.until("the second step", lambda: state(s)["share_bp"] == 5000, 30)
        flow.until("the promotion", lambda: state(s)["state"] == "soaking", 30)
        assert s.model("m")["stable"] == 2 and s.model("m")["previous"] == 1
        flow.until("the end", lambda: state(s)["state"] == "promoted", 30)
    assert all(r[1] == 200 for r in users.replies)
    seen = kinds(s)
    assert [k for k in seen if k in ("rollout_started", "rollout_step", "promoted", "rollout_completed")] == \
        ["rollout_started", "rollout_step", "promoted", "rollout_completed"], seen
    promoted = next(r for r in s.history("m") if r["kind"] == "promoted")
    assert promoted["evidence"]["verdict"] == "pass" and promoted["actor"] == "weir (judge)", promoted
    assert [v["share_bp"] for v in promoted["serving"]] == [10000] and promoted["serving"][0]["version"] == 2
    step = next(r for r in s.history("m") if r["kind"] == "rollout_step")
    assert {v["version"]: v["share_bp"] for v in step["serving"]} == {1: 5000, 2: 5000}


HARMS = {
    "errors": ("harm_error", "errors"),
    "nan": ("harm_nan", "invalid"),
    "shape": ("harm_shape", "invalid"),
    "slow": ("harm_slow", "slow"),
}


@pytest.mark.parametrize("harm", list(HARMS))
def test_harm_goes_back_by_itself(serve, harm):
    """Fifty good answers first; then what makes the candidate err. The slow one is slow from its first answer on."""
    path, word = HARMS[harm]
    s = serve(QUICK.replace("bake: 1s", "bake: 60s").replace("10%,50%", "20%,50%"))
    s.push("m", models("harm_good"))
    with Users(s) as users:
        flow.until("a baseline", lambda: len(users.replies) > 300)
        s.push("m", models(path), "--rollout", "quick")
        if harm != "slow":
            flow.until("fifty good answers", lambda: len(users.of(2)) > 50)
            assert state(s)["state"] == "running"
        users.x = lambda i: BAD
        began = time.monotonic()
        flow.until("the way back", lambda: state(s)["state"] == "rolled_back", 30)
        took, sampled = time.monotonic() - began, len(users.of(2))
        asked = len(users.of(2))
        time.sleep(0.3)
        assert len(users.of(2)) <= asked + 6, "only what was under way"
    assert took < 30 * flow.SLOWER or sampled < 260
    got = state(s)
    assert word in got["reason"], got["reason"]
    row = next(r for r in s.history("m") if r["kind"] == "rolled_back")
    assert row["actor"].startswith("weir (") and word in row["text"], row
    assert word in s.ok("rollout", "show", "m").out
    again = s.weir("rollout", "start", "m", "--version", "2", "--share", "5%")
    assert again.status == 1 and "hold" in again.err and "--retry" in again.err, again
    s.ok("rollout", "start", "m", "--version", "2", "--share", "5%", "--retry")


def test_a_hang_goes_back_while_it_hangs(serve):
    """No answer of the candidate comes any more; its open requests tell."""
    s = serve(QUICK.replace("bake: 1s", "bake: 60s").replace("10%,50%", "30%,50%") +
              "drain: 2s\nfamilies:\n  default: {timeout: 60s}\n")
    s.push("m", models("harm_good"))
    with Users(s, connections=40) as users:
        flow.until("a baseline", lambda: len(users.replies) > 300)
        s.push("m", models("harm_hang"), "--rollout", "quick")
        flow.until("fifty good answers", lambda: len(users.of(2)) > 50)
        users.x = lambda i: BAD
        flow.until("the way back", lambda: state(s)["state"] == "rolled_back", 30)
        assert "slow" in state(s)["reason"] or "died" in state(s)["reason"], state(s)
        # Those that hang are answered by the stable version as soon as the candidate's processes are taken away.
        flow.until("answers", lambda: len(users.of(1)) > 400, 60)
    assert not [r for r in users.replies if r[1] >= 500 and r[1] != 504], users.replies[-5:]


def test_without_traffic_it_holds(serve):
    s = serve(QUICK)
    s.push("m", models("harm_good"))
    s.push("m", models("harm_good2"), "--rollout", "quick")
    time.sleep(3)
    got = state(s)
    assert got["state"] == "running" and got["share_bp"] == 1000 and got["verdict"]["verdict"] == "nodata", got
    assert "40" in got["waits_for"], got["waits_for"]


def test_what_can_not_load_gets_no_request(serve):
    s = serve(QUICK)
    s.push("m", models("harm_good"))
    with Users(s) as users:
        done = s.weir("push", "m", models("harm_load"), "--rollout", "quick")
        assert done.status == 1 and done.err, done
        flow.until("requests", lambda: len(users.replies) > 100)
    assert {r[2] for r in users.replies} == {"1"}
    assert s.ask_admin("GET", "/admin/models/m/rollout").status == 404


def test_a_person_steps_in(serve):
    s = serve(QUICK.replace("bake: 1s", "bake: 60s"))
    s.push("m", models("harm_good"))
    s.push("m", models("harm_good2"), "--rollout", "quick")
    s.ok("rollout", "pause", "m")
    assert state(s)["phase"] == "paused" and state(s)["pause"] == "person"
    again = s.weir("rollout", "pause", "m")
    assert again.status == 1 and "paused" in again.err, again
    s.ok("rollout", "resume", "m")
    assert state(s)["phase"] in ("warmup", "bake") and state(s)["pause"] is None
    s.ok("rollout", "skip", "m")
    assert state(s)["share_bp"] == 5000 and state(s)["step"] == 2
    s.ok("rollout", "set", "m", "--share", "30%")
    assert state(s)["share_bp"] == 3000 and state(s)["policy"]["automatic"] is False
    s.ok("rollout", "abort", "m")
    assert state(s)["state"] == "aborted"
    s.ok("rollout", "start", "m", "--version", "2", "--steps", "1%,5%,25%")
    assert state(s)["steps"] == [100, 500, 2500]
    s.ok("promote", "m")
    assert state(s)["state"] == "soaking"
    s.ok("rollback", "m")
    assert state(s)["state"] == "rolled_back" and s.model("m")["stable"] == 1


def test_a_kill_resumes_the_step(serve):
    s = serve(QUICK.replace("bake: 1s", "bake: 2s") + SAME)
    s.push("m", models("harm_good"))
    with Users(s) as users:
        flow.until("a baseline", lambda: len(users.replies) > 200)
        s.push("m", models("harm_good2"), "--rollout", "quick")
        flow.until("the second step", lambda: state(s)["share_bp"] == 5000, 30)
    before = state(s)
    s.kill()
    s.start()
    after = state(s)
    for key in ("id", "state", "share_bp", "step", "steps", "canary", "stable"):
        assert after[key] == before[key], key
    with Users(s) as users:
        flow.until("the end", lambda: state(s)["state"] == "promoted", 40)
