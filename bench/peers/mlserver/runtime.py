# SPDX-License-Identifier: Apache-2.0
"""MLServer's documented way to a model that it has no runtime for (it has none for ONNX): an MLModel with load and
predict, tensors through its NumPy codec. Raw bytes come through a custom handler, which it documents too: its REST
does not speak the protocol's binary extension."""

import numpy as np
import onnxruntime as ort
from fastapi import Body, Response
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = await get_model_uri(self._settings)
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.x, self.y = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.shape = [d if isinstance(d, int) else 1 for d in self.session.get_inputs()[0].shape]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        (y,) = self.session.run([self.y], {self.x: x.astype(np.float32, copy=False)})
        outputs = [NumpyCodec.encode_output(self.y, y)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    @custom_handler(rest_path="/raw")
    async def raw(self, body: bytes = Body(media_type="application/octet-stream")) -> Response:
        (y,) = self.session.run([self.y], {self.x: np.frombuffer(body, np.float32).reshape(self.shape)})
        return Response(y.tobytes(), media_type="application/octet-stream")
