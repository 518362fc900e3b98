"""What the references of tests share: where tiles begin, and what a network is shown of a raster. numpy and rasterio only."""
import numpy as np
import rasterio


def starts(length, tile, overlap, edges):
    found, at = [], 0
    while at + tile < length:
        found.append(at)
        at += tile - overlap
    return found + [max(length - tile, 0) if edges == "shifted" else at]


def shown(case):
    """Network input of a whole raster, where a band has no data, and the raster's profile."""
    with rasterio.open(case["raster"]) as src:
        order = [src.descriptions.index(name) + 1 for name in case["bands"]]
        stored = src.read(order)
        profile = src.profile
        bad = ~np.isfinite(stored) if src.nodata is None or np.isnan(src.nodata) else stored == src.nodata
        x = stored * np.array(src.scales)[np.array(order) - 1, None, None] + np.array(src.offsets)[np.array(order) - 1, None, None]
    norm = case["normalisation"]
    column = lambda key: np.array(norm[key], dtype="f8")[:, None, None]
    if norm["method"] == "standard":
        x = (x - column("mean")) / column("std")
    elif norm["method"] == "stretch":
        x = np.clip((x - column("low")) / (column("high") - column("low")), 0, 1)
    return np.where(bad, norm["fill"], x).astype("f4"), bad, profile


def padded(x, rows, columns, tile):
    """The raster reflected at its right and lower edge, as far as the last tiles reach."""
    height, width = x.shape[1:]
    full = (max(rows[-1] + tile, height) - height, max(columns[-1] + tile, width) - width)
    return np.pad(x, ((0, 0), (0, full[0]), (0, full[1])), mode="reflect")


def written(got):
    """Values of a written raster in double precision, scale and offset applied, and where it has none."""
    values = got.read(masked=True).astype("f8") * np.array(got.scales)[:, None, None] + np.array(got.offsets)[:, None, None]
    return values, np.ma.getmaskarray(values)
