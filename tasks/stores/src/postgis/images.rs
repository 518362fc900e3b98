//! Rows of `swath_geo.imagery_catalog`: scenes that a search found, and composites that a flow made.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::PgConnection;
use swath_kinds::{Scene, Scenes};
use swath_task::{Fault, TaskError};

use super::ledger::{Key, Stored};

/// A row.
pub struct Image {
    /// Id of the scene or item.
    pub id: String,
    collection: String,
    datetime: Option<String>,
    end_datetime: Option<String>,
    cloud_cover: Option<f64>,
    /// Its grid tile.
    pub tile: Option<String>,
    href: Option<String>,
    document: String,
    geometry: Option<String>,
}

impl Image {
    /// The scenes of a list.
    pub fn of_scenes(path: &Path) -> Result<Vec<Self>, TaskError> {
        let scenes: Scenes = read(path, "a list of scenes")?;
        scenes.scenes.iter().map(|scene| Self::of_scene(scene, path)).collect()
    }

    fn of_scene(scene: &Scene, path: &Path) -> Result<Self, TaskError> {
        let document = serde_json::to_string(scene).map_err(|error| unreadable(path, "a list of scenes", &error))?;
        let outline = scene.geometry.clone().or_else(|| scene.bbox.map(rectangle));
        Ok(Self {
            id: scene.id.clone(),
            collection: scene.collection.clone().unwrap_or_default(),
            datetime: Some(scene.datetime.clone()),
            end_datetime: None,
            cloud_cover: scene.cloud_cover,
            tile: scene.tile.clone(),
            href: scene.href.clone(),
            document,
            geometry: outline.map(|outline| outline.to_string()),
        })
    }

    /// The STAC item of a composite.
    pub fn of_item(path: &Path) -> Result<Self, TaskError> {
        let item: Value = read(path, "a STAC item")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let missing = || unreadable(path, "a STAC item", &"it has no id");
        let properties = &item["properties"];
        Ok(Self {
            id: text(&item["id"]).filter(|id| !id.is_empty()).ok_or_else(missing)?,
            collection: text(&item["collection"]).unwrap_or_default(),
            datetime: text(&properties["datetime"]).or_else(|| text(&properties["start_datetime"])),
            end_datetime: text(&properties["end_datetime"]),
            cloud_cover: properties["eo:cloud_cover"].as_f64(),
            tile: None,
            href: None,
            geometry: Some(&item["geometry"]).filter(|geometry| geometry.is_object()).map(Value::to_string),
            document: item.to_string(),
        })
    }
}

/// A box as GeoJSON; one over the antimeridian is two.
fn rectangle([west, south, east, north]: [f64; 4]) -> Value {
    let ring =
        |west: f64, east: f64| json!([[[west, south], [east, south], [east, north], [west, north], [west, south]]]);
    if west <= east {
        return json!({ "type": "Polygon", "coordinates": ring(west, east) });
    }
    json!({ "type": "MultiPolygon", "coordinates": [ring(west, 180.0), ring(-180.0, east)] })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T, TaskError> {
    let text = std::fs::read(path).map_err(|error| unreadable(path, what, &error))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(path, what, &error))
}

fn unreadable(path: &Path, what: &str, why: &dyn std::fmt::Display) -> TaskError {
    Fault::new("D132", format!("`{}` does not hold {what}: {why}", path.display()))
        .help("connect the `scenes` of `stac.search`, or the `item` of `raster.item`")
        .permanent()
}

/// Inserts images, or updates those whose values differ.
pub async fn store(images: &[Image], key: &Key, transaction: &mut PgConnection) -> Result<Stored, sqlx::Error> {
    let stored = "WITH stored AS (
            INSERT INTO swath_geo.imagery_catalog AS old
                (collection, id, datetime, end_datetime, cloud_cover, tile, href, item, geometry, run)
            SELECT collection, id, datetime::timestamptz, end_datetime::timestamptz, cloud_cover, tile, href,
                item::jsonb, ST_Force2D(ST_SetSRID(ST_GeomFromGeoJSON(geometry), 4326)), $10
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::text[],
                $8::text[], $9::text[])
                AS new (collection, id, datetime, end_datetime, cloud_cover, tile, href, item, geometry)
            ON CONFLICT (collection, id) DO UPDATE SET
                (datetime, end_datetime, cloud_cover, tile, href, item, geometry, run, stored_at)
                = ROW (excluded.datetime, excluded.end_datetime, excluded.cloud_cover, excluded.tile, excluded.href,
                    excluded.item, excluded.geometry, excluded.run, now())
            WHERE (old.item, old.geometry) IS DISTINCT FROM (excluded.item, excluded.geometry)
            RETURNING xmax = 0 AS added
        ) SELECT count(*) FILTER (WHERE added), count(*) FILTER (WHERE NOT added) FROM stored";
    let texts = |of: fn(&Image) -> &Option<String>| images.iter().map(|one| of(one).as_deref()).collect::<Vec<_>>();
    let stored = sqlx::query(stored)
        .bind(images.iter().map(|one| one.collection.as_str()).collect::<Vec<_>>())
        .bind(images.iter().map(|one| one.id.as_str()).collect::<Vec<_>>())
        .bind(texts(|one| &one.datetime))
        .bind(texts(|one| &one.end_datetime))
        .bind(images.iter().map(|one| one.cloud_cover).collect::<Vec<_>>())
        .bind(texts(|one| &one.tile))
        .bind(texts(|one| &one.href))
        .bind(images.iter().map(|one| one.document.as_str()).collect::<Vec<_>>())
        .bind(texts(|one| &one.geometry))
        .bind(&key.run)
        .fetch_one(transaction)
        .await?;
    Stored::of(&stored)
}
