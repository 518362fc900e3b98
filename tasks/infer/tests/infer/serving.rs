//! The same networks on a real Triton Inference Server, over gRPC and REST, and in burn; and a server that is away, slow,
//! wrong, restarted, exchanged or not trusted.
//!
//! The server is NVIDIA's own (`infra/triton.sh`), with networks in its Python backend, which runs them with ONNX Runtime.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use burn_onnx::export::{AxisSpec, InputSpec, OnnxExporter};
use serde_json::{Value, json};
use swath_infer::{Segment, model_server};
use swath_nets::Network;
use swath_task::{Digest, Fault, Task, TaskError};
use swath_testkit::triton::Triton;

use crate::support::{Bench, case, input};

/// One band in, one class out, any size.
pub const ONE: [&str; 2] = [
    r#"name: "image" data_type: TYPE_FP32 dims: [1, -1, -1]"#,
    r#"name: "logits" data_type: TYPE_FP32 dims: [1, -1, -1]"#,
];
/// Three bands in, two classes out, any size.
const THREE: [&str; 2] = [
    r#"name: "image" data_type: TYPE_FP32 dims: [3, -1, -1]"#,
    r#"name: "logits" data_type: TYPE_FP32 dims: [2, -1, -1]"#,
];

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
struct Trained {
    folder: tempfile::TempDir,
    network: Value,
    /// Names of its input and output, which the exporter chose.
    names: (String, String),
}

static TRAINED: LazyLock<Trained> = LazyLock::new(|| {
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
    fn model(&self, bench: &Bench, edit: impl FnOnce(&mut Value)) -> PathBuf {
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
static TRITON: LazyLock<Triton> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (wide, fixed, identity) = (input("wide.onnx"), input("fixed.onnx"), input("identity.onnx"));
    let gathers = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }\n\
                   instance_group [ { count: 1 kind: KIND_CPU } ]";
    let digest = Digest::of(&std::fs::read(&wide).unwrap());
    let told = format!("{gathers}\nparameters {{ key: \"digest\" value {{ string_value: \"{digest}\" }} }}");
    let delayed = |milliseconds: u32, config: &str| {
        format!("{config}\nparameters {{ key: \"delay_ms\" value {{ string_value: \"{milliseconds}\" }} }}")
    };
    let (gathered, slow) = (delayed(20, gathers), delayed(30_000, "max_batch_size: 4"));
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

async fn fault(bench: &Bench, with: Value, raster: &str) -> (Fault, bool) {
    let result = bench.run(with, raster).await;
    // Nothing half-written stays behind.
    assert_eq!(std::fs::read_dir(bench.folder.path().join("host/scratch")).unwrap().count(), 0);
    match result {
        Err(TaskError::Permanent(fault)) => (fault, false),
        Err(TaskError::Transient { fault, .. }) => (fault, true),
        other => panic!("{other:?}"),
    }
}

/// How often a served model was asked and how often its network ran.
fn counts(triton: &Triton, model: &str) -> (u64, u64) {
    let told: Value = serde_json::from_str(&triton.get(0, &format!("/v2/models/{model}/versions/3/stats"))).unwrap();
    let of = |name: &str| told["model_stats"][0][name].as_u64().unwrap_or_else(|| panic!("{model}: {told}"));
    (of("inference_count"), of("execution_count"))
}

#[tokio::test]
async fn probabilities_over_grpc_and_rest_agree_with_numpy_and_onnxruntime() {
    let bench = Bench::new();
    let (wide, fixed) = (bench.model("wide", |_| {}), bench.model("fixed", |_| {}));
    let settings: &[(&Path, Value, Option<u32>)] = &[
        (&wide, json!({ "overlap": 16 }), None),
        (&wide, json!({ "overlap": 16, "batch": 3, "triton": { "requests": 3 } }), None),
        (&wide, json!({ "overlap": 24, "blend": "smooth", "edges": "reflected", "triton": { "requests": 1 } }), None),
        (&fixed, json!({ "overlap": 16 }), Some(4)),
    ];
    for url in [TRITON.grpc(), TRITON.http()] {
        let mut cases = Vec::new();
        for (model, with, fixed_batch) in settings {
            let with = on(&url, model, with.clone());
            let (output, tiles) = bench.run(with.clone(), "large").await.unwrap();
            assert!(tiles > 10);
            cases.push(case(model, "large", &output, &with, *fixed_batch));
        }
        for (seen, (_, with, _)) in bench.compare(&cases).iter().zip(settings) {
            assert!(seen["off"].as_f64().unwrap() <= 1e-6, "{url} {with}: {seen}");
            assert!(seen["spread"].as_f64().unwrap() > 0.01, "{seen}");
            assert_eq!((&seen["same_nodata"], &seen["same_grid"]), (&json!(true), &json!(true)), "{url} {with}");
        }
    }
}

#[tokio::test]
async fn onnx_runtime_triton_and_burn_give_the_same_raster() {
    let bench = Bench::new();
    let model = TRAINED.model(&bench, |_| {});
    let with = |edit: Value| {
        let mut with = json!({ "model": model, "overlap": 16 });
        edit.as_object().unwrap().iter().for_each(|(key, value)| with[key] = value.clone());
        with
    };
    let all = [
        with(json!({ "backend": "ort" })),
        with(json!({ "backend": "ort", "device": "cpu", "batch": 4 })),
        with(json!({ "backend": "burn" })),
        with(json!({ "backend": "burn", "batch": 3, "threads": 1 })),
        with(json!({ "backend": "triton", "triton": { "url": TRITON.grpc() } })),
        with(json!({ "backend": "triton", "triton": { "url": TRITON.http() } })),
    ];
    let mut cases = Vec::new();
    for with in &all {
        let (output, tiles) = bench.run(with.clone(), "large").await.unwrap();
        assert_eq!(tiles, 35, "{with}");
        cases.push(case(&model, "large", &output, with, None));
    }
    for (seen, with) in bench.compare(&cases).iter().zip(&all) {
        let off = seen["off"].as_f64().unwrap();
        println!("{}: off by {off:.1e}", with["backend"]);
        // Of the same reference: at most twice as much of each other.
        assert!(off <= 5e-5, "{with}: off by {off}");
        assert!(seen["spread"].as_f64().unwrap() > 1e-3, "{seen}");
        assert_eq!(seen["same_nodata"], json!(true));
    }
}

#[tokio::test]
async fn several_requests_in_flight_fill_the_servers_batches() {
    let bench = Bench::new();
    let model = bench.model("identity", |m| m["name"] = json!("gathered"));
    let (asked, ran) = counts(&TRITON, "gathered");
    let (_, tiles) = bench.run(on(&TRITON.grpc(), &model, json!({ "overlap": 32 })), "constant").await.unwrap();
    let (asked, ran) = (counts(&TRITON, "gathered").0 - asked, counts(&TRITON, "gathered").1 - ran);
    assert_eq!(asked, tiles);
    assert!(ran * 2 <= asked, "{asked} tiles in {ran} runs: they were not gathered");
}

#[tokio::test]
async fn what_is_served_is_held_against_the_manifest_before_any_tile() {
    let bench = Bench::new();
    for (served, code, words) in [
        ("gone", "M121", "`gone`"),
        ("other_name", "M122", "its output is called `y`, not `logits`"),
        ("other_type", "M122", "its output `logits` is of type FP64, not FP32"),
        ("other_channels", "M122", "its input `image` has shape [-1, 4, -1, -1]"),
        ("other_size", "M122", "its input `image` has shape [-1, 1, 100, 100]"),
        ("two_outputs", "M122", "it has 2 outputs (`logits`, `more`), not one"),
        ("other_digest", "M122", "its network has the digest `blake3:00`"),
    ] {
        let model = bench.model("identity", |m| m["name"] = json!(served));
        for url in [TRITON.grpc(), TRITON.http()] {
            let (fault, transient) = fault(&bench, on(&url, &model, json!({ "overlap": 16 })), "one").await;
            assert!(fault.code == code && fault.message.contains(words) && !transient, "{served}: {fault}");
            assert!(fault.message.contains(&url) && fault.help.is_some(), "{fault}");
        }
    }
    let later = bench.model("identity", |m| m["version"] = json!(4));
    for url in [TRITON.grpc(), TRITON.http()] {
        let (fault, _) = fault(&bench, on(&url, &later, json!({ "overlap": 16 })), "one").await;
        assert!(fault.code == "M121" && fault.message.contains("has version 3 of `identity`"), "{fault}");
        assert!(fault.message.contains("of version 4"), "{fault}");
    }
    let model = bench.model("identity", |_| {});
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16, "batch": 5 })), "one").await;
    assert!(told.code == "M115" && told.message.contains("takes 4 tiles at once, not 5"), "{told}");
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "unnamed").await;
    assert_eq!(told.code, "M108");
    // Where the network lies beside the manifest it must be the one told of; where it does not, the server's counts.
    std::fs::write(model.join("1/model.onnx"), std::fs::read(input("sqrt.onnx")).unwrap()).unwrap();
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await;
    assert_eq!(told.code, "M103");
    std::fs::remove_file(model.join("1/model.onnx")).unwrap();
    bench.run(on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await.unwrap();
    std::fs::remove_file(model.join("manifest.json")).unwrap();
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await;
    assert_eq!(told.code, "M101");
}

#[tokio::test]
async fn a_wrong_answer_a_failure_and_a_late_answer_are_told_apart() {
    let bench = Bench::new();
    for (served, code, words, may_pass) in [
        ("half", "M123", "`logits` has shape [1, 1, 32, 64], not [1, 1, 64, 64]", false),
        ("breaks", "M125", "out of memory, so to say", false),
        ("slow", "M124", "no answer within 1 s", true),
    ] {
        let model = bench.model("identity", |m| m["name"] = json!(served));
        for url in [TRITON.grpc(), TRITON.http()] {
            let with = json!({ "overlap": 16, "batch": 1, "triton": { "request_timeout": 1, "requests": 2 } });
            let (fault, transient) = fault(&bench, on(&url, &model, with), "one").await;
            assert!(fault.code == code && fault.message.contains(words), "{served}: {fault}");
            assert_eq!(transient, may_pass, "{fault}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for_and_then_told() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for scheme in ["grpc", "http"] {
        let url = format!("{scheme}://{closed}");
        let with = json!({ "overlap": 16, "triton": { "patience": 1 } });
        let (fault, transient) = fault(&bench, on(&url, &model, with), "one").await;
        assert!(fault.code == "M120" && transient, "{fault}");
        assert!(fault.message.contains(&url) && fault.message.contains("asked "), "{fault}");
        assert!(fault.help.unwrap().contains("HTTP address"));
        // The next address is taken where the first is closed.
        let both = format!("{url}, {}", TRITON.http());
        bench.run(on(&both, &model, json!({ "overlap": 16 })), "one").await.unwrap();
    }
    // The wrong port of the right server, either way round.
    for url in [TRITON.http().replace("http:", "grpc:"), TRITON.grpc().replace("grpc:", "http:")] {
        let with = json!({ "overlap": 16, "triton": { "patience": 0 } });
        let (fault, _) = fault(&bench, on(&url, &model, with), "one").await;
        assert!(fault.code.starts_with("M12") && fault.message.contains(&url), "{fault}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_costs_nothing() {
    let bench = Bench::new();
    let (folder, network) = (tempfile::tempdir().unwrap(), input("wide.onnx"));
    let config = "max_batch_size: 4\nparameters { key: \"delay_ms\" value { string_value: \"10\" } }";
    served("wide", &network, THREE, config).write(folder.path());
    let mut triton = Triton::start(folder.path(), &[]);
    let model = bench.model("wide", |_| {});
    let with =
        |url: &str| on(url, &model, json!({ "overlap": 48, "batch": 1, "triton": { "patience": 120, "requests": 3 } }));
    for url in [triton.grpc(), triton.http()] {
        let (whole, tiles) = bench.run(with(&url), "large").await.unwrap();
        let before = counts(&triton, "wide").0;
        let cut = bench.run(with(&url), "large");
        let kills = async {
            let mut alive = triton;
            while counts(&alive, "wide").0 < before + 10 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::spawn_blocking(move || {
                alive.kill();
                alive.restart();
                alive
            })
            .await
            .unwrap()
        };
        let (result, alive) = tokio::join!(cut, kills);
        triton = alive;
        let (again, tiles_again) = result.unwrap();
        assert_eq!(tiles_again, tiles);
        // The new server has not seen all of them: it was cut off indeed.
        let rest = counts(&triton, "wide").0;
        assert!(rest > 0 && rest < tiles, "{rest} of {tiles}");
        let digest = |path: &Path| Digest::of(&std::fs::read(path).unwrap());
        assert_eq!(digest(&whole), digest(&again), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_exchanged_or_taken_away_meanwhile_is_noticed() {
    let bench = Bench::new();
    let (folder, network) = (tempfile::tempdir().unwrap(), input("identity.onnx"));
    let config = "max_batch_size: 4\nparameters { key: \"delay_ms\" value { string_value: \"10\" } }";
    served("identity", &network, ONE, &config.replace("10", "50")).write(folder.path());
    let triton = Triton::start(folder.path(), &["--model-control-mode=explicit", "--load-model=identity"]);
    let model = bench.model("identity", |_| {});
    let with = on(&triton.grpc(), &model, json!({ "overlap": 56, "triton": { "requests": 2, "patience": 5 } }));
    let load = |parameters: Value| {
        let ends = |name: &str| json!([{ "name": name, "data_type": "TYPE_FP32", "dims": [1, -1, -1] }]);
        let config = json!({
            "backend": "python", "max_batch_size": 4, "input": ends("image"), "output": ends("logits"),
            "parameters": parameters
        });
        json!({ "parameters": { "config": config.to_string() } })
    };
    let first = load(json!({ "delay_ms": { "string_value": "50" } }));
    let other = load(json!({ "delay_ms": { "string_value": "1" }, "digest": { "string_value": "blake3:11" } }));
    for (path, body, codes) in [
        ("load", other, ["M123", "M123"]),
        // Whether it is still on its way out or gone.
        ("unload", json!({}), ["M120", "M121"]),
    ] {
        let load = triton.post("/v2/repository/models/identity/load", &first.to_string());
        assert!(load.0.contains(" 200 "), "{load:?}");
        let start = counts(&triton, "identity").0;
        let meanwhile = async {
            // Loaded anew, it may count from 0 again.
            let deadline = Instant::now() + Duration::from_secs(60);
            while counts(&triton, "identity").0 == start {
                assert!(Instant::now() < deadline, "no tile came");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (triton, body) = (&triton, body.to_string());
            let told =
                tokio::task::block_in_place(|| triton.post(&format!("/v2/repository/models/identity/{path}"), &body));
            assert!(told.0.contains(" 200 "), "{told:?}");
        };
        let (result, ()) = tokio::join!(bench.run(with.clone(), "constant"), meanwhile);
        let error = result.unwrap_err();
        assert!(codes.iter().any(|code| error.to_string().contains(code)), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_wish_to_stop_is_heard_while_the_server_says_nothing() {
    let bench = Bench::new();
    let model = bench.model("identity", |m| m["name"] = json!("slow"));
    for url in [TRITON.grpc(), TRITON.http()] {
        let cancel = tokio_util::sync::CancellationToken::new();
        let ctx = bench.host.cancellable(1, cancel.clone());
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cancel.cancel();
            Instant::now()
        };
        let with = on(&url, &model, json!({ "overlap": 16 }));
        let (result, stopped) = tokio::join!(bench.run_in(with, "one", None, &ctx), stopping);
        assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
        // The server takes 30 s a run.
        assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    }
}

#[tokio::test]
async fn tls_lets_in_who_is_known_and_tells_who_is_not() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh").arg("-ec").arg(CERTIFICATES).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (models, network) = (folder.path().join("models"), input("identity.onnx"));
    served("identity", &network, ONE, "max_batch_size: 4").write(&models);
    let [ca, server, key] = ["ca.pem", "server.pem", "server.key"].map(file);
    let options = [
        "--grpc-use-ssl-mutual=true".to_owned(),
        format!("--grpc-server-cert={server}"),
        format!("--grpc-server-key={key}"),
        format!("--grpc-root-cert={ca}"),
    ];
    let triton = Triton::start(&models, &options.each_ref().map(String::as_str));
    let url = triton.grpc().replace("grpc://127.0.0.1", "grpcs://localhost");
    let model = bench.model("identity", |_| {});
    let with = |tls: Value| {
        let mut with = on(&url, &model, json!({ "overlap": 16, "triton": { "patience": 2 } }));
        tls.as_object().unwrap().iter().for_each(|(key, value)| with["triton"][key] = value.clone());
        with
    };
    let known = json!({ "ca": ca, "certificate": file("client.pem"), "key": file("client.key") });
    bench.run(with(known), "one").await.unwrap();
    // Its certificate is of nobody that the machine trusts: not a matter of waiting.
    let (told, transient) = fault(&bench, with(json!({})), "one").await;
    assert!(told.code == "M126" && !transient && told.message.contains("certificate"), "{told}");
    // Without a certificate of its own the client is not let in.
    let (told, _) = fault(&bench, with(json!({ "ca": ca })), "one").await;
    assert!(["M120", "M126"].contains(&&*told.code), "{told}");
    let (told, _) = fault(&bench, with(json!({ "ca": ca, "key": file("client.key") })), "one").await;
    assert!(told.code == "M126" && told.message.contains("without the other"), "{told}");
}

/// A root, and certificates of a server and a client.
const CERTIFICATES: &str = r#"
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=root 2>/dev/null
for name in server client; do
    openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name 2>/dev/null
    printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >$name.ext
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile $name.ext 2>/dev/null
done"#;

#[tokio::test]
async fn weights_that_do_not_fit_the_manifest_are_refused() {
    let bench = Bench::new();
    let without = bench.model("wide", |_| {});
    for (model, code, words) in [
        (without, "M127", "tells of no weights"),
        (TRAINED.model(&bench, |m| m["checkpoint"]["digest"] = m["digest"].clone()), "M103", "the weights `"),
        (
            TRAINED.model(&bench, |m| m["checkpoint"]["network"]["classes"] = json!(1)),
            "M127",
            "3 channels in and 1 out",
        ),
        (TRAINED.model(&bench, |m| m["checkpoint"]["network"]["width"] = json!(16)), "M127", "do not fit this network"),
        (TRAINED.model(&bench, |m| m["checkpoint"]["network"] = json!({ "architecture": "vgg" })), "M127", "`vgg`"),
        (
            TRAINED.model(&bench, |m| {
                m["checkpoint"]["network"] = json!({ "architecture": "convnext", "in_channels": 3, "classes": 2 });
            }),
            "M127",
            "whole images",
        ),
    ] {
        let (fault, _) = fault(&bench, json!({ "model": model, "overlap": 16, "backend": "burn" }), "large").await;
        assert!(fault.code == code && fault.message.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn a_gpu_that_is_not_there_is_told() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    for device in ["cuda:0", "tensorrt:0"] {
        let with = json!({ "model": model, "overlap": 16, "backend": "ort", "device": device });
        let (fault, _) = fault(&bench, with, "one").await;
        assert!(fault.code == "M128" && fault.message.contains(device), "{fault}");
    }
    let why = if cfg!(feature = "cuda") { "NVIDIA" } else { "built without CUDA" };
    for (device, why) in [("cuda:77", why), ("tensorrt:0", "TensorRT is ONNX Runtime's")] {
        let with = json!({ "model": model, "overlap": 16, "backend": "burn", "device": device });
        let (fault, _) = fault(&bench, with, "one").await;
        assert!(fault.code == "M128" && fault.message.contains(device) && fault.message.contains(why), "{fault}");
    }
    bench.run(json!({ "model": model, "overlap": 16, "backend": "ort", "device": "auto" }), "one").await.unwrap();
}

/// Set for the copy of this program whose environment names a server.
const NAMED: &str = "SWATH_INFER_NAMED";

#[tokio::test]
async fn a_server_that_the_environment_names_is_taken() {
    if std::env::var_os(NAMED).is_some() {
        let told = tokio::task::spawn_blocking(model_server).await.unwrap().expect("TRITON_URL is set").unwrap();
        assert!(told.starts_with("triton 2."), "{told}");
        let bench = Bench::new();
        let model = bench.model("identity", |m| m["name"] = json!("named"));
        let (_, tiles) = bench.run(json!({ "model": model, "overlap": 16 }), "one").await.unwrap();
        println!("\ntiles {tiles}");
        return;
    }
    assert!(model_server().is_none(), "TRITON_URL is set");
    for url in [TRITON.grpc(), TRITON.http()] {
        let before = counts(&TRITON, "named").0;
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "serving::a_server_that_the_environment_names_is_taken", "--nocapture"]);
        let output = child.env(NAMED, "1").env("TRITON_URL", &url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let tiles = said.lines().find_map(|line| line.strip_prefix("tiles ")?.parse::<u64>().ok()).unwrap();
        assert_eq!(counts(&TRITON, "named").0, before + tiles, "the server was asked");
    }
}

#[test]
fn a_step_that_only_waits_for_a_server_needs_one_core() {
    let needs = |with: Value| serde_json::from_value::<Segment>(with).unwrap().needs();
    assert_eq!(needs(json!({ "backend": "triton" })).cpu, 1.0);
    assert!(needs(json!({ "backend": "ort" })).cpu > 1.0);
}

#[test]
fn what_is_no_server_is_found_before_anything_runs() {
    for (with, at) in [
        (json!({ "triton": { "url": "ftp://a" } }), "/triton/url"),
        (json!({ "triton": { "requests": 0 } }), "/triton/requests"),
        (json!({ "triton": { "request_timeout": 0 } }), "/triton/request_timeout"),
        (json!({ "triton": { "patience": 100_000 } }), "/triton/patience"),
    ] {
        let segment: Segment = serde_json::from_value(with.clone()).unwrap();
        let problems = segment.check().unwrap_err();
        assert_eq!(problems.iter().map(|problem| &*problem.at).collect::<Vec<_>>(), [at], "{with}");
    }
    let told = serde_json::from_value::<Segment>(json!({ "device": "gpu" })).unwrap_err().to_string();
    assert!(told.contains("`cuda:N`"), "{told}");
    assert!(serde_json::from_value::<Segment>(json!({ "triton": { "adress": "a" } })).is_err());
}
