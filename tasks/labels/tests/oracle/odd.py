"""Rasters and labels of which no dataset comes: odd.py FOLDER"""
import sys

import numpy as np
import rasterio
from rasterio.transform import from_origin

profile = dict(driver="GTiff", width=64, height=64, count=1, dtype="float32", nodata=np.nan, crs="EPSG:32633")
for name, value in [("empty", np.nan), ("zeros", 0.0), ("logits", -3.5)]:
    with rasterio.open(f"{sys.argv[1]}/{name}.tif", "w", transform=from_origin(500000, 5200000, 10, 10), **profile) as out:
        out.write(np.full((1, 64, 64), value, "float32"))
# The same everywhere: all chips without a site are equal.
profile |= dict(width=1280, height=1280)
with rasterio.open(f"{sys.argv[1]}/flat.tif", "w", transform=from_origin(500000, 5200000, 10, 10), **profile) as out:
    out.write(np.ones((1, 1280, 1280), "float32"))
