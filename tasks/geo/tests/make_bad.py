"""Writes rasters that a user may meet, one file a kind of trouble: make_bad.py FOLDER"""
import os, struct, sys, warnings
import numpy as np, rasterio
from rasterio.transform import from_origin, Affine

warnings.simplefilter("ignore")
out = sys.argv[1]
N = from_origin(500000, 5200000, 10, 10)
rng = np.random.default_rng(3)


def write(name, a, transform=N, crs="EPSG:32633", **more):
    a = a if a.ndim == 3 else a[None]
    options = dict(tiled=True, blockxsize=128, blockysize=128, compress="deflate", predictor=2) | more
    with rasterio.open(f"{out}/{name}.tif", "w", driver="GTiff", height=a.shape[1], width=a.shape[2], count=a.shape[0],
                       dtype=a.dtype, transform=transform, crs=crs, **options) as d:
        d.write(a)
    return f"{out}/{name}.tif"


a = rng.integers(1, 5000, (300, 400)).astype("u2")
good = write("good", a, nodata=0)
raw = write("raw", a, compress=None, predictor=1)
open(f"{out}/empty.tif", "w").close()
data = open(good, "rb").read()
open(f"{out}/header.tif", "wb").write(data[:6])
open(f"{out}/truncated.tif", "wb").write(data[:len(data) * 2 // 3])
rawdata = open(raw, "rb").read()
open(f"{out}/truncated_raw.tif", "wb").write(rawdata[:len(rawdata) * 2 // 3])
open(f"{out}/random.tif", "wb").write(rng.bytes(5000))
open(f"{out}/page.tif", "w").write("<!DOCTYPE html><html><body>503 Service Unavailable</body></html>")
open(f"{out}/vrt.tif", "w").write(f'<VRTDataset rasterXSize="400" rasterYSize="300"><VRTRasterBand dataType="UInt16" band="1">'
                                  f'<SimpleSource><SourceFilename>{good}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')
write("nodata", np.zeros((300, 400), "u2"), nodata=0)
write("nan", np.full((300, 400), np.nan, "f4"), predictor=3)
write("no_crs", a, crs=None)
write("no_transform", a, transform=Affine.identity())
write("rotated", a, transform=N * Affine.rotation(12))
write("south_up", a, transform=Affine(10, 0, 500000, 0, 10, 5000000))
write("one", np.array([[7]], "u2"), tiled=False)
write("long", np.arange(100000, dtype="f4")[:, None], tiled=False, predictor=3)
write("complex", np.ones((10, 10), "c8"), predictor=1)
write("strips", a, tiled=False)
write("bands", np.ones((5000, 1, 1), "u1"), tiled=False, compress=None, predictor=1, interleave="pixel")
# A width beyond 2^31: a header by hand.
tags = [(256, 4, 1, 0xFFFFFFF0), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1),
        (278, 4, 1, 1), (279, 4, 1, 100)]
body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + b"\0\0\0\0"
open(f"{out}/wide.tif", "wb").write(b"II\x2a\0" + struct.pack("<I", 8) + body + bytes(100))
os.makedirs(f"{out}/folder.tif")
