"""Looks at a GeoPackage with SQLite alone (no GDAL): look.py FILE LAYER -> JSON, or `look.py hold FILE`: locks it until killed."""
import json
import sqlite3
import struct
import sys
import time

if sys.argv[1] == "hold":
    held = sqlite3.connect(sys.argv[2], isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    time.sleep(60)
    sys.exit()

path, layer = sys.argv[1:3]
db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
db.row_factory = sqlite3.Row


def one(query, *values):
    found = db.execute(query, values).fetchone()
    return dict(found) if found else None


def bounds(blob):
    """Envelope of a GeoPackage geometry: magic, version, flags, srs_id, then minx, maxx, miny, maxy."""
    assert blob[:2] == b"GP" and (blob[3] >> 1) & 7 == 1, blob[:8]
    order = "<" if blob[3] & 1 else ">"
    (srs,) = struct.unpack(order + "i", blob[4:8])
    assert srs == 4326, srs
    return list(struct.unpack(order + "4d", blob[8:40]))


rows = []
for row in db.execute(f'SELECT * FROM "{layer}" ORDER BY fid'):
    row = dict(row)
    row["geom"] = bounds(row["geom"])
    rows.append(row)
index = f"rtree_{layer}_geom"
print(json.dumps({
    "application_id": db.execute("PRAGMA application_id").fetchone()[0],
    "integrity": db.execute("PRAGMA integrity_check").fetchone()[0],
    "contents": one("SELECT data_type, srs_id, min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = ?", layer),
    "geometry": one("SELECT column_name, srs_id FROM gpkg_geometry_columns WHERE table_name = ?", layer),
    "index": one("SELECT count(*) AS rows FROM sqlite_master WHERE name = ?", index)["rows"],
    "indexed": db.execute(f'SELECT count(*) FROM "{index}"').fetchone()[0],
    "columns": [(c["name"], c["type"]) for c in db.execute(f'PRAGMA table_info("{layer}")')],
    "rows": rows,
}))
