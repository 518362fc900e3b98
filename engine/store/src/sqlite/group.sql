-- How a group of transitions is written in one statement: `INSERT INTO group_commit` distributes JSON arrays of rows.
-- Temporary: it belongs to the writer's connection, not to the store.

CREATE TEMP VIEW group_commit AS
    SELECT NULL AS heads, NULL AS events, NULL AS results, NULL AS lineages, NULL AS caches, NULL AS metrics, NULL AS logs;

CREATE TEMP TRIGGER group_commit_insert INSTEAD OF INSERT ON group_commit
BEGIN
    -- The compare-and-set (I4): NULL breaks the constraint on `seq`, and the whole statement is undone.
    UPDATE run SET
        seq        = iif(run.seq = h.value ->> 1, h.value ->> 2, NULL),
        updated_at = h.value ->> 3,
        state      = coalesce(h.value ->> 4, run.state),
        started_at = coalesce(run.started_at, h.value ->> 5),
        ended_at   = iif(h.value ->> 4 IS NULL, run.ended_at, h.value ->> 6),
        error      = iif(h.value ->> 4 IS NULL, run.error, h.value ->> 7),
        summary    = coalesce(h.value ->> 8, run.summary)
    FROM json_each(NEW.heads) AS h WHERE run.n = h.value ->> 0;

    INSERT INTO event (run, seq, at, kind, step, payload, transition)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM json_each(NEW.events);

    INSERT INTO result (run, step, instance, attempt, at, outputs, key, parts, reused_from)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8
    FROM json_each(NEW.results);

    INSERT OR IGNORE INTO lineage (digest, name, run, step, instance, attempt, at, record)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    FROM json_each(NEW.lineages);

    INSERT OR REPLACE INTO cache (key, run, step, instance, outputs, artifacts, created_at, used_at, expires_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 6,
        value ->> 7
    FROM json_each(NEW.caches);

    INSERT INTO metric (run, step, instance, attempt, name, value)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    FROM json_each(NEW.metrics);

    INSERT INTO log (run, step, instance, attempt, at, level, target, message, fields, dropped)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9
    FROM json_each(NEW.logs);
END;
