"""Inputs for the example infer_bench: infer_bench.py FOLDER [LARGE].

Writes `unet/1/model.onnx` (a UNet of about 8 G multiply-adds a 256 px tile, ten bands, random weights), `thin/1/model.onnx` (one
3 x 3 convolution, three bands), `whole/1/model.onnx` (the mean of one over a tile), `ten.tif` (4096 x 4096, ten bands) and
`three.tif` (LARGE x LARGE, 11000 by default, three bands). Manifests are written by the example itself, which knows the digest.
"""
import os
import sys

import numpy as np
import onnx
import rasterio
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from rasterio.transform import from_origin
from rasterio.windows import Window

out = sys.argv[1]
large = int(sys.argv[2]) if len(sys.argv) > 2 else 11000
rng = np.random.default_rng(1)
nodes, weights = [], []


def tensor(shape):
    weights.append(nh.from_array((rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype("f4"), f"w{len(weights)}"))
    return weights[-1].name


def op(kind, inputs, **attributes):
    name = f"t{len(nodes)}"
    nodes.append(h.make_node(kind, inputs, [name], **attributes))
    return name


def conv(x, i, o):
    return op("Relu", [op("Conv", [x, tensor((o, i, 3, 3))], pads=[1] * 4)])


def save(name, x, channels_in, classes, last, sides=(None, None)):
    os.makedirs(f"{out}/{name}/1", exist_ok=True)
    nodes.append(h.make_node("Conv", [x, tensor((classes, last, 1, 1))], ["logits"]))
    graph = h.make_graph(nodes, name, [h.make_tensor_value_info("image", T.FLOAT, [None, channels_in, None, None])],
                         [h.make_tensor_value_info("logits", T.FLOAT, [None, classes, *sides])], weights)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), f"{out}/{name}/1/model.onnx")
    nodes.clear(), weights.clear()


x, width, skips, channels = "image", 10, [], [24, 48, 96, 192]
for c in channels:
    x = conv(conv(x, width, c), c, c)
    skips.append((x, c))
    x, width = op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), c
x = conv(conv(x, width, 384), 384, 384)
width = 384
for skip, c in reversed(skips):
    up = op("ConvTranspose", [x, tensor((width, c, 2, 2))], strides=[2, 2])
    x = conv(conv(op("Concat", [up, skip], axis=1), 2 * c, c), c, c)
    width = c
save("unet", x, 10, 1, width)
save("thin", conv("image", 3, 4), 3, 1, 4)
save("whole", op("GlobalAveragePool", [conv("image", 3, 4)]), 3, 1, 4, (1, 1))


def raster(name, size, bands):
    profile = dict(driver="GTiff", count=len(bands), height=size, width=size, dtype="uint16", nodata=0, crs="EPSG:32633",
                   transform=from_origin(500000, 5000000, 10, 10), tiled=True, blockxsize=512, blockysize=512,
                   compress="deflate", predictor=2, zlevel=4, interleave="band")
    with rasterio.open(f"{out}/{name}.tif", "w", **profile) as dst:
        dst.descriptions = tuple(bands)
        dst.scales, dst.offsets = [0.0001] * len(bands), [0.0] * len(bands)
        column = np.arange(size)
        for top in range(0, size, 512):
            rows = min(512, size - top)
            row = np.arange(top, top + rows)[:, None]
            for i in range(len(bands)):
                wave = np.sin(column / (40 + 9 * i)) * np.cos(row / (60 + 7 * i)) * 900 + 2500
                noise = rng.integers(0, 64, (rows, size))
                dst.write((wave + noise).astype("u2"), i + 1, window=Window(0, top, size, rows))


raster("ten", 4096, [f"b{i}" for i in range(10)])
raster("three", large, [f"b{i}" for i in range(3)])
