//! Checkpoints as training leaves them, and tasks that run by themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use burn::tensor::Device;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::{SafeTensors, View};
use serde_json::{Value, json};
use swath_kinds::{BandInput, CheckpointManifest, Normalisation, OutputActivation, Training, WeightsFile};
use swath_nets::{Model, Network};
use swath_onnx::{Export, ExportInputs, ExportOutputs, Publish, PublishInputs, PublishOutputs};
use swath_task::local::LocalHost;
use swath_task::{Context, Digest, Task, TaskError};

/// A folder with a host in it.
pub struct Place {
    folder: tempfile::TempDir,
    pub host: Arc<LocalHost>,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        Self { folder, host }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exports a checkpoint folder.
    pub fn export(&self, checkpoint: &Path, params: Value) -> Result<ExportOutputs, TaskError> {
        self.export_in(checkpoint, params, None, &self.host.context(2))
    }

    pub fn export_in(
        &self,
        checkpoint: &Path,
        params: Value,
        dataset: Option<&Path>,
        ctx: &Context,
    ) -> Result<ExportOutputs, TaskError> {
        let inputs = ExportInputs {
            checkpoint: self.host.import(checkpoint).unwrap(),
            dataset: dataset.map(|path| self.host.import(path).unwrap()),
        };
        block_on(bind::<Export>(params).run(inputs, ctx))
    }

    /// The model folder that an export made.
    pub fn model(&self, outputs: &ExportOutputs) -> PathBuf {
        self.host.path(outputs.model.record())
    }

    /// Publishes a model folder.
    pub fn publish(&self, model: &Path, params: Value) -> Result<PublishOutputs, TaskError> {
        let inputs = PublishInputs { model: self.host.import(model).unwrap() };
        block_on(bind::<Publish>(params).run(inputs, &self.host.context(1)))
    }
}

/// A task with these parameters, which must pass its checks.
pub fn bind<T: Task>(params: Value) -> T {
    let task: T = serde_json::from_value(params).unwrap();
    task.check().unwrap();
    task
}

/// What a task says is wrong with these parameters.
pub fn problems<T: Task>(params: Value) -> String {
    let task: T = serde_json::from_value(params).unwrap();
    let problems = task.check().unwrap_err();
    problems.iter().map(|problem| format!("{}: {}\n", problem.at, problem.message)).collect()
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap().block_on(work)
}

/// Code and message of a failure that trying again does not help.
pub fn told<T>(result: Result<T, TaskError>) -> (String, String) {
    match result {
        Err(TaskError::Permanent(fault)) => (fault.code.to_string(), fault.message),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it worked"),
    }
}

/// A network as a training step writes it.
pub fn network(value: &Value) -> Network {
    serde_json::from_value(value.clone()).unwrap()
}

/// A small one.
pub fn small() -> Value {
    json!({ "architecture": "unet", "encoder": "small", "width": 4, "in_channels": 3, "classes": 1 })
}

/// Writes a checkpoint of a network whose weights are as if it had been trained. Returns the network.
pub fn checkpoint(folder: &Path, value: &Value, tile: u32) -> Model {
    fs::create_dir_all(folder).unwrap();
    let (network, device) = (network(value), Device::flex());
    device.seed(7);
    let path = folder.join("weights.safetensors");
    network.init(&device).unwrap().save(&path).unwrap();
    train(&path);
    let channels = network.in_channels();
    let scores = |f1: f64| BTreeMap::from([("f1".to_owned(), f1), ("iou".to_owned(), f1 / (2.0 - f1))]);
    let manifest = CheckpointManifest {
        format: swath_kinds::CHECKPOINT_FORMAT.to_owned(),
        weights: WeightsFile {
            file: "weights.safetensors".to_owned(),
            digest: Digest::of(&fs::read(&path).unwrap()),
            network: value.clone(),
        },
        bands: (0..channels).map(|band| BandInput { name: format!("B{band:02}") }).collect(),
        normalisation: Normalisation::Standard { mean: vec![0.2; channels], std: vec![0.1; channels], fill: 0.0 },
        activation: if network.classes() == 1 { OutputActivation::Logits } else { OutputActivation::ClassLogits },
        classes: (0..network.classes()).map(|class| format!("class-{class}")).collect(),
        tile,
        gsd: 10.0,
        training: Training {
            dataset: Digest::of(b"dataset"),
            seed: 42,
            epochs: 30,
            epoch: 21,
            settings: json!({ "epochs": 30, "batch": 16, "loss": "focal_dice" }),
            run: Some("file:///mlruns/1/abc".to_owned()),
            validation: BTreeMap::from([("f1".to_owned(), 0.875), ("threshold".to_owned(), 0.41)]),
            test: scores(0.84),
        },
    };
    fs::write(folder.join("checkpoint.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    network.init(&device).unwrap().load(&path).unwrap()
}

/// Gives what begins as 0, 1 or next to nothing a value that a training would leave: otherwise `BatchNorm` would do nothing,
/// and the blocks of ConvNeXt would add nothing.
fn train(path: &Path) {
    let mut random = StdRng::seed_from_u64(1);
    change(path, |name, numbers| {
        let range = match name {
            _ if name.ends_with("running_mean") => -0.2..0.2,
            _ if name.ends_with("running_var") => 0.5..2.0,
            _ if name.ends_with("layer_scale") => 0.2..0.8,
            _ if name.ends_with("bias") => -0.1..0.1,
            _ => return,
        };
        numbers.iter_mut().for_each(|number| *number = random.random_range(range.clone()));
    });
}

/// Changes the numbers of a safetensors file.
pub fn change(path: &Path, mut change: impl FnMut(&str, &mut [f32])) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let changed = file.iter().map(|(name, tensor)| {
        let numbers = tensor.data().chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().unwrap()));
        let mut numbers: Vec<f32> = numbers.collect();
        change(name, &mut numbers);
        (name.to_owned(), Numbers(tensor.shape().to_vec(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect()))
    });
    let changed: BTreeMap<String, Numbers> = changed.collect();
    fs::write(path, safetensors::serialize(changed, None).unwrap()).unwrap();
}

struct Numbers(Vec<usize>, Vec<u8>);

impl View for Numbers {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.1.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.1.len()
    }
}

/// Changes a JSON file.
pub fn edit(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    swath_task::files::copy(from, to, &|_| Ok(())).unwrap();
}

/// Runs `judge.py` and returns what it found.
pub fn judge(arguments: &[&Path]) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../../.tools/py/bin/python");
    assert!(python.exists(), "no Python at {}: run `make setup`", python.display());
    let output = Command::new(python).arg(root.join("tests/judge.py")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
