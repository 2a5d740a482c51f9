# SPDX-License-Identifier: Apache-2.0
"""weir split: manifests that hold by the published schemas and by what they mean, the one-line change, the comparison
of both servers, and the switch."""

import json
import re
import shutil
import subprocess
import time

import jsonschema
import kubernetes_validate
import pytest
import yaml

import flow

MIB = 1 << 20
KUBERNETES = ("1.30", "1.37")  # the oldest that knows what is used (a sleep before the stop), and the newest known
CONF = """\
# the shop's — größer
drain: 7s
families:
  default: {place: worker}   # all others
  vision:
    place:   worker   # for now
    instances: 2
    batch: {max: 16, slo: 50ms}
rollouts: {careful: {steps: "1%,5%"}}
"""


@pytest.fixture
def shop(serve):
    s = serve(CONF)
    s.push_example("vision", 1)
    s.push_example("intent", 1)
    flow.Load(s, "vision", flow.Samples("vision"), ["u"], connections=2).run(200)
    return s


def split(s, tmp_path, target, *words, name="vision", to="vision.internal:8000"):
    done = s.ok("split", name, "--to", to, "--target", target, "--out", tmp_path / "out", "--watch", "10ms", "--json",
                *words).json()
    return done, tmp_path / "out"


def test_kubernetes_by_the_schema_and_by_meaning(shop, tmp_path):
    done, out = split(shop, tmp_path, "kubernetes", "--image", "registry.internal/weir:1")
    names = [p.rsplit("/", 1)[1] for p in done["files"]]
    assert names == ["weir.yaml", "kubernetes.yaml", "admin-token", "weir.yaml.diff"]
    documents = list(yaml.safe_load_all((out / "kubernetes.yaml").read_text()))
    for document in documents:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
    by_kind = {d["kind"]: d for d in documents}
    assert sorted(by_kind) == ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"]
    assert {d["metadata"]["name"] for d in documents} == {"vision"}
    pod = by_kind["Deployment"]["spec"]["template"]
    weir, = pod["spec"]["containers"]
    # what is asked for is what the server measured
    measured = sum(v["memory"]["bytes"] for v in shop.model("vision")["versions"])
    needs, size = done["needs"], done["size"]
    assert needs["versions"] == 1 and 0 < needs["memory"] <= measured * 1.5 and needs["requests"] == 200
    requests, limits = weir["resources"]["requests"], weir["resources"]["limits"]
    assert int(requests["memory"].removesuffix("Mi")) * MIB >= needs["memory"]
    assert int(limits["memory"].removesuffix("Mi")) * MIB >= needs["memory"] + needs["largest"] + needs["buffers"]
    assert int(requests["cpu"].removesuffix("m")) == size["cpu_milli"] >= needs["rate"] * needs["service_ms"]
    assert "cpu" not in limits and "nvidia.com/gpu" not in limits and "nodeSelector" not in pod["spec"]
    # it finds itself: labels, ports, the configuration
    assert by_kind["Deployment"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert by_kind["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert by_kind["Service"]["spec"]["clusterIP"] == "None"  # the gateway sees and weighs every replica
    names = by_kind["Service"]["metadata"]["annotations"]
    assert names == {"external-dns.alpha.kubernetes.io/hostname": "vision.internal"}
    port, admin = weir["ports"]
    assert (port["containerPort"], admin["containerPort"]) == (8000, 8009)
    ports = [(p["port"], p["targetPort"]) for p in by_kind["Service"]["spec"]["ports"]]
    assert ports == [(8000, port["name"]), (8009, admin["name"])]
    assert by_kind["ConfigMap"]["data"]["weir.yaml"] == (out / "weir.yaml").read_text()
    assert weir["image"] == "registry.internal/weir:1" and "--role" in weir["command"]
    mounts = {m["name"]: m["mountPath"] for m in weir["volumeMounts"]}
    assert mounts.keys() == {v["name"] for v in pod["spec"]["volumes"]}
    conf = yaml.safe_load((out / "weir.yaml").read_text())
    assert conf["admin_token_file"] == mounts["token"] + "/admin-token"
    assert weir["command"][3].startswith(mounts["config"] + "/") and weir["securityContext"]["readOnlyRootFilesystem"]
    # probes are answered by a real server
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert shop.ask("GET", weir[probe]["httpGet"]["path"]).status == 200, probe
        assert weir[probe]["httpGet"]["port"] == port["name"]
    # it is killed after the drain, not in it
    before = weir["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > before + 7
    scaling = by_kind["HorizontalPodAutoscaler"]["spec"]
    assert scaling["scaleTargetRef"]["name"] == "vision" and 2 <= scaling["minReplicas"] < scaling["maxReplicas"]


def test_a_gpu_is_asked_for(serve, tmp_path):
    """The family's device decides; that its model can not be loaded here does not matter."""
    s = serve("families:\n  vision: {device: 'cuda:3'}\n")
    assert s.ask_admin("POST", "/admin/models", {"name": "vision"}).status == 201
    done, out = split(s, tmp_path, "kubernetes", to="vision.models.svc:8000")
    documents = list(yaml.safe_load_all((out / "kubernetes.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
        assert document["metadata"]["namespace"] == "models"
    pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert yaml.safe_load((out / "weir.yaml").read_text())["families"]["vision"]["device"] == "cuda:0"
    assert done["needs"]["versions"] == 0 and "this is a preset" in (out / "kubernetes.yaml").read_text()
    assert int(pod["containers"][0]["resources"]["requests"]["memory"].removesuffix("Mi")) >= 512
    serve("families:\n  vision: {device: 'cuda:3', place: 'weir://vision.models.svc:8000'}\n")  # the device may stay
    _, out = split(s, tmp_path, "compose")
    service, = yaml.safe_load((out / "compose.yaml").read_text())["services"].values()
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    _, out = split(s, tmp_path, "systemd")
    assert "DeviceAllow=char-nvidia rw" in (out / "weir-vision.service").read_text()


def test_compose_by_the_schema_and_by_meaning(shop, tmp_path):
    done, out = split(shop, tmp_path, "compose")
    document = yaml.safe_load((out / "compose.yaml").read_text())
    schema = json.loads((flow.ROOT / ".deps" / "share" / "compose-spec.json").read_text())
    jsonschema.Draft201909Validator(schema).validate(document)
    service = document["services"]["vision"]
    assert service["command"] == ["weir", "serve", "-c", "/etc/weir/weir.yaml", "--role", "inference"]
    assert service["ports"] == ["8000:8000", "8009:8009"] and service["read_only"] is True
    resources, needs = service["deploy"]["resources"], done["needs"]
    assert int(resources["limits"]["memory"].removesuffix("M")) * MIB > needs["memory"] + needs["largest"]
    assert float(resources["reservations"]["cpus"]) * 1000 == pytest.approx(done["size"]["cpu_milli"], abs=10)
    assert int(service["stop_grace_period"].removesuffix("s")) > 7
    bind, volume = service["volumes"]
    assert bind["target"] == service["command"][3] and volume["source"] in document["volumes"]
    # the health check is a command that there is, and tells the two apart
    check = service["healthcheck"]["test"]
    assert check[:2] == ["CMD", "weir"]
    command = [w.replace("/run/secrets/admin-token", str(out / "admin-token")) for w in check[2:]]
    assert shop.weir(*command).status == 0
    shop.stop()
    assert shop.weir(*command).status == 1
    secret = document["secrets"][service["secrets"][0]]
    assert yaml.safe_load((out / "weir.yaml").read_text())["admin_token_file"] == "/run/secrets/admin-token"
    assert (out / secret["file"]).stat().st_mode & 0o777 == 0o644  # another user reads it, in a folder that is ours


def test_systemd_by_its_own_verifier_and_by_meaning(shop, tmp_path):
    done, out = split(shop, tmp_path, "systemd")
    text = (out / "weir-vision.service").read_text()
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    assert unit["Delegate"] == "yes" and unit["NoNewPrivileges"] == "yes" and unit["ProtectSystem"] == "strict"
    assert int(unit["MemoryMax"].removesuffix("M")) * MIB > done["needs"]["memory"] + done["needs"]["largest"]
    assert int(unit["TimeoutStopSec"]) > 7 and unit["KillMode"] == "mixed"
    assert unit["StateDirectory"] in unit["ExecStart"] and unit["ExecStart"].endswith("--role inference")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine: the unit was not verified by systemd itself")
    here = tmp_path / "weir-vision.service"
    here.write_text(text.replace("/usr/local/bin/weir", str(flow.WEIR)))
    seen = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, timeout=60)
    assert "weir-vision" not in seen.stderr, seen.stderr


def test_the_new_configuration_is_one_that_a_server_takes(shop, tmp_path, serve):
    _, out = split(shop, tmp_path, "kubernetes")
    text = (out / "weir.yaml").read_text()
    assert "vision: {place: worker, instances: 2, batch: {max: 16, slo: 50ms}}" in text and "drain: 7s" in text
    for was, now in (("0.0.0.0:8000", "127.0.0.1:0"), ("0.0.0.0:8009", "127.0.0.1:0"),
                     ("/etc/weir-token", str(out))):
        assert was in text
        text = text.replace(was, now)
    role = ["--role", "inference"] if "--role" in flow.weir("help", "serve").out else []
    s = serve(text, args=role)
    bearer = {"Authorization": f"Bearer {(out / 'admin-token').read_text().strip()}"}
    families = s.ask_admin("GET", "/admin/families", headers=bearer).json()["families"]
    assert {f["name"]: f["place"] for f in families}["vision"] == "worker"


def test_the_old_configuration_changes_in_one_line(shop, tmp_path):
    done, out = split(shop, tmp_path, "kubernetes")
    conf = shop.folder / "weir.yaml"
    assert conf.read_text() == CONF  # nothing was touched
    token = f"    token_file: {out}/admin-token\n"
    want = CONF.replace("place:   worker   # for now", "place:   weir://vision.internal:8000   # for now")
    want = want.replace("slo: 50ms}\n", "slo: 50ms}\n" + token)
    assert (out / "weir.yaml.diff").read_text() == done["diff"]
    lines = done["diff"].splitlines()
    assert [x for x in lines[3:] if x[0] in "+-"] == [
        "-    place:   worker   # for now", "+    place:   weir://vision.internal:8000   # for now",
        "+" + token.rstrip()]
    assert lines[0] == f"--- {conf}"
    copy = tmp_path / "copy.yaml"
    copy.write_text(CONF)
    if shutil.which("patch"):
        subprocess.run(["patch", "-s", copy, out / "weir.yaml.diff"], check=True, timeout=30)
        assert copy.read_text() == want
    # a family that is not there is added; what weir.yaml says already is told
    done, _ = split(shop, tmp_path, "compose", name="intent")
    assert f"+  intent: {{token_file: {out}/admin-token, place: weir://vision.internal:8000}}" in done["diff"]
    copy.write_text(want)
    done, _ = split(shop, tmp_path, "compose", "--config", copy)
    assert done["diff"] == ""


def test_called_wrong_and_in_the_way(shop, tmp_path):
    for words, text in ((("vision",), "it needs --to HOST:PORT"),
                        (("vision", "--to", "a:1"), "one of --target"),
                        (("vision", "--to", "a:1", "--target", "kubernets"), "did you mean 'kubernetes'?"),
                        (("vision", "--to", "a", "--check"), "it wants HOST:PORT"),
                        (("vision", "--undo", "--check"), "--undo goes alone"),
                        (("vision", "--to", "a:1", "--check", "--out", "x"), "--out is for --target"),
                        (("vision", "--to", "http://a:1", "--target", "compose"), "a server that is there already"),
                        (("a/b", "--undo"), "is not a model's name")):
        done = shop.weir("split", *words)
        assert done.status == 2 and text in done.err, done
    for words, text in ((("nothing", "--to", "a:1", "--target", "compose"), "no family 'nothing'"),
                        (("nothing", "--undo"), "no family 'nothing'"),
                        (("vision", "--to", "a:1", "--target", "compose", "--config", tmp_path / "none"), "none")):
        out = ["--watch", "10ms", "--out", tmp_path / "out"] if "--target" in words else []
        done = shop.weir("split", *words, *out)
        assert done.status == 1 and text in done.err + done.out, done
    out = tmp_path / "out"
    assert not out.exists()
    out.mkdir()
    (out / "weir.yaml").write_text("mine: yes\n")
    done = shop.weir("split", "vision", "--to", "a:1", "--target", "compose", "--out", out, "--watch", "10ms")
    assert done.status == 1 and "no split has written it" in done.err
    assert (out / "weir.yaml").read_text() == "mine: yes\n" and len(list(out.iterdir())) == 1


def test_check_tells_the_same_from_another(shop, serve):
    twin, other = serve(""), serve("")
    twin.push_example("vision", 1)
    other.push("vision", flow.EXAMPLES / "vision" / "2", "--version", "1")
    done = shop.ok("split", "vision", "--to", twin.data_url, "--check", "--json").json()
    got, = done["check"]
    assert done["same"] is True and got["asked"] == got["identical"] + got["near"] > 0 and got["version"] == 1
    assert got["latency_ms"]["here"]["p50"] > 0 and got["latency_ms"]["there"]["p99"] > 0
    said = shop.weir("split", "vision", "--to", other.data_url, "--check", "--switch")
    assert said.status == 1 and "differs" in said.out and "they do NOT give the same answers" in said.out, said
    assert shop.model("vision")["place"] == "worker"
    twin.push_example("intent", 1)  # a model that it has not got
    said = shop.weir("split", "intent", "--to", other.data_url, "--check")
    assert said.status == 1 and "version 1 of 'intent' can not be opened at http://" in said.err, said


def test_the_whole_way(shop, serve, tmp_path):
    """What is written starts a server that wants its token; it is given the family, checked, and used."""
    done, out = split(shop, tmp_path, "systemd")
    token = out / "admin-token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text().strip()) == 64
    text = (out / "weir.yaml").read_text()
    for was, now in (("0.0.0.0:8000", "127.0.0.1:0"), ("0.0.0.0:8009", "127.0.0.1:0"),
                     ("/run/credentials/weir-vision.service/admin-token", str(token))):
        assert was in text
        text = text.replace(was, now)
    far = serve(text, name="far", args=["--role", "inference"])
    there = far.data_url.removeprefix("http://")
    refused = shop.weir("split", "vision", "--to", there, "--check")
    assert refused.status == 1 and "token" in refused.err and shop.model("vision")["place"] == "worker", refused
    shop.push_example("vision", 2)  # so that the numbers over there need not be ours
    with flow.Load(shop, "vision", flow.Samples("vision"), ["u"], connections=4) as load:
        said = shop.ok("split", "vision", "--to", there, "--far-token", token, "--check", "--switch").out
        assert "both give the same answers" in said and f"vision runs at weir://{there}" in said
        time.sleep(0.3)
        events = load.stop()
    assert {e.status for e in events} == {200}
    assert shop.version("vision", 1)["workers"] == [] == shop.version("vision", 2)["workers"]
    shop.kill()
    shop.start()  # the token is remembered with the place
    assert shop.infer("vision", json.loads(flow.Samples("vision").rows[0][0])["inputs"]).status == 200
    assert shop.model("vision")["place"] == f"weir://{there}"
    shop.ok("split", "vision", "--undo")
    assert split(shop, tmp_path, "systemd")[0]["files"] == done["files"]  # once more: the token stays
    assert token.read_text() in (out / "admin-token").read_text()


def test_switch_and_undo_to_another_weir_under_load(shop, serve):
    """There and back again, with a second Weir that knows nothing beforehand: no request is dropped."""
    far = serve("", name="far", args=["--role", "inference"])
    there = far.data_url.removeprefix("http://")
    with flow.Load(shop, "vision", flow.Samples("vision"), [f"user-{i}" for i in range(50)], connections=6) as load:
        for _ in range(2):
            said = shop.ok("split", "vision", "--to", there, "--switch").out
            assert f"vision runs at weir://{there}" in said and "it says worker" in said
            assert shop.version("vision", 1)["workers"] == [] and shop.model("intent")["place"] == "worker"
            before = far.version("vision", 1)["stats"]["requests"]
            flow.until("requests over there", lambda before=before: far.version("vision", 1)["stats"]["requests"] >
                       before + 100)
            flow.until("the end of its workers here", lambda: len(flow.children(shop.pid)) == 1)
            said = shop.ok("split", "vision", "--undo").out
            assert "vision runs at worker" in said and "kept over restarts" not in said
            flow.until("its workers here", lambda: len(flow.children(shop.pid)) == 3)
        events = load.stop()
    assert len(events) > 400 and {e.status for e in events} == {200}
    assert {e.version for e in events} == {1}


def test_a_switch_to_another_weir_outlives_both(shop, serve):
    far = serve("", name="far", args=["--role", "inference"])
    far.conf = f"listen: {far.data[0]}:{far.data[1]}\nadmin: {far.admin[0]}:{far.admin[1]}\n"
    there = f"weir://127.0.0.1:{far.data[1]}"
    shop.ok("split", "vision", "--to", there, "--switch")
    shop.kill()
    shop.start()
    assert shop.model("vision")["place"] == there
    assert shop.infer("vision", json.loads(flow.Samples("vision").rows[0][0])["inputs"]).status == 200
    far.stop()
    far.start()
    flow.until("it is back", lambda: shop.infer(
        "vision", json.loads(flow.Samples("vision").rows[0][0])["inputs"]).status == 200, 40)
    # weir.yaml follows: that is where it runs, and the switch is over
    shop.stop()
    shop.conf = CONF.replace("place:   worker   #", f"place:   {there}   #")
    shop.start()
    got = shop.get("/admin/families/vision")
    assert (got["place"], got["configured"], got["rules"]) == (there, there, "weir.yaml")
    assert shop.infer("vision", json.loads(flow.Samples("vision").rows[0][0])["inputs"]).status == 200


def test_a_switch_to_no_inference_role_changes_nothing(shop, serve):
    other = serve("", name="other")  # a Weir, but not in that role
    done = shop.weir("split", "vision", "--to", other.data_url.removeprefix("http://"), "--switch")
    assert done.status == 1 and "is no Weir in the inference role" in done.err, done
    assert shop.model("vision")["place"] == "worker"
    assert shop.infer("vision", json.loads(flow.Samples("vision").rows[0][0])["inputs"]).status == 200
