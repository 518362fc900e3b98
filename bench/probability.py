"""A probability raster with blob-like detections: probability.py OUT [SIZE]. 32-bit floats, EPSG:32641, 10 m."""
import sys

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter, zoom

out, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4096
rng = np.random.default_rng(3)
fine = gaussian_filter(rng.standard_normal((n, n)).astype("f4"), 3)
fine /= fine.std()
coarse = zoom(gaussian_filter(rng.standard_normal((n // 16, n // 16)).astype("f4"), 3), 16, order=1)
coarse /= coarse.std()
logits = 1.6 * fine + 2.2 * coarse - 7.2
for _ in range((n // 256) ** 2):
    row, column, size = rng.integers(40, n - 80), rng.integers(40, n - 80), rng.integers(6, 40)
    logits[row:row + size, column:column + int(size * rng.uniform(.6, 1.6))] += 8
with rasterio.open(out, "w", driver="GTiff", height=n, width=n, count=1, dtype="float32", crs="EPSG:32641",
                   transform=from_origin(600000, 5120000, 10, 10), compress="deflate", predictor=3, tiled=True,
                   blockxsize=512, blockysize=512) as raster:
    raster.write((1 / (1 + np.exp(-logits))).astype("f4"), 1)
