"""Chip sets and datasets by numpy, rasterio, shapely, pyproj and scikit-learn.

dataset.py make FOLDER                      writes west.tif (zone 33), east.tif (zone 34, over the same ground in part), sites.json,
                                            classes.tif (every pixel of west.tif has one of five classes)
dataset.py chips RASTER LABEL CHIPS SIZE STRIDE MIN_VALID SITES
dataset.py split DATASET GAP CHIPS...       statistics, labels, leakage
dataset.py hard ALL CHOSEN CHIPS            which negatives NearMiss-1 takes
"""
import json
import sys
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import shapely
from blake3 import blake3
from rasterio.transform import Affine, from_origin

NAMES = ("B04", "B03", "B02")
GEOD = pyproj.Geod(ellps="WGS84")


def make(folder):
    rng = np.random.default_rng(11)
    sites = []
    for name, epsg, (lon, lat), (width, height) in [("west", 32633, (17.93, 47.0), (1000, 800)), ("east", 32634, (18.1, 47.0), (700, 600))]:
        x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        left, top = round(x) - width * 10, round(y) + height * 10
        image = rng.integers(1200, 2000, (3, height, width)) + np.linspace(0, 900, width).astype(int) + 40 * np.arange(3)[:, None, None]
        image[:, 100:260, 200:420] = 0
        image[1, 500:520, :] = 0
        back = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True)
        for n in range(14):
            c, r = rng.uniform(40, width - 40), rng.uniform(40, height - 40)
            slon, slat = back.transform(left + c * 20, top - r * 20)
            sites.append({"name": f"{name} {n}", "lon": slon, "lat": slat})
            image[:, max(0, int(r) - 6) : int(r) + 6, max(0, int(c) - 6) : int(c) + 6] = 5000
        profile = dict(driver="GTiff", width=width, height=height, count=4, dtype="uint16", nodata=0, crs=f"EPSG:{epsg}", tiled=True)
        with rasterio.open(f"{folder}/{name}.tif", "w", transform=from_origin(left, top, 20, 20), **profile) as out:
            out.write(np.concatenate([image, np.ones((1, height, width))]).astype("uint16"))
            out.descriptions = (*NAMES, "count")
            out.scales, out.offsets = (1e-4, 1e-4, 1e-4, 1.0), (-0.1, -0.1, -0.1, 0.0)
        if name == "west":
            # Class 5 lies in a few places only; there is no background.
            patches = rng.choice([1, 2, 3, 4], (height // 50, width // 50), p=[0.4, 0.3, 0.2, 0.1]).repeat(50, 0).repeat(50, 1)
            for row, column in [(20, 30), (300, 900), (700, 100), (600, 600), (90, 700)]:
                patches[row : row + 40, column : column + 40] = 5
            with rasterio.open(f"{folder}/classes.tif", "w", transform=from_origin(left, top, 20, 20), **(profile | dict(count=1, dtype="float32", nodata=np.nan))) as out:
                out.write(patches[None].astype("float32"))
    json.dump({"sites": sites}, open(f"{folder}/sites.json", "w"))


def shard(path):
    """A safetensors file, mapped, without any library for it."""
    raw = np.memmap(path, mode="r", dtype="u1")
    length = int(np.frombuffer(raw[:8], "<u8")[0])
    header = json.loads(bytes(raw[8 : 8 + length]))
    found = {}
    for name, told in header.items():
        assert told["dtype"] == "F32"
        start, end = told["data_offsets"]
        assert (8 + length + start) % 4 == 0
        found[name] = raw[8 + length + start : 8 + length + end].view("<f4").reshape(told["shape"])
    return found


class Set:
    def __init__(self, folder):
        self.folder = Path(folder)
        text = (self.folder / "manifest.json").read_bytes()
        self.digest = "blake3:" + blake3(text).hexdigest()
        self.manifest = json.loads(text)
        self.chips = self.manifest["chips"]
        self.shards = [shard(self.folder / s["file"]) for s in self.manifest["shards"]]

    def image(self, index):
        chip = self.chips[index]
        return self.shards[chip["shard"]]["image"][chip["at"]]

    def label(self, index):
        chip = self.chips[index]
        return self.shards[chip["shard"]]["label"][chip["at"]]

    def polygon(self, index, to):
        left, bottom, right, top = self.chips[index]["bounds"]
        at = pyproj.Transformer.from_crs(self.manifest["crs"], to, always_xy=True)
        box = shapely.segmentize(shapely.box(left, bottom, right, top), (right - left) / 16)
        return shapely.transform(box, at.transform, interleaved=False)


def starts(length, size, stride):
    if length <= size:
        return [0]
    found = list(range(0, length - size + 1, stride))
    return found if found[-1] == length - size else found + [length - size]


def chips(raster, label, folder, size, stride, min_valid, sites):
    size, stride, min_valid = int(size), int(stride), float(min_valid)
    got = Set(folder)
    manifest = got.manifest
    with rasterio.open(raster) as source, rasterio.open(label) as labels:
        raw = source.read([1, 2, 3]).astype("f4")
        image = (raw.astype("f8") * 1e-4 - 0.1).astype("f4")
        image[raw == 0] = np.nan
        mask = labels.read(1)
        transform, crs = source.transform, source.crs
    mask[np.isnan(image).any(axis=0)] = np.nan
    assert manifest["format"] == "swath.chips/1" and manifest["bands"] == list(NAMES)
    assert (manifest["size"], manifest["stride"], manifest["crs"]) == (size, stride, crs.to_string())
    for told, path in zip(manifest["shards"], sorted(Path(folder).glob("*.safetensors")), strict=True):
        content = path.read_bytes()
        assert told == {"file": path.name, "chips": told["chips"], "bytes": len(content), "digest": "blake3:" + blake3(content).hexdigest()}
    height, width = mask.shape
    windows = [(r, c) for r in starts(height, size, stride) for c in starts(width, size, stride)]
    share = {w: 1 - np.isnan(mask[w[0] : w[0] + size, w[1] : w[1] + size]).mean() for w in windows}
    # Chips that begin in the same square of 512 pixels lie together.
    windows.sort(key=lambda w: (w[0] // 512, w[1] // 512, w))
    kept = [w for w in windows if share[w] >= min_valid and share[w] > 0]
    assert [(c["window"][1], c["window"][0]) for c in got.chips] == kept and len(kept) < len(windows)
    assert len({c["id"] for c in got.chips}) == len(kept)
    to_degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    for index, (chip, (row, column)) in enumerate(zip(got.chips, kept)):
        h, w = min(size, height), min(size, width)
        assert chip["window"] == [column, row, w, h]
        want = np.full((3, size, size), np.nan, "f4")
        want[:, :h, :w] = image[:, row : row + h, column : column + w]
        truth = np.full((size, size), np.nan, "f4")
        truth[:h, :w] = mask[row : row + h, column : column + w]
        np.testing.assert_array_equal(got.image(index), want)
        np.testing.assert_array_equal(got.label(index), truth)
        valid = ~np.isnan(truth)
        np.testing.assert_allclose(chip["valid"], valid.sum() / (w * h), rtol=1e-12)
        np.testing.assert_allclose(chip["positive"], (truth[valid] > 0.5).mean(), atol=1e-12)
        np.testing.assert_allclose(chip["ambiguous"], ((truth[valid] > 0) & (truth[valid] <= 0.5)).mean(), atol=1e-12)
        np.testing.assert_allclose(chip["mean"], np.nanmean(want.astype("f8"), axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(chip["std"], np.nanstd(want.astype("f8"), axis=(1, 2)), rtol=1e-5)
        assert Affine.from_gdal(*chip["transform"]).almost_equals(transform * Affine.translation(column, row), 1e-6)
        left, top = transform * (column, row)
        right, bottom = transform * (column + w, row + h)
        np.testing.assert_allclose(chip["bounds"], [left, bottom, right, top], atol=1e-6)
        west, south, east, north = to_degrees.transform_bounds(left, bottom, right, top, densify_pts=21)
        np.testing.assert_allclose(chip["bbox"], [west, south, east, north], atol=2e-7)
        assert chip["digest"] == "blake3:" + blake3(want.tobytes() + truth.tobytes()).hexdigest()
        ring = shapely.segmentize(shapely.box(left, bottom, right, top), (right - left) / 200).exterior.coords
        square, _ = GEOD.polygon_area_perimeter(*to_degrees.transform(*np.array(ring).T))
        np.testing.assert_allclose(chip["area_km2"], abs(square) / 1e6, rtol=1e-6)
        found, of_class = np.unique(truth[valid], return_counts=True)
        told = [(c["value"], c["pixels"]) for c in chip["classes"]]
        assert told == [(v, n) for v, n in zip(found.tolist(), of_class.tolist()) if v == int(v)]
    # Which sites each chip shows: a positive pixel of it within 400 m. Only near another site the box of a site may hold others'.
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    lon, lat = to_degrees.transform(*(transform * (columns, rows)))
    known = [site for site in json.load(open(sites))["sites"]]
    near = {}
    for site in known:
        # 400 m are less than 0.006 degrees of longitude there.
        near[site["name"]] = close = (np.abs(lon - site["lon"]) < 0.006) & (np.abs(lat - site["lat"]) < 0.004) & (mask > 0.5)
        x, y = lon[close], lat[close]
        close[close] = GEOD.inv(np.full_like(x, site["lon"]), np.full_like(y, site["lat"]), x, y)[2] <= 400
        others = [GEOD.inv(site["lon"], site["lat"], o["lon"], o["lat"])[2] for o in known if o is not site]
        site["alone"] = min(others) > 1200
    alone = {site["name"] for site in known if site["alone"]}
    shown = set()
    for chip, (row, column) in zip(got.chips, kept):
        want = {name for name, pixels in near.items() if pixels[row : row + size, column : column + size].any()}
        told = {site.split(" @ ")[0] for site in chip.get("sites", [])}
        assert want <= told and (told & alone) <= want and (chip["positive"] > 0) == bool(want), (chip["id"], want, told)
        shown |= set(chip.get("sites", []))
    assert {site["id"] for site in manifest["sites"]} == shown and len(shown & {s["id"] for s in manifest["sites"]}) > 5
    assert all(site["buffer_m"] == 400 for site in manifest["sites"])
    values, counts = np.unique(np.concatenate([got.label(i)[~np.isnan(got.label(i))] for i in range(len(kept))]), return_counts=True)
    assert [(told["value"], told["pixels"]) for told in manifest["labels"]] == list(zip(values.tolist(), counts.tolist()))
    print(f"agree {len(kept)} {sum(c['positive'] > 0 for c in got.chips)}")


def split(path, gap, *folders):
    dataset, gap = json.load(open(path)), float(gap)
    sets = [Set(folder) for folder in folders]
    assert dataset["sets"] == [{"digest": s.digest, "chips": len(s.chips)} for s in sets]
    # One true-to-scale plane for all: within 20 km of its centre distances are right to a part in 100,000.
    plane = "+proj=aeqd +lat_0=47 +lon_0=18 +datum=WGS84"
    sides, polygons, of_site = {}, {}, {}
    assert dataset["leakage"] == {"overlapping": 0, "within_gap": 0, "equal": 0, "shared_sites": 0}
    for side, told in dataset["sides"].items():
        own = told["chips"]
        assert told["positives"] == sum(c["positive"] for c in own) and told["negatives"] == len(own) - told["positives"]
        for c in own:
            chip = sets[c["set"]].chips[c["chip"]]
            assert chip["id"] == c["id"] and c["positive"] == (chip["positive"] > 0)
            assert c["positive"] or chip["ambiguous"] == 0
        pixels = np.concatenate([sets[c["set"]].label(c["chip"]).ravel() for c in own])
        values, counts = np.unique(pixels[~np.isnan(pixels)], return_counts=True)
        assert [(t["value"], t["pixels"]) for t in told["labels"]] == list(zip(values.tolist(), counts.tolist()))
        for c in own:
            for site in sets[c["set"]].chips[c["chip"]].get("sites", []):
                assert of_site.setdefault(site, side) == side, f"{site} is on two sides"
        sides[side] = own
        polygons[side] = [sets[c["set"]].polygon(c["chip"], plane) for c in own]
    nearest = np.inf
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        tree = shapely.STRtree(polygons[other])
        for polygon in polygons[one]:
            for index in tree.query(polygon.buffer(gap + 500)):
                nearest = min(nearest, polygon.distance(polygons[other][index]))
                assert polygon.intersection(polygons[other][index]).area < 1.0, "chips of two sides overlap"
    assert nearest >= gap - 0.5, nearest
    everything = [c["id"] for own in sides.values() for c in own]
    assert len(set(everything)) == len(everything)
    left_out = dataset["left_out"]
    assert len(everything) + sum(left_out.values()) == sum(len(s.chips) for s in sets), left_out
    train = sides["train"]
    images = np.stack([sets[c["set"]].image(c["chip"]) for c in train])
    for band, told in enumerate(dataset["statistics"]):
        values = images[:, band].ravel()
        values = values[~np.isnan(values)]
        assert (told["band"], told["count"]) == (NAMES[band], len(values))
        exact = values.astype("f8")
        np.testing.assert_allclose([told["mean"], told["std"]], [exact.mean(), exact.std()], rtol=1e-9)
        assert (told["min"], told["max"]) == (exact.min(), exact.max())
        want = np.percentile(exact, [p for p, _ in told["percentiles"]])
        np.testing.assert_allclose([v for _, v in told["percentiles"]], want, rtol=1e-12)
    count = {side: (sum(c["positive"] for c in own), sum(not c["positive"] for c in own)) for side, own in sides.items()}
    print("agree", *[n for pair in count.values() for n in pair], round(float(nearest)))


def hard(everything, chosen, folder):
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    chips = Set(folder).chips
    train = json.load(open(everything))["sides"]["train"]["chips"]
    features = np.array([chips[c["chip"]]["mean"] + chips[c["chip"]]["std"] for c in train], dtype="f8")
    features = StandardScaler().fit_transform(features)
    positive = np.array([c["positive"] for c in train])
    away, _ = NearestNeighbors(n_neighbors=3).fit(features[positive]).kneighbors(features[~positive])
    away = away.mean(axis=1)
    got = {c["id"] for c in json.load(open(chosen))["sides"]["train"]["chips"] if not c["positive"]}
    taken = np.array([c["id"] in got for c in train if not c["positive"]])
    assert taken.sum() == positive.sum() and not taken.all()
    assert away[taken].max() <= away[~taken].min() + 1e-9, (away[taken].max(), away[~taken].min())
    print("agree", int(taken.sum()))


{"make": make, "chips": chips, "split": split, "hard": hard}[sys.argv[1]](*sys.argv[2:])
