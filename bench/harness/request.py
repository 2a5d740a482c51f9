# SPDX-License-Identifier: Apache-2.0
"""The requests that the clients send, and reading the numbers of an answer. Values are random with a fixed seed."""

import dataclasses
import functools
import http.client
import json
import math
import random
import struct

from .base import Failed

JSON = (("Content-Type", "application/json"),)
BYTES = (("Content-Type", "application/octet-stream"),)
SHAPES = {"mlp": [1, 16], "cnn": [1, 3, 224, 224], "mlp_wide": [1, 1024], "steady": [1, 4]}


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes
    headers: tuple  # of (name, value)
    infers: bool = True  # the answer holds the model's output

    def send(self, port):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            c.request(self.method, self.path, self.body, dict(self.headers))
            r = c.getresponse()
            body = r.read()
            if r.status != 200:
                raise Failed(f"{self.path} on port {port} answered {r.status}: {body[:300]!r}")
            return body, r.headers
        finally:
            c.close()

    def outputs(self, port):
        """The numbers of the first output."""
        body, headers = self.send(port)
        split = int(headers.get("Inference-Header-Content-Length") or 0)
        if split:
            size = json.loads(body[:split])["outputs"][0]["parameters"]["binary_data_size"]
            return struct.unpack(f"<{size // 4}f", body[split : split + size])
        if headers.get_content_type() == "application/octet-stream":
            return struct.unpack(f"<{len(body) // 4}f", body)
        answer = json.loads(body)
        return tuple(answer["outputs"][0]["data"] if isinstance(answer, dict) else answer[0])


@functools.cache
def values(model):
    """Few digits each (one for the image: its JSON is 0.67 MB): JSON and the binary forms carry the same number."""
    rng = random.Random(16)
    digits = 1 if model == "cnn" else 4
    return [round(rng.uniform(-1, 1), digits) for _ in range(math.prod(SHAPES[model]))]


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def raw(model):
    return struct.pack(f"<{len(values(model))}f", *values(model))


def tensor(model):
    return {"name": "x", "datatype": "FP32", "shape": SHAPES[model]}


@functools.cache
def infer_json(model, timeout_us=0, user=None):
    """The Open Inference Protocol's JSON; only Weir is sent timeout_us, the protocol's parameter, and the user."""
    body = {"inputs": [tensor(model) | {"data": values(model)}]}
    if timeout_us:
        body["parameters"] = {"timeout": timeout_us}
    headers = JSON + ((("X-Weir-User", user),) if user else ())
    return Request("POST", f"/v2/models/{model}/infer", compact(body), headers)


@functools.cache
def infer_binary(model, timeout_us=0):
    """The protocol's binary extension, there and back."""
    data = raw(model)
    head = {"inputs": [tensor(model) | {"parameters": {"binary_data_size": len(data)}}],
            "parameters": {"binary_data_output": True} | ({"timeout": timeout_us} if timeout_us else {})}
    text = compact(head)
    return Request("POST", f"/v2/models/{model}/infer", text + data,
                   BYTES + (("Inference-Header-Content-Length", str(len(text))),))


@functools.cache
def infer_raw(model, path):
    """The tensor's bytes as the body, there and back: for peers whose REST does not speak the binary extension."""
    return Request("POST", path, raw(model), BYTES)


@functools.cache
def infer_rows(model):
    """{"inputs": [[numbers]]}: how BentoML's batchable APIs take an array."""
    return Request("POST", f"/v2/models/{model}/infer", compact({"inputs": [values(model)]}), JSON)


@functools.cache
def fixed_reply(model):
    """The infer request's bytes sent to a route that reads them, runs no model and answers JSON of about that size."""
    return Request("GET", f"/v2/models/{model}", infer_json(model).body, JSON, infers=False)
