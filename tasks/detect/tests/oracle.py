"""detect.polygons against scipy, rasterio, scikit-learn, shapely and pyproj.

  oracle.py make FOLDER    writes rasters and `cases.json` (the parameters of each)
  oracle.py check FOLDER   compares FOLDER/<case>.geojson with what these libraries find; exits 1 with a message if not

Tolerances: scores, probabilities and compactness 2e-6 (they are written with six decimals), areas and perimeters 1e-6 of
themselves, outlines 1e-8 degrees on average (coordinates are written to 1e-8 degrees), centroids 1e-7 degrees.
"""
import json
import sys
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from rasterio import features
from scipy import ndimage
from scipy.ndimage import gaussian_filter, zoom
from shapely.geometry import shape
from sklearn.cluster import DBSCAN

EARTH_RADIUS = 6371008.8
WEIGHTS, IDEAL = (0.6, 0.2, 0.2), 2.0

CASES = {
    # name: (crs, transform, shape, dtype, block, nodata, parameters)
    "utm_4": (32641, (600000, 10, 5120000), (700, 900), "float32", 256, None, {"connectivity": 4, "min_pixels": 20, "merge": {"eps_m": 220}}),
    "utm_8": (32641, (600000, 10, 5120000), (700, 900), "float32", 256, None, {"connectivity": 8, "min_pixels": 5, "merge": {"eps_m": 150}}),
    "speckle_8": (32719, (400000, 10, 7000000), (300, 333), "float32", 128, None, {"connectivity": 8, "min_pixels": 1, "merge": {"eps_m": 25}}),
    "striped": (32633, (500000, 20, 5300000), (401, 513), "float32", 0, -1.0, {"connectivity": 4, "min_pixels": 3, "merge": {"method": "none"}}),
    "degrees": (4326, (68.0, 0.0001, 46.5), (512, 600), "float32", 256, float("nan"), {"connectivity": 4, "min_pixels": 10, "threshold": 0.4, "merge": {"eps_m": 200}}),
    "bytes": (32633, (500000, 10, 5300000), (512, 520), "uint8", 16, 255, {"connectivity": 8, "min_pixels": 12, "merge": {"eps_m": 180, "min_samples": 3}}),
    "interleaved": (32633, (500000, 10, 5300000), (300, 650), "float32", 64, -9999.0, {"connectivity": 4, "min_pixels": 4, "merge": {"eps_m": 100}, "band": 2}),
    "antimeridian": (32660, (830500, 10, 5000), (500, 700), "float32", 256, None, {"connectivity": 4, "min_pixels": 10, "merge": {"method": "none"}}),
}


def make(folder):
    for seed, (name, (epsg, (left, pixel, top), (rows, columns), dtype, block, nodata, _)) in enumerate(CASES.items()):
        rng = np.random.default_rng(seed)
        field = gaussian_filter(rng.standard_normal((rows, columns)), 1.2 if "speckle" in name else 2.5)
        wide = zoom(gaussian_filter(rng.standard_normal((rows // 16 + 1, columns // 16 + 1)), 2), 16, order=1)[:rows, :columns]
        z = 2.2 * field / field.std() + 2.0 * wide / wide.std() - 3.2
        for _ in range(25):
            y, x, s = rng.integers(0, rows - 40), rng.integers(0, columns - 40), rng.integers(4, 40)
            z[y : y + s, x : x + s] += 6
        if "speckle" in name:
            z = rng.standard_normal((rows, columns)) * 3 - 1.0
        p = 1 / (1 + np.exp(-z))
        p = np.round(p * 200).astype("uint8") if dtype == "uint8" else p.astype(dtype)
        if nodata is not None:
            p[rng.random(p.shape) < 0.01] = nodata
            p[: rows // 8, : columns // 8] = nodata
        tiling = dict(tiled=True, blockxsize=block, blockysize=block) if block else {}
        bands = CASES[name][-1].get("band", 1)
        profile = dict(driver="GTiff", height=rows, width=columns, count=bands, interleave="pixel", dtype=dtype, crs=f"EPSG:{epsg}", nodata=nodata,
                       transform=Affine(pixel, 0, left, 0, -pixel, top), compress="deflate", **tiling)
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as out:
            for band in range(1, bands + 1):
                out.write(p if band == bands else p[::-1], band)
            if dtype == "uint8":
                out.scales = (1 / 200,)
    (folder / "cases.json").write_text(json.dumps({name: case[-1] for name, case in CASES.items()}))


def expected(folder, name, parameters):
    with rasterio.open(folder / f"{name}.tif") as raster:
        raw, scale, nodata = raster.read(parameters.get("band", 1)), raster.scales[0], raster.nodata
        transform, crs = raster.transform, raster.crs
    p = raw.astype("f4") * np.float32(scale) if scale != 1 else raw
    if nodata is not None and not np.isnan(nodata):
        p = np.where(raw == nodata, np.float32("nan"), p)
    mask = p > np.float32(parameters.get("threshold", 0.5))
    eight = parameters["connectivity"] == 8
    labels, total = ndimage.label(mask, structure=np.ones((3, 3), int) if eight else None)
    values = np.where(mask, p, 0).astype("f8")
    counts = np.bincount(labels.ravel(), minlength=total + 1)
    means = np.bincount(labels.ravel(), weights=values.ravel(), minlength=total + 1) / np.maximum(counts, 1)
    maxima = np.r_[0, ndimage.maximum(values, labels, np.arange(1, total + 1))]
    keep = counts >= parameters["min_pixels"]
    keep[0] = False
    labels = np.where(keep[labels], labels, 0)
    parts = {}
    # Polygons of 4-connected parts are valid; those of an 8-connected component together are its outline.
    for geometry, value in features.shapes(labels.astype("i4"), mask=labels > 0, connectivity=4, transform=transform):
        parts.setdefault(int(value), []).append(shape(geometry))
    ids = sorted(parts)
    planar = [shapely.MultiPolygon(parts[i]) for i in ids]
    to = Transformer.from_crs(crs, 4326, always_xy=True)

    def lonlat(c):
        x, y = to.transform(c[:, 0], c[:, 1])
        return np.column_stack([np.where(x < 0, x + 360, x) if name == "antimeridian" else x, y])

    globe = [shapely.transform(g, lonlat) for g in planar]
    geod = Geod(ellps="WGS84")
    # pyproj's own perimeter of a polygon leaves out its holes.
    area = np.array([geod.geometry_area_perimeter(shapely.MultiPolygon([shapely.geometry.polygon.orient(q) for q in g.geoms]))[0] for g in globe])
    perimeter = np.array([geod.geometry_length(g.boundary) for g in globe])
    if crs.is_geographic:
        compactness = 4 * np.pi * area / perimeter**2
    else:
        compactness = np.array([4 * np.pi * g.area / g.length**2 for g in planar])
    mean = means[ids]
    parts = dict(probability=WEIGHTS[0] * mean, compactness=WEIGHTS[1] * np.minimum(compactness, 1),
                 area=WEIGHTS[2] * (1 - np.minimum(np.abs(area / 1e6 - IDEAL) / IDEAL, 1)))
    score = sum(parts.values())
    centroids = np.array([g.centroid.coords[0] for g in globe]).reshape(-1, 2)
    merge = parameters.get("merge", {})
    if merge.get("method") == "none":
        clusters = np.arange(len(ids))
    else:
        scan = DBSCAN(eps=merge.get("eps_m", 2000) / EARTH_RADIUS, min_samples=merge.get("min_samples", 1), metric="haversine", algorithm="ball_tree")
        clusters = scan.fit_predict(np.radians(centroids[:, ::-1]))
    found = []
    for cluster in sorted(set(clusters) - {-1}):
        members = np.flatnonzero(clusters == cluster)
        best = members[np.argmax(score[members])]
        found.append(dict(geometry=globe[best], score=score[best], mean_probability=mean[best], max_probability=maxima[ids[best]],
                          area_m2=area[best], perimeter_m=perimeter[best], compactness=compactness[best], pixels=int(counts[ids[best]]),
                          longitude=centroids[best][0], latitude=centroids[best][1], merged=len(members),
                          score_breakdown={part: values[best] for part, values in parts.items()}))
    return sorted(found, key=lambda d: -d["score"]), total


def check(folder):
    for name, parameters in json.loads((folder / "cases.json").read_text()).items():
        want, total = expected(folder, name, parameters)
        got = json.loads((folder / f"{name}.geojson").read_text())["features"]
        assert len(got) == len(want), f"{name}: {len(got)} detections, expected {len(want)} (of {total} components)"
        assert len(want) > 3, f"{name}: too few detections to tell anything ({len(want)})"
        scores = [feature["properties"]["score"] for feature in got]
        assert scores == sorted(scores, reverse=True), f"{name}: not sorted by score"
        assert len({feature["id"] for feature in got}) == len(got), f"{name}: ids repeat"
        tree = shapely.STRtree([shapely.Point(d["longitude"], d["latitude"]) for d in want])
        used = set()
        crossed = 0
        for feature in got:
            own, geometry = feature["properties"], shape(feature["geometry"])
            assert geometry.is_valid, f"{name} {feature['id']}: {shapely.is_valid_reason(geometry)}"
            for polygon in getattr(geometry, "geoms", [geometry]):
                assert polygon.exterior.is_ccw and not any(ring.is_ccw for ring in polygon.interiors), f"{name}: right-hand rule"
                west, _, east, _ = polygon.bounds
                assert -180 <= west and east <= 180 and east - west < 10, f"{name}: {polygon.bounds}"
            longitude = own["longitude"]
            if name == "antimeridian":
                crossed += geometry.bounds[0] == -180 and geometry.bounds[2] == 180
                geometry = shapely.transform(geometry, lambda c: np.column_stack([np.where(c[:, 0] < 0, c[:, 0] + 360, c[:, 0]), c[:, 1]])).buffer(0)
                longitude = longitude + 360 if longitude < 0 else longitude
            at = int(tree.nearest(shapely.Point(longitude, own["latitude"])))
            assert at not in used, f"{name}: two detections for one"
            used.add(at)
            other = want[at]
            place = f"{name} {feature['id']} at {longitude}, {own['latitude']}"
            for key, absolute, relative in [("score", 2e-6, 0), ("mean_probability", 2e-6, 0), ("max_probability", 2e-6, 0), ("compactness", 2e-6, 0),
                                            ("area_m2", 0.01, 1e-6), ("perimeter_m", 0.01, 1e-6), ("pixels", 0, 0), ("merged", 0, 0), ("latitude", 1e-7, 0)]:
                difference = abs(own[key] - other[key])
                assert difference <= absolute + relative * abs(other[key]), f"{place}: {key} is {own[key]}, expected {other[key]}"
            for part, value in other["score_breakdown"].items():
                assert abs(feature["score_breakdown"][part] - value) < 2e-6, f"{place}: {part} adds {feature['score_breakdown']}"
            assert abs(longitude - other["longitude"]) < 1e-7, f"{place}: centroid"
            apart = geometry.symmetric_difference(other["geometry"].buffer(0)).area / geometry.length
            assert apart < 1e-8, f"{place}: outlines are {apart} degrees apart on average"
        simple = json.loads((folder / f"{name}.simple.geojson").read_text())["features"]
        for exact, feature in zip(got, simple, strict=True):
            a, b = shape(exact["geometry"]), shape(feature["geometry"])
            assert b.is_valid, f"{name} {feature['id']} simplified: {shapely.is_valid_reason(b)}"
            assert abs(a.area - b.area) < 0.35 * a.area or exact["properties"]["pixels"] < 200, f"{name} {feature['id']}: {a.area} {b.area}"
        assert name != "antimeridian" or crossed > 0, "nothing crossed the antimeridian"
        print(f"{name}: {len(got)} detections of {total} components agree")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
