"""Larger stacks out of one: enlarge.py dates STACK OUT COUNT | area STACK OUT TIMES

`dates` lists the scenes again under later dates until there are COUNT: the same files are read again. `area` repeats the
pixels of every file TIMES in both directions.
"""
import copy
import datetime
import json
import os
import sys

import numpy as np
import rasterio
import rasterio.warp
from stack import write

what, source, out, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
items = json.load(open(f"{source}/items.json"))["features"]
os.makedirs(out, exist_ok=True)
made = []
if what == "dates":
    for n in range(count):
        item = copy.deepcopy(items[n % len(items)])
        day = datetime.datetime.fromisoformat(item["properties"]["datetime"].rstrip("Z"))
        item["properties"]["datetime"] = (day + datetime.timedelta(days=365 * (n // len(items)))).isoformat() + "Z"
        item["id"] += f"_{n // len(items)}"
        made.append(item)
else:
    for item in items:
        folder = f"{out}/{item['id']}"
        os.makedirs(folder, exist_ok=True)
        for key, asset in item["assets"].items():
            with rasterio.open(asset["href"]) as raster:
                pixels = raster.read(1)
            resolution = asset["proj:transform"][0]
            asset["href"] = os.path.abspath(f"{folder}/{key}.tif")
            asset["proj:shape"] = [side * count for side in asset["proj:shape"]]
            write(asset["href"], np.tile(pixels, (count, count)), resolution)
        with rasterio.open(item["assets"]["B02"]["href"]) as raster:
            box = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
        west, south, east, north = item["bbox"] = list(box)
        item["geometry"]["coordinates"] = [[[west, south], [east, south], [east, north], [west, north], [west, south]]]
        made.append(item)
with open(f"{out}/items.json", "w") as file:
    json.dump({"type": "FeatureCollection", "features": made}, file)
