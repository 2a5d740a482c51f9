# SPDX-License-Identifier: Apache-2.0
"""A worker is killed with SIGKILL each time all are ready again, under load: no request fails, nothing is miscounted,
the canary is not blamed, and another model does not notice."""

import os
import signal
import time

import pytest

import flow

USERS = [f"user-{i}" for i in range(500)]
KILLS = int(os.environ.get("WEIR_KILLS", "20"))  # 1000: the run that is put on record


@pytest.mark.parametrize("instances", [2, 1])
def test_no_request_fails(serve, instances):
    s = serve(f"families:\n  intent: {{place: worker, instances: {instances}}}\n" + flow.watched("20%"))
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "watched")
    s.push_example("recommend", 1)
    other_pids = s.workers("recommend")
    load = flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=4, feedback=10)
    other = flow.Load(s, "recommend", flow.Samples("recommend"), USERS, connections=1)
    load.start()
    other.start()
    killed = set()
    for i in range(KILLS):
        pids = flow.until("all workers ready", lambda: s.workers("intent"))
        assert len(pids) == 2 * instances
        victim = pids[i % len(pids)]
        assert victim not in killed
        killed.add(victim)
        answered = len(pids) and s.model("intent")["versions"][0]["stats"]["requests"]
        os.kill(victim, signal.SIGKILL)
        flow.until("the server sees it", lambda: victim not in (s.workers("intent") or [victim]))
        flow.until("work goes on", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > answered)
    time.sleep(0.2)
    load.stop()
    other.stop()
    assert not load.failed() and not other.failed()
    assert len(load.events) > 1000 and len(other.events) > 200
    shown = s.rollout("intent")
    assert shown["rollout"]["state"] == "running"
    for arm in shown["arms"]:
        mine = [e for e in load.events if e.arm == arm["arm"]]
        told = [e.told for e in mine if e.told is not None]
        assert arm["requests"] == arm["ok"] == len(mine) and arm["errors"] == 0 and arm["in_flight"] == 0
        assert arm["feedback"]["n"] == len(told) and arm["feedback"]["correct"] == sum(told)
        assert {e.version for e in mine} == {arm["version"]}
    restarts = sum(w["restarts"] for v in s.model("intent")["versions"] for w in v["workers"])
    assert restarts == KILLS
    assert s.workers("recommend") == other_pids
    assert s.model("recommend")["versions"][0]["stats"]["requests"] == len(other.events)


def test_idle_kill_and_kill_while_starting(serve):
    """Without load, and again before the new one is ready: it comes back, and a request that waits gets its answer."""
    s = serve()
    s.push_example("recommend", 1)
    body, _ = flow.Samples("recommend").rows[0]
    for _ in range(3):
        first = flow.until("ready", lambda: s.workers("recommend"))[0]
        os.kill(first, signal.SIGKILL)
        second = flow.until("the next process", lambda: [
            w["pid"] for w in s.version("recommend", 1)["workers"] if w["pid"] not in (None, first)])[0]
        os.kill(second, signal.SIGKILL)
        reply = s.ask("POST", "/v2/models/recommend/infer", body)
        assert reply.status == 200, reply
    assert len([r for r in s.rows() if r["level"] == "error"]) == 0
