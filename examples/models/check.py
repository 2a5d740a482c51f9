# SPDX-License-Identifier: Apache-2.0
"""Checks that the committed models are what their train.py makes: trains all again elsewhere and compares.

For each model: the committed files have the SHA-256 sums that metrics.json and README.md say, both versions have the
same samples, and ONNX Runtime answers the held-out inputs as the training framework did. Then train.py runs into a
temporary folder, and what it makes must have the same inputs and outputs, metrics within 0.01, and the same bytes
where they come from whole numbers only (samples.ndjson, model.yaml). model.onnx and heldout.npz hold trained floats,
whose last bits depend on the processor: whether these are byte-equal is told, not required.

    python3 check.py [intent] [recommend] [vision] [--python NAME=INTERPRETER ...]

--python names another interpreter for one model, where the frameworks live in environments of their own.
"""
import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = {  # what train.py of each model imports, beside what pack.py does
    "intent": ["sklearn", "skl2onnx"],
    "recommend": ["tensorflow", "keras", "tf2onnx"],
    "vision": ["torch", "PIL"],
}
COMMON = ["numpy", "onnx", "onnxruntime", "yaml"]
EXACT = ["1/model.yaml", "1/samples.ndjson", "2/model.yaml", "2/samples.ndjson"]
NEAR = 0.01             # how far a metric may be from the recorded one
SLOWER = 3.0            # version 2 of intent takes at least this many times as long as version 1


class Findings:
    """Prints each check as it is made and counts what failed."""

    def __init__(self, name):
        self.name, self.failed = name, 0

    def check(self, right, text):
        self.failed += not right
        print(f"{self.name}: {'ok  ' if right else 'FAIL'} {text}", flush=True)

    def note(self, text):
        print(f"{self.name}: note {text}", flush=True)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_committed(name, record, found):
    """The files that are there, against metrics.json, README.md and heldout.npz."""
    import numpy as np
    import pack

    folder = HERE / name
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for file, want in record["sha256"].items():
        there = digest(folder / file) if (folder / file).is_file() else "missing"
        found.check(there == want, f"{file}: SHA-256 as in metrics.json" + ("" if there == want else f", is {there}"))
        found.check(want in readme, f"{file}: SHA-256 in README.md")
    same = digest(folder / "1/samples.ndjson") == digest(folder / "2/samples.ndjson")
    found.check(same, "one samples.ndjson for both")
    kept = np.load(folder / "heldout.npz", allow_pickle=False)
    inputs = {key[len("input_"):]: kept[key] for key in kept.files if key.startswith("input_")}
    inputs = {key: value.astype(object) if value.dtype.kind == "U" else value for key, value in inputs.items()}
    for version in ("1", "2"):
        path, prefix = folder / version / "model.onnx", f"v{version}_"
        expected = {key[len(prefix):]: kept[key] for key in kept.files if key.startswith(prefix)}
        try:
            worst = pack.verify(path, inputs, expected)
            found.check(True, f"version {version} answers {len(kept['label'])} held-out rows as recorded, "
                              f"largest difference {worst:.1e}")
        except SystemExit as error:
            found.check(False, str(error))
        found.check(pack.describe(path) == record["io"][version], f"version {version}: inputs and outputs as recorded")


def check_trained(name, record, found):
    """Trains again, into a folder that is gone afterwards, and compares."""
    with tempfile.TemporaryDirectory(prefix=f"weir-{name}-") as temporary:
        out = Path(temporary)
        run = subprocess.run([sys.executable, str(HERE / name / "train.py"), "--out", temporary], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        found.check(run.returncode == 0, "train.py runs")
        if run.returncode != 0:
            print(run.stdout)
            return
        fresh = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        other = [f"{package} {version} (recorded with {record['packages'][package]})"
                 for package, version in fresh["packages"].items() if version != record["packages"][package]]
        if other:
            found.note("trained with " + ", ".join(other))
        found.check(fresh["io"] == record["io"], "trained again: same inputs and outputs")
        for version, row in record["metrics"].items():
            for key, want in row.items():
                got = fresh["metrics"][version][key]
                found.check(abs(got - want) <= NEAR, f"trained again: version {version}: {key} {got}, recorded {want}")
        if "slower" in record["measured"]:
            slower = fresh["measured"]["slower"]
            found.check(slower >= SLOWER, f"trained again: version 2 takes {slower} times as long as version 1")
        for file, want in record["sha256"].items():
            same = fresh["sha256"][file] == want
            if file in EXACT:
                found.check(same, f"trained again: {file} byte-equal (required)")
            else:
                found.note(f"trained again: {file} {'byte-equal' if same else 'differs'} (not required)")


def check_model(name):
    """Everything about one model, with this interpreter; true when all is well."""
    missing = [module for module in COMMON + MODULES[name] if importlib.util.find_spec(module) is None]
    if missing:
        print(f"{name}: FAIL {sys.executable} lacks {', '.join(missing)}; install with: "
              f"{sys.executable} -m pip install -r {HERE / name / 'requirements.txt'}")
        return False
    record = json.loads((HERE / name / "metrics.json").read_text(encoding="utf-8"))
    found = Findings(name)
    check_committed(name, record, found)
    check_trained(name, record, found)
    return found.failed == 0


def main():
    parser = argparse.ArgumentParser(description="checks that the committed models are what their train.py makes")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=INTERPRETER",
                        help="the interpreter that has this model's frameworks (default: this one)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.models or list(MODULES)
    interpreters = dict(pair.partition("=")[::2] for pair in given.python)
    for name in [*names, *interpreters]:
        if name not in MODULES:
            parser.error(f"no model {name}: there are {', '.join(MODULES)}")
    if given.here:
        return 0 if all([check_model(name) for name in names]) else 1
    # A process for each model: an interpreter of its own, and TensorFlow and PyTorch never in one process.
    commands = [[interpreters.get(name, sys.executable), __file__, "--here", name] for name in names]
    results = [subprocess.run(command, check=False).returncode for command in commands]
    failed = sum(code != 0 for code in results)
    print(f"models: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
