"""The peer of `detect.polygons`: rasterio, scipy, scikit-learn and shapely. detect.py RASTER OUT.geojson [labelled | mask]

threshold 0.5 -> components -> polygons -> mean probability, geodesic area, Polsby-Popper compactness, score -> DBSCAN (2 km)
-> GeoJSON. `labelled` labels once and vectorises the labels; `mask` vectorises the mask and reads the probabilities under
each polygon, which is the faster way where detections are few.
"""
import json
import math
import sys

import numpy as np
import rasterio
import rasterio.features
import shapely
from common import Meter, emit
from pyproj import Geod, Transformer
from scipy import ndimage
from shapely.geometry import shape
from sklearn.cluster import DBSCAN

raster, out = sys.argv[1], sys.argv[2]
method = sys.argv[3] if len(sys.argv) > 3 else "mask"
LEAST = 50
geodesic = Geod(ellps="WGS84")
with Meter() as meter:
    with rasterio.open(raster) as source:
        probability, transform, crs = source.read(1), source.transform, source.crs
    mask = probability > .5
    shapes, means = [], []
    if method == "labelled":
        labels, count = ndimage.label(mask)
        pixels = np.bincount(labels.ravel(), minlength=count + 1)
        mean = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count + 1) / np.maximum(pixels, 1)
        keep = pixels >= LEAST
        keep[0] = False
        labels[~keep[labels]] = 0
        for polygon, label in rasterio.features.shapes(labels.astype("i4"), mask=labels > 0, connectivity=4, transform=transform):
            shapes.append(shape(polygon))
            means.append(mean[int(label)])
    else:
        count = 0
        for polygon, _ in rasterio.features.shapes(mask.astype("u1"), mask=mask, connectivity=4, transform=transform):
            count += 1
            found = shape(polygon)
            if found.area < LEAST * abs(transform.a * transform.e):
                continue
            west, south, east, north = found.bounds
            (c0, r0), (c1, r1) = ~transform * (west, north), ~transform * (east, south)
            r0, r1, c0, c1 = map(round, (r0, r1, c0, c1))
            inside = rasterio.features.geometry_mask(
                [polygon], (r1 - r0, c1 - c0), transform * transform.translation(c0, r0), invert=True)
            shapes.append(found)
            means.append(float(probability[r0:r1, c0:c1][inside].mean()))
    planar = np.array(shapes, dtype=object)
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    geographic = shapely.transform(planar, lambda c: np.column_stack(to_degrees.transform(c[:, 0], c[:, 1])))
    area = np.array([abs(geodesic.geometry_area_perimeter(g)[0]) for g in geographic]) / 1e6
    compactness = np.minimum(1, 4 * math.pi * shapely.area(planar) / shapely.length(planar) ** 2)
    score = .6 * np.array(means) + .2 * compactness + .2 * (1 - np.minimum(np.abs(area - 2) / 2, 1))
    centre = shapely.centroid(geographic)
    radians = np.radians(np.column_stack([shapely.get_y(centre), shapely.get_x(centre)]))
    cluster = DBSCAN(eps=2000 / 6371008.8, min_samples=1, metric="haversine", algorithm="ball_tree").fit_predict(radians)
    order = np.lexsort((-score, cluster))
    kept = order[np.r_[True, cluster[order][1:] != cluster[order][:-1]]]
    features = [{"type": "Feature", "geometry": json.loads(g),
                 "properties": {"score": round(float(score[i]), 5), "area_km2": round(float(area[i]), 6)}}
                for i, g in zip(kept, shapely.to_geojson(geographic[kept]))]
    with open(out, "w") as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)
emit(meter, method=method, components=int(count), candidates=len(planar), kept=len(kept))
