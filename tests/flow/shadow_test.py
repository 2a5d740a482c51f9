# SPDX-License-Identifier: Apache-2.0
"""Version 2 in the shadow of version 1: users see version 1 alone, the comparison is what a client finds by asking
both, and whatever becomes of the shadow, nobody waits for it."""

import collections
import json
import os
import re
import signal
import time

import pytest

import flow
from canary_test import murmur3_x86_32

RTOL, ATOL = 1e-3, 1e-5


def outputs(reply):
    assert reply.status == 200, reply
    return {o["name"]: o["data"] for o in reply.json()["outputs"]}


def status(s, model="intent"):
    return s.ok("shadow", "status", model, "--json").json()


def settled(s, model="intent"):
    """The status when nothing is under way any more, noise neither."""

    def look():
        now = status(s, model)
        noise = now["noise"]["pairs"] + now["noise_errors"] + now["noise_dropped"]
        # of one thread the noise is every tenth copy: with one connection all copies are one thread's
        return now if now["under_way"] == 0 and noise >= (now["copied"] + 9) // 10 else None

    return flow.until("the end of all copies", look)


class Asker:
    """Asks for samples on one connection, eight at a time between looks at the shadow: nothing of it is dropped."""

    def __init__(self, s, model):
        self.s, self.model, self.samples, self.n = s, model, flow.Samples(model).rows, 0
        self.wire = s.wire()

    def ask(self, count):
        """[(id, body, label, outputs)] of `count` requests; each was answered by version 1, and says so."""
        got = []
        for _ in range(count):
            body, label = self.samples[self.n % len(self.samples)]
            ident = f"request-{self.n}"
            self.n += 1
            reply = self.wire.ask("POST", f"/v2/models/{self.model}/infer", body, {"X-Request-Id": ident})
            assert reply.headers["x-weir-version"] == "1" and "x-weir-arm" not in reply.headers
            got.append((ident, body, label, outputs(reply)))
            if self.n % 8 == 0:
                settled(self.s, self.model)
        return got

    def direct(self, version, body):
        return outputs(self.wire.ask("POST", f"/v2/models/{self.model}/versions/{version}/infer", body))


def start(serve, model="intent", share="100%", place="worker", conf=""):
    s = serve(f"threads: 2\n{conf}families:\n  {model}: {{place: {place}}}\n")
    s.push_example(model, 1)
    s.push_example(model, 2)
    done = s.ok("shadow", "start", model, "--version", "2", "--share", share)
    assert "version 2 gets copies of" in done.out
    return s


@pytest.mark.parametrize("place", ["worker", "inline"])
def test_what_a_client_finds_by_asking_both(serve, place):
    s = start(serve, place=place)
    asker = Asker(s, "intent")
    asked = asker.ask(200)
    now = settled(s)
    assert now["copied"] == 200 and now["errors"] == 0 and set(now["dropped"].values()) == {0}, now
    assert now["shadow"]["version"] == 2 and now["shadow"]["share_bp"] == 10000 and now["stable"] == 1

    both = [(a, asker.direct(1, body), asker.direct(2, body)) for _, body, _, a in asked]
    for a, one, _ in both:  # users get what version 1 says; joined with others it may differ in the last digit
        assert a["label"] == one["label"] and a["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
    cells = collections.Counter((a["label"][0], two["label"][0]) for a, _, two in both)
    agree = sum(n for (x, y), n in cells.items() if x == y)
    diff = now["diff"]
    assert diff["pairs"] == 200 and diff["agree"] == agree and diff["differ"] == 200 - agree > 0
    assert diff["agreement"] == pytest.approx(agree / 200)
    assert {(c["stable"], c["candidate"]): c["count"] for c in diff["classes"]} == cells
    worst = [[abs(x - y) for x, y in zip(a["probabilities"], two["probabilities"])] for a, _, two in both]
    numeric = diff["kinds"]["numeric"]
    assert numeric["n"] == 200
    assert numeric["absolute"]["mean"] == pytest.approx(sum(map(max, worst)) / 200, rel=1e-5)
    assert numeric["absolute"]["most"] == pytest.approx(max(map(max, worst)), rel=1e-5)
    equal = [all(abs(x - y) <= ATOL + RTOL * abs(y) for y, x in zip(a["probabilities"], two["probabilities"]))
             for a, _, two in both]
    assert numeric["equal"] == sum(equal)
    wrong = {i for (i, _, _, _), (a, _, two) in zip(asked, both) if a["label"] != two["label"]}
    told = [x["id"] for x in diff["largest"] if x["kind"] == "class"]
    assert set(told) <= wrong and len(told) == min(50, len(wrong))

    # Version 1 does not differ from itself.
    assert now["noise"]["pairs"] == 20 and now["noise"]["agreement"] == 1 and now["noise"]["largest"] == []
    assert now["noise"]["kinds"]["numeric"]["absolute"]["most"] < 1e-6
    times = now["compute_ms"]
    assert times["stable"]["n"] == times["candidate"]["n"] == 200
    assert 0 < times["stable"]["p50"] < times["candidate"]["p50"]

    # Nobody was answered by version 2: what it has counted is what was asked of it by name.
    assert s.version("intent", 2)["stats"]["requests"] == 200
    assert s.version("intent", 1)["stats"]["requests"] == 400
    text = s.ok("shadow", "status", "intent").out
    assert f"200 pairs, {agree / 2:.2f} % agree" in text and "noise floor   20 pairs, 100.00 % agree" in text, text
    metrics = s.ask_admin("GET", "/metrics").body.decode()
    found = dict(re.findall(r'weir_shadow_total\{model="intent",version="2",run="candidate",result="(\w+)"\} (\d+)',
                            metrics))
    assert found == {"agrees": str(agree), "differs": str(200 - agree), "error": "0", "full": "0", "refused": "0",
                     "deadline": "0", "gone": "0", "unfit": "0"}


def test_labels_say_which_is_better(serve):
    s = start(serve)
    asker = Asker(s, "intent")
    asked = asker.ask(400)
    settled(s)
    for ident, _, label, _ in asked:
        told = s.ask("POST", "/v2/models/intent/feedback", {"id": ident, "label": label})
        assert told.status == 200 and told.json()["version"] == 1, told
    right = collections.Counter((a["label"][0] == label, asker.direct(2, body)["label"][0] == label)
                                for _, body, label, a in asked)
    labels = status(s)["diff"]["labels"]
    assert labels["n"] == 400
    assert labels["both_right"] == right[True, True] and labels["both_wrong"] == right[False, False]
    assert labels["stable_right"] == right[True, False] > labels["candidate_right"] == right[False, True]
    assert labels["verdict"] == "worse" and labels["ln_e"] > labels["trip"]
    assert "version 2 is worse" in s.ok("shadow", "status", "intent").out


def test_scores_are_classes(serve):
    s = start(serve, "recommend")
    asker = Asker(s, "recommend")
    asked = asker.ask(40)
    now = settled(s, "recommend")

    def best(scores):
        return sorted(range(len(scores)), key=lambda i: -scores[i])[:5]

    pairs = [(best(a["scores"]), best(asker.direct(2, body)["scores"])) for _, body, _, a in asked]
    part = now["diff"]["kinds"]["class"]
    assert now["diff"]["agree"] == part["equal"] == sum(a[0] == b[0] for a, b in pairs)
    assert part["top"]["n"] == 40
    assert part["top"]["mean"] == pytest.approx(sum(len(set(a) & set(b)) for a, b in pairs) / 5 / 40)


def test_a_shadow_that_hangs_is_nobodys_business(serve):
    s = start(serve)
    pids = [w["pid"] for w in s.version("intent", 2)["workers"]]
    asker = Asker(s, "intent")
    asker.ask(8)
    body = asker.samples[0][0]

    def times(n):
        took = []
        for _ in range(n):
            t0 = time.monotonic()
            reply = asker.wire.ask("POST", "/v2/models/intent/infer", body)
            took.append(time.monotonic() - t0)
            assert reply.status == 200 and reply.headers["x-weir-version"] == "1"
        return sorted(took)

    before = times(300)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        hung = times(300)
        now = status(s)
        assert now["dropped"]["full"] > 200 and now["under_way"] >= 10, now
        assert hung[150] < before[150] * 3 + 0.01 and hung[-1] < 2 * flow.SLOWER, (before[150], hung[150], hung[-1])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    flow.until("the copies that were held up", lambda: status(s)["under_way"] == 0)
    asker.ask(8)  # and it goes on
    now = settled(s)
    assert now["copied"] == 8 + 600 + 8
    assert now["diff"]["pairs"] + now["errors"] + sum(now["dropped"].values()) == now["copied"]


def test_a_share_a_restart_an_end(serve):
    s = start(serve, share="25%")
    asker = Asker(s, "intent")
    asker.ask(400)
    now = settled(s)
    salt = now["shadow"]["id"]
    chosen = sum(murmur3_x86_32(f"{salt}:request-{i}".encode()) % 10000 < 2500 for i in range(400))
    assert now["copied"] == now["diff"]["pairs"] == chosen and 60 < chosen < 140

    s.stop()
    s.start()
    now = status(s)
    assert now["shadow"]["state"] == "running" and now["shadow"]["id"] == salt and now["shadow"]["share_bp"] == 2500
    assert now["copied"] == 0  # what was compared is not kept
    flow.until("version 2 is loaded", lambda: status(s)["shadow"]["loaded"])
    asker = Asker(s, "intent")
    asker.ask(40)
    want = sum(murmur3_x86_32(f"{salt}:request-{i}".encode()) % 10000 < 2500 for i in range(40))
    assert settled(s)["diff"]["pairs"] == want > 0

    done = s.ok("shadow", "stop", "intent")
    assert "was the shadow of version 1" in done.out and f"{want} pairs" in done.out
    asker.ask(20)
    now = status(s)
    assert now["shadow"]["state"] == "stopped" and now["copied"] == want
    again = s.weir("shadow", "stop", "intent")
    assert again.status == 1 and "no shadow that runs" in again.err
    line = s.history("intent")[0]
    assert f"of {want} pairs" in line["text"] and line["evidence"]["pairs"] == want, line
    kinds = [(h["kind"], h["version"], h["actor"]) for h in s.history("intent")[:2]]
    assert kinds == [("shadow_stopped", 2, "admin"), ("shadow_started", 2, "admin")]
    s.stop()
    s.start()
    assert s.weir("shadow", "status", "intent").status == 1


def test_it_ends_when_the_version_gets_users(serve):
    s = start(serve)
    Asker(s, "intent").ask(8)
    s.ok("rollout", "start", "intent", "--version", "2", "--share", "50%")
    flow.until("its end", lambda: status(s)["shadow"]["state"] == "stopped")
    flow.until("its line of history", lambda: s.history("intent")[0]["kind"] == "shadow_stopped")
    line = s.history("intent")[0]
    assert line["actor"] == "weir" and "it takes traffic in a rollout" in line["text"]
    refused = s.weir("shadow", "start", "intent", "--version", "2")
    assert refused.status == 1 and "takes traffic itself" in refused.err


@pytest.mark.parametrize("words,said", [
    (["start", "intent"], "start needs --version N"),
    (["status", "intent", "--share", "5%"], "takes no --version and no --share"),
    (["strat", "intent"], "did you mean 'start'?"),
])
def test_called_wrong(words, said):
    done = flow.weir("shadow", *words)
    assert done.status == 2 and said in done.err


@pytest.mark.parametrize("body,said", [
    ({"action": "start"}, "needs \"version\""),
    ({"action": "start", "version": 2, "share": "0%"}, "above 0%"),
    ({"action": "start", "version": 2, "share": "200%"}, "is not a share"),
    ({"action": "stop", "version": 2}, "takes no \"version\""),
    ({"action": "pause"}, "must be start or stop"),
])
def test_bad_orders(module_server, body, said):
    reply = module_server.ask_admin("POST", "/admin/models/intent/shadow", json.dumps(body))
    assert reply.status == 400 and said in reply.error, reply


@pytest.fixture(scope="module")
def module_server(module_serve):
    s = module_serve()
    s.push_example("intent", 1)
    return s


def test_what_can_be_no_shadow(module_server):
    s = module_server
    nothing = s.weir("shadow", "status", "intent")
    assert nothing.status == 1 and "has had no shadow" in nothing.err
    stable = s.weir("shadow", "start", "intent", "--version", "1")
    assert stable.status == 1 and "takes traffic itself" in stable.err
    assert s.weir("shadow", "start", "intent", "--version", "9").status == 1
    assert s.weir("shadow", "start", "nobody", "--version", "9").status == 1
