"""Judges indices, stretches, chips and pictures by numpy and rasterio alone.

    oracle_raster.py make RASTER                         a small composite with holes
    oracle_raster.py indices RASTER RESULT
    oracle_raster.py normalise RASTER RESULT STRETCH.json
    oracle_raster.py chips RASTER FOLDER
    oracle_raster.py preview RASTER PNG
"""
import glob, json, sys, warnings
import numpy as np, rasterio
from rasterio.transform import from_origin

warnings.simplefilter("ignore")
NAMES = ["B02", "B03", "B04", "B08", "B11", "count"]


def make(path):
    rng = np.random.default_rng(11)
    a = rng.normal(.2, .08, (6, 530, 1100)).astype("f4")
    a[:, 100:300, 200:700] = np.nan
    a[3, 10, :50] = -a[2, 10, :50]          # x / 0
    a[2, 11, :50] = a[3, 11, :50] = 0       # 0 / 0
    a[0, 400:, 1000:] = np.nan              # one band only
    a[5] = rng.integers(0, 9, a[5].shape)
    with rasterio.open(path, "w", driver="GTiff", height=530, width=1100, count=6, dtype="float32", crs="EPSG:32633", nodata=np.nan,
                       transform=from_origin(5e5, 5.2e6, 10, 10), tiled=True, blockxsize=256, blockysize=256) as d:
        d.write(a); d.descriptions = NAMES


def bands(path):
    with rasterio.open(path) as s:
        return dict(zip(s.descriptions, s.read().astype("f8"))), list(s.descriptions), s.transform


def indices(path, result):
    b, _, t = bands(path); r, names, t2 = bands(result)
    assert names == NAMES[:5] + ["NDVI", "NDWI", "NDBI", "BSI", "ratio", "count"], names
    assert t == t2
    want = dict(NDVI=(b["B08"] - b["B04"]) / (b["B08"] + b["B04"]), NDWI=(b["B03"] - b["B08"]) / (b["B03"] + b["B08"]),
                NDBI=(b["B11"] - b["B08"]) / (b["B11"] + b["B08"]),
                BSI=((b["B11"] + b["B04"]) - (b["B08"] + b["B02"])) / ((b["B11"] + b["B04"]) + (b["B08"] + b["B02"])),
                ratio=np.sqrt(np.abs(b["B11"])) / 2 - .5)
    for name, w in want.items():
        w[~np.isfinite(w)] = np.nan
        assert np.array_equal(np.isnan(w), np.isnan(r[name])), name
        assert np.nanmax(np.abs(w - r[name]) / np.maximum(1, np.abs(w))) < 1e-6, name
    assert np.isnan(r["NDVI"][10:12, :50]).all(), "x/0 and 0/0 are no-data"
    for name in NAMES:
        assert np.array_equal(b[name], r[name], equal_nan=True), name


def normalise(path, result, stretch):
    b, _, _ = bands(path); r, names, _ = bands(result)
    assert names == NAMES[:5], names
    limits = json.load(open(stretch))
    assert limits["percentiles"] == [2.0, 98.0]
    for entry in limits["bands"]:
        x = b[entry["name"]]
        low, high = np.nanpercentile(x, [2, 98])
        assert entry["low"] == low and entry["high"] == high, (entry, low, high)
        w = np.clip((x - low) / (high - low), 0, 1)
        assert np.nanmax(np.abs(w - r[entry["name"]])) < 1e-6 and np.array_equal(np.isnan(w), np.isnan(r[entry["name"]]))


def chips(path, folder):
    b, _, t = bands(path); index = json.load(open(f"{folder}/index.geojson"))
    stack = np.stack([b[n] for n in NAMES[:5]])
    want = set()
    for r in (0, 224, 274):
        for c in (0, 224, 448, 672, 844):
            if (~np.isnan(stack[:, r:r + 256, c:c + 256])).all(0).mean() >= .5:
                want.add((r, c))
    got = {(f["properties"]["row"], f["properties"]["column"]) for f in index["features"]}
    assert got == want and len(want) < 15, (sorted(got), sorted(want))
    assert len(glob.glob(f"{folder}/*.tif")) == len(want)
    for f in index["features"]:
        p = f["properties"]; r, c = p["row"], p["column"]
        with rasterio.open(f"{folder}/{p['file']}") as s:
            assert s.descriptions == tuple(NAMES[:5]) and s.shape == (256, 256)
            assert np.array_equal(s.read(), stack[:, r:r + 256, c:c + 256].astype("f4"), equal_nan=True)
            assert (s.transform.c, s.transform.f) == (t.c + 10 * c, t.f - 10 * r)
        ring = f["geometry"]["coordinates"][0]
        area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, ring[1:]))
        assert ring[0] == ring[-1] and area > 0, "counter-clockwise"


def preview(path, png):
    b, _, _ = bands(path)
    with rasterio.open(png) as s:
        p = s.read()
    assert p.shape == (4, 265, 550), p.shape
    assert (p[3, 52:148, 102:348] == 0).all() and (p[3, 160:190] == 255).all()
    line = (p[0] == 255) & (p[1] == 225) & (p[2] == 0)
    assert 50 < line.sum() < 400, line.sum()


globals()[sys.argv[1]](*sys.argv[2:])
print("agree")
