# SPDX-License-Identifier: Apache-2.0
"""Lets the N-th call fail, N = 1, 2, 3 …, in start, load and request: memory, mmap, files, syncs, processes, epoll.

tests/preload/nth_failure.c stands in front of libc in the server and, where asked, in its workers; it counts calls
from the moment that a phase begins and fails one. The rule for the server:

- start: it is ready and serves, or it ends with a status other than 0 and says why; nothing is left running, and the
  next start finds its data whole.
- load: the push works or is refused with a reason; the server lives and serves what it served before.
- request: the right answer or a typed error, and the next request is served.
- a worker: what fails in it fails its load, or is its own death; the server mends it.

By design xmalloc and its kin (base.h) end the server with "out of memory": small structures of its own bookkeeping. In
start that is a clean end. In load and in requests of the admin plane and of feedback it is allowed for at most
ABORT_BYTES, in inference never. A crash-safe server loses nothing by it, and the test looks that this is so.

All N are tried while they are few; else the first ones and a seeded sample. WEIR_NTH=all tries every one.
"""

import errno
import json
import mmap
import os
import pathlib
import random
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import flow  # noqa: E402

LIBRARY = flow.BUILD / "tests/preload/nth_failure.so"
ABORT_BYTES = 128 << 10  # the largest is a series, 64 KiB a connection thread
KINDS = {  # the bit, and what the call says
    "memory": (1, errno.ENOMEM), "map": (2, errno.ENOMEM), "descriptor": (4, errno.EMFILE), "write": (8, errno.ENOSPC),
    "sync": (16, errno.EIO), "process": (32, errno.EAGAIN), "watch": (64, errno.ENOMEM),
}
ALL = os.environ.get("WEIR_NTH") == "all"
SEED = int(os.environ.get("WEIR_SEED", "1"))

pytestmark = pytest.mark.skipif(flow.SANITIZED, reason="the sanitizer's malloc and the library's can not both be first")


class Nth:
    """The control file: struct nth of tests/preload/nth_failure.c, the server's (0) and its workers' (1)."""

    RECORD = struct.Struct("=Ii3QQq24Q")
    assert RECORD.size == 240

    def __init__(self, path):
        path.write_bytes(bytes(2 * self.RECORD.size))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 2 * self.RECORD.size)
        self.env = {"LD_PRELOAD": str(LIBRARY), "WEIR_NTH_FILE": str(path)}

    def begin(self, kind, n, slot=0):
        """From now on calls of this kind are counted, and the N-th fails; 0: none does."""
        bit, error = KINDS[kind]
        at = slot * self.RECORD.size
        struct.pack_into("=Ii4Q", self.map, at, 0, error, n, 0, 0, 0)
        struct.pack_into("=24Q", self.map, at + self.RECORD.size - 24 * 8, *[0] * 24)
        struct.pack_into("=I", self.map, at, bit)  # last

    def end(self, slot=0):
        """(how many calls were counted, whether one failed, how many bytes it had asked for, the frames)"""
        at = slot * self.RECORD.size
        struct.pack_into("=I", self.map, at, 0)
        _, _, _, seen, fired, size, _, *frames = self.RECORD.unpack_from(self.map, at)
        return seen, fired, size, [f for f in frames if f]

    def live(self):
        return self.RECORD.unpack_from(self.map, 0)[6]


def where(frames):
    """The program's own frames as function (file:line)."""
    if not frames:
        return "no frame of ours"
    command = ["addr2line", "-spfi", "-e", str(flow.WEIR), *map(hex, frames)]
    run = subprocess.run(command, capture_output=True, text=True)
    return "; ".join(line for line in run.stdout.splitlines() if "nth_failure" not in line) or "unknown"


def numbers(count, first, some):
    """1 … count when those are few; else the first ones and a seeded sample of the others."""
    if ALL or count <= first + some:
        return range(1, count + 1)
    return [*range(1, first + 1), *sorted(random.Random(SEED).sample(range(first + 1, count + 1), some))]


class Trials:
    """What came of the N of one phase; wrong ones are collected, so that one run tells of them all."""

    def __init__(self, server, nth, kind):
        self.server, self.nth, self.kind = server, nth, kind
        self.count, self.wrong = {}, []

    def note(self, outcome):
        self.count[outcome] = self.count.get(outcome, 0) + 1

    def check(self, good, n, what, told):
        """told: what Nth.end gave."""
        if not good:
            _, _, size, frames = told
            self.wrong.append(f"{self.kind} {n}: {what} ({size} bytes, {where(frames)})")

    def died_as_designed(self, n, told, limit=ABORT_BYTES):
        """The server has ended: by a small allocation, with the word of it, and nothing of it is left running."""
        _, fired, size, _ = told
        status = self.server.process.wait(20)
        log = self.server.log()
        designed = status == -6 and "weir: out of memory" in log and size <= limit
        self.check(fired and self.kind in ("memory", "map") and designed, n,
                   f"the server died, status {status}: {log[-300:]}", told)
        self.server._gone()
        self.note("ended")

    def close(self, at_least=1):
        print(f"{self.kind}: {self.count}")
        assert not self.wrong, "\n".join(self.wrong)
        assert sum(self.count.values()) >= min(at_least, 1), self.count


CONF = "threads: 1\nfamilies:\n  thin: {place: inline}\n"
MODEL = (flow.MODELS / "mlp/model.onnx")
ZERO = [flow.tensor("x", "FP32", [1, 16], [0] * 16)]


def another(i):
    """The same network with another digest: a protobuf field that is repeated replaces the first, here doc_string."""
    text = f"trial {i}".encode()
    return MODEL.read_bytes() + b"\x32" + bytes([len(text)]) + text


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data folder with a model in a worker."""
    s = flow.Server(tmp_path_factory.mktemp("base"), CONF).start()
    s.push("m", MODEL)
    s.stop()
    return s.data_dir


@pytest.fixture
def rig(tmp_path, base):
    """(a server on a copy of that folder, not started; the control)"""
    nth = Nth(tmp_path / "nth")
    s = flow.Server(tmp_path / "s", CONF, env=nth.env)
    subprocess.run(["cp", "-a", str(base), str(s.data_dir)], check=True)
    yield s, nth
    if s in flow.LIVE:
        nth.begin("memory", 0)
        s.stop()


def started(s):
    """True: it is ready. False: it has ended."""
    s.start(wait=False)
    flow.until("ready or ended",
               lambda: s.process.poll() is not None or any(r["text"] == "ready" for r in s.rows()), 30)
    if s.process.poll() is not None:
        return False
    s.wait_line("listening")
    return True


def typed(reply):
    """An error that blames the server or the model, with a text."""
    return reply.status in (500, 503, 504, 507) and len(reply.error) > 10


# ---- start and stop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_start(rig, kind):
    s, nth = rig
    nth.begin(kind, 0)
    s.start()
    count = nth.end()[0]
    s.stop()
    t = Trials(s, nth, kind)
    for n in numbers(count, 8, 10):
        nth.begin(kind, n)
        try:
            up = started(s)
        except AssertionError:
            t.check(False, n, f"neither ready nor ended: {s.log()[-300:]}", nth.end())
            s.kill()
            continue
        if up:
            told = nth.end()
            reply = s.infer("m", ZERO, parameters={"timeout": 3_000_000})
            t.check(reply.status == 200 or typed(reply), n, f"ready, and answers {reply}", told)
            t.note("ready" if reply.status == 200 else "ready, the model is not")
            s.stop()
        else:
            told = nth.end()
            if s.process.returncode < 0:
                t.died_as_designed(n, told, 1 << 20)
            else:
                t.check(s.process.returncode == 1 and told[1] and len(s.log().strip()) > 20, n,
                        f"status {s.process.returncode}: {s.log()[-300:]}", told)
                t.note("refused")
                s._gone()
    s.start()
    assert s.infer("m", ZERO).status == 200
    t.close()


# ---- load -----------------------------------------------------------------------------------------------------------


def push(server, model, body, query="", begin=lambda: None):
    with flow.Wire(server.admin) as w:
        assert w.ask("GET", "/admin/server").status == 200  # the connection is not what fails
        begin()
        return w.ask("POST", f"/admin/models/{model}/versions{query}", body)


def ended(server):
    """Whether it has, or is about to: a reply that did not come is the first sign of it."""
    try:
        server.process.wait(2)
    except subprocess.TimeoutExpired:
        return False
    return True


def refused_well(reply):
    """422: the runtime refuses a model in the same words whatever the reason was."""
    return typed(reply) or (reply.status == 422 and len(reply.error) > 10)


def check_load(t, n, model, reply, told):
    """What must hold after a push that met a failure, whichever way it went."""
    s = t.server
    t.check(reply.status == 201 or refused_well(reply), n, f"answers {reply}", told)
    t.note("pushed" if reply.status == 201 else "refused")
    now = s.infer(model, ZERO)
    t.check(now.status == 200 and now.headers["x-weir-version"] == "1", n, f"afterwards answers {now}", told)
    again = push(s, model, another(n))
    if again.status == 507 and "read-only until" in again.error:
        s.stop()  # a sync failed: by design nothing is written until a restart
        s.start()
        again = push(s, model, another(n))
    t.check(again.status in (200, 201), n, f"pushed again: {again}", told)


@pytest.mark.parametrize("model", ["m", "thin"])
@pytest.mark.parametrize("kind", KINDS)
def test_load(rig, kind, model):
    s, nth = rig
    s.start()
    if model == "thin":
        s.push("thin", MODEL)
    assert push(s, model, another("count"), begin=lambda: nth.begin(kind, 0)).status == 201
    count = nth.end()[0]
    t = Trials(s, nth, kind)
    if model == "thin" and kind == "memory":
        # Up to where ONNX Runtime begins. What it makes of a failed allocation (in 1.2x also a double free) is a matter
        # of its process: test_worker_load has that; `inline` is for families that a person trusted.
        count = 22
    for n in numbers(count, 14, 10):
        if s not in flow.LIVE:
            s.start()
        try:
            reply = push(s, model, another(n), begin=lambda n=n: nth.begin(kind, n))
        except (flow.Closed, OSError) as e:
            told = nth.end()
            if ended(s):
                t.died_as_designed(n, told)
            else:
                t.check(False, n, f"no answer: {e}", told)
            continue
        told = nth.end()
        if s.process.poll() is not None or (told[1] and "out of memory" in s.log() and ended(s)):
            t.died_as_designed(n, told)  # after its answer
        else:
            check_load(t, n, model, reply, told)
    t.close(at_least=count)


# ---- request --------------------------------------------------------------------------------------------------------

WIDE = 600  # rows: a body and a reply that the buffers of a connection grow for


def requests():
    """name: (on the admin plane, method, path, body, headers)"""
    rows = [[0.5] * 16] * WIDE
    raw = bytes(4 * 16 * 3)
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 16],
                                   "parameters": {"binary_data_size": len(raw)}}]}).encode()
    out = [{"name": "y", "parameters": {"classification": 2}}]
    wide = [flow.tensor("x", "FP32", [WIDE, 16], rows)]
    return {
        "small": (False, "POST", "/v2/models/m/infer", {"inputs": ZERO}, {}),
        "inline": (False, "POST", "/v2/models/thin/infer", {"inputs": ZERO}, {}),
        "one version": (False, "POST", "/v2/models/m/versions/1/infer", {"inputs": ZERO}, {}),
        "wide": (False, "POST", "/v2/models/m/infer", {"inputs": wide}, {}),
        "wide inline": (False, "POST", "/v2/models/thin/infer", {"inputs": wide}, {}),
        "binary": (False, "POST", "/v2/models/m/infer", head + raw, {"Inference-Header-Content-Length": len(head)}),
        "classes": (False, "POST", "/v2/models/m/infer", {"inputs": ZERO, "outputs": out}, {}),
        "long user": (False, "POST", "/v2/models/m/infer", {"inputs": ZERO}, {"X-Weir-User": "u" * 3000}),
        "metadata": (False, "GET", "/v2/models/m", None, {}),
        "feedback": (False, "POST", "/v2/models/m/feedback", {"id": "nobody", "label": "a"}, {}),
        "metrics": (True, "GET", "/metrics", None, {}),
        "models": (True, "GET", "/admin/models", None, {}),
        "model": (True, "GET", "/admin/models/m", None, {}),
        "rollout": (True, "GET", "/admin/models/m/rollout", None, {}),
        "history": (True, "GET", "/admin/models/m/history", None, {}),
        "page": (True, "GET", "/", None, {}),
    }


class Asking:
    """One kind of request, again and again on a fresh connection; warm: after a first small one on it."""

    def __init__(self, server, order, warm):
        self.server, self.warm = server, warm
        self.admin, self.method, self.path, self.body, self.headers = order
        self.right = None

    def same(self, reply):
        return reply.status == self.right.status and (self.path == "/metrics" or self.method == "GET" or
                                                      reply.headers.get("content-length") ==
                                                      self.right.headers.get("content-length"))

    def once(self, begin=lambda: None):
        """The reply; or None where the connection was closed without a byte."""
        data = flow.request(self.method, self.path, self.body, self.headers)
        if not self.warm:
            begin()
        with flow.Wire(self.server.admin if self.admin else self.server.data) as w:
            if self.warm:
                assert w.ask("GET", "/admin/server" if self.admin else "/v2/health/live").status == 200
                begin()
            try:
                w.send(data)
                return w.read()
            except flow.Closed as e:
                assert not e.got, e
                return None
            except (BrokenPipeError, ConnectionResetError):
                return None


@pytest.mark.parametrize("warm", [True, False], ids=["on its connection", "with its connection"])
@pytest.mark.parametrize("kind", ["memory", "map", "descriptor", "write", "sync", "process", "watch"])
def test_request(rig, kind, warm):
    s, nth = rig
    s.start()
    s.push("thin", MODEL)
    assert push(s, "m", another("canary"), "?canary=50%25").status == 201
    t = Trials(s, nth, kind)
    for name, order in requests().items():
        if kind == "memory" and "thin" in order[2]:
            continue  # what ONNX Runtime makes of it: see test_load
        if not warm and name not in ("small", "wide", "metrics") and not ALL:
            continue
        asking = Asking(s, order, warm)
        asking.right = asking.once()
        assert asking.right.status in (200, 404), (name, asking.right)
        for n in range(1, 400):
            if s not in flow.LIVE:
                s.start()
                flow.until("its model", lambda: s.infer("m", ZERO).status == 200)
            reply = asking.once(lambda n=n: nth.begin(kind, n))
            told = nth.end()
            if reply is None and ended(s):
                t.died_as_designed(n, told)
                t.check(not ("infer" in order[2]), n, f"{name}: a request ended the server", told)
                continue
            if not told[1]:
                t.check(reply is not None and asking.same(reply), n, f"{name}: {reply}", told)
                break
            t.note("closed" if reply is None else "answered" if asking.same(reply) else "refused")
            t.check(reply is not None or not warm, n, f"{name}: no answer", told)
            t.check(reply is None or asking.same(reply) or typed(reply), n, f"{name}: {reply}", told)
            after = asking.once()
            t.check(after is not None and asking.same(after), n, f"{name}: the next request: {after}", told)
        else:
            raise AssertionError(f"{name}: no end of calls that can fail")
    t.close(at_least=0)


# ---- in a worker ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_worker_load(rig, kind):
    s, nth = rig
    s.start()
    nth.begin(kind, 0, 1)
    assert push(s, "m", another("count")).status == 201
    count = nth.end(1)[0]
    t = Trials(s, nth, kind)
    for n in numbers(count, 4, 8):
        nth.begin(kind, n, 1)
        try:
            reply = push(s, "m", another(n))
        except (flow.Closed, OSError) as e:
            t.check(False, n, f"no answer: {e}", nth.end(1))
            break
        told = nth.end(1)
        check_load(t, n, "m", reply, told)
    t.close()


def test_worker_request(rig):
    """Its own death, or an error of the model's: the request is answered all the same, and so is the next."""
    s, nth = rig
    s.start()
    t = Trials(s, nth, "memory")
    for n in range(1, 400):
        flow.until("the worker", lambda: s.infer("m", ZERO).status == 200, 60)
        nth.begin("memory", n, 1)
        reply = s.infer("m", [flow.tensor("x", "FP32", [1, 16], [n] * 16)])
        told = nth.end(1)
        t.check(reply.status == 200 or typed(reply), n, f"answers {reply}", told)
        t.note("answered" if reply.status == 200 else f"{reply.status}")
        if not told[1]:
            break
    t.close()
