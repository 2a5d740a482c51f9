# SPDX-License-Identifier: Apache-2.0
"""The example models give what their framework gave: every held-out input, both versions, both places, JSON and binary
tensors, alone and in batches, through a stock client of the protocol and through the standard library's."""

import json

import numpy as np
import pytest
import tritonclient.http as triton

import flow

DTYPE = {"intent": "BYTES", "recommend": "INT64", "vision": "UINT8"}
INPUT = {"intent": "text", "recommend": "history", "vision": "image"}
OUTPUTS = {"intent": ["label", "probabilities"], "recommend": ["scores", "top_ids"], "vision": ["probabilities"]}
NUMPY = {"FP32": np.float32, "INT64": np.int64}


@pytest.fixture(scope="module", params=["worker", "inline"])
def server(request, module_serve):
    s = module_serve(f"families:\n  default: {{place: {request.param}}}\n")
    for name in DTYPE:
        for version in (1, 2):
            s.push_example(name, version)
        assert s.model(name)["place"] == request.param
    return s


@pytest.fixture(scope="module")
def heldout():
    return {name: dict(np.load(flow.EXAMPLES / name / "heldout.npz")) for name in DTYPE}


def same(got, want, where):
    if want.dtype.kind == "f":
        assert got.dtype == np.float32, where
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=where)
    else:
        got = np.vectorize(lambda v: v.decode() if isinstance(v, bytes) else v)(got) if got.dtype == object else got
        assert got.shape == want.shape, where
        differ = np.nonzero(got != want)
        assert not differ[0].size, f"{where}: {differ[0].size} differ, first at {differ[0][0]}"


def wanted(data, name, version, output, rows):
    return data[f"v{version}_{output}"][rows]


def plain(values):
    return [v for v in values.reshape(-1).tolist()]


def ask_json(connection, name, version, values):
    body = json.dumps({"inputs": [flow.tensor(INPUT[name], DTYPE[name], values.shape, plain(values))]})
    connection.request("POST", f"/v2/models/{name}/versions/{version}/infer", body)
    reply = connection.getresponse()
    text = reply.read()
    assert reply.status == 200, text
    document = json.loads(text)
    assert document["model_name"] == name and document["model_version"] == str(version)
    out = {}
    for o in document["outputs"]:
        dtype = object if o["datatype"] == "BYTES" else NUMPY[o["datatype"]]
        out[o["name"]] = np.array(o["data"], dtype).reshape(o["shape"])
    assert list(out) == OUTPUTS[name]
    return out


def batches(rows):
    """One by one for the first 24, then growing batches, then one that is larger than a run."""
    at, size = 0, 1
    while at < rows:
        end = min(rows, at + size)
        yield slice(at, end)
        at = end
        size = 1 if at < 24 else 7 if at < 80 else 64 if at < 300 else 400


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", list(DTYPE))
def test_json(server, heldout, name, version):
    data = heldout[name]
    values = data[f"input_{INPUT[name]}"]
    assert len(values) >= 200
    connection = flow.stock(server.data)
    for rows in batches(len(values)):
        out = ask_json(connection, name, version, values[rows])
        for output in OUTPUTS[name]:
            same(out[output], wanted(data, name, version, output, rows), f"{name} {version} {output} {rows}")
    connection.close()


def ask_triton(client, name, version, values, binary_in, binary_out):
    data = np.array([str(v).encode() for v in values.reshape(-1)], object).reshape(values.shape) \
        if DTYPE[name] == "BYTES" else values
    given = triton.InferInput(INPUT[name], list(values.shape), DTYPE[name])
    given.set_data_from_numpy(data, binary_data=binary_in)
    outputs = [triton.InferRequestedOutput(o, binary_data=binary_out) for o in OUTPUTS[name]]
    return client.infer(name, [given], model_version=str(version), outputs=outputs)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", list(DTYPE))
def test_stock_client(server, heldout, name, version):
    data = heldout[name]
    values = data[f"input_{INPUT[name]}"]
    client = triton.InferenceServerClient(f"{server.data[0]}:{server.data[1]}")
    try:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name, str(version))
        kinds = [(True, True), (True, False), (False, True), (False, False)]
        for i, rows in enumerate(batches(len(values))):
            binary_in, binary_out = kinds[i % 4] if i else (True, True)
            if name == "vision" and not binary_in and rows.stop - rows.start > 64:
                binary_in = True
            result = ask_triton(client, name, version, values[rows], binary_in, binary_out)
            for output in OUTPUTS[name]:
                where = f"{name} {version} {output} {rows} binary {binary_in} {binary_out}"
                same(result.as_numpy(output), wanted(data, name, version, output, rows), where)
    finally:
        client.close()


def test_by_hand_binary(server, heldout):
    """The same through nothing but bytes: one photo, header and tensors laid out by hand."""
    data = heldout["vision"]
    wire = server.wire()
    for row in range(0, len(data["input_image"]), 17):
        pixels = data["input_image"][row].tobytes()
        head = json.dumps({
            "id": f"p{row}",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3],
                        "parameters": {"binary_data_size": len(pixels)}}],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}).encode()
        reply = wire.ask("POST", "/v2/models/vision/versions/2/infer", head + pixels,
                         {"Inference-Header-Content-Length": len(head), "Content-Type": "application/octet-stream"})
        assert reply.status == 200, reply
        n = int(reply.headers["inference-header-content-length"])
        document = json.loads(reply.body[:n])
        assert document["id"] == f"p{row}"
        (output,) = document["outputs"]
        assert output["parameters"] == {"binary_data_size": 40} and output["shape"] == [1, 10]
        same(np.frombuffer(reply.body[n:], np.float32), data["v2_probabilities"][row], f"photo {row}")
    wire.close()
