# SPDX-License-Identifier: Apache-2.0
"""The house inside an application's process ("inproc:FILE" of libweir)."""

import os
import shutil
import subprocess

import pytest

import flow
import tracing

PROGRAM = flow.BUILD / "tests" / "programs" / "inproc"
INLINE = "families:\n  default: {place: inline}\nthreads: 2\n"
TEXT = "where is my parcel"


def run(*command, **kw):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, **kw)
    assert not any(f in done.stderr for f in flow.FINDINGS), done.stderr[-8000:]
    return done


@pytest.fixture
def house(tmp_path):
    """A folder with a configuration and, beside it, data that a server has filled."""
    s = flow.Server(tmp_path / "a", INLINE)
    s.data_dir = s.folder / "weir-data"
    s.start()
    try:
        s.push_example("intent", 1)
    finally:
        s.stop()
    return s.folder


def test_same_as_over_http(house, serve):
    s = serve(INLINE)
    s.push_example("intent", 1)
    over_http = run(PROGRAM, "infer", s.data_url, TEXT)
    inside = run(PROGRAM, "infer", f"inproc:{house}/weir.yaml", TEXT)
    assert over_http.returncode == 0 and "not_found: no model 'nobody'" in over_http.stdout, over_http
    assert inside.stdout == over_http.stdout, inside
    assert inside.returncode == 0 and (flow.SANITIZED or inside.stderr == ""), "it has nothing to say"


def test_life(house, tmp_path):
    other = tmp_path / "b"
    shutil.copytree(house, other)
    done = run(PROGRAM, "life", house / "weir.yaml", other / "weir.yaml")
    assert done.returncode == 0 and done.stdout == "well\n", done


def test_opens_no_socket(house, tmp_path):
    if flow.SANITIZED or not tracing.strace_works():
        pytest.skip("strace can not run here, or a sanitizer is in its way")
    log = tmp_path / "strace"
    done = run("strace", "-f", "-o", log, "-e", "trace=socket,socketpair,openat", PROGRAM, "infer",
               f"inproc:{house}/weir.yaml", TEXT)
    assert done.returncode == 0, done
    calls = log.read_text()
    assert "weir.db" in calls, "it was watched"
    assert "socket" not in "".join(line for line in calls.splitlines() if "openat" not in line), calls


def test_workers(house):
    """Families that run in workers have them here too: processes of the program, not of the application."""
    inline = run(PROGRAM, "infer", f"inproc:{house}/weir.yaml", TEXT)
    (house / "weir.yaml").write_text("threads: 1\n")
    worker = run(PROGRAM, "infer", f"inproc:{house}/weir.yaml", TEXT, env=dict(os.environ, WEIR_BINARY=str(flow.WEIR)))
    assert worker.returncode == 0 and worker.stdout == inline.stdout, worker
    assert worker.stdout.startswith("label BYTES"), worker


def test_wrong_configuration(house):
    conf = house / "weir.yaml"
    conf.write_text("familys: {}\n")
    done = run(PROGRAM, "infer", f"inproc:{conf}", TEXT)
    assert done.returncode == 1 and done.stderr.startswith("invalid: ") and "familys" in done.stderr, done
    secret = house / "none"
    conf.write_text(INLINE + f"events: {{webhook: 'http://127.0.0.1:9/x', secret_file: {secret}}}\n")
    done = run(PROGRAM, "infer", f"inproc:{conf}", TEXT)
    assert done.returncode == 1 and str(secret) in done.stderr, done
