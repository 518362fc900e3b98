//! Tasks that store what was found where people look for it: GeoPackage and GeoJSON files, PostGIS databases.
//!
//! Invariants of the files (those of the databases stand in `postgis`):
//! 1. A file is whole or absent: new ones are made in a hidden folder beside it and renamed, old ones change in one
//!    transaction. Readers see the state before or after.
//! 2. Writers of one folder take turns, also those of other processes.
//! 3. A file that is not what it should be is refused before anything is written to it.

mod folder;
mod geojson;
mod geopackage;
mod postgis;
mod rows;

pub use geojson::{GeoJson, GeoJsonOutputs};
pub use geopackage::{GeoPackageOutputs, Store, StoreMode};
pub use postgis::{PostgisInputs, PostgisOutputs, StorePostgis, StoreScenes, StoreSites};

use schemars::JsonSchema;
use serde::Deserialize;
use swath_kinds::Detections;
use swath_task::{Artifact, TaskDef};

/// What the tasks of this crate read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The detections to store.
    pub detections: Artifact<Detections>,
}

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[
    TaskDef::of::<Store>(),
    TaskDef::of::<GeoJson>(),
    TaskDef::of::<StorePostgis>(),
    TaskDef::of::<StoreScenes>(),
    TaskDef::of::<StoreSites>(),
];

/// Digest of a file, by which a store knows whether what it wrote is still there.
fn digest_of(path: &std::path::Path) -> std::io::Result<String> {
    let (digest, _) = swath_task::Digest::of_reader(std::fs::File::open(path)?)?;
    Ok(digest.to_string())
}
