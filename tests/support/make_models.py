#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the small ONNX models that the tests and the yardsticks run: make_models.py FOLDER [NAME...]

Each becomes FOLDER/NAME/model.onnx. Weights are random with a fixed seed, so two runs give the same bytes. What a
model is for stands in its function's first line; "joins" means that its rows do not influence each other.
FOLDER/.made is written last and holds the digest of this script.
"""

import hashlib
import os
import pathlib
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

DTYPES = {
    "BOOL": T.BOOL, "UINT8": T.UINT8, "UINT16": T.UINT16, "UINT32": T.UINT32, "UINT64": T.UINT64, "INT8": T.INT8,
    "INT16": T.INT16, "INT32": T.INT32, "INT64": T.INT64, "FP16": T.FLOAT16, "BF16": T.BFLOAT16, "FP32": T.FLOAT,
    "FP64": T.DOUBLE, "BYTES": T.STRING,
}


def value(name, shape, dtype=T.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(name, array):
    return numpy_helper.from_array(np.array(array, order="C"), name)


def model(nodes, inputs, outputs, init=(), opset=17, extra=()):
    graph = helper.make_graph(nodes, "weir_test", inputs, outputs, list(init))
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, v) for d, v in extra]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="weir-tests")


def identity(dtype):
    """x [n,3] of one dtype, given back. Joins."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [value("x", ["n", 3], dtype)], [value("y", ["n", 3], dtype)])


def add():
    """c = a + b, [n,4] each, and d = a - b: two inputs, two outputs. Joins."""
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    shape = ["n", 4]
    return model(nodes, [value("a", shape), value("b", shape)], [value("c", shape), value("d", shape)])


def mixing():
    """y = x - mean of x over the rows: says dimension 0 is free, but rows influence each other. Must not join."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])


def cross():
    """y = a b^T, [n,m]: the shape of what one row gives depends on the other rows. Must not join."""
    nodes = [helper.make_node("Transpose", ["b"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["a", "t"], ["y"])]
    return model(nodes, [value("a", ["n", 4]), value("b", ["m", 4])], [value("y", ["n", "m"])])


def fixed():
    """y = relu(x), both [4,8] and nothing else. Does not join."""
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [4, 8])], [value("y", [4, 8])])


def scalar():
    """y = x + 1 for a tensor of rank 0. Does not join."""
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return model([node], [value("x", [])], [value("y", [])], [weights("one", np.float32(1))])


def constant():
    """No input at all; y = [1,2,3]."""
    node = helper.make_node("Identity", ["w"], ["y"])
    return model([node], [], [value("y", [3])], [weights("w", np.array([1, 2, 3], np.float32))])


def _loop(trips, init, out="y"):
    """x * 1.0 applied `trips` times: small operations, so that its time is steady and its memory nothing."""
    body = helper.make_graph(
        [helper.make_node("Mul", ["v", "one"], ["w"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [value("i", [], T.INT64), value("go", [], T.BOOL), value("v", ["n", 4])],
        [value("go_on", [], T.BOOL), value("w", ["n", 4])],
        [weights("one", np.float32(1))],
    )
    yes = weights("yes", np.array(True))
    return helper.make_node("Loop", [trips, "yes", "x"], [out], body=body), [yes] + init


def slow():
    """x [n,4] given back after some 20 ms."""
    node, init = _loop("trips", [weights("trips", np.array(10000, np.int64))])
    return model([node], [value("x", ["n", 4])], [value("y", ["n", 4])], init)


def steady():
    """x [1,4] given back after some 5 ms, always one row: a model whose service time nothing changes. Does not join."""
    trips = weights("trips", np.array(5000, np.int64))
    node, init = _loop("trips", [trips])
    return model([node], [value("x", [1, 4])], [value("y", [1, 4])], init)


def spin():
    """x [n,4] given back after `trips` (INT64, a scalar) rounds of about 2 us: takes as long as the request says."""
    node, init = _loop("trips", [])
    return model([node], [value("x", ["n", 4]), value("trips", [], T.INT64)], [value("y", ["n", 4])], init)


def gather():
    """The rows of a table of 10 that idx [n] names: fails for an index out of range, on that input alone."""
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    node = helper.make_node("Gather", ["table", "idx"], ["y"], axis=0)
    return model([node], [value("idx", ["n"], T.INT64)], [value("y", ["n", 4])], [weights("table", table)])


def grow():
    """n zeros, n from the input (INT64 [1]): a dynamic output that can be large."""
    zero = helper.make_tensor("value", T.FLOAT, [1], [0.0])
    node = helper.make_node("ConstantOfShape", ["n"], ["y"], value=zero)
    return model([node], [value("n", [1], T.INT64)], [value("y", ["count"])])


def nonzero():
    """The places of x [n,4] that are not zero: says [2,-1], and the data decide how many."""
    node = helper.make_node("NonZero", ["x"], ["y"])
    return model([node], [value("x", ["n", 4])], [value("y", [2, "count"], T.INT64)])


def compress():
    """The values of x [n] above .5: dimension 0 of the output is free but is not the number of rows. Must not join."""
    nodes = [helper.make_node("Greater", ["x", "half"], ["m"]), helper.make_node("Compress", ["x", "m"], ["y"], axis=0)]
    return model(nodes, [value("x", ["n"])], [value("y", ["k"])], [weights("half", np.float32(0.5))])


def sequence():
    """Gives a sequence of tensors, which no tensor protocol can carry: refused."""
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)
    out = helper.make_tensor_sequence_value_info("y", T.FLOAT, None)
    return model([node], [value("x", ["n", 4])], [out])


def zipmap():
    """Ends in a map, as exporters of scikit-learn classifiers do by default: refused."""
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    number = helper.make_tensor_type_proto(T.FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(T.INT64, number))
    return model([node], [value("x", ["n", 3])], [helper.make_value_info("y", kind)], extra=[("ai.onnx.ml", 1)])


def custom():
    """Uses an operator that no runtime has: refused at load."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="example.invalid")
    return model([node], [value("x", ["n", 4])], [value("y", ["n", 4])], extra=[("example.invalid", 1)])


def external(folder):
    """y = x + w with w [4] = 1..4 in weights.bin beside the model. Joins."""
    w = np.arange(1, 5, dtype=np.float32)
    (folder / "weights.bin").write_bytes(bytes(64) + w.tobytes())
    t = weights("w", w)
    t.ClearField("raw_data")
    t.data_location = T.EXTERNAL
    for key, text in (("location", "weights.bin"), ("offset", "64"), ("length", "16")):
        t.external_data.add(key=key, value=text)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [value("x", ["n", 4])], [value("y", ["n", 4])], [t])


def mlp(sizes, activation="Relu", last="Softmax"):
    """A perceptron with random weights, x [n,sizes[0]]. Joins."""
    rng = np.random.default_rng(16)
    nodes, init, at = [], [], "x"
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        init.append(weights(f"w{i}", rng.standard_normal((a, b), np.float32) / np.float32(np.sqrt(a))))
        init.append(weights(f"b{i}", rng.standard_normal(b, np.float32) * np.float32(0.1)))
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"g{i}"]))
        final = i == len(sizes) - 2
        out = "y" if final else f"h{i}"
        nodes.append(helper.make_node(last if final else activation, [f"g{i}"], [out]))
        at = out
    return model(nodes, [value("x", ["n", sizes[0]])], [value("y", ["n", sizes[-1]])], init)


class Net:
    """Nodes of a convolutional network, appended one by one."""

    def __init__(self, seed):
        self.rng, self.nodes, self.init, self.n = np.random.default_rng(seed), [], [], 0

    def conv(self, at, cin, cout, kernel, stride=1, group=1, relu=True):
        self.n += 1
        w, b, c, r = f"w{self.n}", f"b{self.n}", f"c{self.n}", f"r{self.n}"
        fan = cin // group * kernel * kernel
        scale = np.float32(np.sqrt(2 / fan))
        self.init.append(weights(w, self.rng.standard_normal((cout, cin // group, kernel, kernel), np.float32) * scale))
        self.init.append(weights(b, np.zeros(cout, np.float32)))
        pad = kernel // 2
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": group}
        self.nodes.append(helper.make_node("Conv", [at, w, b], [c], **shape))
        if not relu:
            return c
        self.nodes.append(helper.make_node("Clip", [c, "zero", "six"], [r]))
        return r

    def add(self, a, b):
        self.n += 1
        self.nodes.append(helper.make_node("Add", [a, b], [f"a{self.n}"]))
        return f"a{self.n}"


def cnn():
    """MobileNetV2's layers, random weights (3.5 M parameters), x [n,3,224,224], y [n,1000]. Batching does not pay."""
    net = Net(224)
    net.init += [weights("zero", np.float32(0)), weights("six", np.float32(6))]
    at, cin = net.conv("x", 3, 32, 3, 2), 32
    for expand, cout, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                        (6, 160, 3, 2), (6, 320, 1, 1)):
        for i in range(count):
            before, mid = at, cin * expand
            if expand > 1:
                at = net.conv(at, cin, mid, 1)
            at = net.conv(at, mid, mid, 3, stride if i == 0 else 1, group=mid)
            at = net.conv(at, mid, cout, 1, relu=False)
            if i > 0:
                at = net.add(before, at)
            cin = cout
    at = net.conv(at, cin, 1280, 1)
    net.init += [weights("wf", net.rng.standard_normal((1280, 1000), np.float32) * np.float32(0.03)),
                 weights("bf", np.zeros(1000, np.float32))]
    net.nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wf", "bf"], ["y"]),
    ]
    return model(net.nodes, [value("x", ["n", 3, 224, 224])], [value("y", ["n", 1000])], net.init)


HARM_TRIPS = 1500  # of the good ones: some 1.5 ms


def _harm(nodes=(), init=(), trips="trips", count=HARM_TRIPS, above=100, columns=3):
    """x [n,4] to y [n,3]. Good as long as no row's first value is above a threshold, which a warm-up's never are; what
    happens then is up to `nodes`, which make y of: good [n,3], what it should be; over BOOL [n,1], which rows are
    above; any INT64 [], 1 if one is. trips may be theirs too. Joins, as long as nothing is above."""
    loop, more = _loop(trips, [], "held")
    first = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Greater", ["first", "above"], ["over"]),
        helper.make_node("Cast", ["over"], ["overs"], to=T.INT64),
        helper.make_node("ReduceMax", ["overs"], ["any"], keepdims=0),
    ]
    last = [n for n in nodes if "good" in n.input] or [helper.make_node("Identity", ["good"], ["y"])]
    before = [n for n in nodes if "good" not in n.input]
    more += [
        weights("trips", np.array(count, np.int64)), weights("zero", np.array([0], np.int64)),
        weights("above", np.float32(above)), weights("matrix", np.arange(12, dtype=np.float32).reshape(4, 3)),
    ]
    nodes = [*first, *before, loop, helper.make_node("MatMul", ["held", "matrix"], ["good"]), *last]
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", columns])], [*more, *init])


def harm_good():
    """The good one: y = x w after some 1.5 ms."""
    return _harm()


def harm_good2():
    """The same once more, in another file."""
    made = _harm()
    made.doc_string = "the same behaviour in other bytes"
    return made


def harm_nan(above=100):
    """NaN in the rows that are above."""
    return _harm([helper.make_node("Where", ["over", "nan", "good"], ["y"])], [weights("nan", np.float32("nan"))],
                 above=above)


def harm_shape():
    """Two columns where three were said (in words: any number) when a row is above."""
    nodes = [
        helper.make_node("Sub", ["three", "any"], ["end"]),
        helper.make_node("Slice", ["good", "zero", "end", "one"], ["y"]),
    ]
    init = [weights("three", np.array([3], np.int64)), weights("one", np.array([1], np.int64))]
    return _harm(nodes, init, columns="columns")


def harm_error(above=100):
    """Run() fails when a row is above, and does not say that it is the input's fault."""
    nodes = [
        helper.make_node("Mul", ["any", "large"], ["more"]),
        helper.make_node("Add", ["three", "more"], ["width"]),
        helper.make_node("Concat", ["rest", "width"], ["shape"], axis=0),
        helper.make_node("Reshape", ["good", "shape"], ["y"]),
    ]
    init = [weights("three", np.array([3], np.int64)), weights("rest", np.array([-1], np.int64)),
            weights("large", np.array(999980, np.int64))]  # 999983 is prime: no number of rows fits
    return _harm(nodes, init, above=above)


def harm_slow():
    """Ten times as slow as the good one, whatever it is asked."""
    return _harm(count=10 * HARM_TRIPS)


def harm_hang():
    """Does not end when a row is above."""
    nodes = [
        helper.make_node("Mul", ["any", "large"], ["more"]),
        helper.make_node("Add", ["trips", "more"], ["rounds"]),
    ]
    return _harm(nodes, [weights("large", np.array(10**15, np.int64))], trips="rounds")


def harm_load():
    """A well-formed file with an operator that no runtime has: refused at load."""
    made = _harm([helper.make_node("Frobnicate", ["good"], ["y"], domain="example.invalid")])
    made.opset_import.append(helper.make_opsetid("example.invalid", 1))
    return made


def table():
    rows = {f"identity_{name.lower()}": (lambda t=t: identity(t)) for name, t in DTYPES.items()}
    for f in (add, mixing, cross, fixed, scalar, constant, slow, steady, spin, gather, grow, nonzero, compress,
              sequence, zipmap, custom, external, cnn):
        rows[f.__name__] = f
    for f in (harm_good, harm_good2, harm_nan, harm_shape, harm_error, harm_slow, harm_hang, harm_load):
        rows[f.__name__] = f
    rows["harm_nan_always"] = lambda: harm_nan(above=-1e30)
    rows["harm_error_always"] = lambda: harm_error(above=-1e30)
    rows["mlp"] = lambda: mlp([16, 32, 4])
    rows["mlp_wide"] = lambda: mlp([1024, 2048, 2048, 16])
    return rows


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.splitlines()[0])
    root = pathlib.Path(sys.argv[1])
    rows = table()
    for name in sys.argv[2:] or rows:
        if name not in rows:
            sys.exit(f"make_models: no model '{name}'; there are: {' '.join(rows)}")
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        made = external(folder) if name == "external" else rows[name]()
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as f:
            f.write(made.SerializeToString())
        os.chmod(f.name, 0o644)
        os.replace(f.name, folder / "model.onnx")
    if len(sys.argv) == 2:
        digest = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
        (root / ".made").write_text(digest + "\n")


if __name__ == "__main__":
    main()
