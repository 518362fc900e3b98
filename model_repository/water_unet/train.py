"""Makes this model: reads the imagery and labels that ship in flows/data, trains, measures, writes all files beside it.

    python train.py [--epochs 40]
    python train.py --card        only writes card.md again, from scores.json

Needs torch, numpy, rasterio, scipy, onnx, onnxruntime and blake3 (the versions used are told in card.md); runs on a CPU
in some minutes. Everything random is seeded; on another machine or another torch the weights differ in their last
digits and the scores by some thousandths.

What is a label, what is left out and what the scores mean stands in card.md, which this script writes.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

sys.setdlopenflags(os.RTLD_LAZY)  # lets torch load where its GPU libraries are absent

import blake3
import numpy as np
import onnx
import onnxruntime
import rasterio
import torch
from scipy import ndimage
from torch import nn

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "flows" / "data" / "s2-l1c-t33uuu"
SCENE = DATA / "S2A_MSIL1C_20170216T102101_T33UUU_SUBSET"

BANDS = ["B02", "B03", "B04", "B08", "B11", "B12", "NDWI"]
WIDTHS = [8, 16, 32, 48]
BLOCK = 256  # pixels: the side of a spatial block; blocks, never pixels, are dealt to training and test
CHIP = 128
FOLDS = 3
CLEAR = [4, 5, 6, 7]
SEED = 20170216


# --- data -------------------------------------------------------------------------------------------------------------


def read(path: Path, rows: int, columns: int) -> np.ndarray:
    """A band on the 10 m grid: coarser pixels are repeated, as raster.composite does."""
    with rasterio.open(path) as source:
        values = source.read(1)
    return values.repeat(rows // values.shape[0], axis=0).repeat(columns // values.shape[1], axis=1)


def load():
    """Reflectance and index bands [7, H, W], target {0, 1, 255 = left out} [H, W], no-data [H, W]."""
    with rasterio.open(SCENE / "B02.tif") as source:
        rows, columns = source.shape
    reflectance = {band: read(SCENE / f"{band}.tif", rows, columns).astype("float32") * 1e-4 for band in BANDS[:6]}
    green, nir = reflectance["B03"], reflectance["B08"]
    ndwi = (green - nir) / (green + nir)
    image = np.stack([*reflectance.values(), ndwi])
    clouded = ~np.isin(read(SCENE / "SCL.tif", rows, columns), CLEAR)

    osm = read(DATA / "labels" / "osm_water_10m.tif", rows, columns) == 1
    reference = read(DATA / "labels" / "reference_10m.tif", rows, columns)
    water = osm | (reference == 1)
    # The OSM extract holds only water bodies of 1 to 50 ha: the river lakes and the smallest ponds are unlabelled water,
    # not land. What looks like water and carries no label is therefore left out, of training and of the scores.
    looks_like_water = (ndwi > 0) & (reflectance["B11"] < 0.08)
    unlabelled = ndimage.binary_dilation(looks_like_water & ~water, iterations=1) & ~water & (reference != 2)
    target = np.where(water, 1, 0).astype("uint8")
    target[unlabelled | clouded] = 255
    return image, target, clouded, {"osm": osm, "reference": reference, "unlabelled": unlabelled}


def blocks(shape):
    """(row, column, fold) of each block; neighbours side by side are never of one fold."""
    for row in range(shape[0] // BLOCK):
        for column in range(shape[1] // BLOCK):
            yield row * BLOCK, column * BLOCK, (row + column) % FOLDS


def limits_of(image, clouded, folds):
    """Stretch limits: percentiles 0.5 and 99.5 of the clear pixels of the given blocks."""
    pixels = np.concatenate(
        [
            image[:, r : r + BLOCK, c : c + BLOCK][:, ~clouded[r : r + BLOCK, c : c + BLOCK]]
            for r, c, fold in blocks(clouded.shape)
            if fold in folds
        ],
        axis=1,
    )
    low, high = np.percentile(pixels, [0.5, 99.5], axis=1)
    return [round(float(v), 4) for v in low], [round(float(v), 4) for v in high]


def stretched(image, clouded, low, high):
    """What the network is fed: `stretch` of manifest.json, no-data 0."""
    low, high = (np.array(v, "float32")[:, None, None] for v in (low, high))
    values = np.clip((image - low) / (high - low), 0, 1)
    values[:, clouded] = 0
    return values.astype("float32")


# --- network ----------------------------------------------------------------------------------------------------------


def double(into, out):
    convolution = lambda a, b: [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*convolution(into, out), *convolution(out, out))


class UNet(nn.Module):
    """A small U-Net: four levels of widths 8, 16, 32, 48; logits at full size."""

    def __init__(self, channels=len(BANDS)):
        super().__init__()
        self.down = nn.ModuleList(double(a, b) for a, b in zip([channels, *WIDTHS[:-1]], WIDTHS))
        self.up = nn.ModuleList(double(a + b, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))
        self.pool = nn.MaxPool2d(2)
        self.double_size = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1]):
            x = block(torch.cat([self.double_size(x), skip], dim=1))
        return self.head(x)


def loss_of(logits, target):
    """Cross entropy and soft Dice over the pixels that are not left out."""
    known = target != 255
    logits, truth = logits[:, 0][known], (target[known] == 1).float()
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=torch.tensor(3.0))
    probability = torch.sigmoid(logits)
    dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    return entropy + dice


def train(image, target, clouded, folds, epochs, seed):
    """A network trained on the blocks of `folds`, with its stretch limits. A chip never leaves its block."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    low, high = limits_of(image, clouded, folds)
    corners = [(r, c) for r, c, fold in blocks(target.shape) if fold in folds]
    network = UNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    batch, batches = 8, 6
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * batches)
    for epoch in range(epochs):
        total = 0.0
        for _ in range(batches):
            inputs, truths = [], []
            while len(inputs) < batch:
                row, column = corners[random.integers(len(corners))]
                row, column = row + random.integers(BLOCK - CHIP + 1), column + random.integers(BLOCK - CHIP + 1)
                part = np.s_[row : row + CHIP, column : column + CHIP]
                # Every second chip holds water: it covers little more than one pixel in a hundred.
                if len(inputs) % 2 == 0 and (target[part] == 1).sum() < 40:
                    continue
                inputs.append(augmented(image[:, *part], clouded[part], low, high, random))
                truths.append(target[part])
                turn, flip = random.integers(4), random.integers(2)
                inputs[-1] = np.rot90(inputs[-1], turn, (1, 2))[:, :, :: -1 if flip else 1].copy()
                truths[-1] = np.rot90(truths[-1], turn)[:, :: -1 if flip else 1].copy()
            chips = torch.from_numpy(np.stack(inputs)).contiguous(memory_format=torch.channels_last)
            loss = loss_of(network(chips), torch.from_numpy(np.stack(truths)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"  epoch {epoch + 1}: loss {total / batches:.4f}", flush=True)
    return network.to(memory_format=torch.contiguous_format).eval(), low, high


def augmented(image, clouded, low, high, random):
    """Another light and haze, within limits, on reflectance; NDWI is computed anew."""
    bands = image[:6] * random.uniform(0.75, 1.25) * random.uniform(0.93, 1.07, (6, 1, 1)) + random.uniform(-0.015, 0.02)
    bands = np.maximum(bands, 1e-4)
    ndwi = (bands[1] - bands[3]) / (bands[1] + bands[3])
    return stretched(np.concatenate([bands, ndwi[None]]).astype("float32"), clouded, low, high)


# --- scores -----------------------------------------------------------------------------------------------------------


def predict_blocks(network, image, clouded, low, high, folds):
    """Probabilities of the blocks of `folds`, each predicted from its own pixels alone; NaN elsewhere."""
    inputs = stretched(image, clouded, low, high)
    probability = np.full(clouded.shape, np.nan, "float32")
    with torch.no_grad():
        for r, c, fold in blocks(clouded.shape):
            if fold in folds:
                logits = network(torch.from_numpy(inputs[None, :, r : r + BLOCK, c : c + BLOCK]))
                probability[r : r + BLOCK, c : c + BLOCK] = torch.sigmoid(logits)[0, 0].numpy()
    return probability


def scores(probability, target):
    known = (target != 255) & ~np.isnan(probability)
    p, truth = probability[known].astype("float64"), target[known] == 1
    found = p >= 0.5
    tp, fp, fn = (int(v.sum()) for v in (found & truth, found & ~truth, ~found & truth))
    order = p.argsort(kind="stable")
    ranks = np.empty(len(p))
    ranks[order] = np.arange(1, len(p) + 1)
    values, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.bincount(inverse, ranks) / counts)[inverse]  # ties share their mean rank
    positives = int(truth.sum())
    auroc = (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(p) - positives))
    return {
        "pixels": len(p),
        "water_pixels": positives,
        "precision": round(tp / max(tp + fp, 1), 4),
        "recall": round(tp / max(positives, 1), 4),
        "f1": round(2 * tp / max(2 * tp + fp + fn, 1), 4),
        "iou": round(tp / max(tp + fp + fn, 1), 4),
        "auroc": round(float(auroc), 4),
    }


def objects(probability, labels, clouded):
    """Of the labelled OSM water bodies (components of at least 20 clear pixels): how many were found at least half."""
    numbered, count = ndimage.label(labels["osm"])
    total = found = 0
    for number in range(1, count + 1):
        inside = (numbered == number) & ~clouded & ~np.isnan(probability)
        if inside.sum() >= 20:
            total += 1
            found += bool((probability[inside] >= 0.5).mean() >= 0.5)
    return {"bodies": total, "found": found}


# --- files ------------------------------------------------------------------------------------------------------------


def export(network, low, high, epochs):
    path = HERE / "1" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        network,
        (torch.zeros(1, len(BANDS), 256, 256),),
        str(path),
        input_names=["bands"],
        output_names=["logits"],
        dynamic_axes={
            "bands": {0: "batch", 2: "rows", 3: "columns"},
            "logits": {0: "batch", 2: "rows", 3: "columns"},
        },
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(path)
    model.doc_string = f"water_unet version 1, {epochs} epochs, seed {SEED}; see card.md"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    manifest = {
        "name": "water_unet",
        "version": 1,
        "about": "Open water in Sentinel-2 reflectance at 10 m: lakes, ponds and rivers.",
        "architecture": "U-Net",
        "file": "1/model.onnx",
        "digest": "blake3:" + blake3.blake3(path.read_bytes()).hexdigest(),
        "bands": [{"name": band} for band in BANDS],
        "normalisation": {"method": "stretch", "low": low, "high": high, "fill": 0.0},
        "input": {"name": "bands", "channels": len(BANDS)},
        "output": {"name": "logits", "channels": 1},
        "activation": "logits",
        "tile": {"size": 256, "multiple_of": 8},
        "classes": ["water"],
        "gsd": 10.0,
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (HERE / "config.pbtxt").write_text(CONFIG)
    return path


CONFIG = f"""name: "water_unet"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ {{ name: "bands" data_type: TYPE_FP32 dims: [ {len(BANDS)}, -1, -1 ] }} ]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ 1, -1, -1 ] }} ]
"""


def same_as_torch(network, path, inputs):
    """Greatest difference of logits between torch and ONNX Runtime over the whole scene."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"bands": inputs[None]})[0]
    with torch.no_grad():
        return float(np.abs(ours - network(torch.from_numpy(inputs[None])).numpy()).max())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--preview", type=Path, help="also write the probabilities of the scene to this .npz file")
    parser.add_argument("--card", action="store_true", help="only write card.md from scores.json")
    arguments = parser.parse_args()
    if arguments.card:
        write_card(json.loads((HERE / "scores.json").read_text()))
        return
    torch.use_deterministic_algorithms(True)
    image, target, clouded, labels = load()
    size = {"water": int((target == 1).sum()), "left out": int(labels["unlabelled"].sum()), "clouded": int(clouded.sum())}
    print(size, flush=True)

    results, everywhere = [], np.full(target.shape, np.nan, "float32")
    for fold in range(FOLDS):
        print(f"held out: fold {fold}", flush=True)
        rest = [f for f in range(FOLDS) if f != fold]
        network, low, high = train(image, target, clouded, rest, arguments.epochs, SEED + fold)
        probability = predict_blocks(network, image, clouded, low, high, [fold])
        everywhere = np.where(np.isnan(probability), everywhere, probability)
        results.append(
            {
                "fold": fold,
                "network": scores(probability, target),
                "bodies": objects(probability, labels, clouded),
                "ndwi": scores(threshold_free(image[6], probability), target),
            }
        )
        print(json.dumps(results[-1]), flush=True)
        if fold == 0:
            shipped = network, low, high
    network, low, high = shipped
    path = export(network, low, high, arguments.epochs)
    inputs = stretched(image, clouded, low, high)
    difference = same_as_torch(network, path, inputs)
    reference = {
        name: {
            "pixels": int(((labels["reference"] == code) & ~clouded).sum()),
            "called_water": round(float((everywhere[(labels["reference"] == code) & ~clouded] >= 0.5).mean()), 4),
        }
        for name, code in (("water", 1), ("not_water", 2))
    }
    report = {
        "shipped": results[0],
        "folds": results,
        "all_folds": scores(everywhere, target),
        "reference_polygons": reference,
        "parameters": sum(p.numel() for p in network.parameters()),
        "onnx_bytes": path.stat().st_size,
        "onnx_difference": difference,
        "size": size,
        "epochs": arguments.epochs,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(report, indent=1))
    (HERE / "scores.json").write_text(json.dumps(report, indent=1) + "\n")
    write_card(report)
    if arguments.preview:
        with torch.no_grad():
            whole = torch.sigmoid(network(torch.from_numpy(inputs[None])))[0, 0].numpy()
        np.savez_compressed(arguments.preview, whole=whole, everywhere=everywhere, target=target)


def write_card(report):
    """card.md: what a person must know before using the model."""

    def row(name, s):
        return f"| {name} | {s['pixels']:,} | {s['water_pixels']:,} | {s['f1']:.3f} | {s['iou']:.3f} | {s['precision']:.3f} | {s['recall']:.3f} | {s['auroc']:.3f} |"

    shipped, folds, reference, size = report["shipped"], report["folds"], report["reference_polygons"], report["size"]
    manifest = json.loads((HERE / "manifest.json").read_text())
    rows = [row("**this model, held-out blocks**", shipped["network"])]
    rows += [row(f"same recipe, fold {f['fold']} held out", f["network"]) for f in folds[1:]]
    rows += [row("all three folds together", report["all_folds"]), row("NDWI > 0, same held-out blocks", shipped["ndwi"])]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    limits = "\n".join(
        f"| {band['name']} | {low} | {high} |"
        for band, low, high in zip(
            manifest["bands"], manifest["normalisation"]["low"], manifest["normalisation"]["high"]
        )
    )
    values = {
        "parameters": f"{report['parameters']:,}",
        "kilobytes": round(report["onnx_bytes"] / 1000),
        "rows": "\n".join(rows),
        "bodies": shipped["bodies"]["bodies"],
        "found": shipped["bodies"]["found"],
        "all_bodies": sum(f["bodies"]["bodies"] for f in folds),
        "all_found": sum(f["bodies"]["found"] for f in folds),
        "reference_water": f"{reference['water']['called_water']:.1%} of {reference['water']['pixels']:,}",
        "reference_other": f"{reference['not_water']['called_water']:.1%} of {reference['not_water']['pixels']:,}",
        "water": f"{size['water']:,}",
        "left_out": f"{size['left out']:,}",
        "clouded": f"{size['clouded']:,}",
        "epochs": report["epochs"],
        "versions": versions,
        "limits": limits,
        "difference": f"{report['onnx_difference']:.1e}",
    }
    text = CARD
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    (HERE / "card.md").write_text(text)


CARD = """<!-- Written by train.py; do not edit. -->
# water_unet

Open water in Sentinel-2 imagery at 10 m: one probability a pixel. A small U-Net ({parameters} parameters, {kilobytes} kB as ONNX),
trained in Python by `train.py` beside this card, which reads nothing but the imagery and labels in `flows/data`.

It is a first model, made so that the flow has a real one to run: **one scene, one winter day, one country**. Elsewhere it
has been run (`flows/demo.yaml` does so over Slovenia in summer) but never scored: there are no labels. Do not take its
detections for a water map.

## Data

- **Image**: `s2-l1c-t33uuu`, Sentinel-2 L1C of 2017-02-16, 15.4 x 7.7 km in Brandenburg. Top-of-atmosphere reflectance,
  lakes partly frozen, clouds with shadows. Bands B02, B03, B04, B08, B11, B12 (20 m bands repeated to 10 m) and NDWI.
- **Water**: {water} pixels: water polygons of OpenStreetMap (1 to 50 ha), and reference polygons of class 1, which by their spectra
  are water (the source does not document the classes). See `flows/data/README.md` for origin and licence.
- **Not water**: all else, except:
- **Left out** of training *and of the scores*: {left_out} pixels that look like water (NDWI > 0 and B11 < 0.08, grown by one pixel)
  and carry no label. The labels hold no water body over 50 ha and none under 1 ha, so most of these are the large lakes;
  but dark shadows are among them too, and the scores, NDWI's included, say nothing about those. {clouded} clouded pixels (SCL not 4 to 7) are
  left out as well.

## Split

The scene is cut into 18 blocks of 256 x 256 pixels (2.56 km), dealt to three folds so that neighbours side by side differ. A
training chip never leaves its block, so no pixel of a held-out block was ever seen, not even as context. Blocks of
different folds do adjoin, though: a lake or a forest on their common edge is on both sides of it, and what lies within a
kilometre is alike, so the scores say more of this scene than of another. Fold 0 is held
out from the model that ships; the other two rows are the same recipe with another fold held out. Nothing was tuned on the
held-out blocks; the threshold is 0.5 throughout.

## Scores

| | pixels | water | F1 | IoU | precision | recall | AUROC |
|---|---|---|---|---|---|---|---|
{rows}

- OSM water bodies found (at least half of their pixels; bodies of 20 clear pixels and more): {found} of {bodies} in the held-out blocks,
  {all_found} of {all_bodies} over the three folds.
- Reference polygons over the three folds: water called water {reference_water} pixels, other called water {reference_other}.
- Edges of the labels count fully: OSM outlines and pixels of 10 m differ by a pixel or so, which costs F1.

## What it gets wrong

- Shadows, of clouds and of forest edges in the low winter sun, are often called water: nothing in training told it otherwise
  (see *Left out*). They show as thin lines along forests; `min_area_m2` of `detect.polygons` removes most.
- Reed belts, ice and water under thin cloud are uncertain.
- Other seasons, L2A reflectance and other places are not scored.

## Use

`manifest.json` tells `infer.segment` all it must know. Input: 7 bands of reflectance (0 to 1; NDWI -1 to 1) in the order below,
each stretched by `clamp((x - low) / (high - low), 0, 1)`, no-data 0; height and width multiples of 8. Output: logits.
The limits are percentiles 0.5 and 99.5 of the training blocks.

| band | low | high |
|---|---|---|
{limits}

Trained for {epochs} epochs with {versions}; ONNX Runtime agrees with PyTorch on the whole scene to {difference} (logits).
Licence of the weights: they derive from OpenStreetMap's data (ODbL 1.0, (c) OpenStreetMap contributors) and modified
Copernicus Sentinel data 2017.
"""


def threshold_free(ndwi, probability):
    """NDWI as a score from 0 to 1 with its usual threshold, 0, at 0.5: the simplest rival."""
    score = (np.clip(ndwi, -1, 1) + 1) / 2
    return np.where(np.isnan(probability), np.nan, score).astype("float32")


if __name__ == "__main__":
    main()
