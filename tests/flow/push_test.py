# SPDX-License-Identifier: Apache-2.0
"""Versions and their releases through the commands: push in every form, refusals that leave nothing, promote and
rollback, what a restart keeps."""

import hashlib
import json
import os
import shutil
import subprocess
import time

import pytest
from onnx import TensorProto, helper, numpy_helper

import flow

INTENT = flow.EXAMPLES / "intent"


@pytest.fixture
def server(serve):
    return serve()


def state_of(server):
    """All that must not change when a push is refused."""
    return server.get("/admin/models"), server.tree()


def unchanged(server, before):
    """The files of what was refused go a moment after the answer."""
    flow.until("everything as before", lambda: state_of(server) == before, 5)


def versions(server, name):
    return {v["version"]: v["serving"] for v in server.model(name)["versions"]}


# ---- forms of a version ---------------------------------------------------------------------------------------------


def test_folder(server):
    done = server.ok("push", "intent", INTENT / "1")
    assert "intent version 1" in done.out and "loaded and warm in" in done.out and "is the stable version" in done.out
    model = server.model("intent")
    assert (model["stable"], model["previous"], model["rollout"]) == (1, None, None)
    (version,) = model["versions"]
    assert version["state"] == "ready" and version["serving"] == "stable" and version["digest"] in done.out
    size = sum(f.stat().st_size for f in (INTENT / "1").iterdir())
    assert version["bytes"] == size and version["backend"] == "onnx"
    samples = server.ask_admin("GET", "/admin/models/intent/samples")
    assert samples.body == (INTENT / "1" / "samples.ndjson").read_bytes()
    assert server.ok("infer", "intent").status == 0


def test_same_digest_again(server):
    first = server.push("intent", INTENT / "1")
    before = state_of(server)
    again = server.push("intent", INTENT / "1")
    assert first["already"] is False and again["already"] is True
    assert (again["version"], again["digest"]) == (1, first["digest"])
    assert "is exactly this already" in server.ok("push", "intent", INTENT / "1", "--version", "1").out
    assert state_of(server) == before
    assert [row["kind"] for row in server.history("intent")] == ["pushed"]


def test_file_and_triton_layout(server, tmp_path):
    mlp = flow.MODELS / "mlp" / "model.onnx"
    assert server.push("one", mlp)["version"] == 1
    layout = tmp_path / "mlp"
    for n in (3, 7):
        (layout / str(n)).mkdir(parents=True)
    shutil.copy(mlp, layout / "3")
    shutil.copy(flow.MODELS / "add" / "model.onnx", layout / "7")
    (layout / "config.pbtxt").write_text('name: "mlp"\n')
    done = server.ok("push", "mlp", layout, "--version", "3")
    assert "as version 3" in done.out
    assert versions(server, "mlp") == {3: "stable"}
    assert server.push("add", layout)["version"] == 7, "the highest number"


def test_external_data(server):
    """Weights beside the model belong to it."""
    server.push("external", flow.MODELS / "external")
    reply = server.infer("external", [flow.tensor("x", "FP32", [1, 4], [0, 0, 0, 0])])
    assert reply.json()["outputs"][0]["data"] == [1, 2, 3, 4]


def test_by_path(serve, tmp_path):
    root = tmp_path / "import"
    shutil.copytree(INTENT, root / "intent")
    s = serve(f"import_root: {root}\n")
    path = "/admin/models/intent/versions"
    typed = {"Content-Type": "application/json"}
    reply = s.ask_admin("POST", path, {"path": str(root / "intent" / "1")}, typed)
    assert reply.status == 201 and reply.json()["version"] == 1, reply
    (root / "out").symlink_to("/etc")
    for bad in ("/etc", str(root / ".." / ".."), str(root / "out"), str(root) + "x", "relative"):
        reply = s.ask_admin("POST", path, {"path": bad}, typed)
        assert reply.status in (400, 403), (bad, reply)
    assert s.ask_admin("POST", path + "?version=9", {"path": str(root / "intent" / "2")}, typed).json()["version"] == 9


def test_by_path_is_off_by_default(server):
    reply = server.ask_admin("POST", "/admin/models/intent/versions", {"path": str(INTENT / "1")},
                             {"Content-Type": "application/json"})
    assert reply.status == 403 and "import_root" in reply.error


# ---- refusals -------------------------------------------------------------------------------------------------------


def outside(where):
    w = numpy_helper.from_array(__import__("numpy").zeros(4, "float32"), "w")
    w.ClearField("raw_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value=where)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def good():
    return (INTENT / "1" / "model.onnx").read_bytes()


HOSTILE = {  # name: (file's name, bytes, status, words)
    "text": ("model.onnx", lambda: b"I am no model, I am a letter.\n" * 40, 422, "not a"),
    "truncated": ("model.onnx", lambda: good()[:-1000], 422, "model"),
    "truncated early": ("model.onnx", lambda: good()[:300], 422, "model"),
    "zeros": ("model.onnx", lambda: bytes(5000), 422, "model"),
    "external passwd": ("model.onnx", lambda: outside("../../etc/passwd"), 422, "../../etc/passwd"),
    "external absolute": ("model.onnx", lambda: outside("/etc/passwd"), 422, "/etc/passwd"),
    "external missing": ("model.onnx", lambda: outside("weights.bin"), 422, "weights.bin"),
    "custom operator": ("model.onnx", lambda: (flow.MODELS / "custom" / "model.onnx").read_bytes(), 422, "Frobnicate"),
    "sequence output": ("model.onnx", lambda: (flow.MODELS / "sequence" / "model.onnx").read_bytes(), 422, "'y'"),
    "gguf": ("model.gguf", lambda: b"GGUF" + bytes(200), 501, "not part of this server"),
    "python": ("model.py", lambda: b"import os\nos.system('id')\n", 501, "not part of this server"),
    "no model in it": ("readme.txt", lambda: b"hello", 422, "no model in it"),
}


@pytest.mark.parametrize("place", ["worker", "inline"])
def test_hostile_models(serve, tmp_path, place):
    """Refused with the reason; nothing registered, no file more, no process more."""
    s = serve(f"families:\n  default: {{place: {place}}}\n")
    s.push_example("intent", 1)
    processes = sorted(s.session())
    before, history = state_of(s), s.history("intent")
    for i, (case, (name, make, status, words)) in enumerate(HOSTILE.items()):
        folder = tmp_path / f"{place}{i}"
        folder.mkdir()
        (folder / name).write_bytes(make())
        for model in (f"new-{i}", "intent"):
            done = s.weir("push", model, folder)
            assert done.status == 1 and words in done.err and done.out == "", (case, done)
            listing = {"path": name, "size": (folder / name).stat().st_size,
                       "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
            manifest = json.dumps({"files": [listing]}).encode()
            reply = s.ask_admin("POST", f"/admin/models/{model}/versions", manifest + (folder / name).read_bytes(),
                                {"X-Weir-Manifest-Length": len(manifest)})
            assert reply.status == status and words in reply.error, (case, reply)
    s.ask_admin("POST", "/admin/models/bare/versions", b"raw text, no manifest")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert s.weir("push", "new", empty).status == 1
    assert s.weir("push", "new", tmp_path / "nowhere").status == 1
    flow.until("processes as before", lambda: sorted(s.session()) == processes)
    unchanged(s, before)
    assert s.history("intent") == history
    assert s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0]).status == 200


def test_hostile_manifests(server, tmp_path):
    server.push_example("intent", 1)
    before = state_of(server)
    data = good()
    digest = hashlib.sha256(data).hexdigest()
    row = {"path": "model.onnx", "size": len(data), "sha256": digest}
    bad = {
        "climbs": [dict(row, path="../model.onnx")], "absolute": [dict(row, path="/tmp/model.onnx")],
        "dots": [dict(row, path="a/../model.onnx")], "twice": [row, row], "none": [],
        "hash": [dict(row, sha256="0" * 64)], "short hash": [dict(row, sha256="abc")],
        "too small": [dict(row, size=len(data) - 1)],
        "too large": [dict(row, size=len(data) + 1)], "negative": [dict(row, size=-1)],
        "ours": [dict(row, path="manifest.json")], "huge": [dict(row, size=1 << 62)],
        "file and folder": [dict(row, path="a"), dict(row, path="a/b")],
    }
    for case, files in bad.items():
        manifest = json.dumps({"files": files}).encode()
        reply = server.ask_admin("POST", "/admin/models/m/versions", manifest + data,
                                 {"X-Weir-Manifest-Length": len(manifest)})
        assert reply.status in (400, 413, 422, 507) and reply.error, (case, reply)
    for head, body in (("5", b"{}"), ("0", b"{}"), ("x", b"{}"), ("2", b"{}"), ("99999999999", b"{}")):
        reply = server.ask_admin("POST", "/admin/models/m/versions", body, {"X-Weir-Manifest-Length": head})
        assert reply.status in (400, 413) and reply.error, (head, reply)
    for query in ("version=0", "version=x", "canary=5", "canary=101%25", "canary=5%", "canry=5%25", "family=nope",
                  "family=../x", "version=1&version=2"):
        reply = server.ask_admin("POST", f"/admin/models/m/versions?{query}", data)
        assert reply.status in (400, 404) and reply.error, (query, reply)
    for name in ("a%2Fb", "%2e%2e", "x" * 200, "a b"):
        status = server.ask_admin("POST", f"/admin/models/{name.replace(' ', '%20')}/versions", data).status
        assert status in (400, 404), (name, status)
    with flow.Wire(server.admin) as w:  # a client that leaves in the middle
        w.send(flow.request("POST", "/admin/models/m/versions", data)[:50000])
        time.sleep(0.1)
    unchanged(server, before)


def test_symbolic_links(server, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "model.onnx").symlink_to("/etc/passwd")
    done = server.weir("push", "m", folder)
    assert done.status == 1 and "symbolic link" in done.err


def test_version_conflict(server):
    server.push_example("intent", 1)
    before = state_of(server)
    done = server.weir("push", "intent", INTENT / "2", "--version", "1")
    assert done.status == 1 and "version 1 of 'intent' exists with other bytes" in done.err
    other = (INTENT / "2" / "model.onnx").read_bytes()
    reply = server.ask_admin("POST", "/admin/models/intent/versions?version=1", other)
    assert reply.status == 409 and "never changes" in reply.error
    unchanged(server, before)


def test_canary_that_does_not_fit(server):
    """Other names or dtypes can not share traffic; what is refused is not there, and the stable one serves on."""
    server.push_example("intent", 1)
    before = state_of(server)
    done = server.weir("push", "intent", flow.MODELS / "add", "--canary", "5%")
    assert done.status == 1 and "can not share traffic" in done.err
    unchanged(server, before)
    server.push("intent", flow.MODELS / "add", "--version", "5")  # without traffic it may be there
    done = server.weir("rollout", "start", "intent", "--version", "5", "--share", "5%")
    assert done.status == 1 and "can not share traffic" in done.err
    assert versions(server, "intent") == {1: "stable", 5: "none"}


# ---- releases -------------------------------------------------------------------------------------------------------


def asked(server):
    reply = server.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0], {"X-Weir-User": "u"})
    assert reply.status == 200
    return int(reply.headers["x-weir-version"])


def test_life_of_a_model(server):
    server.push_example("intent", 1)
    nothing = server.weir("rollback", "intent")
    assert nothing.status == 1 and "nothing to roll back" in nothing.err
    assert server.weir("promote", "intent").status == 1
    assert server.weir("rollout", "set", "intent", "--share", "5%").status == 1
    assert server.weir("rollout", "show", "intent").status == 1, "there never was one"
    pushed = server.push_example("intent", 2)
    assert pushed["serving"] == "none" and pushed["rollout"] is None and pushed["state"] == "ready"
    assert asked(server) == 1
    server.ok("rollout", "start", "intent", "--version", "2", "--share", "100%")
    assert asked(server) == 2 and versions(server, "intent") == {1: "stable", 2: "canary"}
    server.ok("rollout", "set", "intent", "--share", "0%")
    assert asked(server) == 1
    done = server.ok("promote", "intent")
    assert "version 2 is the stable version now" in done.out
    assert asked(server) == 2 and versions(server, "intent") == {1: "previous", 2: "stable"}
    assert server.rollout("intent")["rollout"]["state"] == "promoted"
    back = server.ok("rollback", "intent")
    assert "version 1 is stable again" in back.out
    assert asked(server) == 1
    model = server.model("intent")
    assert (model["stable"], model["previous"]) == (1, None)
    nothing = server.weir("rollback", "intent")
    assert nothing.status == 1 and "nothing to roll back" in nothing.err
    server.ok("rollout", "start", "intent", "--version", "2", "--share", "5%")
    server.ok("rollout", "abort", "intent")
    assert server.rollout("intent")["rollout"]["state"] == "aborted"
    server.ok("promote", "intent")  # no rollout: the newest ready one
    assert asked(server) == 2
    rows = server.history("intent")
    assert [r["kind"] for r in rows] == ["promoted", "aborted", "rollout_started", "rolled_back", "promoted",
                                         "share_set", "rollout_started", "pushed", "pushed"]
    assert [r["seq"] for r in rows] == sorted((r["seq"] for r in rows), reverse=True)
    assert all(r["model"] == "intent" and r["actor"] == "admin" and r["text"] and r["at"].endswith("Z") for r in rows)
    text = server.ok("history", "intent").out
    assert all(r["text"] in text for r in rows)
    for action in ("pause", "resume", "skip"):
        done = server.weir("rollout", action, "intent")
        assert done.status == 1 and "rollout" in done.err, done


def test_first_version_with_canary(server):
    """There is nothing to share with: it is the stable version, and the command says so."""
    done = server.ok("push", "intent", INTENT / "1", "--canary", "5%")
    assert "is the stable version" in done.out
    assert server.model("intent")["rollout"] is None


def test_pushes_at_once(server):
    """Of two different first versions pushed at the same time at least one is registered; nobody is told a lie."""
    server.push_example("vision", 1)
    for round_ in range(6):
        name = f"race-{round_}"
        paths = [INTENT / "1", INTENT / "2", flow.MODELS / "add", flow.MODELS / "mlp"]
        env = dict(os.environ, WEIR_SERVER=server.admin_url)
        running = [subprocess.Popen([str(flow.WEIR), "push", name, str(p), "--json"], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True, env=env) for p in paths]
        said = [(p.communicate(timeout=60), p.returncode) for p in running]
        won = [json.loads(out) for (out, _), status in said if status == 0]
        lost = [err for (_, err), status in said if status != 0]
        assert won and all(" again" in err or "exists already" in err for err in lost), said
        there = {v["version"]: v["digest"] for v in server.model(name)["versions"]}
        assert there == {w["version"]: w["digest"] for w in won}
        assert [m["name"] for m in server.get("/admin/models")["models"]].count(name) == 1
        assert server.model(name)["stable"] in there
        assert len(server.history(name)) == len(won)


def test_a_name_is_registered_once(server):
    """Also when everybody asks for it in the same moment."""
    wires = [flow.Wire(server.admin) for _ in range(8)]
    for i in range(3):
        for w in wires:
            w.send(flow.request("POST", "/admin/models", {"name": f"name-{i}"}))
        assert sorted(w.read().status for w in wires) == [201] + [409] * 7
    for w in wires:
        w.close()
    assert [m["name"] for m in server.get("/admin/models")["models"]] == ["name-0", "name-1", "name-2"]
    assert len(server.history("name-0")) == 1


def test_pushed_again_with_canary(server):
    """The same bytes with --canary put out the version that is there."""
    server.push_example("intent", 1)
    server.push_example("intent", 2)
    again = server.push("intent", INTENT / "2", "--canary", "7.5%")
    assert again["already"] is True and again["serving"] == "canary" and again["share_bp"] == 750
    stable = server.weir("push", "intent", INTENT / "1", "--canary", "7.5%")
    assert "stable" in stable.out + stable.err
    assert versions(server, "intent") == {1: "stable", 2: "canary"}


# What a rollout says of the time that passed and of what was counted while this server ran.
TIMES = ("counting_since", "spent_s", "earliest_s", "waits_for", "phase", "verdict", "exposed", "slow_ms")


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_restart_keeps_everything(serve, how):
    s = serve()
    s.push_example("intent", 1)
    s.push_example("intent", 2, "--canary", "5%")
    s.ok("rollout", "set", "intent", "--share", "25%")
    s.push_example("vision", 1)
    s.push_example("vision", 2)
    s.ok("promote", "vision")
    s.push_example("recommend", 1)
    s.push_example("recommend", 2, "--canary", "50%")
    s.ok("rollback", "recommend")

    def picture():
        models = s.get("/admin/models")["models"]
        keep = [(m["name"], m["stable"], m["previous"], versions(s, m["name"]),
                 [(v["digest"], v["created"], v["bytes"]) for v in m["versions"]],
                 m["rollout"] and {k: v for k, v in m["rollout"].items() if k not in TIMES}) for m in models]
        last = {k: v for k, v in s.rollout("recommend")["rollout"].items() if k not in TIMES}
        return keep, last, {m["name"]: s.history(m["name"]) for m in models}, s.tree()

    before = picture()
    salt = s.rollout("intent")["rollout"]["id"]
    getattr(s, how)()
    s.start()
    assert picture() == before
    assert s.rollout("intent")["rollout"]["id"] == salt, "the salt stays: every user on its arm"
    assert s.ask("GET", "/v2/health/ready").status == 200
    for name in ("intent", "vision", "recommend"):
        assert s.ask("POST", f"/v2/models/{name}/infer", flow.Samples(name).rows[0][0]).status == 200
    s.ok("rollback", "vision")
    assert s.model("vision")["stable"] == 1


def test_batch_in_model_yaml(server, tmp_path):
    """A version's own word on batches goes before its family's; a wrong one is refused with its place."""
    at = tmp_path / "wide"
    at.mkdir()
    (at / "model.onnx").write_bytes((flow.MODELS / "mlp_wide" / "model.onnx").read_bytes())
    (at / "model.yaml").write_text("batch: {max: 5}\n")
    server.push("wide", at)
    assert server.version("wide", 1)["batch"] == {"max": 5, "on": True}
    (at / "model.yaml").write_text("batch: {max: 1}\n")
    server.push("wide", at)
    assert server.version("wide", 2)["batch"]["on"] is False
    (at / "model.yaml").write_text("batch: {most: 5}\n")
    done = server.weir("push", "wide", at)
    assert done.status == 1 and "model.yaml:1:9" in done.err and "unknown key" in done.err, done


def test_broken_artifact_is_not_loaded(serve):
    """Bytes that changed on the disk are noticed before they are run."""
    s = serve()
    s.push_example("intent", 1)
    s.push_example("vision", 1)
    s.stop()
    size = (INTENT / "1" / "model.onnx").stat().st_size
    (blob,) = [p for p in (s.data_dir / "artifacts" / "blobs").rglob("*") if p.is_file() and p.stat().st_size == size]
    os.chmod(blob, 0o644)
    with open(blob, "r+b") as f:
        f.seek(size // 2)
        byte = f.read(1)
        f.seek(size // 2)
        f.write(bytes([byte[0] ^ 1]))
    s.start()
    version = s.version("intent", 1)
    assert version["state"] == "failed" and "model.onnx has changed" in version["error"], version
    reply = s.ask("POST", "/v2/models/intent/infer", flow.Samples("intent").rows[0][0])
    assert reply.status == 503 and reply.headers["retry-after"]
    assert s.ask("GET", "/v2/health/ready").status == 503
    assert s.ask("POST", "/v2/models/vision/infer", flow.Samples("vision").rows[0][0]).status == 200


# ---- the commands themselves ----------------------------------------------------------------------------------------


def test_exit_codes(server):
    assert flow.weir("version").status == 0 and flow.weir("help").status == 0 and flow.weir("help", "push").status == 0
    for words in ((), ("frobnicate",), ("push",), ("push", "x"), ("push", "a/b", "x"), ("models", "--nope"),
                  ("rollout", "dance", "x"), ("rollout", "set", "x"), ("push", "x", "y", "--canary", "five"),
                  ("push", "x", "y", "--canary", "101%"), ("push", "x", "y", "--canary", "5%", "--rollout", "default"),
                  ("push", "x", "y", "--retry"), ("push", "x", "y", "--steps", "5%,1%"),
                  ("rollout", "start", "x", "--share", "5%"), ("rollout", "start", "x", "--version", "2"),
                  ("rollout", "start", "x", "--version", "2", "--share", "5%", "--policy", "default"),
                  ("rollout", "set", "x", "--share", "5%", "--retry"), ("rollout", "pause", "x", "--share", "5%"),
                  ("bench", "x", "--users", "0"), ("serve", "--nope"),
                  ("serve", "--data")):
        done = server.weir(*words)
        assert done.status == 2 and done.err and not done.out, (words, done)
    for word in ("models", "infer", "history", "rollback", "promote"):
        done = server.weir(word, "nope")
        assert done.status == 1 and "nope" in done.err, (word, done)
    gone = flow.weir("models", "--server", "http://127.0.0.1:1")
    assert gone.status == 1 and "127.0.0.1:1" in gone.err
    assert server.ok("models").status == 0 and server.ok("models", "--json").json()["models"] == []


def test_infer_and_bench_commands(serve):
    server = serve(flow.watched("30%"))  # version 2 is slower, and is meant to be
    server.push_example("intent", 1)
    body, label = flow.Samples("intent").rows[0]
    out = server.ok("infer", "intent", "-", "--json", stdin=body.decode()).json()
    assert out["outputs"][0]["data"] == [label]
    assert server.weir("infer", "intent", "-", stdin="{}").status == 1
    server.push_example("intent", 2, "--rollout", "watched")
    done = server.ok("bench", "intent", "--users", "100", "--for", "2s", "--json").json()
    arms = server.arms("intent")
    assert sum(a["requests"] for a in arms.values()) == done["requests"] > 100, (done, arms)
    assert all(a["errors"] == 0 and a["feedback"]["n"] > 0 for a in arms.values())


def test_two_servers(server, tmp_path):
    """A second one on the same folder, or on the same ports, says what is wrong and ends with status 1."""
    run = [str(flow.WEIR), "serve"]

    def second(*words):
        return subprocess.run(run + list(map(str, words)), capture_output=True, text=True, timeout=20, cwd=tmp_path)

    same_data = second("--data", server.data_dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert same_data.returncode == 1 and str(server.pid) in same_data.stderr, same_data.stderr
    host, port = server.data
    other = second("--data", tmp_path / "a", "--listen", f"{host}:{port}", "--admin", "127.0.0.1:0")
    assert other.returncode == 1 and str(port) in other.stderr and "in use" in other.stderr, other.stderr
    host, port = server.admin
    other = second("--data", tmp_path / "b", "--listen", "127.0.0.1:0", "--admin", f"{host}:{port}")
    assert other.returncode == 1 and str(port) in other.stderr, other.stderr
    assert server.ask("GET", "/v2").status == 200


@pytest.mark.parametrize("text, words", [
    ("lisen: 127.0.0.1:0\n", ["weir.yaml:1:1: lisen: unknown key"]), ("threads: many\n", ["threads", "many"]),
    ("families:\n  intent: {place: moon}\n", ["place", "moon", "2"]), ("families: [1]\n", ["families"]),
    ("a: [1\n", ["weir.yaml"]), ("admin: 0.0.0.0:0\n", ["admin_token_file"]),
    ("admin_token_file: /nowhere\n", ["/nowhere"]), ("store: mysql:x\n", ["mysql"])])
def test_wrong_configuration(tmp_path, text, words):
    (tmp_path / "weir.yaml").write_text(text)
    command = [str(flow.WEIR), "serve", "-c", "weir.yaml"] + ([] if "store" in text else ["--data", "d"])
    if "admin:" not in text:
        command += ["--admin", "127.0.0.1:0"]
    command += ["--listen", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1, done
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_family_that_no_model_uses_is_warned_about(serve):
    s = serve("families:\n  intent: {place: worker}\n  vison: {place: worker}\n")
    s.push_example("intent", 1)
    s.stop()
    s.start()
    flow.until("ready", lambda: any(r["text"] == "ready" for r in s.rows()))
    warned = [r["family"] for r in s.rows() if r["level"] == "warn"]
    assert warned == ["vison"]
