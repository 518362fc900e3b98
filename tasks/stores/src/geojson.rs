//! `store.geojson`: detections to a plain GeoJSON file.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::{Bytes, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::folder::{Folder, write_fault};
use crate::{Inputs, rows};

/// Stores detections as a GeoJSON file (RFC 7946: longitude and latitude in degrees), for the web and for scripts.
///
/// The file is replaced at once, whole: readers see the old one or the new one. A missing folder is made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoJson {
    /// The file, ending in `.geojson` or `.json`.
    pub path: LocalPath,
}

/// What `store.geojson` tells.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GeoJsonOutputs {
    /// The file.
    pub geojson: String,
    /// Digest of the file as it was left.
    pub digest: String,
    /// Detections in it.
    pub count: u64,
}

impl Task for GeoJson {
    const NAME: &'static str = "store.geojson";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Lasting;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = GeoJsonOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let extension = self.path.0.extension().map(|extension| extension.to_ascii_lowercase());
        if extension.is_some_and(|extension| extension == "geojson" || extension == "json") {
            return Ok(());
        }
        let message = format!("`{}` does not end in `.geojson` or `.json`", self.path.0.display());
        Err(vec![Problem::new("/path", message).help("other programs know GeoJSON by its ending")])
    }

    fn stands(&self, outputs: &serde_json::Value) -> bool {
        crate::digest_of(&self.path.0).is_ok_and(|digest| outputs["digest"] == digest)
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(32))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<GeoJsonOutputs, TaskError> {
        let detections = ctx.locate(&inputs.detections).await?;
        let path = self.path.0.clone();
        ctx.blocking(move |ctx| store(&detections, &path, ctx)).await
    }
}

fn store(detections: &Path, path: &Path, ctx: &Context) -> Result<GeoJsonOutputs, TaskError> {
    let count = rows::read(detections, |_, _| Ok(()))?;
    let folder = Folder::of(path, ctx)?;
    ctx.check_cancelled()?;
    folder.place(path, |made| {
        let copied = std::fs::File::open(detections)
            .and_then(|mut from| std::io::copy(&mut from, &mut std::fs::File::create(made)?));
        copied.map(drop).map_err(|error| write_fault(path, &error))
    })?;
    let digest = crate::digest_of(path).map_err(|error| write_fault(path, &error))?;
    Ok(GeoJsonOutputs { geojson: path.display().to_string(), digest, count })
}
