//! What tests share: small networks and rasters that Python makes, a task without an engine, and the reference.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use swath_infer::{Segment, SegmentInputs};
use swath_kinds::{Cog, StretchFile};
use swath_task::local::LocalHost;
use swath_task::{Artifact, Context, Digest, Fault, Task, TaskError};

pub fn python(script: &str, argument: &Path) -> String {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("SWATH_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| crate_folder.join("../../.tools/py/bin/python"));
    assert!(python.exists(), "no Python at `{}`: run `make setup`", python.display());
    let script = crate_folder.join("tests").join(script);
    let output = Command::new(python).arg(script).arg(argument).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Networks and rasters, made once.
static INPUTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    python("make_inputs.py", folder.path());
    folder
});

pub fn input(name: &str) -> PathBuf {
    INPUTS.path().join(name)
}

/// A folder of a test's own, and a host without an engine in it.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub host: Arc<LocalHost>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        Self { folder, host }
    }

    /// A model folder around a network; `edit` changes the manifest.
    pub fn model(&self, network: &str, edit: impl FnOnce(&mut Value)) -> PathBuf {
        let folder = tempfile::Builder::new().prefix(network).tempdir_in(self.folder.path()).unwrap().keep();
        let bytes = std::fs::read(input(&format!("{network}.onnx"))).unwrap();
        std::fs::create_dir(folder.join("1")).unwrap();
        std::fs::write(folder.join("1/model.onnx"), &bytes).unwrap();
        let three = matches!(network, "wide" | "fixed" | "truncated");
        let mut manifest = json!({
            "name": network, "version": 3, "about": "for a test", "file": "1/model.onnx",
            "digest": Digest::of(&bytes).to_string(),
            "bands": if three { json!([{"name": "B03"}, {"name": "B04"}, {"name": "B08"}]) } else { json!([{"name": "P"}]) },
            "normalisation": if three {
                json!({ "method": "standard", "mean": [0.15, 0.14, 0.16], "std": [0.08, 0.09, 0.07], "fill": 0.0 })
            } else {
                json!({ "method": "none", "fill": 0.0 })
            },
            "input": { "name": "image", "channels": if three { 3 } else { 1 } },
            "output": { "name": "logits", "channels": if three { 2 } else { 1 } },
            "activation": if three { "logits" } else { "probability" },
            "tile": { "size": 64, "multiple_of": 8 },
            "classes": if three { json!(["water", "ice"]) } else { json!(["ship"]) },
            "gsd": 10.0
        });
        edit(&mut manifest);
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        folder
    }

    pub async fn run(&self, with: Value, raster: &str) -> Result<(PathBuf, u64), TaskError> {
        self.run_in(with, raster, None, &self.host.context(2)).await
    }

    pub async fn run_in(
        &self,
        with: Value,
        raster: &str,
        stretch: Option<Artifact<StretchFile>>,
        ctx: &Context,
    ) -> Result<(PathBuf, u64), TaskError> {
        let segment: Segment = serde_json::from_value(with).unwrap();
        segment.check().unwrap();
        let raster: Artifact<Cog> = self.host.import(&input(&format!("{raster}.tif"))).unwrap();
        let inputs = SegmentInputs { raster, model: None, stretch };
        let outputs = segment.run(inputs, ctx).await?;
        Ok((self.host.path(outputs.raster.record()), outputs.tiles))
    }

    pub async fn fault(&self, with: Value, raster: &str) -> Fault {
        let result = self.run(with, raster).await;
        // Nothing half-written stays behind.
        assert_eq!(std::fs::read_dir(self.folder.path().join("host/scratch")).unwrap().count(), 0);
        match result {
            Err(TaskError::Permanent(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// Holds outputs against the reference; returns what it saw.
    pub fn compare(&self, cases: &[Value]) -> Vec<Value> {
        let file = self.folder.path().join("cases.json");
        std::fs::write(&file, Value::from(cases.to_vec()).to_string()).unwrap();
        let seen: Vec<Value> =
            python("compare.py", &file).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(seen.len(), cases.len());
        seen
    }
}

/// A run and its parameters, for the reference to repeat.
pub fn case(model: &Path, raster: &str, output: &Path, with: &Value, fixed_batch: Option<u32>) -> Value {
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(model.join("manifest.json")).unwrap()).unwrap();
    let bands: Vec<&Value> = manifest["bands"].as_array().unwrap().iter().map(|band| &band["name"]).collect();
    json!({
        "raster": input(&format!("{raster}.tif")), "network": model.join("1/model.onnx"), "output": output,
        "tile": with["tile"].as_u64().unwrap_or(64), "overlap": with["overlap"],
        "edges": with["edges"].as_str().unwrap_or("shifted"), "blend": with["blend"].as_str().unwrap_or("average"),
        "bands": bands, "normalisation": manifest["normalisation"], "activation": manifest["activation"],
        "fixed_batch": fixed_batch,
    })
}
