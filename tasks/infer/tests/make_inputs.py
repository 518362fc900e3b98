"""Networks and rasters for tests/infer: make_inputs.py FOLDER.

Networks are made with onnx.helper, good ones and bad ones; rasters with rasterio. Nothing here is Swath's own code.
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
rng = np.random.default_rng(7)


def save(name, nodes, inputs, outputs, weights=(), **how):
    graph = h.make_graph(nodes, name, inputs, outputs, [nh.from_array(w, n) for n, w in weights])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, f"{out}/{name}.onnx", **how)


def value(name, shape, kind=T.FLOAT):
    return h.make_tensor_value_info(name, kind, shape)


def conv(x, y, w, b, pad):
    return h.make_node("Conv", [x, w, b], [y], pads=[pad] * 4)


def wide(name, batch, size):
    """Three convolutions with a receptive field of 13 px, three bands in, two classes out, logits."""
    shapes = [(6, 3, 5, 5), (6, 6, 5, 5), (2, 6, 5, 5)]
    weights = []
    for i, shape in enumerate(shapes):
        scale = 1.2 / np.sqrt(np.prod(shape[1:]))
        weights += [(f"w{i}", (rng.standard_normal(shape) * scale).astype("f4"))]
        weights += [(f"b{i}", (rng.standard_normal(shape[0]) * 0.1).astype("f4"))]
    nodes = [conv("image", "a", "w0", "b0", 2), h.make_node("Relu", ["a"], ["c"]), conv("c", "d", "w1", "b1", 2),
             h.make_node("Relu", ["d"], ["e"]), conv("e", "logits", "w2", "b2", 2)]
    save(name, nodes, [value("image", [batch, 3, size, size])], [value("logits", [batch, 2, size, size])], weights)


wide("wide", None, None)
wide("fixed", 4, 64)


def plain(name, op="Identity", x=("image", [None, 1, None, None], T.FLOAT), y=("logits", [None, 1, None, None], T.FLOAT)):
    save(name, [h.make_node(op, [x[0]], [y[0]])], [value(*x)], [value(*y)])


plain("identity")
plain("sqrt", "Sqrt")
plain("unknown_operator", "Frobnicate")
plain("wrong_input_name", x=("x", [None, 1, None, None], T.FLOAT))
plain("wrong_output_name", y=("y", [None, 1, None, None], T.FLOAT))
plain("wrong_channels", x=("image", [None, 4, None, None], T.FLOAT), y=("logits", [None, 4, None, None], T.FLOAT))
plain("wrong_rank", x=("image", [None, 1, None], T.FLOAT), y=("logits", [None, 1, None], T.FLOAT))
plain("wrong_type", x=("image", [None, 1, None, None], T.DOUBLE), y=("logits", [None, 1, None, None], T.DOUBLE))
plain("wrong_size", x=("image", [None, 1, 100, 100], T.FLOAT), y=("logits", [None, 1, 100, 100], T.FLOAT))
save("two_outputs", [h.make_node("Identity", ["image"], ["logits"]), h.make_node("Relu", ["image"], ["more"])],
     [value("image", [None, 1, None, None])], [value("logits", [None, 1, None, None]), value("more", [None, 1, None, None])])
save("two_inputs", [h.make_node("Add", ["image", "more"], ["logits"])],
     [value("image", [None, 1, None, None]), value("more", [None, 1, None, None])], [value("logits", [None, 1, None, None])])
save("half_size", [h.make_node("MaxPool", ["image"], ["logits"], kernel_shape=[2, 2], strides=[2, 2])],
     [value("image", [None, 1, None, None])], [value("logits", [None, 1, None, None])])
save("external", [conv("image", "logits", "w", "b", 0)], [value("image", [None, 1, None, None])],
     [value("logits", [None, 1, None, None])], [("w", np.ones((1, 1, 1, 1), "f4")), ("b", np.zeros(1, "f4"))],
     save_as_external_data=True, all_tensors_to_one_file=True, location="weights.bin", size_threshold=0)


def classifier(name, size):
    """Three bands in, three classes out, logits of the whole image: `[batch, 3, 1, 1]`."""
    weights = [("w0", (rng.standard_normal((8, 3, 5, 5)) * 0.4).astype("f4")), ("b0", np.zeros(8, "f4")),
               ("w1", (rng.standard_normal((3, 8, 1, 1)) * 6).astype("f4")), ("b1", np.zeros(3, "f4"))]
    nodes = [h.make_node("Conv", ["image", "w0", "b0"], ["a"], strides=[2, 2]), h.make_node("Relu", ["a"], ["c"]),
             h.make_node("GlobalAveragePool", ["c"], ["d"]), conv("d", "logits", "w1", "b1", 0)]
    save(name, nodes, [value("image", [None, 3, size, size])], [value("logits", [None, 3, 1, 1])], weights)


open(f"{out}/empty.onnx", "wb").close()
open(f"{out}/random.onnx", "wb").write(rng.bytes(5000))
whole = open(f"{out}/wide.onnx", "rb").read()
open(f"{out}/truncated.onnx", "wb").write(whole[: len(whole) * 2 // 3])


def raster(name, data, bands, nodata=None, scale=None, offset=None, crs="EPSG:32633", pixel=10.0, **options):
    count, height, width = data.shape
    profile = dict(driver="GTiff", count=count, height=height, width=width, dtype=data.dtype, nodata=nodata, crs=crs,
                   transform=from_origin(500000 if crs.endswith("33") else 15, 5000000 if crs.endswith("33") else 45, pixel, pixel))
    with rasterio.open(f"{out}/{name}.tif", "w", **profile, **options) as dst:
        dst.write(data)
        dst.descriptions = bands
        if scale:
            dst.scales = [scale] * count
            dst.offsets = [offset] * count


def real():
    """A part of the real scene that ships with Swath, a corner cut off as by the edge of an orbit."""
    folder = os.path.join(os.path.dirname(__file__), "../../../flows/data/s2-l1c-t33uuu/S2A_MSIL1C_20170216T102101_T33UUU_SUBSET")
    window, bands = Window(500, 200, 333, 270), ["B02", "B03", "B04", "B08"]
    with rasterio.open(f"{folder}/B02.tif") as src:
        profile = dict(src.profile, count=4, nodata=0, width=333, height=270, transform=src.window_transform(window), driver="GTiff")
    with rasterio.open(f"{out}/real.tif", "w", **profile) as dst:
        for i, band in enumerate(bands):
            with rasterio.open(f"{folder}/{band}.tif") as src:
                pixels = src.read(1, window=window)
            pixels[np.add.outer(np.arange(270), np.arange(333)) < 150] = 0
            dst.write(pixels, i + 1)
        dst.descriptions = bands
        dst.scales, dst.offsets = [0.0001] * 4, [0.0] * 4


def scene(count, height, width):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (5 + 2 * i)) + np.cos(y / (7 + i)) + 0.3 * rng.standard_normal((height, width)) for i in range(count)])
    return np.clip(2500 + 900 * waves, 1, 10000).astype("u2")


tiled = dict(tiled=True, blockxsize=128, blockysize=128, compress="deflate", predictor=2)
large = scene(4, 310, 223)
large[:, 40:150, 30:90] = 0  # no data in all bands, wider than a tile's stride
large[1, 200, 100] = 0  # in one band only
raster("large", large, ["B08", "B03", "SCL", "B04"], 0, 0.0001, -0.1, **tiled)
raster("small", scene(3, 25, 40), ["B03", "B04", "B08"], 0, 0.0001, -0.1)
floats = scene(3, 150, 141).astype("f4") / 10000
floats[0, 10:20, 10:20] = np.nan
raster("floats", floats, ["B03", "B04", "B08"], np.nan, **tiled)
raster("one", (scene(1, 140, 130) / 10000).astype("f4"), ["P"], -1.0, **tiled)
raster("negative", np.full((1, 70, 70), -0.5, "f4"), ["P"])
raster("constant", np.full((1, 300, 300), 0.625, "f4"), ["P"])
raster("coarse", np.full((1, 70, 70), 0.5, "f4"), ["P"], pixel=20.0)
raster("unnamed", np.full((2, 70, 70), 0.5, "f4"), [None, "P2"])
raster("empty", np.full((1, 70, 70), np.nan, "f4"), ["P"], np.nan)
raster("degrees", np.full((1, 70, 70), 0.5, "f4"), ["P"], crs="EPSG:4326", pixel=10 / 111320)
raster("big", np.repeat(scene(1, 1500, 1500), 3, 0), ["B03", "B04", "B08"], 0, 0.0001, -0.1, **tiled)
real()
classifier("classes", None)
classifier("classes_64", 64)
