-- Servers that live, as they say of themselves. Times are milliseconds since 1970 UTC.

CREATE TABLE worker (
    n          INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    version    TEXT    NOT NULL,
    address    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    seen_at    INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

-- For how long each has said nothing.
CREATE VIEW worker_silence AS SELECT n, CAST(unixepoch('subsec') * 1000 AS INTEGER) - seen_at AS silent FROM worker;

-- Where the flow of a version was read: its content, which may be long, need not be read for that.
ALTER TABLE deployment_version ADD COLUMN source TEXT NOT NULL DEFAULT '';
UPDATE deployment_version SET source = coalesce(json_extract(content, '$.source'), '') WHERE json_valid(content);
