-- Schema 1, in the PostgreSQL schema `swath`. Times are milliseconds since 1970 UTC as the program gives them, but for
-- `claim.until`, which is by the clock of this server. Columns of JSON hold what the host gave, unread.

CREATE TABLE run (
    n          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    flow       TEXT   NOT NULL,
    source     TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    seq        BIGINT NOT NULL DEFAULT 0 CHECK (seq >= 0),
    -- The epoch of the newest lease: a writer by another one is refused (I5).
    epoch      BIGINT NOT NULL,
    -- Names the last group that was committed: whether a group of which no answer came is stored.
    write      BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at   BIGINT,
    updated_at BIGINT NOT NULL,
    error      TEXT,
    summary    TEXT
) WITH (fillfactor = 50);
CREATE INDEX run_of_flow ON run (flow, created_at);
CREATE INDEX run_newest ON run (created_at, n);

-- Apart from `run`, whose row changes with every transition: a plan may be megabytes.
CREATE TABLE pinned (
    run         BIGINT PRIMARY KEY REFERENCES run (n) ON DELETE CASCADE,
    text        TEXT NOT NULL,
    text_digest TEXT NOT NULL,
    params      TEXT NOT NULL,
    plan        TEXT NOT NULL
);

-- The journal (I3: the key is dense in `seq`; I4: `transition` is unique in a run). What comes with an append does not
-- refer to `run` by a constraint: the statement that writes it moves the head of its run, or nothing of it is stored. To
-- look the run up once more for each row would cost a fourth of the statement.
CREATE TABLE event (
    run        BIGINT NOT NULL,
    seq        BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    kind       TEXT   NOT NULL,
    step       TEXT,
    payload    TEXT   NOT NULL,
    transition TEXT,
    PRIMARY KEY (run, seq)
);
CREATE UNIQUE INDEX event_transition ON event (run, transition) WHERE transition IS NOT NULL;

-- I6: the primary key lets an instance succeed once.
CREATE TABLE result (
    run         BIGINT NOT NULL,
    step        TEXT COLLATE "C" NOT NULL,
    instance    TEXT COLLATE "C" NOT NULL,
    attempt     BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    outputs     TEXT   NOT NULL,
    key         TEXT,
    parts       TEXT,
    reused_from TEXT,
    PRIMARY KEY (run, step, instance)
);

-- Which results hold which artifacts.
CREATE TABLE lineage (
    digest   TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    run      BIGINT NOT NULL,
    step     TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    attempt  BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    record   TEXT   NOT NULL,
    PRIMARY KEY (digest, name, run, step, instance)
);
CREATE INDEX lineage_of_run ON lineage (run);

CREATE TABLE cache (
    key        TEXT   PRIMARY KEY,
    run        TEXT   NOT NULL,
    step       TEXT   NOT NULL,
    instance   TEXT   NOT NULL,
    outputs    TEXT   NOT NULL,
    artifacts  TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE metric (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run      BIGINT NOT NULL,
    step     TEXT   NOT NULL,
    instance TEXT   NOT NULL,
    attempt  BIGINT NOT NULL,
    name     TEXT   NOT NULL,
    value    DOUBLE PRECISION
);
CREATE INDEX metric_of_run ON metric (run, id);

CREATE TABLE log (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run      BIGINT NOT NULL REFERENCES run (n) ON DELETE CASCADE,
    step     TEXT   NOT NULL,
    instance TEXT   NOT NULL,
    attempt  BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    level    TEXT   NOT NULL,
    target   TEXT   NOT NULL,
    message  TEXT   NOT NULL,
    fields   TEXT   NOT NULL,
    dropped  BIGINT NOT NULL
);
CREATE INDEX log_of_run ON log (run, id);

-- Who drives a run, until when, and what is known of it beside its journal. Not a part of `run`: a run is leased, and may
-- be taken on by a server, before it is pinned.
CREATE TABLE claim (
    run     TEXT COLLATE "C" PRIMARY KEY,
    epoch   BIGINT NOT NULL DEFAULT 0,
    owner   TEXT,
    holder  TEXT,
    until   TIMESTAMPTZ,
    cancel  BIGINT NOT NULL DEFAULT 0,
    pause   BIGINT,
    served  TEXT,
    outputs BYTEA,
    refused BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX claim_with_wish ON claim (run) WHERE cancel = 1 OR pause IS NOT NULL;
