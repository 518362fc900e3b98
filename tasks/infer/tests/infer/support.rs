//! What tests share: small networks and rasters that Python makes, a task without an engine, and the reference.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use swath_infer::{Classify, Inputs, Segment};
use swath_kinds::{Cog, StretchFile};
use swath_task::local::LocalHost;
use swath_task::{Artifact, Context, Digest, Fault, Task, TaskError};
use swath_testkit::python;

pub fn python(script: &str, argument: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    python::run(&python::interpreter(), [script.as_path(), argument])
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
        let whole = network.starts_with("classes");
        let three = whole || matches!(network, "wide" | "fixed" | "truncated");
        let classes = match (whole, three) {
            (true, _) => json!(["field", "wood", "lake"]),
            (_, true) => json!(["water", "ice"]),
            _ => json!(["ship"]),
        };
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
            "output": { "name": "logits", "channels": classes.as_array().unwrap().len() },
            "activation": if whole { "class_logits" } else if three { "logits" } else { "probability" },
            "tile": { "size": 64, "multiple_of": 8 },
            "classes": classes,
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
        let outputs = self.task::<Segment>(with, raster, stretch, ctx).await?;
        Ok((self.host.path(outputs.raster.record()), outputs.tiles))
    }

    /// Runs `infer.classify`.
    pub async fn classify(&self, with: Value, raster: &str) -> Result<(PathBuf, u64), TaskError> {
        let outputs = self.task::<Classify>(with, raster, None, &self.host.context(2)).await?;
        Ok((self.host.path(outputs.raster.record()), outputs.tiles))
    }

    async fn task<T: Task<Inputs = Inputs>>(
        &self,
        with: Value,
        raster: &str,
        stretch: Option<Artifact<StretchFile>>,
        ctx: &Context,
    ) -> Result<T::Outputs, TaskError> {
        let task: T = serde_json::from_value(with).unwrap();
        task.check().unwrap();
        let raster: Artifact<Cog> = self.host.import(&input(&format!("{raster}.tif"))).unwrap();
        task.run(Inputs { raster, model: None, stretch }, ctx).await
    }

    pub async fn fault(&self, with: Value, raster: &str) -> Fault {
        match self.failure(self.run(with, raster).await) {
            (fault, false) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// Why a step failed, and whether it may pass. Nothing half-written stays behind.
    pub fn failure(&self, result: Result<(PathBuf, u64), TaskError>) -> (Fault, bool) {
        assert_eq!(std::fs::read_dir(self.folder.path().join("host/scratch")).unwrap().count(), 0);
        match result {
            Err(TaskError::Permanent(fault)) => (fault, false),
            Err(TaskError::Transient { fault, .. }) => (fault, true),
            other => panic!("{other:?}"),
        }
    }

    /// Holds outputs against the reference; returns what it saw.
    pub fn compare(&self, cases: &[Value]) -> Vec<Value> {
        self.compare_by("compare.py", cases)
    }

    /// Holds outputs against one of the references.
    pub fn compare_by(&self, reference: &str, cases: &[Value]) -> Vec<Value> {
        let file = self.folder.path().join("cases.json");
        std::fs::write(&file, Value::from(cases.to_vec()).to_string()).unwrap();
        let seen: Vec<Value> =
            python(reference, &file).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(seen.len(), cases.len());
        seen
    }
}

/// A run of `infer.classify` and its parameters, for the reference to repeat.
pub fn case_of_tiles(model: &Path, raster: &str, output: &Path, with: &Value) -> Value {
    let mut case = case(model, raster, output, with, None);
    let size = manifest(model)["tile"]["size"].as_u64().unwrap();
    let tile = with["tile"].as_u64().unwrap_or(size);
    (case["tile"], case["stride"]) = (json!(tile), json!(with["stride"].as_u64().unwrap_or(tile)));
    case["min_valid"] = json!(with["min_valid"].as_f64().unwrap_or(0.5));
    case
}

fn manifest(model: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(model.join("manifest.json")).unwrap()).unwrap()
}

/// A run and its parameters, for the reference to repeat.
pub fn case(model: &Path, raster: &str, output: &Path, with: &Value, fixed_batch: Option<u32>) -> Value {
    let manifest = manifest(model);
    let bands: Vec<&Value> = manifest["bands"].as_array().unwrap().iter().map(|band| &band["name"]).collect();
    json!({
        "raster": input(&format!("{raster}.tif")), "network": model.join("1/model.onnx"), "output": output,
        "tile": with["tile"].as_u64().unwrap_or(64), "overlap": with["overlap"],
        "edges": with["edges"].as_str().unwrap_or("shifted"), "blend": with["blend"].as_str().unwrap_or("average"),
        "bands": bands, "normalisation": manifest["normalisation"], "activation": manifest["activation"],
        "fixed_batch": fixed_batch,
    })
}
