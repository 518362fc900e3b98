-- The number of an occasion, or of what a hook is told, is never given again: whoever has read it may still act on it when its
-- deployment is gone.

CREATE TABLE fire_kept (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
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
INSERT INTO fire_kept SELECT n, deployment, key, cause, since, at, due, params, state, run, note, settled, created_at FROM fire;

CREATE TABLE telling_kept (
    n         INTEGER PRIMARY KEY AUTOINCREMENT,
    fire      INTEGER NOT NULL REFERENCES fire_kept (n) ON DELETE CASCADE,
    hook      INTEGER NOT NULL,
    happening TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    next_at   INTEGER NOT NULL,
    ended_at  INTEGER,
    error     TEXT,
    UNIQUE (fire, hook, happening)
) STRICT;
INSERT INTO telling_kept SELECT n, fire, hook, happening, message, attempts, next_at, ended_at, error FROM telling;

DROP TABLE telling;
DROP TABLE fire;
ALTER TABLE fire_kept RENAME TO fire;
ALTER TABLE telling_kept RENAME TO telling;
CREATE INDEX fire_open ON fire (n) WHERE settled = 0;
CREATE INDEX fire_newest ON fire (deployment, n);
CREATE INDEX fire_of_run ON fire (run) WHERE run IS NOT NULL;
CREATE INDEX telling_open ON telling (next_at) WHERE ended_at IS NULL;
