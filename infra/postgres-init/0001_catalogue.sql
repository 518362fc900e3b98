-- Schema 1 of what `store.postgis` and its sisters fill: imagery, the tiles it lies in, and sites that are known.
-- Applied by the tasks themselves to a database that lacks it, and by a container of PostGIS when it is first started.
-- Every step of the schema is a file of its own, is never changed once released, and ends by saying which schema it
-- made.

CREATE EXTENSION IF NOT EXISTS postgis;
CREATE SCHEMA IF NOT EXISTS swath_geo;

CREATE TABLE swath_geo.schema_steps (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- A row a stored scene or composite.
CREATE TABLE swath_geo.imagery_catalog (
    fid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection text NOT NULL,           -- '' where the item has none
    id text NOT NULL,
    datetime timestamptz,               -- of a composite: of its first scene
    end_datetime timestamptz,           -- of a composite of several dates: of its last scene
    cloud_cover double precision,       -- percent
    tile text,                          -- grid tile, 33UUU for example
    href text,                          -- of the item, unsigned
    item jsonb NOT NULL,                -- all that is known of it
    run text NOT NULL,                  -- the run that stored these values
    stored_at timestamptz NOT NULL DEFAULT now(),
    geometry geometry(Geometry, 4326),
    UNIQUE (collection, id)
);
CREATE INDEX imagery_catalog_geometry ON swath_geo.imagery_catalog USING gist (geometry);
CREATE INDEX imagery_catalog_datetime ON swath_geo.imagery_catalog (datetime);
CREATE INDEX imagery_catalog_tile ON swath_geo.imagery_catalog (tile);

-- A row a grid tile of the stored scenes.
CREATE TABLE swath_geo.tiles (
    fid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tile text NOT NULL UNIQUE,
    scenes bigint NOT NULL,
    first_datetime timestamptz,
    last_datetime timestamptz,
    geometry geometry(Geometry, 4326)   -- convex hull of the footprints of its scenes
);
CREATE INDEX tiles_geometry ON swath_geo.tiles USING gist (geometry);

-- A row a site that was known beforehand, to compare detections with.
CREATE TABLE swath_geo.known_sites (
    fid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    country text,
    radius_km double precision,         -- of a site given as a point
    properties jsonb NOT NULL,
    run text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    geometry geometry(Geometry, 4326) NOT NULL
);
CREATE INDEX known_sites_geometry ON swath_geo.known_sites USING gist (geometry);

INSERT INTO swath_geo.schema_steps (version) VALUES (1);
