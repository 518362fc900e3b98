"""Masks of known sites by rasterio, pyproj's geodesics (GeographicLib's C code in PROJ) and shapely.

sites.py make CASE FOLDER          writes raster.tif and sites.json
sites.py check CASE FOLDER LABEL   compares a mask, prints `agree N positive`
"""
import json
import sys

import numpy as np
import pyproj
import rasterio
import shapely
from rasterio.transform import from_origin

GEOD = pyproj.Geod(ellps="WGS84")


def polygon(lon, lat, half):
    ring = [[lon - half, lat - half], [lon + half, lat - half], [lon + half, lat + half], [lon, lat], [lon - half, lat + half]]
    return {"type": "Polygon", "coordinates": [ring + ring[:1]]}


# name: EPSG, centre as longitude and latitude, pixel, width, height, sites (dx, dy in pixels from the centre, buffer_km or None)
CASES = {
    "plain": (32633, (15.2, 47.0), 10, 1100, 700, [(0, 0, None), (-400, 200, 0.8), (500, -300, 3.0)]),
    "far-north": (32633, (14.0, 83.5), 30, 400, 400, [(0, 0, None), (130, 130, 1.0)]),
    "pole": (3413, (0.0, 90.0), 30, 400, 400, [(0, 0, None), (60, 90, 1.5)]),
    "antimeridian": (32660, (180.0, -17.0), 40, 350, 250, [(-60, 0, None), (65, 25, 2.5), (0, -75, None)]),
    "antimeridian-degrees": (4326, (180.0, 65.0), 0.0004, 400, 300, [(-75, 0, None), (70, 20, 1.0)]),
    "zone-edge": (32633, (18.02, 47.0), 20, 400, 300, [(0, 0, None), (150, 0, 1.2)]),
    "south": (32719, (-69.5, -33.4), 20, 350, 350, [(0, 0, None)]),
    "mercator": (3857, (10.0, 62.0), 40, 350, 250, [(0, 0, None)]),
    "feet": (2277, (-97.5, 30.3), 80, 300, 250, [(0, 0, None)]),
    "shapes": (32633, (15.2, 47.0), 20, 450, 350, [(0, 0, None)]),
}
BUFFER, RING = 2000.0, 500.0


def grid(case):
    epsg, (lon, lat), pixel, width, height, _ = CASES[case]
    to = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    x, y = to.transform(lon, lat) if epsg != 4326 else (lon, lat)
    left, top = x - width / 2 * pixel, y + height / 2 * pixel
    return epsg, left, top, pixel, width, height


def degrees(case, columns, rows):
    epsg, left, top, pixel, _, _ = grid(case)
    x, y = left + (columns + 0.5) * pixel, top - (rows + 0.5) * pixel
    if epsg == 4326:
        return (x + 180) % 360 - 180, y
    return pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)


def sites(case):
    _, _, _, _, width, height = grid(case)
    found = []
    for index, (dx, dy, own) in enumerate(CASES[case][5]):
        lon, lat = degrees(case, width / 2 + dx + 0.13, height / 2 + dy + 0.21)
        found.append((f"site {index}", float(lon), float(lat), own))
    return found


def make(case, folder):
    epsg, left, top, pixel, width, height = grid(case)
    rng = np.random.default_rng(7)
    image = rng.uniform(0, 1, (2, height, width)).astype("f4")
    image[0, : height // 7, : width // 5] = np.nan
    image[1, height // 2 : height // 2 + 9, :] = np.nan
    count = np.zeros((1, height, width), "f4")
    profile = dict(driver="GTiff", width=width, height=height, count=3, dtype="float32", crs=f"EPSG:{epsg}", nodata=np.nan)
    with rasterio.open(f"{folder}/raster.tif", "w", transform=from_origin(left, top, pixel, pixel), tiled=True, **profile) as out:
        out.write(np.concatenate([image, count]))
        out.descriptions = ("B04", "B08", "count")
    if case == "shapes":
        (_, lon, lat, _), = sites(case)
        line = {"type": "LineString", "coordinates": [[lon - 0.03, lat + 0.02], [lon - 0.01, lat - 0.02]]}
        features = [
            {"type": "Feature", "properties": {"name": "a", "buffer_m": 600}, "geometry": polygon(lon, lat, 0.006)},
            {"type": "Feature", "properties": {"name": "b", "buffer": "0.4 km"}, "geometry": line},
            {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [lon + 0.04, lat]}},
        ]
        json.dump({"type": "FeatureCollection", "features": features}, open(f"{folder}/sites.json", "w"))
        return
    listed = [{"name": n, "lon": x, "lat": y} | ({"buffer_km": own} if own else {}) for n, x, y, own in sites(case)]
    json.dump({"sites": listed}, open(f"{folder}/sites.json", "w"))


def distances(case, lon, lat):
    """Of every pixel: metres to each site, minus the buffer of that site."""
    if case != "shapes":
        for _, x, y, own in sites(case):
            _, _, away = GEOD.inv(np.full_like(lon, x), np.full_like(lat, y), lon, lat)
            yield away - (own * 1000 if own else BUFFER)
        return
    (_, x, y, _), = sites(case)
    line = shapely.LineString([[x - 0.03, y + 0.02], [x - 0.01, y - 0.02]])
    for shape, buffer in [(shapely.geometry.shape(polygon(x, y, 0.006)), 600), (line, 400), (shapely.Point(x + 0.04, y), BUFFER)]:
        edge = shape.exterior if shape.geom_type == "Polygon" else shape
        points = shapely.get_coordinates(shapely.segmentize(edge, 2e-5))
        away = np.full(lon.shape, np.inf)
        # Only the nearest of the densified outline, found in a local plane, is measured along the ellipsoid.
        k = np.cos(np.radians(y))
        tree = shapely.STRtree(shapely.points(points[:, 0] * k, points[:, 1]))
        near = tree.nearest(shapely.points(lon.ravel() * k, lat.ravel()))
        _, _, away = GEOD.inv(lon.ravel(), lat.ravel(), points[near, 0], points[near, 1])
        away[shapely.contains_xy(shape, lon.ravel(), lat.ravel())] = 0
        yield away.reshape(lon.shape) - buffer


def check(case, folder, path):
    _, left, top, pixel, width, height = grid(case)
    with rasterio.open(path) as got, rasterio.open(f"{folder}/raster.tif") as raster:
        assert got.profile["dtype"] == "float32" and got.count == 1 and np.isnan(got.nodata)
        assert got.transform == raster.transform and got.crs == raster.crs and got.shape == raster.shape
        assert got.descriptions == ("label",) and bool(got.overviews(1)) == (max(got.shape) > 512)
        mask, image = got.read(1), raster.read([1, 2])
    columns, rows = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    lon, lat = degrees(case, columns, rows)
    want = np.zeros((height, width))
    border = np.zeros((height, width), bool)
    # Where both are exact, only a pixel on the very line may differ.
    tolerance = 0.5 if case == "shapes" else 1e-3
    for beyond in distances(case, lon, lat):
        want = np.maximum(want, np.where(beyond <= 0, 1.0, np.where(beyond <= RING, 0.5, 0.0)))
        border |= (np.abs(beyond) < tolerance) | (np.abs(beyond - RING) < tolerance)
    empty = np.isnan(image).any(axis=0)
    assert empty.any() and (np.isnan(mask) == empty).all(), "no-data"
    wrong = (mask != want) & ~empty & ~border
    assert not wrong.any(), f"{wrong.sum()} pixels differ, the first at {np.argwhere(wrong)[:3].tolist()}"
    assert border.mean() < (0.003 if case == "shapes" else 1e-4)
    positive, ring = int((mask == 1).sum()), int((mask == 0.5).sum())
    assert positive > 500 and ring > 100, (positive, ring)
    print(f"agree {positive} {positive / (~empty).sum():.9f}")


if sys.argv[1] == "make":
    make(*sys.argv[2:])
else:
    check(*sys.argv[2:])
