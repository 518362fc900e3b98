"""The whole of flows/detect.yaml once more, with rasterio, numpy, scipy, onnxruntime, shapely and pyproj alone.

    reference.py CATALOG_FOLDER COLLECTION PERIOD AREA MODEL_FOLDER RESULTS

Goes from the scenes' files to polygons without looking at what Swath made, then compares composite.tif (bands, indices and
count), probability.tif and detections.geojson in RESULTS with it. Prints what was compared, as JSON; exits 1 with a message.

Tolerances: reflectance 2e-7, indices 2e-6 (float32 against double), probabilities and their means 1e-5, areas 1e-6 of
themselves, outlines 1e-4 of their area (coordinates are written to a millimetre). Grid, no-data, counts of observations and
the number of detections are equal.
"""
import json
import math
import sys
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import onnxruntime
import rasterio
import shapely
from pyproj import Geod, Transformer
from rasterio import features
from scipy import ndimage

BANDS = ["B02", "B03", "B04", "B08", "B11", "B12"]
CLEAR = [4, 5, 6, 7]


def scenes_of(folder, collection, period):
    start, end = (datetime.fromisoformat(day).replace(tzinfo=timezone.utc) for day in period.split("/"))
    for path in sorted((folder / collection).glob("*/*.json")):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature" and start <= datetime.fromisoformat(item["properties"]["datetime"]) < end + timedelta(days=1):
            yield item, path.parent


def grid_of(area, crs, left, top, width, height):
    """Rows and columns, on the grid of the scenes, of the box around an area; edges are projected point by point."""
    to = Transformer.from_crs(4326, crs, always_xy=True)
    dense = shapely.segmentize(shapely.union_all([shapely.geometry.shape(f["geometry"]) for f in area["features"]]), 1e-4)
    x, y = to.transform(*shapely.get_coordinates(dense).T)
    columns = math.floor((min(x) - left) / width + 1e-9), math.ceil((max(x) - left) / width - 1e-9)
    rows = math.floor((top - max(y)) / height + 1e-9), math.ceil((top - min(y)) / height - 1e-9)
    return rows, columns


def fine(array, factor):
    return array.repeat(factor, 0).repeat(factor, 1)


def composite(scenes, area):
    item, folder = scenes[0]
    with rasterio.open(folder / item["assets"]["B02"]["href"]) as first:
        crs, left, top, shape = first.crs, first.transform.c, first.transform.f, first.shape
        width, height = first.transform.a, -first.transform.e
    rows, columns = grid_of(area, crs, left, top, width, height)
    stacks = []
    for item, folder in scenes:
        def read(name):
            asset = item["assets"][name]
            with rasterio.open(folder / asset["href"]) as src:
                assert (src.crs, src.transform.c, src.transform.f) == (crs, left, top), name
                whole = fine(src.read(1), round(src.transform.a / width))
            assert whole.shape == shape, (name, whole.shape)
            return asset, whole[slice(*rows), slice(*columns)]

        clear = np.isin(read("SCL")[1], CLEAR)
        layers = []
        for name in BANDS:
            asset, dn = read(name)
            layers.append(np.where(clear & (dn != asset.get("nodata", 0)), dn * asset["raster:scale"] + asset["raster:offset"], np.nan))
        stacks.append(layers)
    stack = np.array(stacks)
    with warnings.catch_warnings(action="ignore"):
        values = np.nanmedian(stack, axis=0)
    count = (~np.isnan(stack)).sum(axis=0).min(axis=0)
    transform = rasterio.Affine(width, 0, left + columns[0] * width, 0, -height, top - rows[0] * height)
    return values, count, crs, transform


def indices(values):
    green, red, near = (values[BANDS.index(name)] for name in ("B03", "B04", "B08"))
    with np.errstate(all="ignore"):
        found = {"NDVI": (near - red) / (near + red), "NDWI": (green - near) / (green + near)}
    return {name: np.where(np.isfinite(index), index, np.nan) for name, index in found.items()}


def probabilities(layers, model):
    manifest = json.loads((model / "manifest.json").read_text())
    norm, tile, overlap = manifest["normalisation"], manifest["tile"]["size"], 64
    # Manifests hold 32-bit floats, and so do networks: numbers are normalised as these.
    column = lambda key: np.array(norm[key], "f4")[:, None, None]
    x = np.array([layers[band["name"]] for band in manifest["bands"]]).astype("f4")
    bad = np.isnan(x)
    if norm["method"] == "standard":
        x = (x - column("mean")) / column("std")
    else:
        x = np.clip((x - column("low")) / (column("high") - column("low")), 0, 1)
    x = np.where(bad, norm["fill"], x).astype("f4")
    height, width = x.shape[1:]
    pad = max(tile - height, 0), max(tile - width, 0)
    padded = np.pad(x, ((0, 0), (0, pad[0]), (0, pad[1])), mode="reflect")

    def starts(length):
        return [*range(0, max(length - tile, 0), tile - overlap), max(length - tile, 0)]

    session = onnxruntime.InferenceSession(model / manifest["file"], providers=["CPUExecutionProvider"])
    total, cover = np.zeros(padded.shape[1:]), np.zeros(padded.shape[1:])
    for row in starts(height):
        for left in starts(width):
            here = np.s_[row : row + tile, left : left + tile]
            logits = session.run(None, {manifest["input"]["name"]: padded[(None, slice(None), *here)]})[0][0, 0]
            total[here] += 1 / (1 + np.exp(-logits.astype("f8")))
            cover[here] += 1
    return np.where(bad.any(axis=0), np.nan, (total / cover)[:height, :width])


def polygons(p, crs, transform, min_area=5000, min_pixels=10):
    inside = p > 0.5
    labels, _ = ndimage.label(inside)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= min_pixels
    to, geod = Transformer.from_crs(crs, 4326, always_xy=True), Geod(ellps="WGS84")
    means = ndimage.mean(np.where(inside, p, 0), labels, np.arange(sizes.size))
    found = []
    for geometry, label in features.shapes(labels.astype("i4"), mask=keep[labels], connectivity=4, transform=transform):
        globe = shapely.transform(shapely.geometry.shape(geometry), lambda c: np.column_stack(to.transform(c[:, 0], c[:, 1])))
        area = geod.geometry_area_perimeter(shapely.geometry.polygon.orient(globe))[0]
        if area >= min_area:
            found.append((area, means[int(label)], globe))
    return found


def same(what, got, wanted, tolerance):
    holes = int((np.isnan(got) != np.isnan(wanted)).sum())
    worst = float(np.nanmax(np.abs(got - wanted), initial=0))
    if got.shape != wanted.shape or holes or worst > tolerance:
        sys.exit(f"{what}: {holes} pixels differ in no-data, values by up to {worst:.3g} (allowed {tolerance:g})")
    return worst


def main(folder, collection, period, area, model, results):
    results, told = Path(results), {}
    scenes = list(scenes_of(Path(folder), collection, period))
    values, count, crs, transform = composite(scenes, json.loads(Path(area).read_text()))
    # Rasters hold 32-bit floats: indices are computed of these.
    layers = dict(zip(BANDS, values)) | indices(values.astype("f4").astype("f8"))
    wanted = probabilities(layers, Path(model))
    expected = polygons(wanted, crs, transform)

    with rasterio.open(results / "composite.tif") as src:
        if (src.crs, src.transform, src.shape) != (crs, transform, wanted.shape):
            sys.exit(f"the grid is {src.crs} {src.transform[:6]} {src.shape}, not {crs} {transform[:6]} {wanted.shape}")
        if src.descriptions != (*layers, "count"):
            sys.exit(f"the bands are {src.descriptions}")
        for at, (name, layer) in enumerate(layers.items(), 1):
            told[name] = same(name, src.read(at).astype("f8"), layer, 2e-7 if name in BANDS else 2e-6)
        told["count"] = same("count", src.read(len(layers) + 1).astype("f8"), count.astype("f8"), 0)
    with rasterio.open(results / "probability.tif") as src:
        told["probability"] = same("probability", src.read(1).astype("f8"), wanted, 1e-5)

    got = json.loads((results / "detections.geojson").read_text())["features"]
    if len(got) != len(expected):
        sys.exit(f"{len(got)} detections, not {len(expected)}")
    outlines = [shapely.geometry.shape(feature["geometry"]) for feature in got]
    tree = shapely.STRtree(outlines)
    for area_m2, mean, outline in expected:
        near = tree.query(outline)
        if not near.size:
            sys.exit(f"nothing was detected at {outline.centroid}")
        apart = [shapely.symmetric_difference(outlines[i], outline).area / outline.area for i in near]
        properties = got[near[int(np.argmin(apart))]]["properties"]
        if min(apart) > 1e-4 or abs(properties["area_m2"] / area_m2 - 1) > 1e-6 or abs(properties["mean_probability"] - mean) > 1e-5:
            sys.exit(f"the detection at {outline.centroid}: {properties}, not {area_m2} m2 of {mean}; outlines differ by {min(apart)}")
    print(json.dumps({"scenes": len(scenes), "pixels": int(np.isfinite(wanted).sum()), "detections": len(got), "differences": told}))


main(*sys.argv[1:])
