"""Polygons that reach far beyond the raster, around a pole and over the antimeridian, by pyproj and shapely.

wide.py make CASE FOLDER          writes raster.tif and polygons.geojson
wide.py check CASE FOLDER LABEL   compares a map
"""
import json
import sys

import numpy as np
import pyproj
import rasterio
import shapely
from rasterio.transform import from_origin


def box(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


# EPSG, left, top, pixel, width, height, and polygons: class, rings. The last of two counts.
CASES = {
    # Most of two hemispheres: far outside of where a zone is defined. The northern edge is a parallel through the raster; a hole.
    "continent": (32633, 500000, 5206000, 10, 900, 620, [
        (1, [box(-120, -60, 140, 47.0), box(15.02, 46.97, 15.05, 46.99)]),
        (2, [[[-60, 46.96], [15.06, 46.96], [15.06, 46.98], [-60, 46.96]]]),
    ]),
    # In the polar stereographic projection, the pole within the raster: a cap, a wedge, a smaller cap.
    "north-pole": (3413, -40000, 60000, 100, 1000, 1000, [
        (1, [box(-180, 89.75, 180, 90)]),
        (2, [box(10, 88, 100, 89.8)]),
        (3, [box(-180, 89.95, 180, 90)]),
    ]),
    "south-pole": (3031, -60000, 30000, 100, 1000, 1000, [(1, [box(-180, -90, 180, -60)]), (2, [box(-50, -89.9, 20, -89.6)])]),
    # Longitudes on both sides, and those of one polygon that goes on beyond 180.
    "antimeridian": (32701, 130000, 8110000, 50, 900, 600, [
        (1, [box(179.7, -17.2, 180, -17.1)]),
        (1, [box(-180, -17.2, -179.8, -17.1)]),
        (2, [box(179.8, -17.25, 180.1, -17.22)]),
    ]),
}


def make(case, folder):
    epsg, left, top, pixel, width, height, polygons = CASES[case]
    profile = dict(driver="GTiff", width=width, height=height, count=1, dtype="uint8", nodata=0, crs=f"EPSG:{epsg}", tiled=True)
    with rasterio.open(f"{folder}/raster.tif", "w", transform=from_origin(left, top, pixel, pixel), **profile) as out:
        out.write(np.ones((1, height, width), "uint8"))
    features = [dict(type="Feature", properties={"c": c}, geometry=dict(type="Polygon", coordinates=rings)) for c, rings in polygons]
    json.dump({"type": "FeatureCollection", "features": features}, open(f"{folder}/polygons.geojson", "w"))


def check(case, folder, path):
    epsg, left, top, pixel, width, height, polygons = CASES[case]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = left + columns * pixel, top - rows * pixel
    lon, lat = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
    want, edge = np.zeros(x.shape), np.zeros(x.shape, bool)
    for value, (outer, *holes) in polygons:
        shape = shapely.Polygon(outer, holes)
        shapely.prepare(shape)
        for turn in (-360, 0, 360):
            want[shapely.intersects_xy(shape, lon + turn, lat)] = value
            # Half a metre, and the ends of the globe, which are no edge.
            inner = [line for ring in (outer, *holes) for line in zip(ring, ring[1:]) if not abs(line[0][0]) == abs(line[1][0]) == 180]
            lines = shapely.MultiLineString([line for line in inner if abs(line[0][1]) < 90 or abs(line[1][1]) < 90])
            edge |= shapely.dwithin(shapely.points(lon + turn, lat), lines, 5e-6)
    with rasterio.open(path) as label:
        got = label.read(1)
    wrong = (got != want) & ~edge
    assert not wrong.any(), f"{wrong.sum()} pixels differ, the first at {np.argwhere(wrong)[:3].tolist()}"
    classes = {value for value, _ in polygons}
    assert set(np.unique(want)) >= classes and edge.mean() < 0.01, (np.unique(want), edge.mean())
    print("agree")


{"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
