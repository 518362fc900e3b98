"""Reference of a prediction of whole tiles: compare_tiles.py CASES.json. Prints one JSON object a case.

numpy, rasterio and onnxruntime only: each tile cut from the whole array and run by itself, softmax and sigmoid in double precision.
"""
import json
import sys

import numpy as np
import onnxruntime
import rasterio
from rasterio.transform import Affine
from reference import padded, shown, starts, written
from rio_cogeo.cogeo import cog_validate

for case in json.load(open(sys.argv[1])):
    tile, stride = case["tile"], case["stride"]
    x, bad, profile = shown(case)
    height, width = x.shape[1:]
    rows, columns = (starts(length, tile, tile - stride, case["edges"]) for length in (height, width))
    whole = padded(x, rows, columns, tile)
    session = onnxruntime.InferenceSession(case["network"], providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected, ran = None, 0
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            data = ~bad.any(0)[top : top + tile, left : left + tile]
            if not data.any() or data.mean() < case["min_valid"]:
                continue
            ran += 1
            y = session.run(None, {name: whole[None, :, top : top + tile, left : left + tile]})[0].astype("f8").reshape(-1)
            if case["activation"] == "class_logits":
                y = np.exp(y - y.max()) / np.exp(y - y.max()).sum()
            elif case["activation"] == "logits":
                y = 1 / (1 + np.exp(-y))
            if expected is None:
                expected = np.full((len(y), len(rows), len(columns)), np.nan)
            expected[:, i, j] = y
    with rasterio.open(case["output"]) as got:
        values, mask = written(got)
        if expected is None:
            expected = np.full(values.shape, np.nan)
        valid = ~np.isnan(expected)
        margin = (tile - stride) / 2
        transform = profile["transform"] * Affine.translation(margin, margin) * Affine.scale(stride)
        print(json.dumps({
            "off": float(np.abs(values.filled(0) - expected)[valid].max()) if valid.any() else 0.0,
            "same_nodata": bool((mask == ~valid).all()),
            "nodata": int((~valid[0]).sum()),
            "ran": ran,
            "shape": got.shape,
            "same_grid": got.crs == profile["crs"] and got.transform.almost_equals(transform, 1e-6) and values.shape == expected.shape,
            "bands": list(got.descriptions),
            "type": got.dtypes[0],
            "valid_cog": cog_validate(case["output"], quiet=True)[0],
            "tags": got.tags(),
            "above_half": [int((band > 0.5).sum()) for band in expected],
            "spread": float(expected[valid].std()) if valid.any() else 0.0,
        }))
