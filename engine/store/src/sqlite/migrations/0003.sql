-- Deployments: flows that go by themselves. Times are milliseconds since 1970 UTC.

CREATE TABLE deployment (
    n          INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    version    INTEGER NOT NULL,
    paused     INTEGER NOT NULL,
    handled    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- What a version runs: set once.
CREATE TABLE deployment_version (
    deployment INTEGER NOT NULL REFERENCES deployment (n) ON DELETE CASCADE,
    version    INTEGER NOT NULL,
    digest     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    flow       TEXT    NOT NULL,
    spec       TEXT    NOT NULL,
    content    TEXT    NOT NULL,
    PRIMARY KEY (deployment, version)
) STRICT;

-- Occasions to run (I12: one of each key).
CREATE TABLE fire (
    n          INTEGER PRIMARY KEY,
    deployment INTEGER NOT NULL REFERENCES deployment (n) ON DELETE CASCADE,
    key        TEXT    NOT NULL,
    cause      TEXT    NOT NULL,
    since      INTEGER,
    at         INTEGER NOT NULL,
    due        INTEGER NOT NULL,
    params     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    run        TEXT,
    note       TEXT    NOT NULL,
    settled    INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (deployment, key)
) STRICT;
CREATE INDEX fire_open ON fire (n) WHERE settled = 0;
CREATE INDEX fire_newest ON fire (deployment, n);
CREATE INDEX fire_of_run ON fire (run) WHERE run IS NOT NULL;

-- What hooks are told.
CREATE TABLE telling (
    n         INTEGER PRIMARY KEY,
    fire      INTEGER NOT NULL REFERENCES fire (n) ON DELETE CASCADE,
    hook      INTEGER NOT NULL,
    happening TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    next_at   INTEGER NOT NULL,
    ended_at  INTEGER,
    error     TEXT,
    UNIQUE (fire, hook, happening)
) STRICT;
CREATE INDEX telling_open ON telling (next_at) WHERE ended_at IS NULL;
