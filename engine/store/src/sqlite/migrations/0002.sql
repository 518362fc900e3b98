-- Schema 2: epochs of leases, and what is known of a run beside its journal.

-- The epoch of the newest lease: a writer by another one is refused (I5).
ALTER TABLE run ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- Not a part of `run`: a run is leased, and may be taken on by a server, before it is pinned.
CREATE TABLE claim (
    run     TEXT    PRIMARY KEY,
    epoch   INTEGER NOT NULL DEFAULT 0,
    cancel  INTEGER NOT NULL DEFAULT 0,
    pause   INTEGER,
    served  TEXT,
    outputs BLOB,
    refused INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX claim_with_wish ON claim (run) WHERE cancel = 1 OR pause IS NOT NULL;

CREATE INDEX run_newest ON run (created_at);
