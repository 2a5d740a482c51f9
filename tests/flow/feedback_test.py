# SPDX-License-Identifier: Apache-2.0
"""Feedback that counts: one by one and by lines, from the command line, for versions that were promoted or rolled back
meanwhile; and a candidate that only feedback tells is worse goes back by itself."""

import json
import random
import threading
import time

import pytest

import flow

# Both versions on the same threads: what slows one process of a shared machine slows both of them.
SAME = "families:\n  default: {place: inline, inline_max: 1s}\n"
QUICK = ("threads: 2\nrollouts:\n  quick: {steps: \"50%\", bake: BAKE, warmup: 100ms, interval: 100ms, "
         "min_requests: 40, soak: 0}\n")
ROW = [0.5, -0.25, 1.0, 0.125]
X, TWO = ({"inputs": [flow.tensor("x", "FP32", [n, 4], ROW * n)]} for n in (1, 2))


def models(name):
    path = flow.MODELS / name
    assert path.exists(), path
    return path


def ask(wire, rid, user=None, model="m", version=None, body=X):
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    reply = wire.ask("POST", path, body, {"X-Request-Id": rid, **({"X-Weir-User": user} if user else {})})
    assert reply.status == 200, reply
    return reply


def tell(wire, body, model="m", lines=False):
    if lines:
        body = "".join(json.dumps(row) + "\n" for row in body)
    return wire.ask("POST", f"/v2/models/{model}/feedback", body,
                    {"Content-Type": "application/x-ndjson"} if lines else {})


def counters(s, model="m"):
    return s.model(model)["feedback"]


def told(s, version, model="m"):
    return s.version(model, version)["stats"]["feedback"]


class Tellers:
    """Users without end, whose answers are told right or wrong as `wrong(version)` draws, and rewarded."""

    def __init__(self, server, wrong, connections=4, users=400):
        self.server, self.wrong, self.users = server, wrong, users
        self.over, self.lock, self.n, self.of = threading.Event(), threading.Lock(), 0, {}
        self.errors = []
        self.threads = [threading.Thread(target=self._run, args=(k,), daemon=True) for k in range(connections)]

    def _run(self, k):
        rng = random.Random(k)
        try:
            with self.server.wire() as wire:
                while not self.over.is_set():
                    with self.lock:
                        i, self.n = self.n, self.n + 1
                    version = ask(wire, f"r{i}", f"u{rng.randrange(self.users)}").headers["x-weir-version"]
                    right = rng.random() >= self.wrong(version)
                    reply = tell(wire, {"id": f"r{i}", "correct": right, "reward": float(right)})
                    assert reply.status in (200, 404), reply  # 404: it was rolled back in between
                    with self.lock:
                        self.of[version] = self.of.get(version, 0) + 1
                    self.over.wait(0.004)
        except (flow.Closed, OSError, AssertionError) as e:
            self.errors.append(e)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(60 * flow.SLOWER)
        assert not self.errors, self.errors


def rollout(s):
    return s.get("/admin/models/m/rollout")["rollout"]


# ---- what is counted ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("threads: 2\n")
    s.push("m", models("harm_good"))
    return s


def test_lines(server):
    before, seen = counters(server), told(server, 1)
    with server.wire() as asking, server.wire() as telling:
        for i in range(6):
            ask(asking, f"line-{i}", body=TWO if i == 5 else X)
        rows = [{"id": f"line-{i}", "correct": i % 2 == 0} for i in range(4)]
        rows += [{"id": "line-0", "correct": False}, {"id": "nobody", "reward": 1}, {"id": "line-4", "reward": 3},
                 {"id": "line-4"}, {"id": "line-5", "label": "x"}]
        reply = tell(telling, rows, lines=True)
        assert reply.status == 200, reply
        got = reply.json()
        assert {k: v for k, v in got.items() if k != "errors"} == {
            "model": "m", "counted": 5, "superseded": 0, "duplicates": 1, "orphans": 1, "late": 0, "refused": 2}
        assert [e["line"] for e in got["errors"]] == [8, 9], got
        assert "at least one" in got["errors"][0]["error"] and "no predicted class" in got["errors"][1]["error"], got
        # Without the type it is seen that there are several lines.
        reply = tell(telling, "\n".join(json.dumps(r) for r in rows[:4]))
        assert reply.json()["duplicates"] == 4, reply
        assert tell(telling, [{"id": "line-0", "correct": True}] * 4097, lines=True).status == 413
        assert tell(telling, [], lines=True).status == 400
    after, now = counters(server), told(server, 1)
    assert {k: after[k] - before[k] for k in after} == {"joined": 5, "orphan": 1, "late": 0, "duplicate": 5,
                                                        "superseded": 0}
    assert (now["n"] - seen["n"], now["correct"] - seen["correct"]) == (4, 2)
    text = server.ask_admin("GET", "/metrics").body.decode()
    assert f'weir_feedback_total{{model="m",result="joined"}} {after["joined"]}\n' in text
    assert f'weir_feedback_total{{model="m",result="duplicate"}} {after["duplicate"]}\n' in text


def test_supersede_corrects_what_is_shown(server):
    before = told(server, 1)
    with server.wire() as w:
        for i in range(2):
            ask(w, f"super-{i}")
            assert tell(w, {"id": f"super-{i}", "correct": True, "reward": 1.0}).json()["counted"] is True
        for _ in range(2):
            got = tell(w, {"id": "super-0", "correct": False, "reward": 0.25, "supersede": True}).json()
            assert got["counted"] is False and got["superseded"] is True, got
        assert tell(w, {"id": "super-1", "correct": False}).json() == {
            "model": "m", "version": 1, "arm": "stable", "counted": False}
    after = told(server, 1)
    assert after["n"] - before["n"] == 2 and after["correct"] - before["correct"] == 1
    assert after["reward_n"] - before["reward_n"] == 2
    total = after["reward_mean"] * after["reward_n"] - (before["reward_mean"] or 0) * before["reward_n"]
    assert total == pytest.approx(1.25, abs=1e-4)
    assert counters(server)["superseded"] == 2


def test_the_command(server, tmp_path):
    with server.wire() as w:
        for i in range(5):
            ask(w, f"cli-{i}", body=TWO if i == 1 else X)
        ask(w, "cli-label")
    assert server.ok("feedback", "m", "cli-0", "--correct", "yes").out == "counted: version 1 (stable)\n"
    told_wrong = server.ok("feedback", "m", "cli-label", "--label", "no such class").out
    assert told_wrong == "counted: version 1 (stable), wrong\n", told_wrong
    again = server.ok("feedback", "m", "cli-0", "--correct", "no").out
    assert "not counted, it was told before" in again, again
    assert "corrected" in server.ok("feedback", "m", "cli-0", "--correct", "no", "--supersede").out
    assert server.ok("feedback", "m", "cli-1", "--reward", "0.7", "--json").json()["counted"] is True
    refused = server.weir("feedback", "m", "cli-1", "--label", "x")
    assert refused.status == 1 and "no predicted class" in refused.err, refused
    orphan = server.weir("feedback", "m", "never", "--correct", "yes", "--json")
    assert orphan.status == 1 and "no request with that id" in orphan.json()["error"], orphan
    for words in (("m",), ("m", "x"), ("m", "x", "--correct", "maybe"), ("m", "x", "--reward", "much"),
                  ("m", "x", "--label", "a", "--correct", "yes"), ("m", "x", "--file", "-"),
                  ("m", "--file", "-", "--correct", "yes")):
        assert server.weir("feedback", *words).status == 2, words
    rows = [{"id": f"cli-{2 + i % 3}", "correct": True} for i in range(9000)]
    path = tmp_path / "told.ndjson"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    got = server.ok("feedback", "m", "--file", path, "--json").json()
    assert got["counted"] == 3 and got["duplicates"] == 8997 and got["errors"] == [], got
    rows[5000] = {"id": "cli-2"}
    done = server.weir("feedback", "m", "--file", "-", stdin="\n\n" + "".join(json.dumps(r) + "\n" for r in rows))
    assert done.status == 1 and "0 counted" in done.out and "1 refused" in done.out, done
    assert "line 5003: feedback says at least one" in done.out, done
    assert server.weir("feedback", "m", "--file", "-", stdin="\n").status == 1
    assert server.weir("feedback", "m", "--file", tmp_path / "none").status == 1
    assert " joined, " in server.ok("models", "m").out
    assert "--supersede" in server.ok("help", "feedback").out


def test_after_promotions_and_rollbacks(serve):
    s = serve("threads: 2\n")
    s.push("m", models("harm_good"))
    s.push("m", models("harm_good2"), "--canary", "50%")
    with s.wire() as w:
        arms = {}
        for i in range(60):
            arms.setdefault(ask(w, f"p-{i}", f"u{i}").headers["x-weir-version"], []).append(f"p-{i}")
        ask(w, "named", version=1)
        one, two = arms["1"], arms["2"]
        assert len(one) > 5 and len(two) > 5
        s.ok("promote", "m")
        # Version 2 serves: what it answered as a canary is counted.
        assert tell(w, {"id": two[0], "correct": True}).json()["counted"] is True
        late = tell(w, {"id": one[0], "correct": True})
        assert late.status == 404 and "serves no more" in late.error, late
        assert tell(w, {"id": "named", "correct": True}).json()["arm"] == "direct"
        s.ok("rollback", "m")
        # And version 1 does again.
        assert tell(w, {"id": one[1], "correct": True}).json()["counted"] is True
        assert tell(w, {"id": one[1], "correct": True}).json()["counted"] is False
        assert tell(w, [{"id": two[1], "correct": True}, {"id": one[2], "reward": 2}], lines=True).json()["late"] == 1
        # A rollout counts anew; the stable version's old answers go to what it has now.
        s.ok("rollout", "start", "m", "--version", "2", "--share", "5%")
        assert tell(w, {"id": one[1], "correct": False, "supersede": True}).json()["superseded"] is True
        assert tell(w, {"id": one[3], "correct": True}).json()["counted"] is True
        got = s.arms("m")["stable"]["feedback"]
        assert (got["n"], got["correct"]) == (2, 1), got
    assert counters(s) == {"joined": 5, "orphan": 0, "late": 2, "duplicate": 1, "superseded": 1}
    verdict = flow.until("a judgement", lambda: rollout(s)["verdict"])
    assert all(f["stable"]["answered"] == 0 for f in verdict["findings"] if f["metric"] == "wrong"), verdict


# ---- what is judged -------------------------------------------------------------------------------------------------


def test_bad_feedback_goes_back_by_itself(serve):
    """Its answers are fine; its users say that three times as many are wrong."""
    s = serve(QUICK.replace("BAKE", "60s") + SAME)
    s.push("m", models("harm_good"))
    with Tellers(s, lambda version: 0.36 if version == "2" else 0.12) as tellers:
        flow.until("a baseline", lambda: tellers.n > 200)
        s.push("m", models("harm_good2"), "--rollout", "quick")
        flow.until("the way back", lambda: rollout(s)["state"] == "rolled_back", 60)
    got = rollout(s)
    words = ("feedback: ", "% of labelled answers wrong, stable ")
    assert all(w in got["reason"] for w in words) or "feedback: mean reward" in got["reason"], got["reason"]
    row = next(r for r in s.history("m") if r["kind"] == "rolled_back")
    assert row["actor"] == "weir (judge)" and got["reason"] in row["text"], row
    assert row["evidence"]["verdict"] == "fail" and "feedback: " in row["evidence"]["text"], row
    finding = {f["metric"]: f for f in row["evidence"]["findings"]}
    worst = max(("wrong", "reward"), key=lambda m: finding[m]["ln_e"])
    assert finding[worst]["verdict"] == "fail" and finding[worst]["ln_e"] >= finding[worst]["trip"], finding[worst]
    assert finding["wrong"]["canary"]["answered"] >= 50 and finding["wrong"]["difference"]["mid"] > 0.1, finding
    assert all(finding[m]["verdict"] != "fail" for m in ("errors", "invalid")), finding
    page = s.ok("rollout", "show", "m").out
    assert "feedback: " in page and "\n  wrong " in page and "\n  reward " in page and "difference -" in page, page
    assert got["held"] is True


def test_equal_feedback_goes_on(serve):
    s = serve(QUICK.replace("BAKE", "4s") + SAME)
    s.push("m", models("harm_good"))
    with Tellers(s, lambda version: 0.2) as tellers:
        flow.until("a baseline", lambda: tellers.n > 200)
        s.push("m", models("harm_good2"), "--rollout", "quick")
        flow.until("the promotion", lambda: rollout(s)["state"] == "promoted", 60)
        assert tellers.of["2"] > 50
    promoted = next(r for r in s.history("m") if r["kind"] == "promoted")
    finding = {f["metric"]: f for f in promoted["evidence"]["findings"]}
    assert finding["wrong"]["verdict"] == finding["reward"]["verdict"] == "pass", finding
    assert finding["wrong"]["canary"]["answered"] >= 50


def test_what_feedback_said_survives_a_kill(serve):
    s = serve(QUICK.replace("BAKE", "60s") + SAME)
    s.push("m", models("harm_good"))
    s.push("m", models("harm_good2"), "--rollout", "quick")

    def answered():
        v = rollout(s)["verdict"]
        wrong = next(f for f in v["findings"] if f["metric"] == "wrong") if v else None
        return wrong and min(wrong[arm]["answered"] for arm in ("stable", "canary"))

    with Tellers(s, lambda version: 0.2):
        flow.until("feedback", lambda: (answered() or 0) > 60, 60)
    time.sleep(0.5)  # all of it was judged
    s.ok("rollout", "pause", "m")  # writes what was counted
    before = answered()
    s.kill()
    s.start()
    flow.until("a judgement", lambda: answered() is not None and answered() > 0, 30)
    assert answered() == before
    wrong = next(f for f in rollout(s)["verdict"]["findings"] if f["metric"] == "wrong")
    assert wrong["verdict"] != "nodata" and wrong["difference"]["mid"] is not None, wrong
