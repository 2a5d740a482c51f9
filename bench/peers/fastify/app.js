// SPDX-License-Identifier: Apache-2.0
// A model behind fastify and onnxruntime-node, one process a core (node:cluster), a JSON schema for what is sent so
// that fastify compiles its serializer, no logger. MODEL, NAME, PORT and WORKERS in the environment say what to serve.
// One thread a session: two processes share two cores.
import cluster from "node:cluster";
import Fastify from "fastify";
import ort from "onnxruntime-node";

const { MODEL, NAME, PORT, WORKERS } = process.env;

if (cluster.isPrimary) {
  for (let i = 0; i < Number(WORKERS); i++) cluster.fork();
  for (const name of ["SIGTERM", "SIGINT"]) process.on(name, () => process.exit(0));
} else {
  await serve();
}

async function serve() {
  const session = await ort.InferenceSession.create(MODEL, { intraOpNumThreads: 1, executionMode: "sequential" });
  const [input] = session.inputNames;
  const [output] = session.outputNames;
  const shape = session.inputMetadata[0].shape.map((d) => (typeof d === "number" && d > 0 ? d : 1));
  const run = async (data, dims) => (await session.run({ [input]: new ort.Tensor("float32", data, dims) }))[output];

  const tensor = {
    type: "object",
    properties: {
      name: { type: "string" },
      datatype: { type: "string" },
      shape: { type: "array", items: { type: "integer" } },
      data: { type: "array", items: { type: "number" } },
    },
  };
  const answer = {
    type: "object",
    properties: { model_name: { type: "string" }, outputs: { type: "array", items: tensor } },
  };
  const app = Fastify({ logger: false, bodyLimit: 64 << 20 });
  app.addContentTypeParser("application/octet-stream", { parseAs: "buffer" }, (_request, body, done) =>
    done(null, body),
  );
  app.get("/v2/health/ready", async () => ({ ready: true }));
  app.post(`/v2/models/${NAME}/infer`, { schema: { response: { 200: answer } } }, async (request) => {
    const [x] = request.body.inputs;
    const y = await run(Float32Array.from(x.data), x.shape);
    return {
      model_name: NAME,
      outputs: [{ name: output, datatype: "FP32", shape: y.dims, data: Array.from(y.data) }],
    };
  });
  app.post(`/v2/models/${NAME}/raw`, async (request, reply) => {
    const body = request.body; // a Buffer may stand anywhere in its pool: a Float32Array wants a multiple of 4
    const bytes = body.byteOffset % 4 ? new Uint8Array(body) : body;
    const y = await run(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), shape);
    reply.header("Content-Type", "application/octet-stream");
    return Buffer.from(y.data.buffer, y.data.byteOffset, y.data.byteLength);
  });
  await app.listen({ host: "127.0.0.1", port: Number(PORT) });
}
