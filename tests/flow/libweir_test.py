# SPDX-License-Identifier: Apache-2.0
"""libweir as an application finds it: installed under a prefix, found by pkg-config, the example built and run against
a server and with a server of its own."""

import os
import pathlib
import shutil
import subprocess

import pytest

import flow

CC = os.environ.get("CC", "cc")


def run(command, **kw):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, **kw)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The prefix that `make install` filled, by way of DESTDIR as a packager does it, then moved into its place."""
    if flow.SANITIZED:
        pytest.skip("an application is not built with the sanitizer")
    at = tmp_path_factory.mktemp("install")
    prefix = at / "prefix"
    done = run(["make", "install", f"BUILD={flow.BUILD}", f"DESTDIR={at}/stage", f"PREFIX={prefix}"], cwd=flow.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.move(f"{at}/stage{prefix}", prefix)
    return prefix


@pytest.fixture(scope="module", params=["shared", "static"])
def example(request, installed, tmp_path_factory):
    env = dict(os.environ, PKG_CONFIG_PATH=f"{installed}/lib/pkgconfig")
    static = request.param == "static"
    found = run(["pkg-config", "--cflags", "--libs", *(["--static"] if static else []), "weir"], env=env)
    assert found.returncode == 0, found.stderr
    flags = found.stdout.split()
    if static:
        flags = [f"{installed}/lib/libweir.a" if f == "-lweir" else f for f in flags]
    program = tmp_path_factory.mktemp("example") / "infer"
    rpath = [f"-Wl,-rpath,{installed}/lib", f"-Wl,-rpath,{installed}/lib/weir"]
    source = flow.ROOT / "examples" / "c" / "infer.c"
    done = run([CC, "-Wall", "-Wextra", "-Werror", source, "-o", program, *flags, *rpath])
    assert done.returncode == 0, done.stderr
    needed = run(["readelf", "-d", program]).stdout
    assert ("libweir.so.0" in needed) is not static
    return program


@pytest.fixture
def server(serve):
    s = serve()
    s.push_example("intent", 1)
    return s


def test_http(example, server):
    body, label = flow.Samples("intent").rows[0]
    done = run([example, server.data_url, "where is my parcel"])
    assert done.returncode == 0, done
    assert done.stdout.startswith("label: track_order\nprobabilities: FP32, 48 bytes\nversion 1, request "), done.stdout
    rid = done.stdout.split("request ")[1].strip()
    told = server.ask("POST", "/v2/models/intent/feedback", {"id": rid, "label": "track_order"})
    assert told.status == 200 and told.json()["counted"] is True, "the id is that of the request"


def test_errors(example, server):
    gone = run([example, "http://127.0.0.1:1"])
    assert gone.returncode == 1 and "127.0.0.1:1" in gone.stderr
    bad = run([example, "gopher://x"])
    assert bad.returncode == 1 and "gopher" in bad.stderr
    assert run([example, server.data_url]).returncode == 0


def test_unknown_model(example, serve):
    s = serve()
    done = run([example, s.data_url])
    assert done.returncode == 1 and "no model 'intent'" in done.stderr and "not_found" in done.stderr.lower(), done


def test_spawn(example, installed, tmp_path):
    """spawn: a private server as a child, gone with the application; its state stays."""
    data = tmp_path / "data"
    (tmp_path / "weir.yaml").write_text(f"store: sqlite:{data}/weir.db\nartifacts: {data}/artifacts\n")
    seed = flow.Server(tmp_path / "seed")
    seed.data_dir = data
    seed.start()
    try:
        seed.push_example("intent", 1)
    finally:
        seed.stop()
    env = dict(os.environ, PATH=f"{installed}/bin:{os.environ['PATH']}")
    before = set(flow.pids_where(lambda stat: True))
    done = run([example, f"spawn:{tmp_path}/weir.yaml", "where is my parcel"], env=env, cwd=tmp_path)
    assert done.returncode == 0, done
    assert done.stdout.startswith("label: track_order\n")

    def left():
        return [p for p in flow.pids_where(lambda stat: True) if p not in before and comm(p).startswith("weir")
                and str(installed) in command(p)]

    flow.until("no server left behind", lambda: not left(), 10)


def test_inproc(example, tmp_path):
    """The same example with the server in its own process."""
    seed = flow.Server(tmp_path, "families:\n  default: {place: inline}\n")
    seed.data_dir = tmp_path / "weir-data"
    seed.start()
    try:
        seed.push_example("intent", 1)
    finally:
        seed.stop()
    done = run([example, f"inproc:{tmp_path}/weir.yaml", "where is my parcel"])
    assert done.returncode == 0 and done.stdout.startswith("label: track_order\n"), done


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_what_the_library_shows(installed):
    """weir_* and nothing else, in both forms."""
    for name, flags in (("libweir.so", ["-D"]), ("libweir.a", ["-g"])):
        out = run(["nm", *flags, "--defined-only", installed / "lib" / name]).stdout
        names = [line.split()[-1] for line in out.splitlines() if len(line.split()) == 3]
        assert names and all(n.startswith("weir_") for n in names), (name, names)
    header = (installed / "include" / "weir.h").read_text()
    assert all(n in header for n in names)


def test_installed_server_runs(installed, tmp_path):
    """It finds its libraries beside it, from wherever."""
    done = run([installed / "bin" / "weir", "version"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and "weir" in done.stdout
    assert list((installed / "share" / "doc" / "weir" / "licenses").iterdir())
