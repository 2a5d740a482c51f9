# SPDX-License-Identifier: Apache-2.0
"""The shop in its four deployments: the same binary, only the configuration differs.

  spawn   one process tree: the shop starts a private Weir
  beside  Weir as a service beside it, on a unix socket
  hosts   vision and recommend each in a Weir of its own on another host (a network namespace; where the machine allows
          none, another loopback address)
  apart   the shop's own modules apart: --role api and --role business, and Weir as a service
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import flow  # noqa: E402

SHOP = flow.BUILD / "shop" / "shop"
MODELS = ("intent", "recommend", "vision")
# A slow machine is no test of the deadlines: those of the presets are for people.
PATIENT = [w for f in MODELS for w in (f"--deadline.{f}", "5000")] + ["--deadline.business", "20000"]


def browser_program():
    found = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    assert found, "no chromium-headless-shell (tools/setup.sh test installs it)"
    return found


class Shop:
    """A process of the shop; .url once it is open."""

    def __init__(self, folder, *args, prefix=(), name="shop"):
        self.log_path = pathlib.Path(folder) / f"{name}.log"
        self.from_byte = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*prefix, str(SHOP), "--data", str(pathlib.Path(folder) / "shop.db"), *PATIENT, *map(str, args)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=dict(os.environ, WEIR_BINARY=str(flow.WEIR)))

        def opened():
            assert self.process.poll() is None, f"the shop ended with {self.process.returncode}: {self.log()[-3000:]}"
            return re.search(r"^shop: open at (\S+)$", self.log(), re.M)

        self.url = flow.until("the shop's address", opened, 60).group(1)

    def log(self):
        with open(self.log_path, "rb") as f:
            f.seek(self.from_byte)
            return f.read().decode("utf-8", "replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60 * flow.SLOWER)
        assert status == 0, f"the shop's exit status is {status}: {self.log()[-3000:]}"
        assert not any(f in self.log() for f in flow.FINDINGS), self.log()[-8000:]
        flow.until("the end of its processes", lambda: not flow.pids_where(lambda s: s[2] == self.process.pid), 20)


class HostServer(flow.Server):
    """A Weir behind `ip netns exec`, which becomes it: no process stands between."""

    @property
    def pid(self):
        return self.process.pid


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Three hosts: the shop's, and one each for vision and recommend, wired to it. All of it goes at the end."""

    def __init__(self):
        self.tag = f"shop{os.getpid()}"
        self.spaces = []
        try:
            self._add(f"{self.tag}-front")
            for i, family in enumerate(("vision", "recommend")):
                self._add(f"{self.tag}-{family}")
                ip("-n", self.spaces[0], "link", "add", f"to-{family}", "type", "veth", "peer", "name", "eth0", "netns",
                   self.spaces[-1])
                ip("-n", self.spaces[0], "addr", "add", f"10.77.{i}.1/24", "dev", f"to-{family}")
                ip("-n", self.spaces[-1], "addr", "add", f"10.77.{i}.2/24", "dev", "eth0")
                ip("-n", self.spaces[0], "link", "set", f"to-{family}", "up")
                ip("-n", self.spaces[-1], "link", "set", "eth0", "up")
            self.real = True
        except (OSError, subprocess.CalledProcessError) as e:
            self.close()
            self.real = False
            warnings.warn("no network namespaces here: the hosts are loopback addresses "
                          f"({getattr(e, 'stderr', None) or e})", stacklevel=1)

    def _add(self, name):
        ip("netns", "add", name)
        self.spaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def inside(self, host):
        """The words before a command that runs on a host: front, vision or recommend."""
        return ["ip", "netns", "exec", f"{self.tag}-{host}"] if self.real else []

    def address(self, host):
        """HOST:PORT for a server there."""
        at = {"vision": 0, "recommend": 1}[host]
        if self.real:
            return f"10.77.{at}.2:8000"
        name = f"127.0.0.{at + 2}"
        with socket.socket() as s:
            s.bind((name, 0))
            return f"{name}:{s.getsockname()[1]}"

    def close(self):
        for name in self.spaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self.spaces = []


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A data folder with the three example models in it."""
    s = flow.Server(tmp_path_factory.mktemp("store"))
    s.start()
    for model in MODELS:
        s.push_example(model, 1)
    s.stop()
    return s.data_dir


class Deployment:
    """What runs for one deployment: .url of the pages, .servers by family, .browser: the program to look at it with."""

    def __init__(self, kind, folder, store):
        self.kind, self.folder, self.store = kind, pathlib.Path(folder), store
        self.sockets = tempfile.mkdtemp(prefix="shop")  # their paths have to be short
        self.processes, self.servers, self.hosts, self.admin = [], {}, None, {}
        self.browser = browser_program()
        try:
            getattr(self, f"start_{kind}")()
        except BaseException:
            self.stop()
            raise

    def server(self, name, listen, prefix=()):
        at = self.folder / name
        if not at.exists():
            shutil.copytree(self.store, at / "data")
        admin = f"unix:{self.sockets}/{name}.admin"
        s = HostServer(at, f"listen: {listen}\nadmin: {admin}\n", prefix=prefix)
        self.processes.append(s)
        s.start()
        return s

    def shop(self, *args, **kw):
        s = Shop(self.folder, *args, **kw)
        self.processes.append(s)
        return s

    def start_spawn(self):
        shutil.copytree(self.store, self.folder / "data")
        conf = self.folder / "weir.yaml"
        conf.write_text(f"store: sqlite:{self.folder}/data/weir.db\nartifacts: {self.folder}/data/artifacts\n")
        shop = self.shop("--listen", "127.0.0.1:0", "--inference", f"spawn:{conf}")
        self.url = shop.url
        self.admin = dict.fromkeys(MODELS, re.search(r'"admin":"(unix:[^"]+)"', shop.log()).group(1))

    def start_beside(self):
        s = self.server("weir", f"unix:{self.sockets}/weir")
        self.url = self.shop("--listen", "127.0.0.1:0", "--inference", f"unix:{self.sockets}/weir").url
        self.admin = dict.fromkeys(MODELS, s.admin_url)

    def start_hosts(self):
        self.hosts = Hosts()
        self.at = {family: self.hosts.address(family) for family in ("vision", "recommend")}
        for family in self.at:
            self.start_host(family)
        conf = self.folder / "shop.yaml"
        self.servers["intent"] = self.server("weir", f"unix:{self.sockets}/weir")
        conf.write_text("listen: 127.0.0.1:0\ninference:\n"
                        f"  default: unix:{self.sockets}/weir\n"
                        f"  vision: http://{self.at['vision']}\n"
                        f"  recommend: http://{self.at['recommend']}\n")
        self.front = self.shop("-c", conf, "--deadline.recommend", 1000 * flow.SLOWER,
                               prefix=self.hosts.inside("front"))
        self.url = self.front.url
        self.admin = {family: s.admin_url for family, s in self.servers.items()}
        if self.hosts.real:
            wrapper = self.folder / "browser"
            wrapper.write_text(f'#!/bin/sh\nexec {" ".join(self.hosts.inside("front"))} {self.browser} "$@"\n')
            wrapper.chmod(0o755)
            self.browser = str(wrapper)

    def start_host(self, family):
        self.servers[family] = self.server(family, self.at[family], self.hosts.inside(family))

    def start_apart(self):
        s = self.server("weir", "127.0.0.1:0")
        self.servers_url = s.data_url
        rules = self.shop("--role", "business", "--listen", "127.0.0.1:0", "--inference", s.data_url, name="business")
        self.rules = rules
        self.url = self.shop("--role", "api", "--listen", "127.0.0.1:0", "--business", rules.url, name="api").url
        self.admin = dict.fromkeys(MODELS, s.admin_url)

    def models(self, family):
        """What the family's Weir tells of it."""
        done = flow.weir("models", family, "--json", env={"WEIR_SERVER": self.admin[family]})
        assert done.status == 0, done
        return done.json()

    def log(self):
        return "\n".join(p.log()[-4000:] for p in self.processes)

    def stop(self):
        wrong = []
        for p in reversed(self.processes):
            try:
                p.stop()
            except AssertionError as e:
                wrong.append(e)
        if self.hosts:
            self.hosts.close()
        shutil.rmtree(self.sockets, ignore_errors=True)
        if wrong:
            raise wrong[0]


@pytest.fixture(scope="module", params=["spawn", "beside", "hosts", "apart"])
def deployment(request, tmp_path_factory, store):
    d = Deployment(request.param, tmp_path_factory.mktemp(request.param), store)
    yield d
    d.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    d = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and d:
        report.sections.append((f"logs of {d.kind}", d.log()))
