# SPDX-License-Identifier: Apache-2.0
"""The payload log on a disk that fails: each write and each sync of it in turn. Requests are answered as if nothing
were; what could not be kept is counted; what is in the segments is whole."""

import hashlib
import json

import pytest

import flow
from nth_failure_test import Nth, ZERO, pytestmark  # noqa: F401

CONF = "threads: 1\ncapture: {sample: 100%, segment_bytes: 4096}\nfamilies:\n  thin: {place: inline}\n"
ASKED = 40  # a round; some three segments
SEGMENT = 16  # lines, at most


def capture(server):
    return server.get("/admin/models/thin/capture")


def settled(server, sampled):
    def look():
        s = capture(server)
        return s if s["sampled"] == sampled and s["sampled"] == s["written"] + sum(s["dropped"].values()) else None

    return flow.until("all to be written or dropped", look)


def whole(server):
    """Every line of every segment is one; sealed ones have their digest. Returns how many there are."""
    lines = 0
    for row in capture(server)["segments"]:
        content = (server.data_dir / "weir.db-capture/thin" / row["file"]).read_bytes()
        assert content.endswith(b"\n") and len(content) == row["bytes"]
        assert not row["sealed"] or hashlib.sha256(content).hexdigest() == row["sha256"]
        rows = [json.loads(line) for line in content.splitlines()]
        assert len(rows) == row["records"] <= SEGMENT
        lines += len(rows)
    return lines


def ask(server):
    with server.wire() as w:
        for _ in range(ASKED):
            assert w.ask("POST", "/v2/models/thin/infer", {"inputs": ZERO}).status == 200


@pytest.mark.parametrize("kind, at", [
    ("write", range(1, 25)),
    ("sync", [n for n in range(1, 9) if n % 3])])  # a file, its folder; each third is the database's
def test_the_nth_failure(serve, tmp_path, kind, at):
    nth = Nth(tmp_path / "nth")
    s = serve(CONF, env=nth.env)
    s.push("thin", flow.MODELS / "mlp")
    ask(s)  # makes the folders
    settled(s, ASKED)
    sampled, fired, lost = ASKED, 0, 0
    for n in at:
        nth.begin(kind, n)
        ask(s)
        sampled += ASKED
        now = settled(s, sampled)
        fired += nth.end()[1]
        lost = sum(now["dropped"].values())
        assert lost == now["dropped"]["disk"] <= fired
        assert whole(s) >= now["written"] - (SEGMENT * fired if kind == "sync" else 0)
    assert fired == len(at)
    assert lost >= 5 if kind == "write" else lost == 0  # what could not be synced was written before
    ask(s)
    settled(s, sampled + ASKED)
    kept = whole(s)
    s.stop()
    s.start()
    assert whole(s) == kept
    assert all(row["sealed"] for row in capture(s)["segments"])


def test_a_store_that_is_read_only(serve, tmp_path):
    """The database's own sync fails: it takes no writes until the restart, and nothing is captured until then."""
    nth = Nth(tmp_path / "nth")
    s = serve(CONF, env=nth.env)
    s.push("thin", flow.MODELS / "mlp")
    nth.begin("sync", 5)  # two folders are made first
    ask(s)
    now = settled(s, ASKED)
    assert nth.end()[1] == 1 and any("read-only" in row["text"] for row in s.rows())
    assert now["dropped"]["disk"] > 0
    ask(s)
    assert settled(s, 2 * ASKED)["written"] == now["written"]
    s.stop()
    s.start()
    assert whole(s) == now["written"]
    ask(s)
    assert settled(s, ASKED)["written"] == ASKED
