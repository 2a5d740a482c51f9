# SPDX-License-Identifier: Apache-2.0
"""The peers: set up, pinned, from their registries into build/bench/peers/NAME, and started with the settings that
their documentation recommends for so many cores. bench/peers/NAME holds the application and what it is made of.

A peer that cannot be set up, or does not start, is reported with its reason and never left out in silence."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys

from .base import BENCH, BUILD, Failed, free_port, model_path
from .process import Process, http_status
from .request import infer_json, infer_raw, infer_rows

NAMES = ("fastapi", "fastify", "mlserver", "bentoml", "ray")
FOLDERS = {"ray": "rayserve"}
WORKERS = 2
START_S = 120
SETUP_S = 900


def source(name):
    return BENCH / "peers" / FOLDERS.get(name, name)


def home(name):
    return BUILD / "bench/peers" / name


# ---- set-up ---------------------------------------------------------------------------------------------------------


def stamp_of(name):
    """What the set-up depends on: the pins and the interpreter."""
    pins = source(name) / ("package-lock.json" if name == "fastify" else "requirements.txt")
    runtime = shutil.which("node") or "" if name == "fastify" else sys.version
    return hashlib.sha256(pins.read_bytes() + runtime.encode()).hexdigest()


def call(argv, cwd=None):
    try:
        done = subprocess.run([str(a) for a in argv], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=SETUP_S)
    except FileNotFoundError:
        raise Failed(f"{argv[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]} took longer than {SETUP_S} s") from None
    if done.returncode != 0:
        lines = [x.strip() for x in done.stdout.strip().splitlines() if x.strip()]
        errors = [x for x in lines if "error" in x.lower()]
        raise Failed((errors or lines or [f"{argv[0]} ended with status {done.returncode}"])[-1][:300])


def install_python(name, folder):
    call([sys.executable, "-m", "venv", folder / "venv"])
    # Wheels only: nothing of a peer is compiled, or run, while it is installed.
    call([folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
          "--only-binary", ":all:", "--no-deps", "-r", source(name) / "requirements.txt"])


def install_node(name, folder):
    for file in ("package.json", "package-lock.json"):
        shutil.copy(source(name) / file, folder)
    # No scripts: onnxruntime-node's own would fetch GPU parts from elsewhere.
    call(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)


def set_up(name):
    """Installs the peer unless this very set of pins is there already; raises Failed with the reason."""
    folder, stamp = home(name), stamp_of(name)
    mark = folder / ".stamp"
    if mark.exists() and mark.read_text() == stamp:
        return
    print(f"peers: setting up {name} in {os.path.relpath(folder)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (install_node if name == "fastify" else install_python)(name, folder)
    mark.write_text(stamp)


def available(names):
    """Sets up each; ([those that are], {name: why not})."""
    there, missing = [], {}
    for name in names:
        try:
            set_up(name)
            there.append(name)
        except Failed as e:
            missing[name] = f"not set up: {e}"
    return there, missing


# ---- start ----------------------------------------------------------------------------------------------------------


def fastapi(folder, port, model, batch):
    return {"argv": [home("fastapi") / "venv/bin/uvicorn", "app:app", "--host", "127.0.0.1", "--port", port,
                     "--workers", WORKERS, "--no-access-log", "--log-level", "warning"],
            "cwd": source("fastapi")}


def fastify(folder, port, model, batch):
    app = home("fastify") / "app.js"  # beside node_modules, where Node looks for them
    shutil.copy(source("fastify") / "app.js", app)
    return {"argv": ["node", app], "cwd": home("fastify"), "env": {"NODE_ENV": "production"}}


def mlserver(folder, port, model, batch):
    (folder / "metrics").mkdir()
    (folder / "model").mkdir()
    settings = {"debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(),
                "metrics_port": free_port(), "metrics_dir": str(folder / "metrics"), "parallel_workers": WORKERS}
    (folder / "settings.json").write_text(json.dumps(settings))
    served = {"name": model, "implementation": "runtime.OnnxModel",
             "parameters": {"uri": str(model_path(model))}}
    if batch:
        served |= {"max_batch_size": batch, "max_batch_time": 0.002}
    (folder / "model/model-settings.json").write_text(json.dumps(served))
    return {"argv": [home("mlserver") / "venv/bin/mlserver", "start", folder], "cwd": folder,
            "env": {"PYTHONPATH": str(source("mlserver"))}}


def bentoml(folder, port, model, batch):
    return {"argv": [home("bentoml") / "venv/bin/bentoml", "serve", "service:Model", "--host", "127.0.0.1",
                     "--port", port, "--working-dir", source("bentoml")],
            "env": {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)}, "ready": "/readyz"}


def ray(folder, port, model, batch):
    # Its processes use an eighth of a core when nobody asks anything: they are stopped while others are measured.
    return {"argv": [home("ray") / "venv/bin/python", source("ray") / "app.py"],
            "env": {"RAY_USAGE_STATS_ENABLED": "0", "TEMP": str(folder)}, "pause": True}


HOW = {"fastapi": fastapi, "fastify": fastify, "mlserver": mlserver, "bentoml": bentoml, "ray": ray}


@functools.cache
def starter(name, model, batch=0):
    """The starter of a peer with one model; batch: the most rows of one run, 0: its batching stays off."""

    def start(run):
        folder = run.scratch / f"{name}-{model}-{batch}"
        folder.mkdir()
        port = free_port()
        how = HOW[name](folder, port, model, batch)
        env = {"MODEL": str(model_path(model)), "NAME": model, "PORT": str(port), "WORKERS": str(WORKERS),
               "BATCH": str(batch), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | how.get("env", {})
        path = how.get("ready", "/v2/health/ready")
        return Process(name, how["argv"], run.scratch / f"{folder.name}.log", port,
                       lambda: http_status(port, path) == 200, env, how.get("cwd", folder), steady=False,
                       pause=how.get("pause", False), limit_s=START_S)

    return start


RAW_PATHS = {"mlserver": "/raw", "bentoml": "/bytes/raw"}


def request(name, model, form):
    """The maker of a peer's request in one form: "json" or "binary" (a route for raw bytes)."""
    if form == "json":
        return functools.partial(infer_json, model)
    return functools.partial(infer_raw, model, RAW_PATHS.get(name, f"/v2/models/{model}/raw"))


def batched_request(name, model):
    """The request with which the peer batches, if it does: MLServer's predict and BentoML's batchable API take JSON."""
    if name == "mlserver":
        return functools.partial(infer_json, model)
    if name == "bentoml":
        return functools.partial(infer_rows, model)
    return request(name, model, "binary")
