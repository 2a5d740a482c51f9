# SPDX-License-Identifier: Apache-2.0
"""Trains and exports both versions of `recommend`, which tells what a customer will look at next.

The customers come from the seeded shop below, not from a log. Version 1 blends all products a customer has looked at
into one, later ones counting more; version 2 also reads the last four one by one, and the last one decides much in
this shop. In: the last 12 product ids, oldest first, padded with 0 on the left. Out: a score for every product, and
the best ten ids.
"""
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its kernels differ between processors

if __name__ == "__main__" and os.environ.get("PYTHONHASHSEED") != "0":  # the converter walks sets: one order, one file
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf2onnx
from onnx import TensorProto
from tensorflow import keras

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pack  # noqa: E402

SEED = 20240613
PRODUCTS, KINDS, HISTORY, BEST = 200, 16, 12, 10
CUSTOMERS, TEST, HELDOUT, SAMPLES = 9000, 2000, 400, 300
EPOCHS = 8
OPSET = 15
FADE = 0.75             # what a product counts for beside the one that was looked at after it
NOTHING = -1e9          # the score of id 0, which is no product


class Shop:
    """200 products of 16 kinds, and customers who walk through them.

    A customer likes three kinds. At each step they either look at what goes with the last product (each has six such
    products, the first of them most often), or at the popular things of the kind they are in, or move to another kind
    that they like, or follow an advertisement anywhere. Only whole numbers decide, so every machine makes the same.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.kind = np.concatenate([np.arange(KINDS), rng.integers(KINDS, size=PRODUCTS - KINDS)])
        self.of_kind = [np.flatnonzero(self.kind == kind) + 1 for kind in range(KINDS)]
        popular = 100 // (1 + np.arange(64))
        self.share = [np.cumsum(popular[:len(products)]) for products in self.of_kind]
        self.next = np.zeros((PRODUCTS + 1, 6), dtype=np.int64)
        for product in range(1, PRODUCTS + 1):
            near = (self.kind[product - 1] + 1) % KINDS
            pool = np.concatenate([self.of_kind[self.kind[product - 1]], self.of_kind[near]])
            pool = pool[pool != product]
            self.next[product] = rng.choice(pool, size=6, replace=len(pool) < 6)
        self.next_share = np.cumsum([50, 20, 12, 8, 6, 4])

    @staticmethod
    def draw(rng, shares):
        return int(np.searchsorted(shares, rng.integers(shares[-1]), side="right"))

    def of(self, rng, kind):
        return int(self.of_kind[kind][self.draw(rng, self.share[kind])])

    def walk(self, rng):
        """The products one customer looks at, in order."""
        liked = rng.choice(KINDS, size=3, replace=False)
        path = [self.of(rng, int(liked[0]))]
        while len(path) < 4 + HISTORY and (len(path) < 4 or rng.integers(100) >= 4):
            step = rng.integers(100)
            if step < 68:
                product = int(self.next[path[-1]][self.draw(rng, self.next_share)])
            elif step < 84:
                product = self.of(rng, int(self.kind[path[-1] - 1]))
            elif step < 96:
                product = self.of(rng, int(liked[rng.integers(3)]))
            else:
                product = int(rng.integers(1, PRODUCTS + 1))
            path.append(product)
        return path

    def customers(self, seed, count, every_step):
        """Histories [N, 12] and next products [N]: of every step of a customer, or of the last one only."""
        rng = np.random.default_rng(seed)
        histories, targets = [], []
        for _ in range(count):
            path = self.walk(rng)
            for end in range(2, len(path)) if every_step else [len(path) - 1]:
                seen = path[max(0, end - HISTORY):end]
                histories.append([0] * (HISTORY - len(seen)) + seen)
                targets.append(path[end])
        return np.array(histories, dtype=np.int64), np.array(targets, dtype=np.int64)


class Recommender(keras.Model):
    """Embeds the history and scores every product; ordered says whether the last four are also read one by one."""

    LAST = 4

    def __init__(self, ordered, width, hidden):
        super().__init__()
        self.ordered = ordered
        self.embed = keras.layers.Embedding(PRODUCTS + 1, width)
        self.hidden = keras.layers.Dense(hidden, activation="relu")
        self.scores = keras.layers.Dense(PRODUCTS + 1)

    def call(self, history):
        """Logits [N, 201], before anything is done about id 0."""
        vectors = self.embed(history)
        real = tf.cast(tf.not_equal(history, 0), tf.float32)[:, :, tf.newaxis]
        late = real * tf.constant(FADE ** np.arange(HISTORY - 1, -1, -1), tf.float32)[tf.newaxis, :, tf.newaxis]
        view = tf.reduce_sum(vectors * late, axis=1) / tf.maximum(tf.reduce_sum(late, axis=1), FADE ** HISTORY)
        if self.ordered:
            last = (vectors * real)[:, -self.LAST:, :]
            view = tf.concat([view, tf.reshape(last, [-1, self.LAST * vectors.shape[-1]])], axis=1)
        return self.scores(self.hidden(view))


def server(model):
    """The function that is exported: history in, scores and the best ids out."""
    @tf.function(input_signature=[tf.TensorSpec([None, HISTORY], tf.int64, name="history")])
    def recommend(history):
        logits = model(history) + tf.one_hot(0, PRODUCTS + 1, on_value=NOTHING, off_value=0.0)
        best = tf.math.top_k(logits, k=BEST, sorted=True).indices
        return {"scores": tf.nn.softmax(logits), "top_ids": tf.cast(best, tf.int64)}

    return recommend


def train(model, histories, targets):
    model.compile(optimizer=keras.optimizers.Adam(2e-3),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(histories, targets, batch_size=256, epochs=EPOCHS, verbose=2)
    return model


def export(function):
    """The function as an ONNX graph, with the names of its outputs, which tf2onnx replaces by numbers.

    tf2onnx also names and orders constants differently from run to run: here they go by the order of their first use.
    """
    model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    graph = model.graph
    names = dict(zip([value.name for value in graph.output], sorted(["scores", "top_ids"])))
    constants = {tensor.name: tensor for tensor in graph.initializer}
    used = dict.fromkeys(name for node in graph.node for name in node.input if name in constants)
    names.update({name: f"constant_{i}" for i, name in enumerate(used)})
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = names[value.name]
    ordered = [constants[name] for name in used]
    for tensor, name in zip(ordered, used):
        tensor.name = names[name]
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    graph.name = "recommend"
    return model


README = """# recommend

Tells what a customer will look at next: the last 12 product ids in, a score for each of 200 products and the best ten
ids out. Trained with TensorFlow/Keras, exported with tf2onnx by [train.py](train.py):

    pip install -r requirements.txt
    python3 train.py

## Data

No customer left these traces. `train.py` simulates a shop, seeded: 200 products of 16 kinds, a few in each popular;
each product has six that go with it, of its own kind or the one beside it. A customer likes three kinds and looks at
4 to 16 products: 68 % to something that goes with the last product, 16 % to something popular of the same kind, 12 %
to a kind they like, 4 % anywhere. So the next product is never certain: the simulation itself draws it. The data is
the project's own work, under the project's licence (Apache-2.0).

- trained on: $customers customers, $pairs pairs of a history and the product that followed, the same for both
  versions
- test: the last step of $test other customers; `heldout.npz` is the first $heldout of them, `samples.ndjson` the
  first $samples

`samples.ndjson` is the same file in both versions.

## The two versions

| | version 1 | version 2 |
|---|---|---|
| reads | one blend of all products, later ones counting more | that, and the last four one by one |
| parameters | $parameters1 | $parameters2 |
| recall@10 | $recall_at_101 | $recall_at_102 |
| the first is right (accuracy) | $accuracy1 | $accuracy2 |
| largest difference to TensorFlow, `heldout.npz` | $diff1 | $diff2 |
| one history in ONNX Runtime, one thread, from Python | $us1 us | $us2 us |

Version 2 is better: the retraining that a canary should let through. `top_ids` equals TensorFlow's in every held-out
row; each was also run alone and gives the same.

## Inputs and outputs (both versions)

$io

`history` holds product ids 1 to 200, oldest first, padded with 0 on the left; ids above 200 are refused, negative
ones are not an error but mean nothing. `scores` are probabilities by product id; entry 0 is no product and always 0.
`top_ids` are the ids of the ten largest, best first. The predicted product is the largest of `scores`, as
`model.yaml` says, and equals the first of `top_ids`; the label of a sample is the id of the product that followed.

## Made with

- Python $python
$versions

## Files

`heldout.npz`: `input_history` [N, 12], `label` [N] (the next product's id), and TensorFlow's own answers `v1_scores`,
`v1_top_ids`, `v2_scores`, `v2_top_ids`. `metrics.json` holds the numbers above for `../check.py`.

$hashes

`samples.ndjson` and `model.yaml` come out byte for byte the same everywhere; `model.onnx` and `heldout.npz` do on the
same kind of processor with the versions above (the order of floating-point sums depends on it).
"""


def main():
    out = pack.out_folder(__file__)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    shop = Shop(SEED)
    histories, targets = shop.customers(SEED + 1, CUSTOMERS, True)
    test, truth = shop.customers(SEED + 2, TEST, False)
    plans = {"1": (False, 32, 64), "2": (True, 32, 64)}
    descriptions = {"1": "what a customer looks at next: a blend of the products they saw",
                    "2": "what a customer looks at next: a blend of the products they saw, and the last four in order"}
    kept = {"input_history": test[:HELDOUT], "label": truth[:HELDOUT]}
    metrics, differences, paths, values = {}, {}, [], {}
    for version, plan in plans.items():
        keras.utils.set_random_seed(SEED + int(version))
        model = train(Recommender(*plan), histories, targets)
        function = server(model)
        answer = {name: value.numpy() for name, value in function(tf.constant(test)).items()}
        path = pack.write_version(out, version, export(function), descriptions[version], "scores")
        pack.write_samples(path.parent / "samples.ndjson", "history", "INT64", test[:SAMPLES], truth[:SAMPLES])
        differences[version] = pack.verify(path, {"history": test[:HELDOUT]},
                                           {name: value[:HELDOUT] for name, value in answer.items()})
        metrics[version] = {"recall_at_10": (answer["top_ids"] == truth[:, np.newaxis]).any(axis=1).mean(),
                            "accuracy": (answer["scores"].argmax(axis=1) == truth).mean()}
        for name, value in answer.items():
            kept[f"v{version}_{name}"] = value[:HELDOUT]
        values[f"parameters{version}"] = f"{model.count_params():,}"
        paths.append(path)
    np.savez_compressed(out / "heldout.npz", **kept)
    times = np.median(pack.measure(paths, test), axis=0)
    measured = {"us1": round(float(times[0]), 1), "us2": round(float(times[1]), 1)}
    values.update(measured, customers=f"{CUSTOMERS:,}", pairs=f"{len(targets):,}", test=f"{TEST:,}", heldout=HELDOUT,
                  samples=SAMPLES)
    pack.finish(out, "recommend", README, ["tensorflow-cpu", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy"],
                metrics, differences, values, measured)


if __name__ == "__main__":
    main()
