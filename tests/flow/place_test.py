# SPDX-License-Identifier: Apache-2.0
"""A family moves to another place while the server runs: no request is dropped, a failure changes nothing, and it is
remembered until weir.yaml is edited."""

import json
import threading

import flow

USERS = [f"user-{i}" for i in range(200)]


def family(s, name):
    return s.get(f"/admin/families/{name}")


def switch(s, name, body):
    return s.ask_admin("POST", f"/admin/families/{name}", body)


def switched(s, name, body):
    reply = switch(s, name, body)
    assert reply.status == 200, reply
    return reply.json()


def answers(s, model, versions, samples):
    """What each version and the model itself say to the same inputs, as bytes."""
    paths = [f"/v2/models/{model}/infer"] + [f"/v2/models/{model}/versions/{v}/infer" for v in versions]
    out = []
    for path in paths:
        for body, _ in samples.rows[:8]:
            reply = s.ask("POST", path, body)
            assert reply.status == 200, reply
            out.append(json.dumps(reply.json()["outputs"]))
    return out


def one_pool_a_version(s, model, place):
    """Every version is loaded once, at the place; what it had at the other one is gone."""
    workers = sum(len(v["workers"]) for v in s.model(model)["versions"])
    processes = len(flow.children(s.pid))
    return processes == workers == (0 if place == "inline" else len(s.model(model)["versions"]))


def test_to_and_fro_under_load(serve):
    s = serve("families:\n  intent: {place: worker}\n")
    s.push_example("intent", 1)
    s.push_example("intent", 2)
    samples = flow.Samples("intent")
    before = answers(s, "intent", (1, 2), samples)
    with flow.Load(s, "intent", samples, USERS, connections=8) as load:
        for place in ("inline", "worker", "inline"):
            seen = s.version("intent", 1)["stats"]["requests"]
            got = switched(s, "intent", {"place": place})
            assert got["place"] == place and got["moving_to"] is None and got["models"] == ["intent"]
            assert s.model("intent")["place"] == place
            flow.until("requests at the new place",
                       lambda seen=seen: s.version("intent", 1)["stats"]["requests"] > seen + 100)
            flow.until("the end of the old place", lambda place=place: one_pool_a_version(s, "intent", place))
        events = load.stop()
    assert len(events) > 300 and {e.status for e in events} == {200}
    assert {e.version for e in events} == {1}
    assert s.version("intent", 1)["stats"]["ok"] == len(events) + 8 * 2  # its counts went on
    assert answers(s, "intent", (1, 2), samples) == before
    kinds = [(h["kind"], h["actor"], h["text"]) for h in s.history("intent")][:3]
    assert kinds[0] == ("place_changed", "admin", "family intent runs at inline now, before at worker")
    assert [k[0] for k in kinds] == ["place_changed"] * 3
    s.push_example("intent", 2)  # the same bytes again: it is there
    s.ok("promote", "intent", "--version", "2")
    assert s.infer("intent", json.loads(samples.rows[0][0])["inputs"]).headers["x-weir-version"] == "2"


def test_what_can_not_be_opened_there_changes_nothing(serve):
    """One model of the family opens there, the other's files are damaged: both stay."""
    s = serve("families:\n  both: {place: worker}\n  gpu: {device: 'cuda:0'}\n")
    s.push("intent", flow.EXAMPLES / "intent" / "1", "--family", "both")
    s.push("vision", flow.EXAMPLES / "vision" / "1", "--family", "both")
    model, = (s.data_dir / "artifacts" / "trees" / s.version("vision", 1)["digest"]).glob("model.onnx")
    model.chmod(0o600)
    model.write_bytes(model.read_bytes()[:-1])
    with flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=2) as load:
        reply = switch(s, "both", {"place": "inline"})
        assert reply.status == 507 and reply.error.startswith("version 1 of 'vision' can not be opened at inline: ")
        assert "is damaged" in reply.error
        assert any(row["text"] == "a family stays where it is" for row in s.rows())
        events = load.stop()
    assert {e.status for e in events} == {200}
    got = family(s, "both")
    assert got["place"] == got["configured"] == "worker" and got["switched"] is None and got["rules"] == "weir.yaml"
    assert {s.model(m)["place"] for m in ("intent", "vision")} == {"worker"}
    assert all(h["kind"] != "place_changed" for h in s.history("intent") + s.history("vision"))
    flow.until("the end of what was opened", lambda: len(flow.children(s.pid)) == 2)
    for name, body, status, text in (
            ("both", {"place": "nowhere"}, 400, "families.both.place: 'nowhere' is neither"),
            ("both", {"place": ""}, 400, "families.both.place: "),
            ("both", {}, 400, 'either "place"'),
            ("both", {"place": "inline", "undo": True}, 400, 'either "place"'),
            ("both", {"place": "x" * 400}, 400, '"place" has more than'),
            ("gpu", {"place": "inline"}, 400, "device cuda:0 is for place: worker"),
            ("intent", {"place": "inline"}, 404, "no family 'intent'; the model of that name is of family 'both'"),
            ("other", {"place": "inline"}, 404, "no family 'other' in the configuration, and no model of that name"),
            ("a%2Fb", {"place": "inline"}, 400, "'a/b' in the path is not a name")):
        reply = switch(s, name, body)
        assert reply.status == status and text in reply.error, (reply, text)
    assert s.ask_admin("GET", "/admin/families/other").status == 404
    assert family(s, "both") == got
    assert switched(s, "both", {"place": "worker"})["switched"] is None  # it is there


def test_not_while_versions_are_compared(serve):
    s = serve("families:\n  intent: {place: worker}\n" + flow.watched("5%"))
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--rollout", "watched")
    reply = switch(s, "intent", {"place": "inline"})
    assert reply.status == 409 and "a rollout of 'intent' runs" in reply.error
    s.ok("rollback", "intent")
    assert switched(s, "intent", {"place": "inline"})["place"] == "inline"


def rules(s):
    return next(c for c in s.get("/admin/doctor")["checks"] if c["name"] == "places")["text"]


def test_remembered_until_weir_yaml_is_edited(serve):
    s = serve("families:\n  intent: {place: worker}\n")
    s.push_example("intent", 1)
    switched(s, "intent", {"place": "inline"})
    s.kill()  # durable before it acted
    s.start()
    got = family(s, "intent")
    assert (got["place"], got["configured"], got["rules"]) == ("inline", "worker", "switch")
    assert got["switched"]["by"] == "admin" and flow.children(s.pid) == []
    assert any("not where weir.yaml says" in row["text"] for row in s.rows())
    assert "family intent was switched to inline by admin, and that rules; weir.yaml says worker" in rules(s)
    # weir.yaml catches up: the switch is over
    s.stop()
    s.conf = "families:\n  intent: {place: inline}\n"
    s.start()
    got = family(s, "intent")
    assert (got["place"], got["configured"], got["switched"], got["rules"]) == ("inline", "inline", None, "weir.yaml")
    assert rules(s) == "every family runs where weir.yaml says"
    # a switch away from that; then weir.yaml is edited to something that is neither (not naming it is an edit too)
    switched(s, "intent", {"place": "worker"})
    s.stop()
    s.conf = ""
    s.start()
    assert any("says another place than when the family was switched, and rules" in row["text"] for row in s.rows())
    assert [f["name"] for f in s.get("/admin/families")["families"]] == ["default"]
    assert s.model("intent")["place"] == "worker" and s.model("intent")["family"] == "default"
    s.stop()
    s.conf = "families:\n  intent: {place: inline}\n"  # and it is forgotten: not the inline that was switched away from
    s.start()
    assert family(s, "intent")["place"] == "inline" and family(s, "intent")["switched"] is None


def test_undo(serve):
    s = serve("families:\n  intent: {place: worker}\n")
    s.push_example("intent", 1)
    switched(s, "intent", {"place": "inline"})
    got = switched(s, "intent", {"undo": True})
    assert got["place"] == "worker" and got["switched"] is None
    assert switched(s, "intent", {"undo": True})["place"] == "worker"  # it is home
    s.stop()
    s.start()
    assert family(s, "intent")["place"] == "worker" and family(s, "intent")["switched"] is None


def test_a_model_without_a_family_of_its_own(serve):
    """It gets one, with default's settings; the others stay where they are; home again, it has none."""
    s = serve("families:\n  default: {place: worker, queue_requests: 77}\n")
    s.push_example("intent", 1)
    s.push("other", flow.EXAMPLES / "intent" / "1")
    with flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=4) as load:
        got = switched(s, "intent", {"place": "inline"})
        assert (got["place"], got["configured"], got["models"]) == ("inline", None, ["intent"])
        assert {x["name"]: x["value"] for x in got["settings"]}["queue_requests"] == "77"
        assert family(s, "default")["models"] == ["other"] and s.model("other")["place"] == "worker"
        flow.until("load there", lambda: s.version("intent", 1)["stats"]["requests"] > 200)
        s.push_example("intent", 2)  # a new version goes there
        assert s.model("intent")["family"] == "intent" and s.version("intent", 2)["workers"] == []
        load.stop()
        assert {e.status for e in load.events} == {200}
    s.stop()
    s.start()
    assert (s.model("intent")["place"], s.model("other")["place"]) == ("inline", "worker")
    got = switched(s, "intent", {"undo": True})
    assert got["name"] == "default" and sorted(got["models"]) == ["intent", "other"]
    assert [f["name"] for f in s.get("/admin/families")["families"]] == ["default"]
    s.stop()
    s.start()
    assert s.model("intent")["place"] == "worker" and s.model("intent")["family"] == "default"
    assert s.infer("intent", json.loads(flow.Samples("intent").rows[0][0])["inputs"]).status == 200


def test_cold_versions_come_back_there(serve):
    s = serve("families:\n  intent: {place: worker, load: lazy}\n")
    s.push_example("intent", 1)
    s.stop()
    s.start()
    assert s.version("intent", 1)["state"] == "cold"
    switched(s, "intent", {"place": "inline"})
    assert s.version("intent", 1)["state"] == "cold"
    assert s.infer("intent", json.loads(flow.Samples("intent").rows[0][0])["inputs"]).status == 200
    assert s.version("intent", 1)["state"] == "ready" and flow.children(s.pid) == []


def test_what_is_under_way_ends_where_it_began(serve):
    """A run of seconds at the old place, and one that waits behind it, while the family goes over and back."""
    s = serve("families:\n  spin: {place: worker, inline_max: 1s, batch: {max: 1}}\n")
    s.push("spin", flow.MODELS / "spin" / "model.onnx")
    replies = []

    def inputs(trips):
        return [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
                {"name": "trips", "datatype": "INT64", "shape": [], "data": [trips]}]

    def ask():
        replies.append(s.infer("spin", inputs(500000)))  # some 1 s

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for t in askers:
        t.start()
    flow.until("both under way", lambda: s.version("spin", 1)["stats"]["in_flight"] == 2)
    switched(s, "spin", {"place": "inline"})
    assert s.infer("spin", inputs(1)).status == 200  # at the new place, before them
    assert len(replies) < 2, "the runs were to last longer than the switch"
    assert len(flow.children(s.pid)) == 1  # the old one is still there
    for t in askers:
        t.join(60 * flow.SLOWER)
    assert [r.status for r in replies] == [200, 200]
    flow.until("the end of the old place", lambda: flow.children(s.pid) == [])


def test_two_at_once_and_the_end_in_the_middle(serve):
    s = serve("families:\n  intent: {place: worker}\n")
    s.push_example("intent", 1)
    for place in ("inline", "worker", "inline"):
        replies = []
        askers = [threading.Thread(target=lambda place=place, replies=replies: replies.append(
            switch(s, "intent", {"place": place}))) for _ in range(3)]
        for t in askers:
            t.start()
        for t in askers:
            t.join(60 * flow.SLOWER)
        seen = sorted(r.status for r in replies)
        assert seen[0] == 200 and set(seen) <= {200, 409}, replies
        assert all("is just being switched to" in r.error for r in replies if r.status == 409)
        assert family(s, "intent")["place"] == place
    for place in ("worker", "inline"):  # the server ends while it switches: it ends well, and comes up at either place
        with flow.Wire(s.admin) as w:
            w.send(flow.request("POST", "/admin/families/intent", {"place": place}))
            s.stop()
        s.start()
        assert family(s, "intent")["moving_to"] is None
        assert s.infer("intent", json.loads(flow.Samples("intent").rows[0][0])["inputs"]).status == 200
        assert len(flow.children(s.pid)) == (1 if family(s, "intent")["place"] == "worker" else 0)
