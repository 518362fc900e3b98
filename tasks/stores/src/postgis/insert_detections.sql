-- Inserts detections, or updates those whose values differ. A row whose values are the same keeps who stored it.
WITH stored AS (
    INSERT INTO swath_geo.detections AS old (
        layer, key, id, class, score, mean_probability, max_probability, area_m2, perimeter_m, compactness, pixels,
        longitude, latitude, merged, properties, score_breakdown, composite, model, model_version, model_digest,
        run, step, instance, geometry
    )
    SELECT
        $17, key, id, class, score, mean_probability, max_probability, area_m2, perimeter_m, compactness, pixels,
        longitude, latitude, merged, properties::jsonb, score_breakdown::jsonb,
        $18, $19, $20, $21,
        $22, $23, $24, ST_Multi(ST_GeomFromWKB(wkb, 4326))
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[],
        $9::float8[], $10::int8[], $11::float8[], $12::float8[], $13::int8[], $14::text[], $15::bytea[],
        $16::text[]
    ) AS new (
        key, id, class, score, mean_probability, max_probability, area_m2, perimeter_m, compactness, pixels,
        longitude, latitude, merged, properties, wkb, score_breakdown
    )
    ON CONFLICT (layer, key) DO UPDATE SET
        (id, class, score, mean_probability, max_probability, area_m2, perimeter_m, compactness, pixels, longitude,
         latitude, merged, properties, score_breakdown, composite, model, model_version, model_digest, run, step,
         instance, stored_at, geometry)
        = ROW (excluded.id, excluded.class, excluded.score, excluded.mean_probability, excluded.max_probability,
         excluded.area_m2, excluded.perimeter_m, excluded.compactness, excluded.pixels, excluded.longitude,
         excluded.latitude, excluded.merged, excluded.properties, excluded.score_breakdown, excluded.composite,
         excluded.model, excluded.model_version, excluded.model_digest, excluded.run, excluded.step,
         excluded.instance, now(), excluded.geometry)
    WHERE
        (old.id, old.class, old.score, old.mean_probability, old.max_probability, old.area_m2, old.perimeter_m,
         old.compactness, old.pixels, old.longitude, old.latitude, old.merged, old.properties, old.score_breakdown,
         old.composite, old.model, old.model_version, old.model_digest, old.geometry)
        IS DISTINCT FROM
        (excluded.id, excluded.class, excluded.score, excluded.mean_probability, excluded.max_probability,
         excluded.area_m2, excluded.perimeter_m, excluded.compactness, excluded.pixels, excluded.longitude,
         excluded.latitude, excluded.merged, excluded.properties, excluded.score_breakdown,
         excluded.composite, excluded.model, excluded.model_version, excluded.model_digest, excluded.geometry)
    RETURNING xmax = 0 AS added
)
SELECT count(*) FILTER (WHERE added), count(*) FILTER (WHERE NOT added) FROM stored
