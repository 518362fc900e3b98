"""A large raster with thirty sites on it: large.py FOLDER"""
import json
import sys

import numpy as np
import pyproj
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

folder, width, height = sys.argv[1], 8192, 6144
block = (np.add.outer(7 * np.arange(512), np.arange(512)) % 4000 + 1).astype("uint16")
profile = dict(driver="GTiff", width=width, height=height, count=3, dtype="uint16", nodata=0, crs="EPSG:32633", tiled=True)
profile |= dict(blockxsize=512, blockysize=512, interleave="band", compress="deflate", zlevel=1)
with rasterio.open(f"{folder}/large.tif", "w", transform=from_origin(400000, 5250000, 10, 10), **profile) as out:
    out.descriptions = ("B04", "B03", "B02")
    for band in (1, 2, 3):
        for row in range(0, height, 512):
            for column in range(0, width, 512):
                out.write(block + np.uint16(band * 100 + (row * 16 + column) // 512 * 5), band, window=Window(column, row, 512, 512))
rng = np.random.default_rng(2)
x, y = rng.uniform(400000, 400000 + width * 10, 30), rng.uniform(5250000 - height * 10, 5250000, 30)
lon, lat = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
json.dump([{"lon": a, "lat": b} for a, b in zip(lon, lat)], open(f"{folder}/sites.json", "w"))
