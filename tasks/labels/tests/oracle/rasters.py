"""Rasters that no label can be laid on: rasters.py odd FOLDER"""
import sys

import numpy as np
import rasterio
from rasterio.transform import Affine

folder = sys.argv[2]
pixels = np.ones((1, 64, 64), "f4")
base = dict(driver="GTiff", width=64, height=64, count=1, dtype="float32")
north_up = Affine(10, 0, 400000, 0, -10, 6300000)
for name, crs, transform in [
    ("no-crs", None, north_up),
    ("rotated", "EPSG:32719", north_up * Affine.rotation(10)),
    ("south-up", "EPSG:32719", Affine(10, 0, 400000, 0, 10, 6300000)),
]:
    with rasterio.open(f"{folder}/{name}.tif", "w", crs=crs, transform=transform, **base) as out:
        out.write(pixels)
