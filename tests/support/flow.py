# SPDX-License-Identifier: Apache-2.0
"""What the flow tests share: a real `weir serve` as a child process, its commands, and a small fast HTTP client.

A Server listens on ports that the kernel chose (it reads them from the log), lives in a session of its own, and must go
without a trace: exit status 0 after SIGTERM, no process of its session left, nothing that a sanitizer found.
"""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD") or ROOT / "build").resolve()
WEIR = BUILD / "weir"
MODELS = BUILD / "models"
EXAMPLES = ROOT / "examples" / "models"
SANITIZED = "san-" in BUILD.as_posix() or bool(os.environ.get("WEIR_SANITIZED"))
SLOWER = 6 if SANITIZED else 1  # how much more time things may take
LIVE = []  # servers that run now: their logs go into the report of a test that fails
FINDINGS = ("AddressSanitizer", "LeakSanitizer", "runtime error:", "ThreadSanitizer", "Assertion `")


def until(what, condition, limit_s=20.0, pause_s=0.01):
    """Waits for a condition and returns what it gave; says what was waited for when it never came."""
    end = time.monotonic() + limit_s * SLOWER
    while True:
        got = condition()
        if got:
            return got
        assert time.monotonic() < end, f"{limit_s * SLOWER:g} s went by without: {what}"
        time.sleep(pause_s)


def watched(share):
    """A policy of that name in weir.yaml: a share that only a person changes, judged and told, not taken back."""
    return f"rollouts:\n  watched: {{steps: \"{share}\", bake: 24h, dry_run: on}}\n"


# ---- HTTP -----------------------------------------------------------------------------------------------------------


class Closed(Exception):
    """The connection ended before a whole reply; .got holds what came."""

    def __init__(self, got):
        super().__init__(f"closed after {len(got)} bytes: {got[:200]!r}")
        self.got = got


class Reply:
    __slots__ = ("status", "headers", "body")

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return json.loads(self.body)["error"]

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


class Wire:
    """One connection. Sends bytes as they are and reads replies; fast enough (some 50 us) for Python to make load."""

    def __init__(self, address, timeout_s=30.0 * SLOWER):
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout_s)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout=timeout_s)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def _more(self):
        try:
            got = self.sock.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            got = b""
        if not got:
            raise Closed(self.left)
        self.left += got

    def read(self, head=False):
        """One reply; head=True: it has no body whatever its length says."""
        while True:
            while (end := self.left.find(b"\r\n\r\n")) < 0:
                self._more()
            lines = self.left[:end].decode("latin-1").split("\r\n")
            version, status = lines[0].split(" ", 2)[:2]
            assert version == "HTTP/1.1", lines[0]
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                assert name.lower() not in headers, f"{name} twice: {lines}"
                headers[name.lower()] = value.strip()
            status, at = int(status), end + 4
            if status == 100:
                self.left = self.left[at:]
                continue
            n = 0 if head else int(headers.get("content-length", 0))
            while len(self.left) < at + n:
                self._more()
            body, self.left = self.left[at:at + n], self.left[at + n:]
            return Reply(status, headers, body)

    def ask(self, method, path, body=None, headers=()):
        self.send(request(method, path, body, headers))
        return self.read(head=method == "HEAD")

    def at_end(self, limit_s=5.0):
        """True if the peer closes (having sent nothing more) within the time."""
        self.sock.settimeout(limit_s * SLOWER)
        try:
            return not self.left and self.sock.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True
        except TimeoutError:
            return False


def request(method, path, body=None, headers=()):
    """The bytes of a request; body may be bytes, text, or what json.dumps takes."""
    if body is not None and not isinstance(body, (bytes, bytearray, str)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    rows = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    rows += [f"{k}: {v}" for k, v in (headers.items() if isinstance(headers, dict) else headers)]
    if body is not None:
        rows.append(f"Content-Length: {len(body)}")
    return "\r\n".join(rows).encode() + b"\r\n\r\n" + (body or b"")


def tensor(name, dtype, shape, data):
    return {"name": name, "datatype": dtype, "shape": list(shape), "data": data}


# ---- processes ------------------------------------------------------------------------------------------------------


def stat_of(pid):
    """(state, parent, session) or None."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2:].split()
    return fields[0], int(fields[1]), int(fields[3])


def pids_where(condition):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = stat_of(entry)
            if stat and stat[0] != "Z" and condition(stat):
                found.append(int(entry))
    return found


def children(pid):
    return pids_where(lambda stat: stat[1] == pid)


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")


def descriptors(pid):
    return sorted(os.listdir(f"/proc/{pid}/fd"), key=int)


class Done:
    """What a command said."""

    def __init__(self, run):
        self.status, self.out, self.err = run.returncode, run.stdout, run.stderr

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"<exit {self.status}\nout: {self.out}\nerr: {self.err}>"


def weir(*words, env=None, limit_s=120, stdin=None):
    run = subprocess.run([str(WEIR), *map(str, words)], env=dict(os.environ, **(env or {})), text=True, input=stdin,
                         stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True,
                         timeout=limit_s * SLOWER)
    assert run.returncode >= 0, f"weir {' '.join(map(str, words))} died of signal {-run.returncode}: {run.stderr}"
    assert not any(f in run.stderr for f in FINDINGS), run.stderr
    return Done(run)


class Server:
    """`weir serve` in `folder`: its data, its weir.yaml, its log."""

    def __init__(self, folder, conf="", prefix=(), args=(), env=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log_path = self.folder / "log"
        self.conf, self.prefix, self.args, self.env = conf, list(prefix), list(args), env or {}
        self.process = None

    # ---- life

    def start(self, wait=True, pass_fds=()):
        config = self.folder / "weir.yaml"
        config.write_text(self.conf)
        self.from_byte = self.log_path.stat().st_size if self.log_path.exists() else 0
        listen = [] if "listen:" in self.conf else ["--listen", "127.0.0.1:0"]
        admin = [] if "admin:" in self.conf else ["--admin", "127.0.0.1:0"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, str(WEIR), "serve", "-c", str(config), "--data", str(self.data_dir), *listen, *admin,
                 *self.args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=pass_fds,
                env=dict(os.environ, **self.env))
        LIVE.append(self)
        if wait:
            self.wait_line("listening")
            self.wait_line("ready")
        return self

    def wait_line(self, text, limit_s=30.0):
        def look():
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}: {self.log()[-3000:]}"
            return next((row for row in self.rows() if row["text"] == text), None)

        row = until(f"'{text}' in the log", look, limit_s)
        if "data" in row and "admin" in row:
            self.data_url, self.admin_url = row["data"], row["admin"]
            self.data, self.admin = address_of(self.data_url), address_of(self.admin_url)
        return row

    def log(self):
        with open(self.log_path, "rb") as f:
            f.seek(self.from_byte)
            return f.read().decode("utf-8", "replace")

    def rows(self):
        """The log's lines since the last start."""
        out = []
        for line in self.log().splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                continue  # not the log's: a sanitizer's or the loader's
        return out

    @property
    def pid(self):
        if not self.prefix:
            return self.process.pid
        below = children(self.process.pid)  # below strace
        assert len(below) == 1, below
        return below[0]

    def session(self):
        """Processes of the server's session that live."""
        return pids_where(lambda stat: stat[2] == self.process.pid)

    def _gone(self):
        LIVE.remove(self)
        try:
            until("the end of all its processes", lambda: not self.session(), 10)
        finally:
            for pid in self.session():
                os.kill(pid, signal.SIGKILL)
        log = self.log()
        assert not any(f in log for f in FINDINGS), log[-8000:]

    def stop(self, limit_s=45):
        """SIGTERM: exit status 0, nothing left behind."""
        if self.process is None or self not in LIVE:
            return
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            status = self.process.wait(limit_s * SLOWER)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end {limit_s} s after SIGTERM: {self.log()[-3000:]}") from None
        self._gone()
        assert status == 0, f"exit status {status} after SIGTERM: {self.log()[-3000:]}"

    def kill(self):
        """SIGKILL: the workers must follow by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(30)
        self._gone()

    # ---- talking to it

    def weir(self, *words, **kw):
        return weir(*words, env={"WEIR_SERVER": self.admin_url}, **kw)

    def ok(self, *words, **kw):
        done = self.weir(*words, **kw)
        assert done.status == 0, done
        return done

    def push(self, name, path, *words):
        return self.ok("push", name, path, "--json", *words).json()

    def push_example(self, name, version, *words):
        return self.push(name, EXAMPLES / name / str(version), "--version", str(version), *words)

    def wire(self, **kw):
        return Wire(self.data, **kw)

    def ask(self, method, path, body=None, headers=()):
        with Wire(self.data) as w:
            return w.ask(method, path, body, headers)

    def ask_admin(self, method, path, body=None, headers=()):
        with Wire(self.admin) as w:
            return w.ask(method, path, body, headers)

    def get(self, path):
        reply = self.ask_admin("GET", path)
        assert reply.status == 200, reply
        return reply.json()

    def infer(self, model, inputs, headers=(), **more):
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": inputs, **more}, headers)

    def model(self, name):
        return self.get(f"/admin/models/{name}")

    def version(self, name, number):
        return next(v for v in self.model(name)["versions"] if v["version"] == number)

    def rollout(self, name):
        return self.ok("rollout", "show", name, "--json").json()

    def arms(self, name):
        return {arm["arm"]: arm for arm in self.rollout(name)["arms"]}

    def history(self, name):
        return self.ok("history", name, "--json").json()["history"]

    def workers(self, name):
        """The pids of a model's workers that are ready; None while one of them is not."""
        rows = [w for v in self.model(name)["versions"] for w in v["workers"]]
        return [w["pid"] for w in rows] if rows and all(w["state"] == "ready" and w["pid"] for w in rows) else None

    def tree(self):
        """Every file below the data folder with its size, for comparison; SQLite's own files are left out."""
        return sorted((str(p.relative_to(self.data_dir)), p.stat().st_size) for p in self.data_dir.rglob("*")
                      if p.is_file() and "weir.db" not in p.name)


def address_of(url):
    if url.startswith("unix:"):
        return url[5:]
    parts = urllib.parse.urlsplit(url)
    return parts.hostname, parts.port


def stock(address):
    """A connection of the standard library's own client."""
    return http.client.HTTPConnection(*address, timeout=30 * SLOWER)


# ---- load -----------------------------------------------------------------------------------------------------------


class Samples:
    """A model's sample requests: bytes of the body, and the label."""

    def __init__(self, name, version=1):
        self.rows = []
        for line in (EXAMPLES / name / str(version) / "samples.ndjson").read_text().splitlines():
            row = json.loads(line)
            self.rows.append((json.dumps({"inputs": row["inputs"]}).encode(), row["label"]))


class Event:
    """One request as the client saw it."""

    __slots__ = ("user", "id", "sent", "took", "status", "version", "arm", "predicted", "label", "told", "why")


class Load:
    """Connections in threads that ask `model` for its samples; every request is an Event in .events.

    feedback: every how many-th answer is followed by its label (0: none). A connection that the server closes while a
    request is on it is a failed request (status 0).
    """

    def __init__(self, server, model, samples, users, connections=8, feedback=0, headers=()):
        self.server, self.model, self.samples, self.users = server, model, samples, users
        self.connections, self.feedback, self.headers = connections, feedback, list(headers)
        self.events, self.over, self.may_be_refused = [], threading.Event(), False
        self._threads, self._errors, self._lock, self._next, self._end = [], [], threading.Lock(), 0, None

    def _head(self, user, rid, length):
        extra = "".join(f"{k}: {v}\r\n" for k, v in self.headers)
        return (f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nHost: localhost\r\nX-Weir-User: {user}\r\n"
                f"X-Request-Id: {rid}\r\nContent-Length: {length}\r\n{extra}\r\n").encode()

    def _one(self, wire, i, out):
        e = Event()
        body, e.label = self.samples.rows[i % len(self.samples.rows)]
        e.user, e.id = self.users[i % len(self.users)], f"{self.model}-{i}"
        e.told = e.why = e.predicted = None
        data = self._head(e.user, e.id, len(body)) + body
        e.sent = time.monotonic()
        try:
            wire.send(data)
            reply = wire.read()
        except (Closed, OSError) as why:
            e.status, e.version, e.arm, e.why, e.took = 0, None, None, repr(why), time.monotonic() - e.sent
            out.append(e)
            return False
        e.took = time.monotonic() - e.sent
        e.status, e.arm = reply.status, reply.headers.get("x-weir-arm")
        e.version = int(reply.headers["x-weir-version"]) if "x-weir-version" in reply.headers else None
        if reply.status == 200:
            assert reply.headers["x-request-id"] == e.id
            outputs = reply.json()["outputs"]
            e.predicted = next((o["data"][0] for o in outputs if o["name"] == "label"), None)
            if self.feedback and i % self.feedback == 0:
                told = wire.ask("POST", f"/v2/models/{self.model}/feedback", {"id": e.id, "label": e.label})
                assert told.status == 200, told
                assert told.json()["counted"] is True and told.json()["version"] == e.version, told
                e.told = e.predicted == e.label
        else:
            e.why = reply.body.decode("utf-8", "replace")
        out.append(e)
        return "close" not in reply.headers.get("connection", "").lower()

    def _thread(self):
        mine = []
        wire = None
        try:
            while not self.over.is_set():
                with self._lock:
                    i, self._next = self._next, self._next + 1
                if self._end is not None and i >= self._end:
                    break
                try:
                    wire = wire or Wire(self.server.data)
                except OSError:
                    assert self.may_be_refused
                    break
                if not self._one(wire, i, mine):
                    wire.close()
                    wire = None
        except Exception as e:  # told by the thread that joins
            self._errors.append(e)
        finally:
            if wire:
                wire.close()
            with self._lock:
                self.events += mine

    def start(self, requests=None):
        self.over.clear()
        self._end = None if requests is None else self._next + requests
        self._threads = [threading.Thread(target=self._thread, daemon=True) for _ in range(self.connections)]
        for t in self._threads:
            t.start()
        return self

    def join(self, limit_s=120):
        for t in self._threads:
            t.join(limit_s * SLOWER)
            assert not t.is_alive(), "the load did not end"
        if self._errors:
            raise self._errors[0]
        return self.events

    def stop(self):
        self.over.set()
        return self.join()

    def run(self, requests):
        self.start(requests)
        return self.join()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if not self.over.is_set():
            self.over.set()
            for t in self._threads:
                t.join(60)

    def failed(self):
        return [(e.id, e.status, e.why) for e in self.events if e.status != 200]
