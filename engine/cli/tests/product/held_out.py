"""Scores of the shipped model, counted once more with numpy: held_out.py MANIFEST DATASET CHIPS PROBABILITY LABELS

PROBABILITY is what flows/detect.yaml makes of the whole area; DATASET and CHIPS are what flows/ingest.yaml makes of it. Counts the
pixels of the chips that were held out, and those of the reference polygons in LABELS, which no training has seen.
"""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio


def labels_of(shard):
    raw = shard.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    told = json.loads(raw[8:start])["label"]
    first, last = told["data_offsets"]
    return np.frombuffer(raw[start + first : start + last], "<f4").reshape(told["shape"])


def held_out(dataset, chips, water):
    told = json.loads((chips / "manifest.json").read_text())
    shards = [labels_of(chips / shard["file"]) for shard in told["shards"]]
    counts = np.zeros((2, 2), int)
    for chip in json.loads(dataset.read_text())["sides"]["test"]["chips"]:
        entry = told["chips"][chip["chip"]]
        column, row, width, height = entry["window"]
        label = shards[entry["shard"]][entry["at"]][:height, :width]
        known = (label == 0) | (label > 0.5)
        truth, seen = label[known] > 0.5, water[row : row + height, column : column + width][known]
        np.add.at(counts, (truth.astype(int), seen.astype(int)), 1)
    (_, false), (missed, found) = counts.tolist()
    return {
        "pixels": int(counts.sum()),
        "f1": 2 * found / (2 * found + false + missed),
        "iou": found / (found + false + missed),
        "precision": found / (found + false),
        "recall": found / (found + missed),
    }


def reference(path, water, clear, transform):
    with rasterio.open(path) as src:
        column, row = (round(v) for v in ~src.transform * (transform.c, transform.f))
        known = src.read(1)[row : row + water.shape[0], column : column + water.shape[1]]
    return {name: float(water[(known == value) & clear].mean()) for name, value in (("water", 1), ("other", 2))}


def main(manifest, dataset, chips, probability, labels):
    threshold = json.loads(Path(manifest).read_text())["training"]["validation"]["threshold"]
    with rasterio.open(probability) as src:
        p, transform = src.read(1), src.transform
    water = p >= threshold
    scores = held_out(Path(dataset), Path(chips), water)
    polygons = reference(Path(labels) / "reference_10m.tif", water, np.isfinite(p), transform)
    print(json.dumps(scores | {"reference": polygons}))


main(*sys.argv[1:])
