-- Deployments: flows that go by themselves. Times are milliseconds since 1970 UTC.

CREATE TABLE deployment (
    n          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    version    BIGINT NOT NULL,
    paused     BIGINT NOT NULL,
    handled    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- What a version runs: set once.
CREATE TABLE deployment_version (
    deployment BIGINT NOT NULL REFERENCES deployment (n) ON DELETE CASCADE,
    version    BIGINT NOT NULL,
    digest     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    flow       TEXT   NOT NULL,
    spec       TEXT   NOT NULL,
    content    TEXT   NOT NULL,
    PRIMARY KEY (deployment, version)
);

-- Occasions to run (I12: one of each key).
CREATE TABLE fire (
    n          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deployment BIGINT NOT NULL REFERENCES deployment (n) ON DELETE CASCADE,
    key        TEXT COLLATE "C" NOT NULL,
    cause      TEXT   NOT NULL,
    since      BIGINT,
    at         BIGINT NOT NULL,
    due        BIGINT NOT NULL,
    params     TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    run        TEXT COLLATE "C",
    note       TEXT   NOT NULL,
    settled    BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    UNIQUE (deployment, key)
);
CREATE INDEX fire_open ON fire (n) WHERE settled = 0;
CREATE INDEX fire_newest ON fire (deployment, n);
CREATE INDEX fire_of_run ON fire (run) WHERE run IS NOT NULL;

-- What hooks are told.
CREATE TABLE telling (
    n         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fire      BIGINT NOT NULL REFERENCES fire (n) ON DELETE CASCADE,
    hook      BIGINT NOT NULL,
    happening TEXT   NOT NULL,
    message   TEXT   NOT NULL,
    attempts  BIGINT NOT NULL DEFAULT 0,
    next_at   BIGINT NOT NULL,
    ended_at  BIGINT,
    error     TEXT,
    UNIQUE (fire, hook, happening)
);
CREATE INDEX telling_open ON telling (next_at) WHERE ended_at IS NULL;
