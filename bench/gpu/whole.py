"""`infer.segment` from COG to COG: whole.py DEVICE FOLDER [SIDE [BATCH]].

FOLDER is the model folder that gpu_bench made. A raster of ten bands of SIDE x SIDE (10980) pixels is written into it, once, by the
GDAL that GDAL_LIBRARY names; infer_bench (INFER_BENCH, else beside this file) runs burn over it in tiles of 256 that overlap by 64,
twice in one process: the second time no kernel is compiled and none is chosen. A line of JSON for each.
"""
import ctypes
import json
import os
import subprocess
import sys

import numpy as np

BANDS = 10
device, folder = sys.argv[1:3]
side = int(sys.argv[3]) if len(sys.argv) > 3 else 10980
batch = int(sys.argv[4]) if len(sys.argv) > 4 else 32
raster = os.path.join(folder, f"ten-{side}.tif")
program = os.environ.get("INFER_BENCH", os.path.join(os.path.dirname(os.path.abspath(__file__)), "infer_bench"))


def gdal():
    library = ctypes.CDLL(os.environ.get("GDAL_LIBRARY", "libgdal.so"))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_double
    for name, result, *arguments in (
        ("GDALAllRegister", None),
        ("GDALGetDriverByName", pointer, text),
        ("GDALCreate", pointer, pointer, text, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer),
        ("GDALCreateCopy", pointer, pointer, text, pointer, ctypes.c_int, pointer, pointer, pointer),
        ("GDALSetGeoTransform", ctypes.c_int, pointer, pointer),
        ("GDALSetProjection", ctypes.c_int, pointer, text),
        ("GDALGetRasterBand", pointer, pointer, ctypes.c_int),
        ("GDALSetRasterNoDataValue", ctypes.c_int, pointer, number),
        ("GDALSetRasterScale", ctypes.c_int, pointer, number),
        ("GDALSetDescription", None, pointer, text),
        ("GDALRasterIO", ctypes.c_int, pointer, *[ctypes.c_int] * 5, pointer, *[ctypes.c_int] * 5),
        ("GDALClose", ctypes.c_int, pointer),
        ("OSRNewSpatialReference", pointer, text),
        ("OSRImportFromEPSG", ctypes.c_int, pointer, ctypes.c_int),
        ("OSRExportToWkt", ctypes.c_int, pointer, ctypes.POINTER(text)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.GDALAllRegister()
    return library


def write():
    """Waves and noise in 16 bits, as reflectance has them, so that compression has its usual work."""
    library, uint16 = gdal(), 2
    memory = library.GDALCreate(library.GDALGetDriverByName(b"MEM"), b"", side, side, BANDS, uint16, None)
    library.GDALSetGeoTransform(memory, (ctypes.c_double * 6)(500000, 10, 0, 5000000, 0, -10))
    reference, wkt = library.OSRNewSpatialReference(None), ctypes.c_char_p()
    if library.OSRImportFromEPSG(reference, 32633) or library.OSRExportToWkt(reference, ctypes.byref(wkt)):
        sys.exit("whole.py: GDAL finds no coordinate systems: PROJ_DATA names the folder of proj.db")
    library.GDALSetProjection(memory, wkt)
    rng, column, rows = np.random.default_rng(1), np.arange(side), 512
    for i in range(BANDS):
        band = library.GDALGetRasterBand(memory, i + 1)
        library.GDALSetDescription(band, f"b{i}".encode())
        library.GDALSetRasterNoDataValue(band, 0.0)
        library.GDALSetRasterScale(band, 0.0001)
        for top in range(0, side, rows):
            row = np.arange(top, min(side, top + rows))[:, None]
            wave = np.sin(column / (40 + 9 * i)) * np.cos(row / (60 + 7 * i)) * 900 + 2500
            block = np.ascontiguousarray(wave + rng.integers(0, 64, wave.shape), dtype=np.uint16)
            size = (block.shape[1], block.shape[0])
            if library.GDALRasterIO(band, 1, 0, top, *size, block.ctypes.data, *size, uint16, 0, 0):
                sys.exit("whole.py: GDAL could not write")
    options = [b"COMPRESS=DEFLATE", b"PREDICTOR=YES", b"LEVEL=6", b"BLOCKSIZE=512", b"OVERVIEWS=NONE", b"BIGTIFF=YES", b"NUM_THREADS=ALL_CPUS"]
    listed = (ctypes.c_char_p * (len(options) + 1))(*options, None)
    part = f"{raster}.part"
    copy = library.GDALCreateCopy(library.GDALGetDriverByName(b"COG"), part.encode(), memory, 0, listed, None, None)
    if not copy or library.GDALClose(copy):
        sys.exit("whole.py: GDAL could not write a COG")
    os.replace(part, raster)


if not os.path.exists(raster):
    write()
parameters = {"backend": "burn", "device": device, "batch": batch}
command = [program, "task", folder, raster, str(os.cpu_count() or 1), "4 GiB", json.dumps(parameters), "2"]
done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
if done.returncode:
    sys.exit(f"whole.py: infer_bench ended with {done.returncode}")
for number, line in enumerate(done.stdout.splitlines()):
    said = json.loads(line)
    said |= {"bench": "from COG to COG", "peer": "swath", "device": device, "side": side, "batch": batch, "round": number + 1,
             "gigapixels_per_minute": side * side / said["seconds"] * 60 / 1e9}
    print(json.dumps(said), flush=True)
