"""A known lake, an unknown one and land: unknown.py make FOLDER, unknown.py check FOLDER LABEL"""
import json
import sys

import numpy as np
import pyproj
import rasterio
from rasterio.transform import from_origin

SIDE, PIXEL, LEFT, TOP = 300, 20, 500000, 5200000
columns, rows = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
# The known lake is larger than its buffer: what is beyond the ring may be it or not.
known, other = np.hypot(columns - 80, rows - 90) < 60, np.hypot(columns - 220, rows - 200) < 40
index = np.where(known | other, 0.3, -0.4).astype("f4")
index[:, 290:] = np.nan


def make(folder):
    profile = dict(driver="GTiff", width=SIDE, height=SIDE, count=2, dtype="float32", nodata=np.nan, crs="EPSG:32633", tiled=True)
    with rasterio.open(f"{folder}/raster.tif", "w", transform=from_origin(LEFT, TOP, PIXEL, PIXEL), **profile) as out:
        out.write(np.stack([np.ones_like(index), index]))
        out.descriptions = ("B03", "NDWI")
    lon, lat = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(LEFT + 80 * PIXEL, TOP - 90 * PIXEL)
    json.dump([{"name": "lake", "lon": lon, "lat": lat}], open(f"{folder}/sites.json", "w"))


def check(folder, path):
    with rasterio.open(path) as label:
        got = label.read(1)
    away = np.hypot(columns - 80, rows - 90) * PIXEL
    want = np.where(away <= 600, 1.0, np.where(away <= 800, 0.5, np.where(known | other, np.nan, 0.0)))
    want[np.isnan(index)] = np.nan
    # UTM is off by less than a thousandth near its meridian.
    edge = (np.abs(away - 600) < 2) | (np.abs(away - 800) < 2)
    wrong = ~((got == want) | (np.isnan(got) & np.isnan(want))) & ~edge
    assert not wrong.any() and np.isnan(got[200, 220]) and got[10, 250] == 0, np.argwhere(wrong)[:5]
    print("agree")


{"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
