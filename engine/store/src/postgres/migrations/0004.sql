-- Servers that live, as they say of themselves. Times are milliseconds since 1970 UTC, by the clock of this server.

CREATE TABLE worker (
    n          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    host       TEXT   NOT NULL,
    pid        BIGINT NOT NULL,
    version    TEXT   NOT NULL,
    address    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    state      TEXT   NOT NULL,
    seen_at    BIGINT NOT NULL DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::BIGINT)
);

-- For how long each has said nothing.
CREATE VIEW worker_silence AS
    SELECT n, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT - seen_at AS silent FROM worker;

-- Where the flow of a version was read: its content, which may be long, need not be read for that.
ALTER TABLE deployment_version ADD COLUMN source TEXT NOT NULL DEFAULT '';
UPDATE deployment_version SET source = coalesce(content::JSON ->> 'source', '') WHERE content NOT LIKE '%\\u0000%';
