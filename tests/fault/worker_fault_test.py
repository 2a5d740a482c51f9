# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a worker stays there: it is stopped, crashes, takes memory without end, is slow, dies again and
again, shouts. Each time the others go on, nobody's request is lost, and the reason is told: in the answer, in the log,
in `weir models`. (SIGKILL under load is in tests/flow/kill_test.py; workers that lie about sizes and rings are in
tests/conform.)"""

import os
import signal
import threading
import time

import pytest

import flow

USERS = [f"user-{i}" for i in range(100)]
MIB = 1 << 20
# A sanitizer must not make an exit out of a signal.
AS_IT_IS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":handle_segv=0:handle_abort=0"}


def family(instances=1, **more):
    extra = "".join(f", {k}: {v}" for k, v in more.items())
    return f"families:\n  default: {{place: worker, instances: {instances}{extra}}}\n"


def only_worker(s, model, version=1):
    (w,) = s.version(model, version)["workers"]
    return w


def spin(s, trips, headers=()):
    return s.infer("spin", [flow.tensor("x", "FP32", [1, 4], [1, 2, 3, 4]), flow.tensor("trips", "INT64", [], [trips])],
                   headers)


def grow(s, n):
    return s.infer("grow", [flow.tensor("n", "INT64", [1], [n])])


def say(pid, data):
    """Writes what the worker itself could have written to its standard error."""
    fd = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY)
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("sig", [signal.SIGSTOP, signal.SIGSEGV])
def test_stopped_or_crashed_under_load(serve, instances, sig):
    s = serve(family(instances), env=AS_IT_IS)
    s.push_example("intent", 1)
    s.push_example("recommend", 1)
    others = s.workers("recommend")
    load = flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=4)
    other = flow.Load(s, "recommend", flow.Samples("recommend"), USERS, connections=1)
    load.start()
    other.start()
    victim = s.workers("intent")[0]
    flow.until("work", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > 100)
    os.kill(victim, sig)
    flow.until("a new worker", lambda: victim not in (s.workers("intent") or [victim]), 30)
    before = s.model("intent")["versions"][0]["stats"]["requests"]
    flow.until("work goes on", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > before + 100)
    load.stop()
    other.stop()
    assert not load.failed() and not other.failed()
    assert s.workers("recommend") == others
    told = [w for w in s.version("intent", 1)["workers"] if w["restarts"]]
    assert len(told) == 1 and told[0]["restarts"] == 1
    want = "no sign of life for 5 s" if sig == signal.SIGSTOP else "signal 11 (Segmentation fault)"
    assert want in told[0]["last_end"] and "intent/1" in told[0]["last_end"], told
    assert want in s.ok("models", "intent").out
    (row,) = [r for r in s.rows() if r["text"].startswith("an instance ended")]
    assert want in row["reason"] and row["own"] == "1"


def test_a_kill_from_outside_is_no_strike(serve):
    s = serve(family())
    s.push_example("intent", 1)
    for _ in range(6):  # more than the five own deaths that would end it
        pid = flow.until("ready", lambda: s.workers("intent"))[0]
        os.kill(pid, signal.SIGKILL)
        flow.until("seen", lambda: pid not in (s.workers("intent") or [pid]))
    flow.until("ready", lambda: s.workers("intent"))
    assert "signal 9 (Killed) from outside" in only_worker(s, "intent")["last_end"]


@pytest.mark.skipif(flow.SANITIZED, reason="a sanitizer ends the worker itself when memory is refused, and says so")
def test_a_memory_bomb(serve):
    """A run that asks for 800 MB where 256 MiB are allowed fails alone, and its error says which limit it was."""
    s = serve(family(1, memory="256MiB"))
    s.push("grow", flow.MODELS / "grow")
    s.push_example("intent", 1)
    pid, others = s.workers("grow")[0], s.workers("intent")
    assert grow(s, 1000).status == 200
    load = flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=2).start()
    flow.until("work", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > 100)
    before = flow.rss(s.pid)
    for _ in range(20):
        reply = grow(s, 200_000_000)
        assert reply.status == 500 and "its memory limit is 256 MiB (memory: of the family" in reply.error, reply
        peak = flow.rss(s.workers("grow")[0])
        assert peak < 400 * MIB, peak
    assert grow(s, 1000).status == 200
    load.stop()
    assert not load.failed() and s.workers("intent") == others
    assert flow.rss(s.pid) < before + 16 * MIB
    assert s.workers("grow") == [pid], "it could say it, so it need not die of it"


@pytest.mark.skipif(flow.SANITIZED, reason="a sanitizer ends the worker itself when memory is refused, and says so")
def test_a_memory_bomb_without_a_limit_of_its_family(serve):
    """Nobody set a limit: what the server's budget has left is one, at least 1 GiB."""
    s = serve("memory: 600MiB\n" + family(1))
    s.push("grow", flow.MODELS / "grow")
    reply = grow(s, 500_000_000)
    assert reply.status == 500 and "its memory limit is 1 GiB" in reply.error, reply
    assert grow(s, 1000).status == 200


@pytest.mark.skipif(flow.SANITIZED, reason="a sanitizer ends the worker itself when memory is refused, and says so")
def test_a_limit_that_the_load_breaks(serve):
    """The model's weights alone are more than it may have: refused, with the limit; nothing of it stays."""
    s = serve(family(1, memory="8MiB"))
    done = s.weir("push", "wide", flow.MODELS / "mlp_wide")
    assert done.status == 1 and "8 MiB" in done.err and "memory" in done.err, done
    flow.until("no worker", lambda: not flow.children(s.pid))
    s.push("small", flow.MODELS / "fixed")


def test_ten_times_as_slow_is_no_hang(serve):
    """Its usual run takes a second. One that takes ten, whose client gave up after two, runs to its end."""
    s = serve(family(1, timeout="2s"))
    s.push("spin", flow.MODELS / "spin")
    pid = s.workers("spin")[0]
    trips = 100_000
    while True:
        began = time.monotonic()
        assert spin(s, trips).status == 200
        took = time.monotonic() - began
        if took > 0.7:
            break
        trips = int(trips * min(4, 0.9 / took))
    assert spin(s, trips * 10).status == 504
    began = time.monotonic()
    flow.until("its end", lambda: spin(s, 10).status == 200, 40)
    assert s.workers("spin") == [pid], only_worker(s, "spin")
    assert time.monotonic() - began > 4, "it was to run longer than what counts as a hang of a quick model"


def test_a_crash_loop_ends(serve):
    """Five own deaths before it ever did its work: FAILED, with the last reason; the server and others go on."""
    s = serve(family())
    s.push_example("intent", 1)
    s.push_example("recommend", 1)
    dead = set()
    for _ in range(5):
        pid = flow.until("a new one", lambda: (s.workers("intent") or [0])[0] not in dead | {0} and s.workers("intent"),
                         40)[0]
        dead.add(pid)
        say(pid, b"the model met something it had never seen\n")
        os.kill(pid, signal.SIGABRT)
    flow.until("failed", lambda: s.version("intent", 1)["state"] == "failed")
    shown = s.ok("models", "intent")
    for want in ("five of its own deaths within 60 s", "signal 6 (Aborted)", "something it had never seen"):
        assert want in shown.out and want in s.version("intent", 1)["error"], shown
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 503
    assert s.ask("POST", "/v2/models/recommend/infer", flow.Samples("recommend").rows[0][0]).status == 200


def test_last_words(serve):
    """What it wrote to standard error is in our log, line by line, and in the reason of its end."""
    s = serve(family(), env=AS_IT_IS)
    s.push_example("intent", 1)
    pid = s.workers("intent")[0]
    say(pid, b'first "quoted" line\nand\ta second one\x1b[31m\nthird: no end')
    os.kill(pid, signal.SIGSEGV)
    flow.until("mended", lambda: pid not in (s.workers("intent") or [pid]))
    end = only_worker(s, "intent")["last_end"]
    assert 'it wrote last: first "quoted" line | and a second one?[31m | third: no end' in end, end
    told = [r["line"] for r in s.rows() if r["text"] == "a worker wrote" and r["pid"] == str(pid)]
    assert told[-3:] == ['first "quoted" line', "and a second one?[31m", "third: no end"]
    assert all(r["room"] == "worker" and r["worker"] == "intent/1" for r in s.rows() if r["text"] == "a worker wrote")


def test_who_shouts_hurts_nobody(serve):
    """A worker that writes without end: a bounded log, no memory, and other requests as always."""
    s = serve(family())
    s.push_example("intent", 1)
    s.push_example("recommend", 1)
    pid = s.workers("intent")[0]
    over = threading.Event()

    def shout():
        while not over.is_set():
            say(pid, b"shouting\n" * 1000)

    load = flow.Load(s, "recommend", flow.Samples("recommend"), USERS, connections=2).start()
    time.sleep(0.5)
    before = flow.rss(s.pid)
    shouts = threading.Thread(target=shout, daemon=True)
    shouts.start()
    time.sleep(3)
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 200
    assert flow.rss(s.pid) < before + 16 * MIB
    over.set()
    shouts.join(20)
    assert not shouts.is_alive()
    load.stop()
    assert not load.failed()
    rows = s.rows()
    lines = [r for r in rows if r["text"] == "a worker wrote"]
    dropped = [int(r["lines"]) for r in rows if r["text"] == "lines of a worker were dropped"]
    assert 50 <= len(lines) <= 50 * (5 + 3 * flow.SLOWER) and sum(dropped) > 1000, (len(lines), dropped)
    assert s.workers("intent") == [pid]


# ---- walls ----------------------------------------------------------------------------------------------------------

NO_LANDLOCK = flow.BUILD / "tests/programs/no_landlock"


class WithoutLandlock(flow.Server):
    """The program before it becomes the server."""

    def __init__(self, folder, conf):
        super().__init__(folder, conf, prefix=[NO_LANDLOCK])

    @property
    def pid(self):
        return self.process.pid


def test_sandbox_required(tmp_path):
    """Where the kernel lacks a wall the server does not begin to listen, and says which; `on` goes on without it."""
    s = WithoutLandlock(tmp_path / "s", "sandbox: required\n")
    s.start(wait=False)
    assert s.process.wait(20 * flow.SLOWER) == 1
    assert "sandbox: required, but this kernel has no Landlock" in s.log() and "listening" not in s.log(), s.log()
    s._gone()
    s = WithoutLandlock(tmp_path / "s", "sandbox: on\n").start()
    try:
        s.push_example("intent", 1)
        assert any("shut in by seccomp alone" in r["line"] for r in s.rows() if r["text"] == "a worker wrote")
        done = s.weir("doctor")
        assert done.status == 1 and "FAIL  server: sandbox" in done.out, done
    finally:
        s.stop()


def test_sandbox_required_where_it_is_whole(serve):
    s = serve("sandbox: required\n")
    s.push_example("intent", 1)
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 200
    shown = s.weir("doctor", "--json").json()["checks"]
    limits = next(c for c in shown if c["name"] == "server: memory limits")
    assert limits["ok"] and ("RLIMIT_DATA" in limits["text"] or "cgroups below" in limits["text"]), limits
    assert next(c for c in shown if c["name"] == "no_new_privs")["ok"]


# ---- what is left ---------------------------------------------------------------------------------------------------


def test_a_killed_server_leaves_nothing(tmp_path):
    """kill -9 under load: no process, no shared memory; its sockets are in nobody's way, and go with an orderly end."""
    data, admin = tmp_path / "data.sock", tmp_path / "admin.sock"
    conf = f"listen: unix:{data}\nadmin: unix:{admin}\n" + family(2)
    s = flow.Server(tmp_path / "s", conf).start()
    s.push_example("intent", 1)
    shared = sorted(os.listdir("/dev/shm"))
    load = flow.Load(s, "intent", flow.Samples("intent"), USERS, connections=4)
    load.may_be_refused = True
    load.start()
    flow.until("work", lambda: s.model("intent")["versions"][0]["stats"]["requests"] > 100)
    workers = s.workers("intent")
    s.kill()  # asserts that no process of its session lives
    load.stop()
    assert not any(flow.stat_of(w) and flow.stat_of(w)[0] != "Z" for w in workers)
    assert sorted(os.listdir("/dev/shm")) == shared
    assert data.exists() and admin.exists(), "a killed server can not take them away"
    s.start()
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 200
    second = flow.Server(tmp_path / "second", conf)
    second.start(wait=False)
    assert second.process.wait(20 * flow.SLOWER) == 1 and "in use" in second.log(), second.log()
    second._gone()
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 200
    assert not list((s.data_dir / "artifacts" / "tmp").iterdir())
    s.stop()
    assert not data.exists() and not admin.exists()
