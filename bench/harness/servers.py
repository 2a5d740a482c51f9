# SPDX-License-Identifier: Apache-2.0
"""How each server and yardstick is started. A server has a process of its own for each setting, so that CPU and memory
are that setting's. Two rows share a process when they are started by the same function: starters are made once."""

import functools
import shutil
import socket
import subprocess

from .base import BUILD, Failed, free_port, model_path
from .process import Process, http_status


def batching(most, delay=None):
    """The family's key: at most so many requests in one run, waiting so long for them."""
    return {"batch": f"{{max: {most}, delay: {delay}}}" if delay else f"{{max: {most}}}"}


def run_weir(run, name, families, *words):
    """A server with its data below the run's scratch folder; `families` as in weir.yaml. Ready by its own word."""
    folder = run.scratch / name
    folder.mkdir(exist_ok=True)
    port, admin = free_port(), free_port()
    rows = [f"  {f}: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}\n" for f, keys in families.items()]
    (folder / "weir.yaml").write_text(f"threads: {run.threads}\n" + ("families:\n" + "".join(rows) if rows else ""))
    argv = [BUILD / "weir", "serve", "-c", folder / "weir.yaml", "--data", folder / "data",
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", *words]
    p = Process(name, argv, run.scratch / f"{name}.log", port, lambda: http_status(port, "/v2/health/ready") == 200)
    p.admin = admin
    return p


def push(process, model):
    argv = [BUILD / "weir", "push", model, model_path(model).parent, "--server", f"http://127.0.0.1:{process.admin}"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    if done.returncode != 0:
        raise Failed(f"{process.name}: weir push {model} failed:\n{done.stdout}\n{process.said()}")


@functools.cache
def weir(model, label, **family):
    """The starter of a server with one model; label: what tells it from others of this model."""

    def start(run):
        p = run_weir(run, f"weir-{model}-{label}", {model: family})
        run.processes.append(p)  # now, so that it is stopped should the push fail
        push(p, model)
        return p

    return start


@functools.cache
def judged(model, label, **family):
    """The same, and a rollout of an equal version runs at the smallest share: every request is counted and judged. One
    answer of a hundred is captured, and somebody listens to the events."""
    base = weir(model, label, **family, capture="{sample: 1%}")

    def start(run):
        p = base(run)
        again = run.scratch / f"{label}-again"
        again.mkdir(exist_ok=True)
        shutil.copy(model_path(model), again / "model.onnx")
        (again / "model.yaml").write_text("description: the same again\n")
        argv = [BUILD / "weir", "push", model, again, "--canary", "0.01%", "--server", f"http://127.0.0.1:{p.admin}"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        if done.returncode != 0:
            raise Failed(f"{p.name}: the rollout did not begin:\n{done.stdout}\n{p.said()}")
        p.listener = socket.create_connection(("127.0.0.1", p.admin))  # open as long as the process is known
        p.listener.sendall(b"GET /admin/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return p

    return start


@functools.cache
def floor(model, threads=None):
    def start(run):
        port, name = free_port(), f"floor-{model}"
        argv = [BUILD / "bench/floor", model_path(model), port, threads or run.threads]
        return Process(name, argv, run.scratch / f"{name}.log", port)

    return start
