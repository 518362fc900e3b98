"""A synthetic Sentinel-2 L2A stack as local COGs with STAC items, written by GDAL: what composites are measured on.

  stack.py --out DIR [--size 2048] [--dates 12] [--seed 7]

Layout: DIR/items.json (STAC FeatureCollection: proj, eo, raster, s2:* properties) and
DIR/<item>/{B02,B03,B04,B08}.tif (uint16, 10 m), {B11,B12}.tif (uint16, 20 m), SCL.tif (uint8, 20 m);
tiled 512, DEFLATE predictor 2, overviews 2/4/8, nodata 0, EPSG:32641, COG driver.
The first quarter of the dates has processing baseline 03.01 (no offset); the rest 05.10 (DN carries +1000).
Half of the dates have a nodata wedge (orbit edge); each date has 15-60 % cloud, plus shadows.
"""
import argparse, json, os, datetime
import numpy as np, rasterio
from rasterio.transform import from_origin
from rasterio.shutil import copy as rio_copy
from rasterio.warp import transform_bounds
from scipy.ndimage import gaussian_filter, zoom

B10 = ["B02", "B03", "B04", "B08"]; B20 = ["B11", "B12"]
X0, Y0, EPSG = 600000.0, 5120000.0, 32641
EO = {"B02": ("blue", .490), "B03": ("green", .560), "B04": ("red", .665), "B08": ("nir", .842), "B11": ("swir16", 1.610), "B12": ("swir22", 2.190)}

def field(rng, n, sigma):
    k = max(1, int(sigma // 4))
    m = -(-n // k)
    f = gaussian_filter(rng.standard_normal((m, m)).astype("f4"), sigma / k, mode="wrap")
    if k > 1:
        f = zoom(f, k, order=1)[:n, :n]
    return (f - f.mean()) / f.std()

def write(path, a, res, nodata=0):
    h, w = a.shape
    with rasterio.MemoryFile() as mf:
        with mf.open(driver="GTiff", height=h, width=w, count=1, dtype=a.dtype, crs=f"EPSG:{EPSG}",
                     transform=from_origin(X0, Y0, res, res), nodata=nodata, tiled=True, blockxsize=512, blockysize=512) as d:
            d.write(a, 1)
        with mf.open() as s:
            rio_copy(s, path, driver="COG", num_threads="all_cpus", blocksize=512, compress="DEFLATE", predictor="YES", overviews="AUTO",
                     overview_resampling="nearest" if a.dtype == np.uint8 else "average")

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True); ap.add_argument("--size", type=int, default=2048)
    ap.add_argument("--dates", type=int, default=12); ap.add_argument("--seed", type=int, default=7)
    a = ap.parse_args()
    rng = np.random.default_rng(a.seed); n = a.size; h = n // 2
    os.makedirs(a.out, exist_ok=True)
    veg, wet, urb = field(rng, n, 40), field(rng, n, 120), field(rng, n, 6)
    tex = {b: rng.normal(0, 90, (n, n)).astype("f4") for b in B10 + B20}
    base = {"B02": 700 + 120 * urb, "B03": 900 + 120 * urb + 60 * veg, "B04": 1000 + 200 * urb - 150 * veg,
            "B08": 2300 + 500 * veg, "B11": 2200 + 300 * urb - 200 * veg, "B12": 1700 + 300 * urb - 250 * veg}
    # sites: bright square pads (targets for the detector), ~1 per 500x500 px
    sites = np.zeros((n, n), bool)
    for _ in range(max(4, (n // 500) ** 2)):
        y, x, s = rng.integers(60, n - 120), rng.integers(60, n - 120), rng.integers(12, 50)
        sites[y:y + s, x:x + int(s * rng.uniform(.7, 1.4))] = True
    water = wet < -1.6
    for b in base:
        base[b] = base[b] + tex[b]
        base[b][water] = {"B02": 500, "B03": 450, "B04": 300, "B08": 200, "B11": 90, "B12": 60}[b]
        base[b][sites] = {"B02": 3200, "B03": 3400, "B04": 3600, "B08": 3700, "B11": 4200, "B12": 3900}[b]
    lc = np.where(water, 6, np.where(veg > 0.3, 4, np.where(urb > 2.2, 7, 5))).astype("u1")[::2, ::2]
    yy, xx = np.mgrid[0:h, 0:h]
    feats = []; t0 = datetime.datetime(2024, 3, 1, 6, 45, 21)
    for t in range(a.dates):
        dt = t0 + datetime.timedelta(days=5 * t)
        pb = "03.01" if t < a.dates // 4 else "05.10"
        off = 0 if pb < "04" else 1000
        cl = field(rng, h, 60); frac = rng.uniform(.15, .6)
        cloud = cl > np.quantile(cl[::4, ::4], 1 - frac)
        core = cl > np.quantile(cl[::4, ::4], 1 - frac * .6)
        shadow = np.roll(np.roll(cloud, 18, 0), 12, 1) & ~cloud
        wedge = (xx + .2 * yy < rng.uniform(.1, .45) * h) if t % 2 else np.zeros((h, h), bool)
        scl = lc.copy(); scl[shadow] = 3; scl[cloud] = 8; scl[core] = 9
        noise = rng.random((h, h)) < .004; scl[noise & ~cloud] = 10
        scl[wedge] = 0
        up = lambda z: z.repeat(2, 0).repeat(2, 1)
        c10, w10, s10 = up(np.clip((cl - cl[~cloud].max() * .6), 0, None)), up(wedge), up(shadow)
        gain = 1 + rng.normal(0, .03)
        iid = f"S2B_MSIL2A_{dt:%Y%m%dT%H%M%S}_R063_T41TNL_{dt:%Y%m%d}T101010"
        d = os.path.join(a.out, iid); os.makedirs(d, exist_ok=True); assets = {}
        for b in B10 + B20:
            v = base[b] * gain + 2600 * np.minimum(c10, 2.0); v[s10] *= .55
            v += rng.normal(0, 22, v.shape)
            v = np.clip(v + off, 1, 65534)
            if b in B20:
                v = v.reshape(h, 2, h, 2).mean((1, 3)); v[wedge] = 0
            else:
                v[w10] = 0
            write(f"{d}/{b}.tif", v.astype("u2"), 20 if b in B20 else 10)
            nm, cw = EO[b]; r = 20 if b in B20 else 10; k = h if b in B20 else n
            assets[b] = {"href": os.path.abspath(f"{d}/{b}.tif"), "type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"],
                         "eo:bands": [{"name": b, "common_name": nm, "center_wavelength": cw}], "gsd": r,
                         "raster:bands": [{"data_type": "uint16", "nodata": 0, "spatial_resolution": r, "scale": 0.0001, "offset": -0.1 if off else 0}],
                         "proj:shape": [k, k], "proj:transform": [r, 0, X0, 0, -r, Y0]}
        write(f"{d}/SCL.tif", scl, 20)
        assets["SCL"] = {"href": os.path.abspath(f"{d}/SCL.tif"), "type": assets["B02"]["type"], "roles": ["data"], "gsd": 20,
                         "raster:bands": [{"data_type": "uint8", "nodata": 0, "spatial_resolution": 20}],
                         "proj:shape": [h, h], "proj:transform": [20, 0, X0, 0, -20, Y0]}
        bb = transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", X0, Y0 - 10 * n, X0 + 10 * n, Y0)
        w, s, e, nn = bb
        feats.append({"type": "Feature", "stac_version": "1.0.0", "id": iid, "collection": "sentinel-2-l2a",
                      "stac_extensions": ["https://stac-extensions.github.io/eo/v1.1.0/schema.json", "https://stac-extensions.github.io/projection/v1.1.0/schema.json", "https://stac-extensions.github.io/raster/v1.1.0/schema.json"],
                      "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, nn], [w, nn], [w, s]]]}, "bbox": list(bb),
                      "properties": {"datetime": dt.isoformat() + "Z", "proj:epsg": EPSG, "proj:code": f"EPSG:{EPSG}", "eo:cloud_cover": round(100 * float(cloud.mean()), 2),
                                     "s2:processing_baseline": pb, "s2:mgrs_tile": "41TNL", "platform": "Sentinel-2B"},
                      "links": [], "assets": assets})
    json.dump({"type": "FeatureCollection", "features": feats}, open(f"{a.out}/items.json", "w"))


if __name__ == "__main__":
    main()
