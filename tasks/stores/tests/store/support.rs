//! A host, detections to store, and readers that know nothing of this crate: SQLite and `psql`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use swath_kinds::Detections;
use swath_stores::{GeoPackageOutputs, Inputs, PostgisInputs, PostgisOutputs, Store, StorePostgis};
use swath_task::local::LocalHost;
use swath_task::{Artifact, Fault, Kind, Task, TaskError};
use swath_testkit::postgres::{Postgres, psql};
use swath_testkit::python;
use tokio_util::sync::CancellationToken;

/// The server of all tests that do not hurt it. Its databases have PostGIS from the start: adding it takes most of a
/// second.
pub static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| {
    let server = Postgres::start(false);
    psql(&server.url("template1"), "create extension postgis");
    server
});

pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/look.py")
}

pub fn look(path: &Path, layer: &str) -> Value {
    let output = Command::new(python::interpreter()).arg(script()).arg(path).arg(layer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a query by `psql`, as JSON.
pub fn rows(database: &str, query: &str) -> Vec<Value> {
    let text = psql(database, &format!("select coalesce(json_agg(r), '[]') from ({query}) as r"));
    serde_json::from_str(&text).unwrap()
}

/// A square detection of 0.01 degrees at a longitude.
pub fn detection(id: &str, west: f64, score: f64) -> Value {
    let east = west + 0.01;
    json!({
        "type": "Feature",
        "id": id,
        "properties": {
            "class": "lake", "score": score, "mean_probability": 0.75, "max_probability": 1, "area_m2": 850_000.5,
            "perimeter_m": 3700.25, "compactness": 0.785, "pixels": 8500, "longitude": west + 0.005, "latitude": 47.005,
            "merged": 2
        },
        "geometry": { "type": "Polygon", "coordinates":
            [[[west, 47.0], [east, 47.0], [east, 47.01], [west, 47.01], [west, 47.0]]] }
    })
}

pub fn fault(error: TaskError) -> Fault {
    match error {
        TaskError::Permanent(fault) | TaskError::Transient { fault, .. } => fault,
        TaskError::Cancelled => panic!("cancelled"),
    }
}

pub struct Bench {
    folder: tempfile::TempDir,
    pub host: Arc<LocalHost>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        Self { folder, host }
    }

    /// Whose tasks find this address in the secret `DB`.
    pub fn with_database(address: &str) -> Self {
        let bench = Self::new();
        bench.host.learn_secret("DB", address);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of this content as an artifact.
    pub fn artifact<K: Kind>(&self, name: &str, text: &str) -> Artifact<K> {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        self.host.import::<K>(&file).unwrap()
    }

    pub fn detections(&self, features: &[Value]) -> Artifact<Detections> {
        let text = json!({ "type": "FeatureCollection", "features": features }).to_string();
        self.artifact("detections.geojson", &text)
    }

    pub fn inputs(&self, features: &[Value]) -> Inputs {
        Inputs { detections: self.detections(features) }
    }

    pub fn inputs_of(&self, text: &str) -> Inputs {
        Inputs { detections: self.artifact("detections.geojson", text) }
    }

    pub async fn store(&self, parameters: Value, inputs: Inputs) -> Result<GeoPackageOutputs, TaskError> {
        self.run::<Store>("run/store/0", parameters, inputs).await
    }

    /// Stores detections in the database of the secret `DB`.
    pub async fn store_postgis(&self, key: &str, features: &[Value]) -> Result<PostgisOutputs, TaskError> {
        let inputs = PostgisInputs { detections: self.detections(features), composite: None };
        self.run::<StorePostgis>(key, json!({ "database": "DB" }), inputs).await
    }

    /// Runs a task as the attempt of a step instance.
    pub async fn run<T: Task + DeserializeOwned>(
        &self,
        key: &str,
        parameters: Value,
        inputs: T::Inputs,
    ) -> Result<T::Outputs, TaskError> {
        let task: T = serde_json::from_value(parameters).unwrap();
        task.check().unwrap();
        task.run(inputs, &self.host.attempt(key, CancellationToken::new())).await
    }
}
