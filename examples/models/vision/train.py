# SPDX-License-Identifier: Apache-2.0
"""Trains and exports both versions of `vision`, which tells what a small product photo shows.

The photos are drawn by the seeded code below: ten products, each with random proportions and colours, turned,
shifted, half out of the picture, before a cluttered background, blurred and noisy. Version 1 is a small network
trained on few of them, version 2 a larger one trained on more. Both take the bytes of the picture: scaling is inside
the graph, and so is the softmax.
"""
import io
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: sums in one order, so the same weights every time

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pack  # noqa: E402

SEED = 20240612
TRAIN_1, TRAIN_2, TEST, HELDOUT, SAMPLES = 9000, 15000, 2000, 256, 120
EPOCHS_1, EPOCHS_2 = 13, 16
OPSET = 17
SIDE = 32               # of a picture
SCALE = 4               # it is drawn this much larger, then averaged down, which smooths the edges
FULL = SIDE * SCALE
LABELS = ["bag", "book", "bottle", "chair", "lamp", "mug", "phone", "shirt", "shoe", "watch"]


class Pen:
    """Draws one product in its own coordinates, x and y from -1 to 1, turned, scaled and shifted as one."""

    def __init__(self, draw, rng):
        angle = float(rng.uniform(-0.6, 0.6))
        self.draw, self.rng = draw, rng
        self.cos, self.sin = np.cos(angle), np.sin(angle)
        size = float(rng.uniform(0.24, 0.44)) * FULL
        self.wide, self.high = size * float(rng.uniform(0.8, 1.2)), size * float(rng.uniform(0.85, 1.15))
        self.mirror = -1.0 if rng.random() < 0.5 else 1.0
        self.x, self.y = (FULL * (0.5 + float(rng.uniform(-0.16, 0.16))) for _ in range(2))

    def at(self, points):
        """Picture coordinates of a product's own."""
        out = []
        for x, y in points:
            x, y = x * self.mirror * self.wide, y * self.high
            out.append((self.x + x * self.cos - y * self.sin, self.y + x * self.sin + y * self.cos))
        return out

    def area(self, points, color):
        self.draw.polygon(self.at(points), fill=color)

    def line(self, points, color, width=0.08):
        self.draw.line(self.at(points), fill=color, width=max(2, int(width * self.wide)), joint="curve")

    def oval(self, x, y, rx, ry, color):
        self.area(arc(x, y, rx, ry, 0, 360), color)


def arc(x, y, rx, ry, start, end):
    """Points of a part of an ellipse, degrees clockwise from the right."""
    turns = np.radians(np.linspace(start, end, 24))
    return [(x + rx * float(np.cos(t)), y + ry * float(np.sin(t))) for t in turns]


def box(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def shade(color, by):
    return tuple(int(np.clip(part * by, 0, 255)) for part in color)


def bag(pen, color, dark, v):
    pen.area([(-0.75, -0.2), (0.75, -0.2), (0.7 + 0.2 * v, 0.95), (-0.7 - 0.2 * v, 0.95)], color)
    pen.line(arc(0, -0.2, 0.42, 0.45 + 0.35 * v, 180, 360), dark, 0.12)
    if v > 0.5:
        pen.line([(-0.75, 0.1), (0.75, 0.1)], dark, 0.06)


def book(pen, color, dark, v):
    pen.area(box(-0.65, -0.9, 0.65, 0.9), color)
    pen.area(box(-0.65, -0.9, -0.5, 0.9), dark)
    pen.area(box(0.65, -0.84, 0.74, 0.95), (235, 230, 215))
    pen.line([(-0.25, -0.45), (0.45, -0.45)], dark, 0.12)
    if v > 0.4:
        pen.line([(-0.25, -0.15), (0.35, -0.15)], dark, 0.08)


def bottle(pen, color, dark, v):
    neck = 0.14 + 0.08 * v
    pen.area([(-neck, -0.75), (neck, -0.75), (neck, -0.35), (0.42, -0.1), (0.42, 1), (-0.42, 1), (-0.42, -0.1),
              (-neck, -0.35)], color)
    pen.area(box(-neck - 0.05, -1, neck + 0.05, -0.72), dark)
    if v > 0.3:
        pen.area(box(-0.42, 0.15, 0.42, 0.6), shade(color, 1.4))


def chair(pen, color, dark, v):
    pen.area(box(-0.6, -1, -0.42, 0.15), color)
    if v > 0.5:
        pen.area(box(-0.6, -1, -0.25, 0.1), color)
    pen.area(box(-0.6, 0.02, 0.62, 0.25), color)
    for x in (-0.52, 0.52):
        pen.line([(x, 0.2), (x + 0.08 * np.sign(x), 1)], dark, 0.12)
    pen.line([(-0.1, 0.2), (-0.15, 0.85)], dark, 0.08)


def lamp(pen, color, dark, v):
    pen.area([(-0.3, -0.95), (0.3, -0.95), (0.75, -0.1), (-0.75, -0.1)], color)
    pen.line([(0, -0.1), (0, 0.8)], dark, 0.1 + 0.08 * v)
    pen.oval(0, 0.85, 0.45, 0.13, dark)


def mug(pen, color, dark, v):
    pen.line(arc(0.5, 0.05, 0.42, 0.42, -90, 90), color, 0.16)
    pen.area(box(-0.65, -0.7, 0.5, 0.8), color)
    pen.oval(-0.075, -0.7, 0.575, 0.16 + 0.08 * v, dark)
    if v > 0.6:
        pen.line([(-0.6, 0.3), (0.45, 0.3)], dark, 0.1)


def phone(pen, color, dark, v):
    pen.area(box(-0.5, -0.98, 0.5, 0.98), dark)
    pen.area(box(-0.42, -0.85 + 0.1 * v, 0.42, 0.8), color)
    pen.oval(0, 0.89, 0.07, 0.06, color)


def shirt(pen, color, dark, v):
    sleeve = 0.1 + 0.5 * v
    pen.area([(-0.3, -0.8), (0.3, -0.8), (0.95, -0.45), (0.95, -0.35 + sleeve), (0.55, -0.3 + sleeve * 0.6),
              (0.52, 0.9), (-0.52, 0.9), (-0.55, -0.3 + sleeve * 0.6), (-0.95, -0.35 + sleeve), (-0.95, -0.45)], color)
    pen.area(arc(0, -0.8, 0.26, 0.22, 0, 180), dark)


def shoe(pen, color, dark, v):
    pen.area([(-0.85, -0.45 - 0.35 * v), (-0.25, -0.45 - 0.3 * v), (0.05, -0.05), (0.7, 0.12), (0.95, 0.45),
              (-0.9, 0.45)], color)
    pen.area(box(-0.92, 0.4, 0.98, 0.6), dark)
    pen.line([(-0.15, -0.25), (0.1, -0.05)], dark, 0.07)
    if v > 0.5:
        pen.area(box(-0.92, 0.55, -0.5, 0.75), dark)


def watch(pen, color, dark, v):
    pen.area(box(-0.26, -1, 0.26, 1), color)
    pen.oval(0, 0, 0.58, 0.5, dark)
    pen.oval(0, 0, 0.45, 0.38, (240, 240, 235) if v > 0.4 else shade(color, 1.5))
    pen.line([(0, 0), (0, -0.28)], dark, 0.07)
    pen.line([(0, 0), (0.22, 0.1)], dark, 0.07)


PRODUCTS = [bag, book, bottle, chair, lamp, mug, phone, shirt, shoe, watch]


def any_color(rng, low=20, high=235):
    return tuple(int(part) for part in rng.integers(low, high, 3))


def photo(rng, label):
    """One picture of product number label: 32 x 32 x 3 bytes."""
    picture = Image.new("RGB", (FULL, FULL), any_color(rng, 60))
    draw = ImageDraw.Draw(picture)
    if rng.random() < 0.6:  # a table's edge
        level = int(rng.integers(FULL // 2, FULL))
        draw.rectangle([0, level, FULL, FULL], fill=any_color(rng, 40))

    def clutter(count):
        for _ in range(count):
            x, y, w, h = (float(rng.uniform(0, FULL)), float(rng.uniform(0, FULL)), float(rng.uniform(6, 36)),
                          float(rng.uniform(6, 36)))
            kind = int(rng.integers(3))
            color = any_color(rng)
            if kind == 0:
                draw.ellipse([x, y, x + w, y + h], fill=color)
            elif kind == 1:
                draw.polygon([(x, y), (x + w, y + h / 3), (x + w / 2, y + h)], fill=color)
            else:
                draw.line([x, y, x + 2 * w - 36, y + 2 * h - 36], fill=color, width=int(rng.integers(2, 8)))

    clutter(int(rng.integers(1, 6)))
    color = any_color(rng)
    by = float(rng.uniform(0.35, 0.7)) if sum(color) > 300 else float(rng.uniform(1.5, 2.2))
    PRODUCTS[label](Pen(draw, rng), color, shade(color, by), float(rng.random()))
    clutter(int(rng.integers(0, 3)))  # and things in front of it

    pixels = np.asarray(picture, dtype=np.int64).reshape(SIDE, SCALE, SIDE, SCALE, 3).sum(axis=(1, 3)) / SCALE ** 2
    if rng.random() < 0.4:  # out of focus
        wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
        pixels = (wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] + 2 * wide[1:-1, 1:-1]) / 6
    pixels = (pixels - 128) * float(rng.uniform(0.6, 1.15)) + 128 + float(rng.uniform(-30, 30))
    pixels = pixels + rng.normal(0, float(rng.uniform(3, 16)), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def photos(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(LABELS), size=count)
    return np.stack([photo(rng, int(label)) for label in labels]), labels


class Classifier(nn.Module):
    """Convolutions, the mean over the picture, one linear layer; bytes in, probabilities out."""

    def __init__(self, widths):
        super().__init__()
        layers, before = [], 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                       nn.MaxPool2d(2)]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before * (SIDE >> len(widths)) ** 2, len(LABELS))

    def scores(self, image):
        x = image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0
        return self.head(self.body(x).flatten(1))

    def forward(self, image):
        return torch.softmax(self.scores(image), dim=1)


def shifted(images, generator):
    """The batch mirrored and shifted by up to two pixels, each picture its own way."""
    count = len(images)
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(2), images)
    moves = torch.randint(0, 5, (count, 2), generator=generator)
    wide = functional.pad(images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    parts = [wide[i, :, y:y + SIDE, x:x + SIDE] for i, (y, x) in enumerate(moves.tolist())]
    return torch.stack(parts).permute(0, 2, 3, 1)


def train(model, images, labels, epochs, augment, seed):
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    batch = 64
    steps = epochs * ((len(images) + batch - 1) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        order, total = torch.randperm(len(images), generator=generator), 0.0
        for rows in order.split(batch):
            chosen = shifted(images[rows], generator) if augment else images[rows]
            loss = functional.cross_entropy(model.scores(chosen), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss) * len(rows)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(images):.3f}", flush=True)
    return model.eval()


def answers(model, images):
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.from_numpy(images).split(256)]).numpy()


def export(model):
    buffer = io.BytesIO()
    torch.onnx.export(model, (torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8),), buffer, input_names=["image"],
                      output_names=["probabilities"], opset_version=OPSET, dynamo=False,
                      dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}})
    return onnx.load_from_string(buffer.getvalue())


README = """# vision

Tells what a small product photo shows, one of ten products. The picture's bytes in (`UINT8`, 32 x 32, RGB),
probabilities out: scaling and softmax are part of the graph. Trained with PyTorch, exported with torch.onnx by
[train.py](train.py):

    pip install -r requirements.txt
    python3 train.py

## Data

No camera took these photos: `train.py` draws them, seeded, with Pillow. Each of ten products has random proportions
and colours, is turned by up to 35 degrees, mirrored, scaled and shifted, stands before a coloured background with
clutter, and has clutter in front of it; then come blur, contrast, brightness and noise. Some products are hidden or
fade into the background, so no model reaches 1.0. The data is the project's own work, under the project's licence
(Apache-2.0).

- version 1: $train1 photos
- version 2: $train2 photos, the first $train1 of them the same
- test, for both: $test other photos; `heldout.npz` is the first $heldout of them, and `samples.ndjson` the first
  $samples

`samples.ndjson` is the same file in both versions.

## The two versions

| | version 1 | version 2 |
|---|---|---|
| convolutions (3 x 3, each with batch norm, ReLU, 2 x 2 max pool) | $widths1 | $widths2 |
| parameters | $parameters1 | $parameters2 |
| passes over the data | $epochs1 | $epochs2, mirrored and shifted |
| accuracy, $test test photos | $accuracy1 | $accuracy2 |
| accuracy, the $heldout of `heldout.npz` | $accuracy_heldout1 | $accuracy_heldout2 |
| accuracy, the $samples of `samples.ndjson` | $accuracy_samples1 | $accuracy_samples2 |
| largest difference to PyTorch, `heldout.npz` | $diff1 | $diff2 |
| one photo in ONNX Runtime, one thread, from Python | $us1 us | $us2 us |

Version 2 is better: the retraining that a canary should let through. Each row was also run alone and gives the same.

## Inputs and outputs (both versions)

$io

Label order of `probabilities`: $labels.

## Made with

- Python $python
$versions

## Files

`heldout.npz`: `input_image` [N, 32, 32, 3], `label` [N] (the product's name), and PyTorch's own answers
`v1_probabilities` and `v2_probabilities`. `metrics.json` holds the numbers above for `../check.py`.

$hashes

`samples.ndjson` and `model.yaml` come out byte for byte the same with the versions above; `model.onnx` and
`heldout.npz` do on the same kind of processor (the order of floating-point sums depends on it).
"""


def main():
    out = pack.out_folder(__file__)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = photos(SEED, TRAIN_2)
    test_images, test_labels = photos(SEED + 1, TEST)
    names = np.array(LABELS)[test_labels]
    plans = {"1": ([12, 24, 32], TRAIN_1, EPOCHS_1, False), "2": ([24, 48, 64], TRAIN_2, EPOCHS_2, True)}
    descriptions = {"1": "what a product photo shows: small network, few photos",
                    "2": "what a product photo shows: larger network, more photos"}
    kept = {"input_image": test_images[:HELDOUT], "label": names[:HELDOUT]}
    metrics, differences, paths, values = {}, {}, [], {}
    for version, (widths, count, epochs, augment) in plans.items():
        torch.manual_seed(SEED + int(version))
        model = train(Classifier(widths), images[:count], labels[:count], epochs, augment, SEED)
        probabilities = answers(model, test_images)
        right = probabilities.argmax(axis=1) == test_labels
        path = pack.write_version(out, version, export(model), descriptions[version], "probabilities", LABELS)
        pack.write_samples(path.parent / "samples.ndjson", "image", "UINT8", test_images[:SAMPLES], names[:SAMPLES])
        differences[version] = pack.verify(path, {"image": test_images[:HELDOUT]},
                                           {"probabilities": probabilities[:HELDOUT]})
        metrics[version] = {"accuracy": right.mean(), "accuracy_heldout": right[:HELDOUT].mean(),
                            "accuracy_samples": right[:SAMPLES].mean()}
        kept[f"v{version}_probabilities"] = probabilities[:HELDOUT]
        values[f"widths{version}"] = ", ".join(str(width) for width in widths)
        values[f"parameters{version}"] = f"{sum(p.numel() for p in model.parameters()):,}"
        values[f"epochs{version}"] = epochs
        values[f"train{version}"] = f"{count:,}"
        paths.append(path)
    np.savez_compressed(out / "heldout.npz", **kept)
    times = np.median(pack.measure(paths, test_images), axis=0)
    measured = {"us1": round(float(times[0]), 1), "us2": round(float(times[1]), 1)}
    values.update(measured, test=f"{TEST:,}", heldout=HELDOUT, samples=SAMPLES, labels=", ".join(LABELS))
    pack.finish(out, "vision", README, ["torch", "onnx", "onnxruntime", "numpy", "pillow"], metrics, differences,
                values, measured)


if __name__ == "__main__":
    main()
