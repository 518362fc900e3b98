"""Whole-raster reference of a tiled prediction: compare.py CASES.json. Prints one JSON object a case.

numpy, rasterio and onnxruntime only: windows over the whole array, coverage counted per pixel, double precision.
"""
import json
import sys

import numpy as np
import onnxruntime
import rasterio
from reference import padded, shown, starts, written
from rio_cogeo.cogeo import cog_validate


def window(tile, overlap, blend):
    weights = np.ones(tile)
    if blend == "smooth" and overlap:
        ramp = min(overlap, tile // 2)
        rise = np.sin((np.arange(ramp) + 0.5) / ramp * np.pi / 2) ** 2
        weights[:ramp], weights[tile - ramp :] = rise, rise[::-1]
    return np.outer(weights, weights)


for case in json.load(open(sys.argv[1])):
    tile, overlap = case["tile"], case["overlap"]
    x, bad, profile = shown(case)
    height, width = x.shape[1:]
    rows, columns = starts(height, tile, overlap, case["edges"]), starts(width, tile, overlap, case["edges"])
    whole = padded(x, rows, columns, tile)
    session = onnxruntime.InferenceSession(case["network"], providers=["CPUExecutionProvider"])
    batch = case["fixed_batch"] or 1
    total, count = 0.0, 0.0
    weights = window(tile, overlap, case["blend"])
    for top in rows:
        for left in columns:
            piece = whole[None, :, top : top + tile, left : left + tile]
            y = session.run(None, {session.get_inputs()[0].name: np.repeat(piece, batch, 0)})[0][0].astype("f8")
            if case["activation"] == "logits":
                y = 1 / (1 + np.exp(-y))
            if np.isscalar(total):
                total, count = np.zeros((len(y),) + whole.shape[1:]), np.zeros(whole.shape[1:])
            total[:, top : top + tile, left : left + tile] += y * weights
            count[top : top + tile, left : left + tile] += weights
    expected = (total / count)[:, :height, :width]
    nodata = bad.any(0)
    with rasterio.open(case["output"]) as got:
        values, mask = written(got)
        valid = ~nodata[None].repeat(len(values), 0)
        print(json.dumps({
            "off": float(np.abs(values.filled(0) - expected)[valid].max()) if valid.any() else 0.0,
            "same_nodata": bool((mask == ~valid).all()),
            "nodata_share": float(nodata.mean()),
            "same_grid": got.crs == profile["crs"] and got.transform == profile["transform"] and got.shape == (height, width),
            "bands": list(got.descriptions),
            "type": got.dtypes[0],
            "valid_cog": cog_validate(case["output"], quiet=True)[0],
            "layout": got.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"),
            "tags": got.tags(),
            "spread": float(expected[valid].std()) if valid.any() else 0.0,
        }))
