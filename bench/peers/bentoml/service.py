# SPDX-License-Identifier: Apache-2.0
"""A BentoML service: a worker process for each core, the Open Inference Protocol's JSON as an API of plain types, and a
mounted ASGI application for raw bytes. With BATCH the API takes an array and is batchable, which is how BentoML batches
(adaptively, within max_latency_ms). MODEL and NAME in the environment say what to serve."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

NAME, BATCH = os.environ["NAME"], int(os.environ["BATCH"])
WORKERS = int(os.environ["WORKERS"])


def open_session():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


session = None


def run(x):
    return session.run(None, {session.get_inputs()[0].name: x})[0]


async def raw(request):
    shape = [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape]
    y = await run_in_threadpool(run, np.frombuffer(await request.body(), np.float32).reshape(shape))
    return Response(y.tobytes(), media_type="application/octet-stream")


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
@bentoml.asgi_app(Starlette(routes=[Route("/raw", raw, methods=["POST"])]), path="/bytes")
class Model:
    def __init__(self):
        global session
        session = open_session()

    if BATCH:

        @bentoml.api(route=f"/v2/models/{NAME}/infer", batchable=True, max_batch_size=BATCH, max_latency_ms=1000)
        def infer(self, inputs: np.ndarray) -> np.ndarray:
            return run(inputs.astype(np.float32, copy=False))

    else:

        @bentoml.api(route=f"/v2/models/{NAME}/infer")
        def infer(self, inputs: list[dict]) -> dict:
            y = run(np.array(inputs[0]["data"], np.float32).reshape(inputs[0]["shape"]))
            name = session.get_outputs()[0].name
            out = {"name": name, "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
            return {"model_name": NAME, "outputs": [out]}
