# SPDX-License-Identifier: Apache-2.0
"""A Ray Serve deployment on one node: a replica for each core with a CPU of its own, one thread a session, more ongoing
requests a replica than the default 5, with BATCH @serve.batch. MODEL, NAME, PORT, WORKERS and TEMP (a folder for Ray's
files) in the environment say what to serve."""

import json
import os

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

BATCH, WORKERS = int(os.environ["BATCH"]), int(os.environ["WORKERS"])


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Model:
    def __init__(self, path, name):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name, self.x = name, self.session.get_inputs()[0].name
        self.y = self.session.get_outputs()[0].name
        self.shape = [d if isinstance(d, int) else 1 for d in self.session.get_inputs()[0].shape]

    def run(self, x):
        return self.session.run(None, {self.x: x})[0]

    @serve.batch(max_batch_size=max(BATCH, 1), batch_wait_timeout_s=0.002)
    async def run_batch(self, xs):
        return list(self.run(np.concatenate(xs))[:, None])

    async def infer(self, x):
        return await self.run_batch(x) if BATCH else self.run(x)

    async def __call__(self, request: Request):
        path = request.url.path
        if path == "/v2/health/ready":
            return JSONResponse({"ready": True})
        body = await request.body()
        if path == f"/v2/models/{self.name}/raw":
            y = await self.infer(np.frombuffer(body, np.float32).reshape(self.shape))
            return Response(y.tobytes(), media_type="application/octet-stream")
        if path != f"/v2/models/{self.name}/infer":
            return Response(status_code=404)
        x = json.loads(body)["inputs"][0]
        y = await self.infer(np.array(x["data"], np.float32).reshape(x["shape"]))
        out = {"name": self.y, "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
        return JSONResponse({"model_name": self.name, "outputs": [out]})


if __name__ == "__main__":
    # Its own processes talk over loopback, too.
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
             _temp_dir=os.environ["TEMP"])
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Model.bind(os.environ["MODEL"], os.environ["NAME"]), blocking=True)
