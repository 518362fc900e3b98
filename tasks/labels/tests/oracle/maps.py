"""Class maps by rasterio, and by pixel centres in numpy.

maps.py make FOLDER                     writes raster.tif, polygons.geojson, landuse.tif (another zone, finer), floats.tif
maps.py vector FOLDER LABEL MODE        MODE: classes, one, sparse, touched
maps.py map FOLDER LABEL MODE           MODE: table, own
"""
import json
import sys

import numpy as np
import pyproj
import rasterio
import rasterio.features
from rasterio.transform import from_origin
from shapely.geometry import mapping, shape
from shapely.ops import transform as project

WIDTH, HEIGHT, PIXEL = 900, 620, 10
# At the edge of zone 33: the map lies in zone 34, rotated against the raster by more than two degrees.
TO = pyproj.Transformer.from_crs(4326, 32633, always_xy=True)
X, Y = TO.transform(18.02, 47.0)
LEFT, TOP = round(X) - WIDTH * 5, round(Y) + HEIGHT * 5
CLASSES = {"lake": 1, "river": 1, "7": 2}


def polygons():
    rng = np.random.default_rng(3)
    features = []
    for index in range(60):
        lon, lat = 18.02 + rng.uniform(-0.07, 0.07), 47.0 + rng.uniform(-0.04, 0.04)
        half = rng.uniform(0.0005, 0.006)
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        ring = [[lon + half * np.cos(a) * rng.uniform(0.5, 1), lat + half * np.sin(a) * rng.uniform(0.5, 1)] for a in angles]
        kind = ["lake", "river", "7", "meadow"][index % 4]
        features.append(dict(type="Feature", properties={"kind": kind, "number": index % 3}, geometry=dict(type="Polygon", coordinates=[ring + ring[:1]])))
    # Far outside of where zone 33 is defined.
    far = [[-150, 10], [-149, 10], [-149, 11], [-150, 10]]
    features.append(dict(type="Feature", properties={"kind": "lake", "number": 1}, geometry=dict(type="Polygon", coordinates=[far])))
    return features


def make(folder):
    rng = np.random.default_rng(5)
    image = rng.integers(1, 4000, (2, HEIGHT, WIDTH)).astype("uint16")
    image[0, 40:90, 100:300] = 0
    profile = dict(driver="GTiff", tiled=True, crs="EPSG:32633", transform=from_origin(LEFT, TOP, PIXEL, PIXEL))
    with rasterio.open(f"{folder}/raster.tif", "w", width=WIDTH, height=HEIGHT, count=2, dtype="uint16", nodata=0, **profile) as out:
        out.write(image)
        out.descriptions = ("B04", "B08")
    json.dump({"type": "FeatureCollection", "features": polygons()}, open(f"{folder}/polygons.geojson", "w"))
    x, y = pyproj.Transformer.from_crs(4326, 32634, always_xy=True).transform(18.02, 47.0)
    side = 2600
    classes = rng.choice(np.array([10, 30, 50, 80, 255], "uint8"), (side // 20, side // 20)).repeat(20, 0).repeat(20, 1)
    at = from_origin(round(x) - 4000, round(y) + 4000, 3, 3)
    with rasterio.open(f"{folder}/landuse.tif", "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8", nodata=255, crs="EPSG:32634", transform=at) as out:
        out.write(classes, 1)
    with rasterio.open(f"{folder}/floats.tif", "w", driver="GTiff", width=side, height=side, count=1, dtype="float32", crs="EPSG:32634", transform=at) as out:
        out.write(classes / 4, 1)
    with rasterio.open(f"{folder}/elsewhere.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", crs="EPSG:32634", transform=from_origin(100000, 100000, 3, 3)) as out:
        out.write(np.ones((64, 64), "uint8"), 1)


def read(folder, path):
    with rasterio.open(f"{folder}/raster.tif") as raster, rasterio.open(path) as label:
        assert label.transform == raster.transform and label.crs == raster.crs and np.isnan(label.nodata)
        return label.read(1), (raster.read() == 0).any(axis=0), label.tags()


def vector(folder, path, mode):
    label, empty, tags = read(folder, path)
    shapes = []
    for feature in polygons()[:-1]:
        kind = feature["properties"]["kind"]
        value = {"one": 1, "sparse": feature["properties"]["number"]}.get(mode, CLASSES.get(kind))
        if value is not None:
            shapes.append((mapping(project(TO.transform, shape(feature["geometry"]))), value))
    fill = 200 if mode == "sparse" else 0
    options = dict(out_shape=(HEIGHT, WIDTH), transform=from_origin(LEFT, TOP, PIXEL, PIXEL), fill=fill, all_touched=mode == "touched")
    want = rasterio.features.rasterize(shapes, dtype="uint8", **options).astype("f4")
    if mode == "sparse":
        want[want == 200] = np.nan
    want[empty] = np.nan
    # Points in long edges move them by less than a millimetre: a pixel centre hardly lies there.
    wrong = ~((label == want) | (np.isnan(label) & np.isnan(want)))
    assert wrong.sum() <= 2, f"{wrong.sum()} pixels differ"
    if mode == "classes":
        assert tags["CLASS_1"] == "water", tags
        assert set(np.unique(label[~np.isnan(label)])) == {0, 1, 2}
    print("agree")


def class_map(folder, path, mode):
    label, empty, _ = read(folder, path)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    x, y = pyproj.Transformer.from_crs(32633, 32634, always_xy=True).transform(LEFT + columns * PIXEL, TOP - rows * PIXEL)
    with rasterio.open(f"{folder}/landuse.tif") as source:
        values = source.read(1)
        c, r = ~source.transform * (x, y)
    inside = (c >= 0) & (r >= 0) & (c < values.shape[1]) & (r < values.shape[0])
    want = np.full((HEIGHT, WIDTH), np.nan)
    found = values[np.floor(r[inside]).astype(int), np.floor(c[inside]).astype(int)]
    table = {10: 1, 30: 0, 50: 2, 80: 1, 255: np.nan} if mode == "table" else {10: 10, 30: 30, 50: 50, 80: 80, 255: np.nan}
    want[inside] = np.array([table.get(v, 0) for v in range(256)])[found]
    want[empty] = np.nan
    # The warp is right to a hundredth of a source pixel.
    edge = np.minimum(np.abs(c % 20 - 0), np.abs(20 - c % 20)) < 0.02
    edge |= np.minimum(np.abs(r % 20 - 0), np.abs(20 - r % 20)) < 0.02
    wrong = ~((label == want) | (np.isnan(label) & np.isnan(want))) & ~edge
    assert not wrong.any() and edge.mean() < 0.01 and inside.mean() < 1, (wrong.sum(), edge.mean(), inside.mean())
    print("agree")


{"make": make, "vector": vector, "map": class_map}[sys.argv[1]](*sys.argv[2:])
