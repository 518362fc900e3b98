"""Makes small stacks of scenes and judges composites of them, by numpy, scipy and rasterio alone.

    oracle_composite.py make CASE FOLDER          writes FOLDER/scenes.json and its files
    oracle_composite.py check CASE FOLDER COG     recomputes the composite and compares

Composites must equal numpy's masked median (or mean) to the rounding of a 32-bit float.
"""
import json, os, sys, warnings
import numpy as np, rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform as warp_points

warnings.simplefilter("ignore")
X0, Y0 = 600000.0, 5120000.0


def write(path, a, res, x0=X0, y0=Y0, epsg=32641, nodata=0, block=256):
    a = a if a.ndim == 3 else a[None]
    with rasterio.open(path, "w", driver="GTiff", height=a.shape[1], width=a.shape[2], count=a.shape[0], dtype=a.dtype,
                       crs=f"EPSG:{epsg}", transform=from_origin(x0, y0, res, res), nodata=nodata, tiled=True,
                       blockxsize=block, blockysize=block, compress="deflate", predictor=3 if a.dtype.kind == "f" else 2) as d:
        d.write(a)


def scene(folder, sid, when, assets, **more):
    return dict(id=sid, datetime=when, collection="sentinel-2-l2a", assets={
        k: dict(href=os.path.join(folder, f), **(extra or {})) for k, (f, extra) in assets.items()}, **more)


def stack(folder, n, h, w, seed, epsg=32641, x0=X0, y0=Y0, first=0):
    """n dates of B04 (10 m), B11 (20 m), SCL (20 m); every third without offset; odd ones with a wedge of no-data."""
    rng = np.random.default_rng(seed)
    scenes = []
    for t in range(n):
        old = t % 3 == 0
        up = lambda z: z.repeat(2, 0).repeat(2, 1)[:h, :w]
        hh, ww = (h + 1) // 2, (w + 1) // 2
        b04 = rng.integers(1, 9000, (h, w)).astype("u2")
        b11 = rng.integers(1, 9000, (hh, ww)).astype("u2")
        scl = rng.integers(0, 12, (hh, ww)).astype("u1")
        scl[10:40, 20:90] = 9
        if t % 2:
            wedge = np.add.outer(np.arange(hh) // 5, np.arange(ww)) < 60
            b11[wedge] = 0; scl[wedge] = 0; b04[up(wedge)] = 0
        for name, a, res in (("B04", b04, 10), ("B11", b11, 20), ("SCL", scl, 20)):
            write(f"{folder}/{first + t}_{name}.tif", a, res, x0, y0, epsg)
        k = first + t
        extra = dict(scale=0.0001, offset=0.0 if old else -0.1) if t % 2 else None
        scenes.append(scene(folder, f"S{k}", f"2024-0{1 + k % 9}-{1 + k // 9:02d}T06:45:21Z", {
            "B04": (f"{k}_B04.tif", extra), "B11": (f"{k}_B11.tif", extra), "SCL": (f"{k}_SCL.tif", None)},
            processing_baseline="03.01" if old else "05.10"))
    return scenes


def read(path, band=1):
    with rasterio.open(path) as s:
        return s.read(band)


def masked(scenes, band, h, w, clear=(4, 5, 6, 7)):
    out = []
    for s in scenes:
        dn = read(s["assets"][band]["href"]).astype("f8")
        if dn.shape != (h, w):
            dn = dn.repeat(2, 0).repeat(2, 1)[:h, :w]
        scl = read(s["assets"]["SCL"]["href"]).repeat(2, 0).repeat(2, 1)[:h, :w]
        v = (dn - (1000 if s["processing_baseline"] >= "04.00" else 0)) * 1e-4
        v[(dn == 0) | ~np.isin(scl, clear)] = np.nan
        out.append(v)
    return np.stack(out)


def same(got, want, what, tolerance=2e-7):
    assert got.shape == want.shape, (what, got.shape, want.shape)
    assert np.array_equal(np.isnan(got), np.isnan(want)), (what, "no-data differs", int((np.isnan(got) != np.isnan(want)).sum()))
    worst = np.nanmax(np.abs(got - want)) if np.isfinite(want).any() else 0
    assert worst <= tolerance, (what, worst)


def field(lon, lat):
    return 3000 + 1500 * np.sin(np.mod(lon, 360) * 900) + 1200 * np.cos(lat * 1100)


def lonlat(x0, y0, h, w, epsg, res=10):
    xs = x0 + (np.arange(w) + .5) * res; ys = y0 - (np.arange(h) + .5) * res
    gx, gy = np.meshgrid(xs, ys)
    lon, lat = warp_points(f"EPSG:{epsg}", "EPSG:4326", gx.ravel(), gy.ravel())
    return np.reshape(lon, gx.shape), np.reshape(lat, gx.shape)


ZONES = [(32633, 273000.0, 5300000.0), (32632, 711500.0, 5301000.0)]
# Both sides of the antimeridian, near the equator.
ENDS = [(32660, 829000.0, 103000.0), (32601, 168000.0, 103000.0)]


def make(case, folder):
    if case in ("shared", "mean", "dilated"):
        scenes = stack(folder, 7, 701, 1303, 7)
    elif case == "raw":
        # Nothing is compressed: whatever bytes come are pixels.
        scenes = stack(folder, 6, 300, 500, 12)
        for s in scenes:
            for asset in s["assets"].values():
                with rasterio.open(asset["href"]) as d:
                    a, profile = d.read(), d.profile
                with rasterio.open(asset["href"], "w", **profile | dict(compress="none", predictor=1)) as d:
                    d.write(a)
    elif case == "extents":
        scenes = stack(folder, 3, 400, 400, 1) + stack(folder, 2, 300, 500, 2, x0=X0 + 2000, y0=Y0 - 1000, first=3)
    elif case in ("coarse", "middle"):
        # No file tells of no-data, and each carries overviews that hold nothing but lies.
        scenes = stack(folder, 5, 408, 520, 31); rng = np.random.default_rng(32)
        for s in scenes:
            s["assets"]["B09"] = dict(href=s["assets"]["B04"]["href"].replace("B04", "B09"))
            b09 = rng.integers(1, 9000, (51, 65)).astype("u2"); b09[rng.random(b09.shape) < .1] = 0
            write(s["assets"]["B09"]["href"], b09, 80)
            for name, asset in s["assets"].items():
                asset.pop("offset", None); asset.pop("scale", None)
                with rasterio.open(asset["href"], "r+") as d:
                    d.nodata = None
                    d.build_overviews([2, 4], rasterio.enums.Resampling.mode)
    elif case in ("zones", "ends", "coarse_zones"):
        scenes = []
        for i, (epsg, x0, y0) in enumerate(ENDS if case == "ends" else ZONES):
            lon, lat = lonlat(x0, y0, 600, 600, epsg)
            write(f"{folder}/z{i}.tif", field(lon, lat).astype("f4"), 10, x0, y0, epsg, nodata=float("nan"))
            scenes.append(scene(folder, f"Z{i}", "2024-05-01T10:00:00Z", {"B04": (f"z{i}.tif", None)}))
    elif case == "many":
        # Ten dates in two zones, each with a mask of the finest pixels.
        scenes = []; rng = np.random.default_rng(41)
        b04 = rng.integers(1, 9000, (1100, 1100)).astype("u2"); clm = rng.integers(0, 4, (1100, 1100)).astype("u1")
        for t in range(10):
            epsg, x0, y0 = ZONES[t % 2]
            write(f"{folder}/{t}_B04.tif", b04, 10, x0, y0, epsg); write(f"{folder}/{t}_CLM.tif", clm, 10, x0, y0, epsg, nodata=None)
            scenes.append(scene(folder, f"M{t}", f"2024-05-{t + 1:02d}T10:00:00Z", {k: (f"{t}_{k}.tif", None) for k in ("B04", "CLM")}))
    elif case == "clip":
        scenes = stack(folder, 3, 300, 400, 11)
    elif case == "jp2":
        rng = np.random.default_rng(4); scenes = []
        for t in range(3):
            red = rng.integers(0, 4000, (200, 300)).astype("u2")
            with rasterio.open(f"{folder}/{t}.jp2", "w", driver="JP2OpenJPEG", height=200, width=300, count=1, dtype="uint16", crs="EPSG:32641",
                               transform=from_origin(X0, Y0, 10, 10), nodata=0, QUALITY="100", REVERSIBLE="YES") as d:
                d.write(red, 1)
            scenes.append(scene(folder, f"J{t}", f"2024-05-0{t + 1}T10:00:00Z", {"B04": (f"{t}.jp2", dict(scale=0.0001, offset=-0.1, nodata=0))}))
    elif case == "tiles":
        # Two neighbouring tiles of one acquisition and one of another day.
        a = stack(folder, 2, 400, 400, 5)
        b = stack(folder, 1, 400, 400, 6, x0=X0 + 2000, first=5)
        a[1]["processing_baseline"] = b[0]["processing_baseline"] = "05.10"
        b[0]["datetime"] = a[0]["datetime"]; a[0]["processing_baseline"] = "05.10"
        for s in a + b:
            for asset in s["assets"].values():
                asset.pop("offset", None); asset.pop("scale", None)
        scenes = a + b
    elif case in ("fmask", "bits"):
        rng = np.random.default_rng(3); scenes = []
        for t in range(5):
            red = rng.integers(-500, 9000, (90, 110)).astype("i2"); red[rng.random(red.shape) < .2] = -9999
            qa = rng.integers(0, 5, red.shape).astype("u1"); qa[rng.random(qa.shape) < .1] = 255
            if case == "bits":
                qa = rng.integers(0, 1024, red.shape).astype("u2")
            write(f"{folder}/{t}_red.tif", red, 30, nodata=-9999); write(f"{folder}/{t}_qa.tif", qa, 30, nodata=255 if case == "fmask" else None)
            s = scene(folder, f"L{t}", f"2010-01-0{t + 1}T00:00:00Z", {"red": (f"{t}_red.tif", dict(scale=0.0001)), "qa": (f"{t}_qa.tif", None)})
            s["collection"] = "landsat"; scenes.append(s)
    elif case in ("clm", "qa60"):
        # Sentinel-2 masks in which 0 is clear, of files that declare no no-data.
        rng = np.random.default_rng(8); scenes = []
        for t in range(3):
            write(f"{folder}/{t}_B04.tif", rng.integers(0, 9000, (80, 100)).astype("u2"), 10, nodata=None)
            write(f"{folder}/{t}_CLM.tif", rng.integers(0, 2, (80, 100)).astype("u1"), 10, nodata=None)
            write(f"{folder}/{t}_QA60.tif", (rng.integers(0, 4, (80, 100)) << 10).astype("u2"), 10, nodata=None)
            names = {k: (f"{t}_{k}.tif", None) for k in ("B04", "CLM", "QA60")}
            scenes.append(scene(folder, f"S{t}", f"2019-07-0{t + 1}T10:00:00Z", names, processing_baseline="02.13"))
    elif case == "listed":
        # All in one file, the mask is its fourth band.
        rng = np.random.default_rng(9); scenes = []
        for t in range(3):
            bands = rng.integers(1, 200, (4, 70, 90)).astype("u1"); bands[3] = rng.integers(0, 2, (70, 90))
            write(f"{folder}/{t}.tif", bands, 10, nodata=None)
            s = scene(folder, f"P{t}", f"2021-07-0{t + 1}T10:00:00Z", {"image": (f"{t}.tif", dict(bands=["red", "green", "blue", "cloud_mask"]))})
            s["collection"] = "planet"; scenes.append(s)
    elif case == "baselines":
        # One datatake in three tiles, side by side: the middle one was processed anew, and its time has a fraction.
        scenes = stack(folder, 1, 300, 200, 21) + stack(folder, 1, 300, 200, 22, x0=X0 + 1500, first=1) + stack(folder, 1, 300, 200, 23, x0=X0 + 3000, first=2)
        for s, when, baseline in zip(scenes, ("10:00:00Z", "10:00:00.5Z", "10:00:01Z"), ("03.01", "05.10", "03.01")):
            s["datetime"] = "2022-02-01T" + when; s["processing_baseline"] = baseline
            for asset in s["assets"].values():
                asset.pop("offset", None); asset.pop("scale", None)
    json.dump(dict(signing="none", scenes=scenes), open(f"{folder}/scenes.json", "w"))


def check(case, folder, cog):
    scenes = json.load(open(f"{folder}/scenes.json"))["scenes"]
    with rasterio.open(cog) as s:
        got = {n: s.read(i + 1) for i, n in enumerate(s.descriptions)}
        transform, crs, (H, W) = s.transform, s.crs.to_epsg(), s.shape
    if case in ("shared", "raw", "mean", "dilated"):
        h, w = (300, 500) if case == "raw" else (701, 1303)
        # The output of whole scenes reaches to the edge of the 20 m pixels.
        pad = lambda a: np.pad(a, ((0, 0), (0, H - h), (0, W - w)), constant_values=np.nan)
        assert (crs, transform.c, transform.f, transform.a) == (32641, X0, Y0, 10)
        counts = []
        for band in ("B04", "B11"):
            v = masked(scenes, band, h, w) if band == "B04" else masked(scenes, band, H, W)
            if case == "dilated":
                from scipy.ndimage import binary_dilation
                yy, xx = np.mgrid[-4:5, -4:5]; disk = xx ** 2 + yy ** 2 <= 16
                for t, sc in enumerate(scenes):
                    scl = read(sc["assets"]["SCL"]["href"])
                    near = binary_dilation(~np.isin(scl, (4, 5, 6, 7)) & (scl != 0), disk).repeat(2, 0).repeat(2, 1)
                    v[t][near[:v.shape[1], :v.shape[2]]] = np.nan
            if v.shape[1:] != (H, W):
                v = pad(v)
            counts.append((~np.isnan(v)).sum(0))
            same(got[band], np.nanmean(v, 0) if case == "mean" else np.nanmedian(v, 0), band)
        assert np.array_equal(got["count"], np.minimum(*counts))
        if case != "dilated":
            assert {2, 3, 4} <= set(np.unique(got["count"]).astype(int)), "even and odd counts are tried"
    elif case == "extents":
        assert (transform.c, transform.f, H, W) == (X0, Y0, 400, 700)
        v = np.full((5, H, W), np.nan)
        v[:3, :400, :400] = masked(scenes[:3], "B04", 400, 400)
        v[3:, 100:400, 200:700] = masked(scenes[3:], "B04", 300, 500)
        same(got["B04"], np.nanmedian(v, 0), "B04")
        assert np.array_equal(got["count"], (~np.isnan(v)).sum(0))
    elif case == "zones":
        lon, lat = lonlat(transform.c, transform.f, H, W, crs)
        want = field(lon, lat)
        valid = ~np.isnan(got["B04"])
        own = next(z for z in ZONES if z[0] == crs)
        x, y = round((own[1] - transform.c) / 10), round((transform.f - own[2]) / 10)
        assert got["count"].max() == 1, "one acquisition counts once, whatever the number of its tiles"
        a, b = max(x, 0), max(y, 0)
        inside = got["B04"][b:min(y + 600, H), a:min(x + 600, W)]
        z = ZONES.index(own)
        src = read(scenes[z]["assets"]["B04"]["href"])[b - y:b - y + inside.shape[0], a - x:a - x + inside.shape[1]]
        print(crs, H, W, float(valid.mean()), float(np.nanmax(np.abs(got["B04"] - want))))
        if z == 0:
            same(inside, src, "pixels on the shared grid are untouched", 0)
        # Linear interpolation of this field errs by about 4; at the edge of a scene it has no neighbours to lean on.
        error = np.abs(got["B04"] - want)[valid]
        assert (error > 5).mean() < .01 and error.max() < 150, ((error > 5).mean(), error.max())
        assert valid.mean() > .5
    elif case == "ends":
        lon, lat = lonlat(transform.c, transform.f, H, W, crs)
        valid = ~np.isnan(got["B04"])
        assert W < 1500, "the grid lies around the box, not around the globe"
        assert (valid & (lon > 0)).sum() > 20000 and (valid & (lon < 0)).sum() > 20000, "both sides hold pixels"
        error = np.abs(got["B04"] - field(lon, lat))[valid]
        assert (error > 5).mean() < .01 and error.max() < 150, ((error > 5).mean(), error.max())
    elif case in ("coarse", "middle"):
        assert (transform.c, transform.f, transform.a, H, W) == (X0, Y0, 40, 102, 130), (transform, H, W)
        def cells(values, ok, n):
            if case == "middle":
                return np.where(ok, values, np.nan)[n // 2::n, n // 2::n]
            split = lambda a: a.reshape(H, n, W, n).swapaxes(1, 2).reshape(H, W, n * n)
            count = split(ok).sum(2)
            with np.errstate(invalid="ignore"):
                return np.where(2 * count >= n * n, split(np.where(ok, values, 0.0)).sum(2) / count, np.nan)
        counts = []
        for band in ("B04", "B11", "B09"):
            v = []
            for s in scenes:
                dn = read(s["assets"][band]["href"]).astype("f8")
                value = (dn - (1000 if s["processing_baseline"] >= "04.00" else 0)) * 1e-4
                scl = np.isin(read(s["assets"]["SCL"]["href"]), (4, 5, 6, 7))
                up = lambda a: a.repeat(2, 0).repeat(2, 1)
                if band == "B04":
                    v.append(cells(value, up(scl) & (dn != 0), 4))
                elif band == "B11":
                    v.append(cells(value, scl & (dn != 0), 2))
                else:
                    clear = ~np.isnan(cells(np.ones(scl.shape), scl, 2))
                    v.append(np.where(clear & (up(dn)[:H, :W] != 0), up(value)[:H, :W], np.nan))
            v = np.stack(v)
            counts.append((~np.isnan(v)).sum(0))
            same(got[band], np.nanmedian(v, 0), band)
        assert np.array_equal(got["count"], np.minimum.reduce(counts))
        assert {0, 1, 2} <= set(np.unique(got["count"]).astype(int))
    elif case == "coarse_zones":
        lon, lat = lonlat(transform.c, transform.f, 4 * H, 4 * W, crs)
        want = field(lon, lat).reshape(H, 4, W, 4).mean((1, 3))
        valid = ~np.isnan(got["B04"])
        error = np.abs(got["B04"] - want)[valid]
        print(crs, H, W, float(valid.mean()), float(error.max()))
        assert transform.a == 40 and valid.mean() > .5
        # At the edge of a scene cells hold fewer pixels than the mean of all.
        assert (error > 5).mean() < .03 and error.max() < 500, ((error > 5).mean(), error.max())
    elif case == "clip":
        from rasterio.features import geometry_mask
        from rasterio.warp import transform_geom
        from shapely.geometry import shape
        area = shape(transform_geom("EPSG:4326", "EPSG:32641", json.load(open(f"{folder}/area.geojson"))))
        # Straight lines in degrees and in metres are 0.1 m apart here: pixels in between may fall to either side.
        outside, inside = (geometry_mask([area.buffer(by)], (H, W), transform, all_touched=True) for by in (0.2, -0.2))
        either = outside != inside
        x, y = round((transform.c - X0) / 10), round((Y0 - transform.f) / 10)
        want = np.nanmedian(masked(scenes, "B04", 300, 400), 0)[y:y + H, x:x + W]
        want[outside | either] = np.nan
        got["B04"][either] = np.nan
        assert either.sum() < 60 and outside.any() and not outside.all()
        same(got["B04"], want, "B04")
        assert not got["count"][outside].any(), "nothing is observed outside of the area"
    elif case == "jp2":
        v = []
        for s in scenes:
            dn = read(s["assets"]["B04"]["href"]).astype("f8")
            v.append(np.where(dn != 0, dn * 1e-4 - 0.1, np.nan))
        same(got["B04"], np.nanmedian(np.stack(v), 0), "B04")
    elif case == "tiles":
        v = np.full((2, H, W), np.nan)
        first = masked(scenes[:1], "B04", 400, 400)[0]; other = masked(scenes[2:], "B04", 400, 400)[0]
        v[0, :, :400] = first
        part = v[0, :, 200:600]; part[np.isnan(part)] = other[np.isnan(part)]
        v[1, :, :400] = masked(scenes[1:2], "B04", 400, 400)[0]
        same(got["B04"], np.nanmedian(v, 0), "B04")
        assert np.array_equal(got["count"], (~np.isnan(v)).sum(0))
    elif case in ("fmask", "bits"):
        v = []
        for s in scenes:
            dn = read(s["assets"]["red"]["href"]).astype("f8"); qa = read(s["assets"]["qa"]["href"])
            ok = np.isin(qa, (0, 1)) if case == "fmask" else (qa & ((1 << 1) | (1 << 3))) == 0
            v.append(np.where(ok & (dn != -9999), dn * 1e-4, np.nan))
        same(got["red"], np.nanmedian(np.stack(v), 0), "red")
        assert np.nanmin(got["red"]) < 0, "values below zero are valid"
    elif case in ("clm", "qa60"):
        v = []
        for s in scenes:
            dn = read(s["assets"]["B04"]["href"]).astype("f8"); mask = read(s["assets"][case.upper()]["href"])
            ok = mask == 0 if case == "clm" else (mask & (1 << 10 | 1 << 11)) == 0
            v.append(np.where(ok & (dn != 0), dn * 1e-4, np.nan))
        same(got["B04"], np.nanmedian(np.stack(v), 0), "B04")
        assert (got["count"] == 3).any() and (got["count"] == 0).any()
    elif case == "listed":
        files = [rasterio.open(s["assets"]["image"]["href"]).read().astype("f8") for s in scenes]
        same(got["green"], np.nanmedian(np.stack([np.where(f[3] == 0, f[1], np.nan) for f in files]), 0), "green")
    elif case == "baselines":
        want = np.full((H, W), np.nan)
        for s, left in zip(scenes, (0, 150, 300)):
            part = want[:, left:left + 200]
            v = masked([s], "B04", 300, 200)[0]
            part[np.isnan(part)] = v[np.isnan(part)]
        same(got["B04"], want, "B04")
        assert got["count"].max() == 1, "one datatake counts once, whatever its baselines"
    print("agree")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
