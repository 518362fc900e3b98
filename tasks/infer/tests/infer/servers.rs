//! What the tests of serving share: a Triton Inference Server and what it serves, and a small network of ours.
//!
//! The server is NVIDIA's own (`infra/triton.sh`), with networks in its Python backend, which runs them with ONNX Runtime.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use burn_onnx::export::{AxisSpec, InputSpec, OnnxExporter};
use serde_json::{Value, json};
use swath_nets::Network;
use swath_task::{Digest, Fault};
use swath_testkit::triton::Triton;

use crate::support::{Bench, input};

/// One band in, one class out, any size.
pub const ONE: [&str; 2] = [
    r#"name: "image" data_type: TYPE_FP32 dims: [1, -1, -1]"#,
    r#"name: "logits" data_type: TYPE_FP32 dims: [1, -1, -1]"#,
];
/// Three bands in, two classes out, any size.
pub const THREE: [&str; 2] = [
    r#"name: "image" data_type: TYPE_FP32 dims: [3, -1, -1]"#,
    r#"name: "logits" data_type: TYPE_FP32 dims: [2, -1, -1]"#,
];

/// Three bands in, three classes of the whole image out.
const CLASSES: [&str; 2] = [THREE[0], r#"name: "logits" data_type: TYPE_FP32 dims: [3, 1, 1]"#];

/// A model of what a server is to serve: its name and network, its ends and what else its configuration says, and its
/// program where that is not ours.
pub struct Served<'a> {
    name: &'a str,
    network: &'a Path,
    ends: [&'a str; 2],
    config: &'a str,
    program: Option<&'a str>,
}

impl Served<'_> {
    /// Writes it into a folder of models, as version 3.
    pub fn write(&self, models: &Path) {
        let folder = models.join(self.name);
        std::fs::create_dir_all(folder.join("3")).unwrap();
        std::fs::copy(self.network, folder.join("3/model.onnx")).unwrap();
        if let Some(program) = self.program {
            std::fs::write(folder.join("3/model.py"), program).unwrap();
        }
        let [input, output] = self.ends;
        let ends = format!("input [ {{ {input} }} ]\noutput [ {{ {output} }} ]");
        let config = format!("name: \"{}\"\nbackend: \"onnxruntime\"\n{ends}\n{}\n", self.name, self.config);
        std::fs::write(folder.join("config.pbtxt"), config).unwrap();
    }
}

/// A model that our program serves.
pub fn served<'a>(name: &'a str, network: &'a Path, ends: [&'a str; 2], config: &'a str) -> Served<'a> {
    Served { name, network, ends, config, program: None }
}

/// Answers with the upper half of what it should.
const HALF: &str = r#"
import triton_python_backend_utils as triton
class TritonPythonModel:
    def execute(self, requests):
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        halves = [image[:, :1, : image.shape[2] // 2].copy() for image in images]
        return [triton.InferenceResponse([triton.Tensor("logits", half)]) for half in halves]
"#;
/// Fails at every request.
const BREAKS: &str = r#"
class TritonPythonModel:
    def execute(self, requests):
        raise RuntimeError("out of memory, so to say")
"#;

/// A small network of ours: its ONNX, its weights, and what a manifest tells of them.
pub struct Trained {
    folder: tempfile::TempDir,
    network: Value,
    /// Names of its input and output, which the exporter chose.
    names: (String, String),
}

pub static TRAINED: LazyLock<Trained> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let network = json!({ "architecture": "unet", "encoder": "small", "in_channels": 3, "classes": 2, "width": 8 });
    let device = Device::flex();
    device.seed(5);
    let model = serde_json::from_value::<Network>(network.clone()).unwrap().init(&device).unwrap();
    model.save(&folder.path().join("weights.safetensors")).unwrap();
    let images = |count| Tensor::<4>::zeros([count, 3, 64, 64], &device);
    let batch = InputSpec::new([AxisSpec::dynamic("batch"), AxisSpec::Static, AxisSpec::Static, AxisSpec::Static]);
    let exported =
        OnnxExporter::new().export_dynamic(&model, images(2), images(3), &[batch], swath_nets::Model::forward).unwrap();
    exported.save(folder.path().join("trained.onnx")).unwrap();
    let session = swath_onnxruntime::open(exported.as_bytes(), "trained", 1).unwrap();
    let names = (session.inputs()[0].name().to_owned(), session.outputs()[0].name().to_owned());
    Trained { folder, network, names }
});

impl Trained {
    fn network(&self) -> PathBuf {
        self.folder.path().join("trained.onnx")
    }

    /// A model folder around it.
    pub fn model(&self, bench: &Bench, edit: impl FnOnce(&mut Value)) -> PathBuf {
        let folder = bench.model("wide", |_| {});
        let network = std::fs::read(self.network()).unwrap();
        std::fs::write(folder.join("1/model.onnx"), &network).unwrap();
        let weights = std::fs::read(self.folder.path().join("weights.safetensors")).unwrap();
        std::fs::write(folder.join("1/weights.safetensors"), &weights).unwrap();
        change(&folder, |m| {
            m["name"] = json!("trained");
            m["digest"] = json!(Digest::of(&network).to_string());
            (m["input"]["name"], m["output"]["name"]) = (json!(self.names.0), json!(self.names.1));
            m["tile"] = json!({ "size": 64, "multiple_of": 0 });
            m["checkpoint"] = json!({
                "file": "1/weights.safetensors", "digest": Digest::of(&weights).to_string(), "network": self.network
            });
            edit(m);
        });
        folder
    }
}

fn change(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut manifest);
    std::fs::write(path, manifest.to_string()).unwrap();
}

/// The server that most tests share.
pub static TRITON: LazyLock<Triton> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (wide, fixed, identity) = (input("wide.onnx"), input("fixed.onnx"), input("identity.onnx"));
    let gathers = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }\n\
                   instance_group [ { count: 1 kind: KIND_CPU } ]";
    let digest = Digest::of(&std::fs::read(&wide).unwrap());
    let told = format!("{gathers}\nparameters {{ key: \"digest\" value {{ string_value: \"{digest}\" }} }}");
    let delayed = |milliseconds: u32, config: &str| {
        format!("{config}\nparameters {{ key: \"delay_ms\" value {{ string_value: \"{milliseconds}\" }} }}")
    };
    let (gathered, slow) = (delayed(300, gathers), delayed(30_000, "max_batch_size: 4"));
    let whole = [
        r#"name: "image" data_type: TYPE_FP32 dims: [4, 3, 64, 64]"#,
        r#"name: "logits" data_type: TYPE_FP32 dims: [4, 2, 64, 64]"#,
    ];
    let trained_ends = [
        format!("name: \"{}\" data_type: TYPE_FP32 dims: [3, 64, 64]", TRAINED.names.0),
        format!("name: \"{}\" data_type: TYPE_FP32 dims: [2, 64, 64]", TRAINED.names.1),
    ];
    let other = r#"name: "y" data_type: TYPE_FP32 dims: [1, -1, -1]"#;
    let double = r#"name: "logits" data_type: TYPE_FP64 dims: [1, -1, -1]"#;
    let four = r#"name: "image" data_type: TYPE_FP32 dims: [4, -1, -1]"#;
    let small = r#"name: "image" data_type: TYPE_FP32 dims: [1, 100, 100]"#;
    let two = r#"name: "logits" data_type: TYPE_FP32 dims: [1, -1, -1] }, { name: "more" data_type: TYPE_FP32 dims: [1, -1, -1]"#;
    let another = r#"max_batch_size: 4 parameters { key: "digest" value { string_value: "blake3:00" } }"#;
    let trained = TRAINED.network();
    for model in [
        served("wide", &wide, THREE, &told),
        served("fixed", &fixed, whole, "max_batch_size: 0"),
        served("identity", &identity, ONE, "max_batch_size: 4"),
        served("named", &identity, ONE, "max_batch_size: 4"),
        served("gathered", &identity, ONE, &gathered),
        served("slow", &identity, ONE, &slow),
        served("classes", &input("classes.onnx"), CLASSES, gathers),
        served("trained", &trained, [&trained_ends[0], &trained_ends[1]], gathers),
        served("other_name", &identity, [ONE[0], other], "max_batch_size: 4"),
        served("other_type", &identity, [ONE[0], double], "max_batch_size: 4"),
        served("other_channels", &identity, [four, ONE[1]], "max_batch_size: 4"),
        served("other_size", &identity, [small, ONE[1]], "max_batch_size: 4"),
        served("two_outputs", &identity, [ONE[0], two], "max_batch_size: 4"),
        served("other_digest", &identity, ONE, another),
        Served { program: Some(HALF), ..served("half", &identity, ONE, "max_batch_size: 4") },
        Served { program: Some(BREAKS), ..served("breaks", &identity, ONE, "max_batch_size: 4") },
    ] {
        model.write(folder.path());
    }
    Triton::start(folder.path(), &[])
});

/// Parameters for a model on a server.
pub fn on(url: &str, model: &Path, with: Value) -> Value {
    let mut with = with;
    (with["model"], with["backend"]) = (json!(model), json!("triton"));
    with["triton"]["url"] = json!(url);
    with
}

/// Why a step fails, and whether it may pass.
pub async fn fault(bench: &Bench, with: Value, raster: &str) -> (Fault, bool) {
    bench.failure(bench.run(with, raster).await)
}

/// [`counts`] once a server has counted so many tiles: it answers before it counts.
pub async fn counts_when(triton: &Triton, model: &str, tiles: u64) -> (u64, u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let counts = counts(triton, model);
        if counts.0 >= tiles || Instant::now() > deadline {
            return counts;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How often a served model was asked and how often its network ran.
pub fn counts(triton: &Triton, model: &str) -> (u64, u64) {
    let told: Value = serde_json::from_str(&triton.get(0, &format!("/v2/models/{model}/versions/3/stats"))).unwrap();
    let of = |name: &str| told["model_stats"][0][name].as_u64().unwrap_or_else(|| panic!("{model}: {told}"));
    (of("inference_count"), of("execution_count"))
}
