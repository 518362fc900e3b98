-- Schema 2: detections with their evidence, and the ledger that keeps a step from storing twice.

-- A row a detection. `layer` and `key` tell rows apart, as the layer and the key column of a GeoPackage do.
CREATE TABLE swath_geo.detections (
    fid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    layer text NOT NULL,
    key text NOT NULL,
    id text NOT NULL,
    class text,
    score double precision,
    mean_probability double precision,
    max_probability double precision,
    area_m2 double precision,
    perimeter_m double precision,
    compactness double precision,
    pixels bigint,
    longitude double precision,
    latitude double precision,
    merged bigint,
    properties jsonb NOT NULL,          -- those that not every detection has
    -- evidence
    score_breakdown jsonb,              -- what each part of the score adds to it
    box double precision[] NOT NULL     -- west, south, east, north
        GENERATED ALWAYS AS (ARRAY[ST_XMin(geometry), ST_YMin(geometry), ST_XMax(geometry), ST_YMax(geometry)]) STORED,
    composite text,                     -- id in imagery_catalog of what it was found on
    model text,                         -- name of the network that found it
    model_version integer,
    model_digest text,
    run text NOT NULL,                  -- the run, step and instance that stored these values
    step text NOT NULL,
    instance bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    geometry geometry(MultiPolygon, 4326) NOT NULL,
    UNIQUE (layer, key)
);
CREATE INDEX detections_geometry ON swath_geo.detections USING gist (geometry);
CREATE INDEX detections_run ON swath_geo.detections (run);

-- A row a step instance that stored something, written in the transaction that stored it.
CREATE TABLE swath_geo.ledger (
    run text NOT NULL,
    step text NOT NULL,
    instance bigint NOT NULL,
    digest text NOT NULL,               -- of the parameters and inputs: what was stored
    outputs jsonb NOT NULL,             -- what the step answered, and answers again
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, step, instance)
);

INSERT INTO swath_geo.schema_steps (version) VALUES (2);
