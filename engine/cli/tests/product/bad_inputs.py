"""Rasters for bad_inputs.rs, and what lies in those it made: bad_inputs.py make FOLDER | tell FILE"""
import sys
import warnings

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform

warnings.simplefilter("ignore")


def constant(folder, name, value, kind, crs="EPSG:32633", at=(12.0, 50.0), **more):
    """200 x 200 pixels of 10 m around a place in degrees."""
    (x,), (y,) = transform("EPSG:4326", crs, [at[0]], [at[1]])
    with rasterio.open(f"{folder}/{name}.tif", "w", driver="GTiff", width=200, height=200, count=1, dtype=kind, crs=crs,
                       transform=from_origin(round(x, -1) - 1000, round(y, -1) + 1000, 10, 10), **more) as file:
        file.write(np.full((1, 200, 200), value, kind))


def make(folder):
    constant(folder, "zone32", 3000, "uint16", "EPSG:32632", nodata=0)
    constant(folder, "zone33", 1000, "uint16", nodata=0)
    constant(folder, "floats", 3000, "float32", nodata=np.nan)
    constant(folder, "zero", 0, "uint16")
    constant(folder, "elsewhere", 1000, "uint16", at=(12.0, 40.0), nodata=0)
    with rasterio.open(f"{folder}/most_bands.tif", "w", driver="GTiff", width=1, height=1, count=65535, dtype="uint8", crs="EPSG:32633",
                       transform=from_origin(5e5, 5.2e6, 10, 10), interleave="pixel") as file:
        file.write(np.ones((1, 1), "uint8"), 1)
    with rasterio.open(f"{folder}/broad.tif", "w", driver="GTiff", width=100000, height=1, count=1, dtype="uint8", crs="EPSG:32633",
                       transform=from_origin(5e5, 5.2e6, 1, 1), nodata=0) as file:
        file.write(np.full((1, 1, 100000), 7, "uint8"))


def tell(path):
    with rasterio.open(path) as file:
        band = file.read(1, masked=True)
        seen = f"{band.min()}..{band.max()}" if band.count() else "nothing"
        print(f"{file.width} x {file.height} {file.crs} {seen} valid {band.count() / band.size:.2f}")


{"make": make, "tell": tell}[sys.argv[1]](sys.argv[2])
