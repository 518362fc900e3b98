"""Peers of `raster.composite`: composite.py METHOD ITEMS.json OUT.tif [THREADS]

  odc      odc-stac and dask, chunks of 1024: what people use
  decode   reads the same files with GDAL window by window and writes one date: no masking, no median
  windows  hand-tuned windows with rasterio and bottleneck
  check    no measurement: compares OUT.tif with numpy's masked median, and fails where they differ

The rule of all: a pixel counts where it is not 0 and its SCL is 4 to 7 (20 m repeated to 10 m); its value is
(DN - 1000 from baseline 04.00 on, else DN) / 10000; the median over time, NaN where nothing counts.
"""
import itertools
import json
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
warnings.simplefilter("ignore")
import numpy as np
import rasterio
from common import Meter, emit
from rasterio.windows import Window

method, catalog, out = sys.argv[1:4]
threads = int(sys.argv[4]) if len(sys.argv) > 4 else 2
os.environ.setdefault("OMP_NUM_THREADS", str(threads))
BANDS, SCALE, BLOCK, CHUNK = ["B02", "B03", "B04", "B08", "B11", "B12"], np.float32(1e-4), 512, 1024
items = json.load(open(catalog))["features"]
offsets = np.array([1000 if item["properties"]["s2:processing_baseline"] >= "04.00" else 0 for item in items], "f4")
href = {band: [item["assets"][band]["href"] for item in items] for band in BANDS + ["SCL"]}
with rasterio.open(href["B02"][0]) as first:
    height, width, crs, transform = first.height, first.width, first.crs, first.transform
profile = dict(driver="GTiff", dtype="float32", nodata=float("nan"), tiled=True, blockxsize=512, blockysize=512,
               compress="deflate", zlevel=1, predictor=3, interleave="band", num_threads=threads, bigtiff="if_safer",
               height=height, width=width, count=6, crs=crs, transform=transform)
windows = [Window(x, y, min(BLOCK, width - x), min(BLOCK, height - y))
           for y in range(0, height, BLOCK) for x in range(0, width, BLOCK)]


def read(paths, window, factor, dtype):
    stack = np.empty((len(paths), window.height, window.width), dtype)
    for i, path in enumerate(paths):
        with rasterio.open(path) as source:
            if factor == 1:
                source.read(1, window=window, out=stack[i])
            else:
                half = Window(window.col_off // 2, window.row_off // 2, -(-window.width // 2), -(-window.height // 2))
                stack[i] = source.read(1, window=half).repeat(2, 0).repeat(2, 1)[:window.height, :window.width]
    return stack


def work(window, median=None):
    """All bands of a window; with no `median` only decoded."""
    clear = np.isin(read(href["SCL"], window, 2, "u1"), (4, 5, 6, 7))
    result = np.empty((6, window.height, window.width), "f4")
    for k, band in enumerate(BANDS):
        pixels = read(href[band], window, 1 if k < 4 else 2, "u2")
        if median is None:
            result[k] = pixels[0]
            continue
        values = pixels.astype("f4")
        values -= offsets[:, None, None]
        values[~(clear & (pixels != 0))] = np.nan
        result[k] = median(values, 0) * SCALE
    return window, result


def windowed(median):
    with rasterio.open(out, "w", **profile) as raster, ThreadPoolExecutor(threads) as pool:
        left = iter(windows)
        futures = [pool.submit(work, window, median) for window in itertools.islice(left, 2 * threads)]
        while futures:
            window, result = futures.pop(0).result()
            raster.write(result, window=window)
            if (after := next(left, None)) is not None:
                futures.append(pool.submit(work, after, median))


def odc_stac():
    import dask
    import dask.array
    import odc.stac
    import pystac
    import xarray
    from odc.geo.geobox import GeoBox

    class Sink:
        """Blocks go straight to the file."""

        def __setitem__(self, key, block):
            bands, rows, columns = key
            raster.write(block, indexes=list(range(bands.start + 1, bands.stop + 1)),
                         window=Window(columns.start, rows.start, block.shape[2], block.shape[1]))

    with dask.config.set(scheduler="threads", num_workers=threads), rasterio.open(out, "w", **profile) as raster:
        data = odc.stac.load([pystac.Item.from_dict(item) for item in items], bands=BANDS + ["SCL"],
                             geobox=GeoBox((height, width), transform, crs), resampling="nearest",
                             chunks={"x": CHUNK, "y": CHUNK, "time": 1})
        clear = (data.SCL >= 4) & (data.SCL <= 7)
        offset = xarray.DataArray(offsets, dims="time", coords={"time": data.time})
        bands = []
        for band in BANDS:
            values = (data[band].astype("f4") - offset).where(clear & (data[band] != 0)).chunk(time=-1)
            bands.append((values.median("time", skipna=True) * SCALE).astype("f4"))
        dask.array.store(xarray.concat(bands, "band").data, Sink(), lock=True)


def check():
    """Independent of the windows above: double precision, numpy.nanmedian."""
    worst, compared = 0.0, 0
    with rasterio.open(out) as raster:
        assert (raster.height, raster.width, raster.transform) == (height, width, transform), "the grid differs"
        for window in windows:
            for k, band in enumerate(BANDS):
                pixels = read(href[band], window, 1 if k < 4 else 2, "u2")
                values = (pixels.astype("f8") - offsets[:, None, None]) / 10000
                values[(pixels == 0) | ~np.isin(read(href["SCL"], window, 2, "u1"), (4, 5, 6, 7))] = np.nan
                want, got = np.nanmedian(values, 0), raster.read(k + 1, window=window)
                assert np.array_equal(np.isnan(want), np.isnan(got)), f"no-data differs in {band} at {window}"
                if np.isfinite(want).any():
                    worst = max(worst, float(np.nanmax(np.abs(want - got))))
                compared += want.size
    assert worst <= 2e-7, f"values differ by up to {worst}"
    print(json.dumps({"equal": True, "pixels": compared, "largest_difference": worst}))


if method == "check":
    check()
else:
    with Meter() as meter:
        if method == "odc":
            odc_stac()
        elif method == "windows":
            import bottleneck
            windowed(bottleneck.nanmedian)
        else:
            windowed(None)
    emit(meter, method=method, dates=len(items), size=[height, width])
