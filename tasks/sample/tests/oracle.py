"""Reads a sample with numpy and rasterio alone and holds it against its own truth. Prints one JSON line."""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer
from rio_cogeo import cog_validate
from shapely import contains_xy, prepare
from shapely.geometry import shape
from shapely.ops import transform, unary_union

folder = Path(sys.argv[1])
items = json.loads((folder / "items.json").read_text())["features"]
sites = json.loads((folder / "truth" / "sites.geojson").read_text())["features"]
with rasterio.open(folder / "truth" / "reflectance.tif") as source:
    truth, grid = source.read() * 1e-4, source.profile
    names = source.descriptions
with rasterio.open(folder / "truth" / "sites.tif") as source:
    mask = source.read(1)

report = {"scenes": len(items), "sites": len(sites), "cogs": 0, "baselines": set(), "empty": 0, "worst": 0.0, "clear": 0}
# The static catalogue leads to the same items.
collection = json.loads((folder / "sentinel-2-l2a" / "collection.json").read_text())
linked = [link["href"] for link in collection["links"] if link["rel"] == "item"]
assert sorted(Path(href).stem for href in linked) == sorted(item["id"] for item in items)
for href in linked:
    item = json.loads((folder / "sentinel-2-l2a" / href).read_text())
    for asset in item["assets"].values():
        path = (folder / "sentinel-2-l2a" / href).parent / asset["href"]
        report["cogs"] += cog_validate(path, quiet=True)[0]

# Sites: the polygons in degrees against the mask on the grid.
def site_mask(crs, xs, ys):
    """Inside a site; and whether the place is so near an outline that a polygon of 64 corners cannot say."""
    to = Transformer.from_crs(4326, crs, always_xy=True).transform
    outlines = unary_union([transform(to, shape(site["geometry"])) for site in sites])
    rims = outlines.boundary.buffer(2.0)
    prepare(outlines)
    prepare(rims)
    return contains_xy(outlines, xs, ys), contains_xy(rims, xs, ys)


def centres(profile):
    rows, columns = np.mgrid[: profile["height"], : profile["width"]]
    return profile["transform"] * (columns + 0.5, rows + 0.5)


inside, doubtful = site_mask(grid["crs"], *centres(grid))
assert (inside == (mask == 1))[~doubtful].all(), "sites.tif is not sites.geojson"
report["site_pixels"] = int(mask.sum())
areas = sum(site["properties"]["area_m2"] for site in sites)
report["site_area_error"] = abs(mask.sum() * 100 / areas - 1)

stack = {name: [] for name in names}
for item in items:
    properties, assets = item["properties"], item["assets"]
    report["baselines"].add(properties["s2:processing_baseline"])
    offset = 1000 if properties["s2:processing_baseline"] >= "04.00" else 0
    with rasterio.open(folder / assets["SCL"]["href"]) as source:
        scl, here = source.read(1), source.profile
        assert [source.height, source.width] == assets["SCL"]["proj:shape"]
        assert list(source.transform)[:6] == assets["SCL"]["proj:transform"]
        assert f"EPSG:{source.crs.to_epsg()}" == assets["SCL"]["proj:code"]
    report["empty"] += int((scl == 0).sum())
    told = properties["eo:cloud_cover"] / 100 * (scl != 0).sum()
    assert abs(np.isin(scl, [8, 9, 10]).sum() - told) <= 0.0001 * scl.size, "eo:cloud_cover"
    # Water, where it can be seen, is where the sites are, in whichever zone.
    inside, doubtful = site_mask(here["crs"], *centres(here))
    seen = np.isin(scl, [4, 5, 6])
    assert ((scl == 6) == inside)[seen & ~doubtful].all(), item["id"]
    if here["crs"] != grid["crs"]:
        continue
    # Where the scene lies on the truth's grid.
    column = round((here["transform"].c - grid["transform"].c) / 10)
    row = round((grid["transform"].f - here["transform"].f) / 10)
    clear = seen.repeat(2, 0).repeat(2, 1)
    for at, name in enumerate(names):
        with rasterio.open(folder / assets[name]["href"]) as source:
            pixels = source.read(1).astype("int64")
        pixels = pixels.repeat(clear.shape[0] // pixels.shape[0], 0).repeat(clear.shape[1] // pixels.shape[1], 1)
        assert ((pixels == 0) == (scl == 0).repeat(2, 0).repeat(2, 1)).all(), "no-data differs between bands"
        values = np.full(truth.shape[1:], np.nan)
        place = np.s_[row : row + clear.shape[0], column : column + clear.shape[1]]
        values[place] = np.where(clear, (pixels - offset) * 1e-4, np.nan)
        stack[name].append(values)
        if name == names[0]:
            report["clear"] += int(clear.sum())

with np.errstate(all="ignore"):
    import warnings

    warnings.simplefilter("ignore")
    for at, name in enumerate(names):
        median = np.nanmedian(np.stack(stack[name]), axis=0)
        known = ~np.isnan(median)
        report["worst"] = max(report["worst"], float(np.abs(median - truth[at])[known].max()))
        report["known"] = float(known.mean())
report["baselines"] = sorted(report["baselines"])
print(json.dumps(report))
