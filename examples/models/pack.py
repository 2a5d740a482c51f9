# SPDX-License-Identifier: Apache-2.0
"""What the three train.py scripts share: laying a trained model out as Weir reads it.

A model is a folder with one sub-folder a version (1/, 2/), each holding model.onnx, model.yaml and samples.ndjson, and
beside them heldout.npz (held-out inputs with what the training framework itself answered), metrics.json (what check.py
compares) and README.md. Everything here is framework-free: numpy, onnx and onnxruntime only.
"""
import argparse
import hashlib
import importlib.metadata
import json
import platform
import string
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import yaml

TOLERANCE = 1e-5        # largest difference allowed between the framework's floats and ONNX Runtime's
MAX_OPSET = 17          # so that old ONNX Runtimes load the files too (tried: 1.15.1)
MAX_IR = 9
DATATYPES = {"tensor(string)": "BYTES", "tensor(int64)": "INT64", "tensor(uint8)": "UINT8", "tensor(float)": "FP32"}


def out_folder(script):
    """The folder to write to: the script's own, or --out DIR."""
    parser = argparse.ArgumentParser(description="trains and exports both versions")
    parser.add_argument("--out", type=Path, default=Path(script).resolve().parent,
                        help="folder to write to (default: the script's own)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    return out


def session(path):
    """An ONNX Runtime session on one thread: what a server with one executor a core would run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_samples(path, name, datatype, rows, labels):
    """One inference request a line, batch 1, with the true label beside it."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row, label in zip(rows, labels):
            row = np.asarray(row)
            tensor = {"name": name, "shape": [1, *row.shape], "datatype": datatype, "data": row.ravel().tolist()}
            file.write(json.dumps({"inputs": [tensor], "label": str(label)}, separators=(",", ":")) + "\n")


def write_version(out, version, model, description, prediction, labels=None):
    """Writes version/model.onnx and version/model.yaml; returns the path of the former."""
    folder = out / str(version)
    folder.mkdir(exist_ok=True)
    strip(model)
    onnx.checker.check_model(model, full_check=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets[""] > MAX_OPSET or model.ir_version > MAX_IR:
        raise SystemExit(f"version {version}: opset {opsets['']}, IR {model.ir_version}: too new to be read widely")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    settings = {"description": description}
    if labels:
        settings["labels"] = list(labels)
    settings["prediction"] = {"output": prediction}
    with open(folder / "model.yaml", "w", encoding="utf-8", newline="\n") as file:
        yaml.safe_dump(settings, file, sort_keys=False, width=120, default_flow_style=None)
    return path


def strip(model):
    """Takes out what says nothing about the model: doc strings, metadata, and constants that no node uses.

    The first two may differ between machines; over the last ONNX Runtime complains at every load.
    """
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        value.doc_string = ""


def describe(path):
    """Names, datatypes and shapes of a model's inputs and outputs, as ONNX Runtime sees them; -1 is the batch."""
    run = session(path)

    def rows(values):
        return [[v.name, DATATYPES[v.type], [d if isinstance(d, int) else -1 for d in v.shape]] for v in values]

    return {"inputs": rows(run.get_inputs()), "outputs": rows(run.get_outputs())}


def verify(path, inputs, expected):
    """Compares ONNX Runtime with what the framework answered, all rows at once and again one row at a time.

    Returns the largest absolute difference of the floats; anything else must be equal. One row at a time also proves
    that rows are independent of their batch, which a server that batches relies on.
    """
    run = session(path)
    names = list(expected)
    whole = run.run(names, inputs)
    count = len(next(iter(inputs.values())))
    single = [run.run(names, {key: value[i:i + 1] for key, value in inputs.items()}) for i in range(count)]
    worst = 0.0
    for index, name in enumerate(names):
        want = expected[name]
        for got in (whole[index], np.concatenate([row[index] for row in single])):
            if got.shape != want.shape:
                raise SystemExit(f"{path}: {name} has shape {got.shape}, the framework answered {want.shape}")
            if want.dtype.kind == "f":
                difference = float(np.max(np.abs(got.astype(np.float64) - want)))
                worst = max(worst, difference)
                if difference > TOLERANCE:
                    raise SystemExit(f"{path}: {name} differs from the framework by {difference:.2e}")
            elif not np.array_equal(got.astype(want.dtype), want):
                rows = np.flatnonzero((got.astype(want.dtype) != want).reshape(count, -1).any(axis=1))
                raise SystemExit(f"{path}: {name} differs from the framework in rows {rows[:10].tolist()}")
    return worst


def measure(paths, inputs, rounds=15):
    """Microseconds a batch-1 run of each model takes, [rounds, models]: the models take turns row by row.

    A round's figure is the median over its rows, so that what else the machine does is not counted.
    """
    runs = [session(path) for path in paths]
    name = runs[0].get_inputs()[0].name
    rows = [{name: inputs[i:i + 1]} for i in range(min(len(inputs), 200))]
    for run in runs:
        for row in rows:
            run.run(None, row)
    times = np.zeros((rounds, len(runs), len(rows)))
    for turn in range(rounds):
        for at, row in enumerate(rows):
            for index, run in enumerate(runs):
                start = time.perf_counter_ns()
                run.run(None, row)
                times[turn, index, at] = time.perf_counter_ns() - start
    return np.median(times, axis=2) / 1000.0


def finish(out, name, template, packages, metrics, differences, values, measured=None):
    """Writes metrics.json and README.md, the latter from a template with $placeholders."""
    files = [f"{v}/{f}" for v in (1, 2) for f in ("model.onnx", "model.yaml", "samples.ndjson")] + ["heldout.npz"]
    content = {file: (out / file).read_bytes() for file in files}
    record = {
        "model": name,
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in packages},
        "metrics": {version: {key: round(float(value), 4) for key, value in row.items()}
                    for version, row in metrics.items()},
        "max_abs_diff": {version: float(f"{value:.2e}") for version, value in differences.items()},
        "measured": measured or {},
        "io": {str(v): describe(out / str(v) / "model.onnx") for v in (1, 2)},
        "bytes": {file: len(data) for file, data in content.items()},
        "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in content.items()},
    }
    (out / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    values = dict(values)
    values["python"] = record["python"]
    values["versions"] = "\n".join(f"- {key} {value}" for key, value in record["packages"].items())
    values["io"] = "\n".join(
        f"- {kind[:-1]} `{row[0]}`: {row[1]} {json.dumps(row[2])}"
        for kind in ("inputs", "outputs") for row in record["io"]["1"][kind])
    values["hashes"] = "\n".join(
        ["| file | bytes | SHA-256 |", "|---|---|---|"]
        + [f"| `{file}` | {record['bytes'][file]:,} | `{record['sha256'][file]}` |" for file in files])
    for version in ("1", "2"):
        values[f"diff{version}"] = f"{differences[version]:.1e}"
        for key, value in metrics[version].items():
            values[f"{key}{version}"] = f"{value:.3f}"
    (out / "README.md").write_text(string.Template(template).substitute(values), encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("metrics", "max_abs_diff", "measured", "bytes")}, indent=1))
