//! `store.postgis_sites`: known sites to a PostGIS database.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use swath_task::{Bytes, Context, Digest, Fault, LocalPath, Needs, NoInputs, Problem, Purity, Task, TaskError};

use super::ROWS_AT_ONCE;
use super::database::check_secret_name;
use super::ledger::{Key, PostgisOutputs, Stored};

/// Stores known sites in a PostGIS database, in the table `swath_geo.known_sites`, to compare detections with.
///
/// Sites are told apart by name: storing the same sites again adds nothing. The rest is as in `store.postgis`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreSites {
    /// Name of the secret that holds the address, `postgres://user:password@host/database`: a parameter of the type
    /// `secret`.
    pub database: String,
    /// The sites: GeoJSON features in degrees, each with a property `name` or an id; or
    /// `{"sites": [{"name", "lat", "lon", "country", "buffer_km"}]}`.
    pub sites: LocalPath,
}

impl Task for StoreSites {
    const NAME: &'static str = "store.postgis_sites";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    const NATIVE: bool = true;
    type Inputs = NoInputs;
    type Outputs = PostgisOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        check_secret_name(&self.database).map_err(|problem| vec![problem])
    }

    fn needs(&self) -> Needs {
        Needs::new(0.5, Bytes::mib(64))
    }

    fn reads(&self) -> Vec<PathBuf> {
        vec![self.sites.0.clone()]
    }

    async fn run(&self, _: NoInputs, ctx: &Context) -> Result<PostgisOutputs, TaskError> {
        let path = self.sites.0.clone();
        let (sites, digest) = ctx.blocking(move |_| read(&path)).await?;
        let key = Key::of(&(self, digest), &[], ctx);
        let work = async |transaction: &mut PgConnection| store(&sites, &key, transaction).await;
        key.store(&self.database, "swath_geo.known_sites", ctx, work).await
    }
}

/// A row.
struct Site {
    name: String,
    country: Option<String>,
    radius_km: Option<f64>,
    properties: String,
    geometry: String,
}

/// The sites of a file, and the digest of its content.
fn read(path: &Path) -> Result<(Vec<Site>, Digest), TaskError> {
    let fault = |why: String| {
        Fault::new("D131", format!("`{}` does not hold sites: {why}", path.display()))
            .help(
                "give GeoJSON features in degrees with a `name` each, or `{\"sites\": [{\"name\", \"lat\", \"lon\"}]}`",
            )
            .permanent()
    };
    let text = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    let document: Value = serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
    let listed = document["sites"].as_array().map(|sites| sites.iter().map(listed).collect::<Vec<_>>());
    let features = || document["features"].as_array().map(|features| features.iter().map(feature).collect());
    let found = listed.or_else(features).ok_or_else(|| fault("it has neither `features` nor `sites`".to_owned()))?;
    let mut names = HashSet::new();
    let mut sites = Vec::with_capacity(found.len());
    for (index, site) in found.into_iter().enumerate() {
        let site = site.map_err(|why| fault(format!("site {index} {why}")))?;
        if !names.insert(site.name.clone()) {
            return Err(fault(format!("two sites have the name `{}`", site.name)));
        }
        sites.push(site);
    }
    sites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((sites, Digest::of(&text)))
}

/// `{"name", "lat", "lon", ...}`.
fn listed(site: &Value) -> Result<Site, String> {
    let degrees = |name: &str, limit: f64| {
        let value = site[name].as_f64().filter(|value| value.abs() <= limit);
        value.ok_or_else(|| format!("has no `{name}` within {limit} degrees: {}", site[name]))
    };
    let point = [degrees("lon", 180.0)?, degrees("lat", 90.0)?];
    let properties = site.as_object().cloned().unwrap_or_default();
    row(site["name"].as_str(), properties, json!({ "type": "Point", "coordinates": point }).to_string())
}

/// A GeoJSON feature.
fn feature(feature: &Value) -> Result<Site, String> {
    if !feature["geometry"].is_object() {
        return Err("has no geometry".to_owned());
    }
    // GeoJSON is in degrees; metres are found here and not only on the map.
    if let Some(number) = outside(&feature["geometry"]["coordinates"]) {
        return Err(format!("lies at {number}, which is not in degrees"));
    }
    let properties = feature["properties"].as_object().cloned().unwrap_or_default();
    let id = match &feature["id"] {
        Value::Number(id) => Some(id.to_string()),
        id => id.as_str().map(str::to_owned),
    };
    let name = properties.get("name").and_then(Value::as_str).map(str::to_owned).or(id);
    row(name.as_deref(), properties, feature["geometry"].to_string())
}

/// A longitude or latitude that there is none of. What follows them in a position is a height.
fn outside(coordinates: &Value) -> Option<f64> {
    let parts = coordinates.as_array()?;
    if parts.iter().any(Value::is_array) {
        return parts.iter().find_map(outside);
    }
    let limits = parts.iter().filter_map(Value::as_f64).zip([180.0, 90.0]);
    limits.into_iter().find(|(number, limit)| number.abs() > *limit).map(|(number, _)| number)
}

fn row(name: Option<&str>, properties: Map<String, Value>, geometry: String) -> Result<Site, String> {
    Ok(Site {
        name: name.filter(|name| !name.is_empty()).ok_or("has no `name`")?.to_owned(),
        country: properties.get("country").and_then(Value::as_str).map(str::to_owned),
        radius_km: properties.get("buffer_km").and_then(Value::as_f64),
        properties: Value::Object(properties).to_string(),
        geometry,
    })
}

/// What is new, what has changed, and the rows of the table now.
async fn store(sites: &[Site], key: &Key, transaction: &mut PgConnection) -> Result<(Stored, i64), sqlx::Error> {
    let insert = "WITH stored AS (
            INSERT INTO swath_geo.known_sites AS old (name, country, radius_km, properties, geometry, run)
            SELECT name, country, radius_km, properties::jsonb,
                ST_Force2D(ST_SetSRID(ST_GeomFromGeoJSON(geometry), 4326)), $6
            FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::text[])
                AS new (name, country, radius_km, properties, geometry)
            ON CONFLICT (name) DO UPDATE SET (country, radius_km, properties, geometry, run, stored_at)
                = ROW (excluded.country, excluded.radius_km, excluded.properties, excluded.geometry, excluded.run,
                    now())
            WHERE (old.properties, old.geometry) IS DISTINCT FROM (excluded.properties, excluded.geometry)
            RETURNING xmax = 0 AS added
        ) SELECT count(*) FILTER (WHERE added), count(*) FILTER (WHERE NOT added) FROM stored";
    let mut stored = Stored::default();
    for sites in sites.chunks(ROWS_AT_ONCE) {
        let rows = sqlx::query(insert)
            .bind(sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>())
            .bind(sites.iter().map(|site| site.country.as_deref()).collect::<Vec<_>>())
            .bind(sites.iter().map(|site| site.radius_km).collect::<Vec<_>>())
            .bind(sites.iter().map(|site| site.properties.as_str()).collect::<Vec<_>>())
            .bind(sites.iter().map(|site| site.geometry.as_str()).collect::<Vec<_>>())
            .bind(&key.run)
            .fetch_one(&mut *transaction)
            .await?;
        stored += Stored::of(&rows)?;
    }
    let total = sqlx::query_scalar("SELECT count(*) FROM swath_geo.known_sites");
    Ok((stored, total.fetch_one(transaction).await?))
}
