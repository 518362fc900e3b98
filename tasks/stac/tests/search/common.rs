//! Runs searches by themselves, without an engine.

use std::path::Path;

use serde_json::{Value, json};
use swath_kinds::{Scene, Scenes};
use swath_stac::TASKS;
use swath_task::local::LocalHost;
use swath_task::{ArtifactRecord, Digest, Fault, TaskError};
use tempfile::TempDir;

/// What a search left behind.
pub struct Outcome {
    pub scenes: Vec<Scene>,
    pub signing: swath_kinds::Signing,
    pub digest: Digest,
    metrics: Vec<(&'static str, f64)>,
    _folder: TempDir,
}

impl Outcome {
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(metric, _)| *metric == name).map(|(_, value)| *value)
    }
}

/// Runs `stac.search` through its erased form, as the engine does.
pub async fn try_search(params: Value) -> Result<Outcome, TaskError> {
    let folder = tempfile::tempdir().unwrap();
    let host = LocalHost::new(folder.path()).unwrap();
    let task = TASKS[0].bind(params).unwrap();
    let outputs = task.run(json!({}), host.context(2)).await?;
    let record: ArtifactRecord = serde_json::from_value(outputs["scenes"].clone()).unwrap();
    let found: Scenes = serde_json::from_slice(&std::fs::read(host.path(&record)).unwrap()).unwrap();
    assert_eq!(outputs["count"], found.scenes.len());
    Ok(Outcome {
        scenes: found.scenes,
        signing: found.signing,
        digest: record.digest,
        metrics: host.metrics(),
        _folder: folder,
    })
}

/// A search that must find something.
pub async fn search(params: Value) -> Outcome {
    match try_search(params.clone()).await {
        Ok(outcome) => outcome,
        Err(error) => panic!("{params}: {error}"),
    }
}

/// A search that must fail for good.
pub async fn search_error(params: Value) -> Fault {
    match try_search(params.clone()).await {
        Err(TaskError::Permanent(fault)) => fault,
        Err(other) => panic!("{params}: {other:?}"),
        Ok(found) => panic!("{params}: found {} scenes", found.scenes.len()),
    }
}

/// A minimal item with a box for a footprint.
pub fn item(id: &str, datetime: &str, [west, south, east, north]: [f64; 4]) -> Value {
    json!({"type": "Feature", "stac_version": "1.0.0", "id": id, "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]]},
        "properties": {"datetime": datetime}, "links": [], "assets": {}})
}

/// Writes JSON, making the folders above it.
pub fn write_json(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}
