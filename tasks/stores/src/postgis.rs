//! `store.postgis`: detections, with their evidence, to a table of a PostGIS database.
//!
//! Invariants:
//! 1. What a step stores and its key in the ledger commit in one transaction: a step that is run again after it has
//!    stored, or that comes late, adds nothing and answers as before.
//! 2. Writers of one layer take turns, also those of other machines.
//! 3. A database that is not what it should be is refused before anything is written to it.

mod database;
mod faults;
mod images;
mod ledger;
mod scenes;
mod sites;

pub use ledger::PostgisOutputs;
pub use scenes::StoreScenes;
pub use sites::StoreSites;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use swath_kinds::{Detections, ModelManifest, StacItem};
use swath_task::{Artifact, Bytes, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::geopackage::StoreMode;
use crate::rows::{self, Detected};
use database::check_secret_name;
use images::Image;
use ledger::{Key, Stored};

/// Rows sent to the server at once: few round trips, little memory.
const ROWS_AT_ONCE: usize = 5_000;

/// Stores detections in a PostGIS database, in the table `swath_geo.detections` that QGIS and every SQL client open.
///
/// The contract is that of `store.geopackage`: rows are told apart by layer and key, storing the same detections again
/// adds nothing, and a detection whose values have changed is updated in its row. Each row carries its evidence: the
/// composite, the box, the model, how its score came about, and the run and step that stored it. All of it is one
/// transaction, together with a note that this step of this run has stored: a step that is tried again answers as
/// before. Missing tables are made; an older schema is brought up to date, a newer one refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorePostgis {
    /// Name of the secret that holds the address, `postgres://user:password@host/database`: a parameter of the type
    /// `secret`.
    pub database: String,
    /// Rows that belong together, like a layer of a GeoPackage.
    #[serde(default = "crate::geopackage::default_layer")]
    #[schemars(length(min = 1, max = 200))]
    pub layer: String,
    /// `append`: rows of earlier runs stay, those with the same key are updated. `replace`: those of the layer go.
    #[serde(default)]
    pub mode: StoreMode,
    /// What tells rows of a layer apart: `id`, or a property that is text.
    #[serde(default = "crate::geopackage::default_key")]
    #[schemars(length(min = 1))]
    pub key: String,
    /// Folder of the model that found them, for the evidence.
    #[serde(default)]
    pub model: Option<LocalPath>,
}

/// What `store.postgis` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgisInputs {
    /// The detections to store.
    pub detections: Artifact<Detections>,
    /// The item of the composite they were found on, for the evidence; it is stored in `swath_geo.imagery_catalog`.
    #[serde(default)]
    pub composite: Option<Artifact<StacItem>>,
}

impl Task for StorePostgis {
    const NAME: &'static str = "store.postgis";
    const VERSION: u32 = 1;
    /// Whether rows are still there cannot be told without the server: every run asks it.
    const PURITY: Purity = Purity::Effect;
    const NATIVE: bool = true;
    type Inputs = PostgisInputs;
    type Outputs = PostgisOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems: Vec<_> = check_secret_name(&self.database).err().into_iter().collect();
        let plain = |name: &str| !name.is_empty() && name.len() <= 200 && !name.contains(['\0', '\n']);
        if !plain(&self.layer) {
            problems.push(Problem::new("/layer", format!("`{}` is not a name for a layer", self.layer)));
        }
        if !plain(&self.key) {
            problems.push(Problem::new("/key", format!("`{}` is not a name of a property", self.key)));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(256))
    }

    async fn run(&self, inputs: PostgisInputs, ctx: &Context) -> Result<PostgisOutputs, TaskError> {
        let detections = ctx.locate(&inputs.detections).await?;
        let composite = match &inputs.composite {
            Some(item) => Some(ctx.locate(item).await?),
            None => None,
        };
        let task = self.clone();
        let found = ctx.blocking(move |_| Found::read(&task, &detections, composite.as_deref())).await?;
        let composite = inputs.composite.as_ref().map(Artifact::record);
        let key = Key::of(self, &[Some(inputs.detections.record()), composite], ctx);
        let turn = format!("swath_geo.detections/{}", self.layer);
        let work = async |transaction: &mut PgConnection| self.store(&found, &key, ctx, transaction).await;
        key.store(&self.database, &turn, ctx, work).await
    }
}

impl StorePostgis {
    /// What is new, what has changed, and the rows of the layer now.
    async fn store(
        &self,
        found: &Found,
        key: &Key,
        ctx: &Context,
        transaction: &mut PgConnection,
    ) -> Result<(Stored, i64), sqlx::Error> {
        if let Some(composite) = &found.composite {
            images::store(std::slice::from_ref(composite), key, transaction).await?;
        }
        if self.mode == StoreMode::Replace {
            let gone = sqlx::query("DELETE FROM swath_geo.detections WHERE layer = $1").bind(&self.layer);
            gone.execute(&mut *transaction).await?;
        }
        let (mut stored, mut done) = (Stored::default(), 0);
        for rows in found.detections.chunks(ROWS_AT_ONCE) {
            stored += self.insert(rows, found, key, transaction).await?;
            done += rows.len() as u64;
            ctx.progress(done, found.detections.len() as u64, "rows");
        }
        let total = sqlx::query_scalar("SELECT count(*) FROM swath_geo.detections WHERE layer = $1").bind(&self.layer);
        Ok((stored, total.fetch_one(transaction).await?))
    }

    /// Inserts or updates rows by one statement, a column an array.
    async fn insert(
        &self,
        rows: &[Detected],
        found: &Found,
        key: &Key,
        transaction: &mut PgConnection,
    ) -> Result<Stored, sqlx::Error> {
        let text = |of: &str| rows.iter().map(|row| text(row.properties.get(of))).collect::<Vec<_>>();
        let reals = |of: &str| rows.iter().map(|row| row.properties.get(of)?.as_f64()).collect::<Vec<_>>();
        let integers = |of: &str| rows.iter().map(|row| row.properties.get(of)?.as_i64()).collect::<Vec<_>>();
        let model = found.model.as_ref();
        let stored = sqlx::query(include_str!("postgis/insert_detections.sql"))
            .bind(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())
            .bind(text("class"))
            .bind(reals("score"))
            .bind(reals("mean_probability"))
            .bind(reals("max_probability"))
            .bind(reals("area_m2"))
            .bind(reals("perimeter_m"))
            .bind(reals("compactness"))
            .bind(integers("pixels"))
            .bind(reals("longitude"))
            .bind(reals("latitude"))
            .bind(integers("merged"))
            .bind(rows.iter().map(|row| others(&row.properties)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.wkb.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(breakdown).collect::<Vec<_>>())
            .bind(&self.layer)
            .bind(found.composite.as_ref().map(|composite| composite.id.as_str()))
            .bind(model.map(|model| model.name.as_str()))
            .bind(model.and_then(|model| i32::try_from(model.version).ok()))
            .bind(model.map(|model| model.digest.to_string()))
            .bind(&key.run)
            .bind(&key.step)
            .bind(key.instance)
            .fetch_one(transaction)
            .await?;
        Stored::of(&stored)
    }
}

/// All that is to be stored, read and checked before the server is asked for anything.
struct Found {
    detections: Vec<Detected>,
    composite: Option<Image>,
    model: Option<ModelManifest>,
}

impl Found {
    fn read(task: &StorePostgis, detections: &Path, composite: Option<&Path>) -> Result<Self, TaskError> {
        let mut found = Vec::new();
        rows::detections(detections, &task.key, |_, row| {
            found.push(row);
            Ok(())
        })?;
        // In one order whatever the file's: two writers of other layers meet the same index pages alike.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        let composite = composite.map(Image::of_item).transpose()?;
        let model = task.model.as_ref().map(|folder| ModelManifest::of_folder(&folder.0)).transpose()?;
        Ok(Self { detections: found, composite, model })
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    }
}

fn breakdown(row: &Detected) -> Option<String> {
    row.score_breakdown.as_ref().and_then(|parts| serde_json::to_string(parts).ok())
}

/// The properties that have no column of their own, as JSON.
fn others(properties: &Map<String, Value>) -> String {
    let known = |name: &str| swath_kinds::DetectionProperties::FIELDS.iter().any(|(known, _)| *known == name);
    let others = properties.iter().filter(|(name, _)| !known(name)).map(|(n, v)| (n.clone(), v.clone()));
    Value::Object(others.collect::<Map<_, _>>()).to_string()
}
