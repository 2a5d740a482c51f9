# SPDX-License-Identifier: Apache-2.0
"""More work than can be done: what can not be in time is refused on its headers, and what matters most goes first."""

import threading

import pytest

import flow

TRIPS = 30000  # some 60 ms a run
SPIN = {"inputs": [flow.tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("trips", "INT64", [], [TRIPS])]}
PATH = "/v2/models/spin/infer"


@pytest.fixture(scope="module")
def server(module_serve):
    s = module_serve("families:\n  default: {place: worker}\n")
    s.push("spin", flow.MODELS / "spin")
    return s


class Backlog:
    """Requests in flight, each on a connection of its own; ended by reading them all."""

    def __init__(self, server, n, headers=()):
        for _ in range(3):  # it learns how long a run takes
            assert server.ask("POST", PATH, SPIN).status == 200
        self.wires = [server.wire() for _ in range(n)]
        for w in self.wires:
            w.send(flow.request("POST", PATH, SPIN, headers))
        flow.until("a queue", lambda: waiting(server) >= n - 6)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.statuses = [w.read().status for w in self.wires]
        for w in self.wires:
            w.close()


def waiting(server):
    return metric(server, "weir_queue_waiting{")


def metric(server, start, *also):
    lines = server.ask_admin("GET", "/metrics").body.decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(start) and all(a in x for a in also))


def test_what_can_not_be_in_time_is_refused_on_its_headers(server):
    before = metric(server, "weir_refused_total", 'reason="deadline"')
    with Backlog(server, 20) as load:
        with server.wire() as w:  # a body is announced, and never sent
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\nX-Weir-Timeout: 100ms\r\n\r\n"
            w.send(head.encode())
            r = w.read()
        assert r.status == 503, r
        assert int(r.headers["retry-after"]) >= 1
        assert "deadline" in r.error, r
        assert server.ask("POST", PATH, SPIN, [("X-Weir-Timeout", "30s")]).status == 200
    assert load.statuses == [200] * 20
    assert metric(server, "weir_refused_total", 'reason="deadline"') == before + 1


def test_the_timeout_of_the_json_counts_too(server):
    with Backlog(server, 20) as load:
        r = server.ask("POST", PATH, dict(SPIN, parameters={"timeout": 100000}))
        assert r.status == 503 and "deadline" in r.error, r
    assert load.statuses == [200] * 20


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_the_critical_goes_first(server, how):
    """It comes last, and is answered before most of those that came before it."""
    with Backlog(server, 20, [("X-Weir-Priority", "sheddable")]) as load:
        if how == "header":
            r = server.ask("POST", PATH, SPIN, [("X-Weir-Priority", "critical")])
        else:
            r = server.ask("POST", PATH, dict(SPIN, parameters={"priority": 1}))
        assert r.status == 200, r
        assert waiting(server) > 5
    assert load.statuses == [200] * 20


@pytest.mark.parametrize("name, value, text", [
    ("X-Weir-Timeout", "soon", "250ms"),
    ("X-Weir-Timeout", "0s", "250ms"),
    ("X-Weir-Priority", "urgent", "critical, default or sheddable"),
])
def test_a_wrong_word_is_refused(server, name, value, text):
    r = server.ask("POST", PATH, SPIN, [(name, value)])
    assert r.status == 400 and text in r.error, r


def test_twice_what_it_can_do(server):
    """Clients that ask again and again, with a deadline of some ten runs: every request is answered, most of what can
    not be done is refused, not left to its deadline."""
    good, late, refused, other = [], [], [], []
    stop = threading.Event()

    def client():
        while not stop.is_set():
            r = server.ask("POST", PATH, SPIN, [("X-Weir-Timeout", "600ms")])
            {200: good, 504: late, 503: refused}.get(r.status, other).append(r)
            if r.status == 503:
                stop.wait(0.02)

    threads = [threading.Thread(target=client) for _ in range(30)]
    for t in threads:
        t.start()
    flow.until("answers", lambda: len(good) >= 60, limit_s=120)
    stop.set()
    for t in threads:
        t.join()
    assert not other, other[0]
    assert refused, "nothing was refused"
    assert len(late) < len(good) / 2 and len(late) < len(refused), (len(late), len(refused), len(good))
