# SPDX-License-Identifier: Apache-2.0
"""A model behind FastAPI and uvicorn, as their documentation shows it: pydantic models for the JSON of the Open
Inference Protocol, plain `def` for a handler that blocks (it then runs in the thread pool), a worker process for each
core. MODEL and NAME in the environment say what to serve. One thread a session: two processes share two cores."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
INPUT, OUTPUT = session.get_inputs()[0], session.get_outputs()[0]
SHAPE = [d if isinstance(d, int) else 1 for d in INPUT.shape]
NAME = os.environ["NAME"]
app = FastAPI()


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferRequest(BaseModel):
    inputs: list[Tensor]


class InferResponse(BaseModel):
    model_name: str
    outputs: list[Tensor]


def run(x):
    return session.run([OUTPUT.name], {INPUT.name: x})[0]


@app.get("/v2/health/ready")
async def ready():
    return {"ready": True}


@app.post("/v2/models/{model}/infer")
def infer(model: str, request: InferRequest) -> InferResponse:
    if model != NAME or len(request.inputs) != 1:
        raise HTTPException(404 if model != NAME else 400)
    x = request.inputs[0]
    y = run(np.array(x.data, np.float32).reshape(x.shape))
    out = Tensor(name=OUTPUT.name, datatype="FP32", shape=list(y.shape), data=y.ravel().tolist())
    return InferResponse(model_name=NAME, outputs=[out])


@app.post("/v2/models/{model}/raw")
async def raw(model: str, request: Request):
    """The tensor's bytes as the body, there and back."""
    if model != NAME:
        raise HTTPException(404)
    x = np.frombuffer(await request.body(), np.float32).reshape(SHAPE)
    y = await run_in_threadpool(run, x)
    return Response(y.tobytes(), media_type="application/octet-stream")
