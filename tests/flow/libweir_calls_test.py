# SPDX-License-Identifier: Apache-2.0
"""weir.h's calls that nobody waits for, and feedback, at a server and at a private one that is killed meanwhile."""

import os
import subprocess

import flow

PROGRAM = flow.BUILD / "tests" / "programs" / "libweir_calls"
SAID = ["many: answered=yes other=0 sum=200 open=-1 quiet=1", "infer: ok", "nothing said: invalid", "feedback: ok",
        "orphan: not_found", "no model: not_found"]


def run(*args, cwd=None):
    env = dict(os.environ, WEIR_BINARY=str(flow.BUILD / "weir"))
    done = subprocess.run([str(PROGRAM), *args], capture_output=True, text=True, timeout=240, env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_server(serve):
    s = serve()
    s.push_example("intent", 1)
    assert run(s.data_url) == [*SAID, "closed"]
    assert run("weir" + s.data_url[4:]) == [*SAID, "closed"]


def test_a_private_server_that_is_killed_comes_back(tmp_path):
    data = tmp_path / "data"
    (tmp_path / "weir.yaml").write_text(f"store: sqlite:{data}/weir.db\nartifacts: {data}/artifacts\n")
    seed = flow.Server(tmp_path / "seed")
    seed.data_dir = data
    seed.start()
    try:
        seed.push_example("intent", 1)
    finally:
        seed.stop()
    kill = ("for p in $(cat /proc/$PPID/task/*/children); do grep -qx weir /proc/$p/comm && kill -9 $p && "
            "while kill -0 $p 2>/dev/null; do sleep 0.01; done; done; true")
    assert run(f"spawn:{tmp_path}/weir.yaml", kill, cwd=tmp_path) == [*SAID, "again: ok", "later: ok", "closed"]
