-- Schema 1. Times are milliseconds since 1970 UTC. JSON columns hold what the host gave, unread.

CREATE TABLE run (
    n          INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    flow       TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    seq        INTEGER NOT NULL DEFAULT 0 CHECK (seq >= 0),
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at   INTEGER,
    updated_at INTEGER NOT NULL,
    error      TEXT,
    summary    TEXT
) STRICT;
CREATE INDEX run_of_flow ON run (flow, created_at);

-- Apart from `run`, whose row changes with every transition: a plan may be megabytes.
CREATE TABLE pinned (
    run         INTEGER PRIMARY KEY REFERENCES run (n) ON DELETE CASCADE,
    text        TEXT NOT NULL,
    text_digest TEXT NOT NULL,
    params      TEXT NOT NULL,
    plan        TEXT NOT NULL
) STRICT;

-- The journal (I3: the key is dense in `seq`; I4: `transition` is unique in a run).
CREATE TABLE event (
    run        INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    step       TEXT,
    payload    TEXT    NOT NULL,
    transition TEXT,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX event_transition ON event (run, transition) WHERE transition IS NOT NULL;

-- I6: the primary key lets an instance succeed once.
CREATE TABLE result (
    run         INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    step        TEXT    NOT NULL,
    instance    TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    outputs     TEXT    NOT NULL,
    key         TEXT,
    parts       TEXT,
    reused_from TEXT,
    PRIMARY KEY (run, step, instance)
) STRICT, WITHOUT ROWID;

-- Which results hold which artifacts.
CREATE TABLE lineage (
    digest   TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    run      INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    step     TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    attempt  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    record   TEXT    NOT NULL,
    PRIMARY KEY (digest, name, run, step, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX lineage_of_run ON lineage (run);

-- A table with an index, not `WITHOUT ROWID`: keys are random, and rows in key order would dirty a page each.
CREATE TABLE cache (
    id         INTEGER PRIMARY KEY,
    key        TEXT    NOT NULL UNIQUE,
    run        TEXT    NOT NULL,
    step       TEXT    NOT NULL,
    instance   TEXT    NOT NULL,
    outputs    TEXT    NOT NULL,
    artifacts  TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;

CREATE TABLE metric (
    id       INTEGER PRIMARY KEY,
    run      INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    step     TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    attempt  INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    value    REAL
) STRICT;
CREATE INDEX metric_of_run ON metric (run);

CREATE TABLE log (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run      INTEGER NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    step     TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    attempt  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    level    TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    fields   TEXT    NOT NULL,
    dropped  INTEGER NOT NULL
) STRICT;
CREATE INDEX log_of_run ON log (run);
