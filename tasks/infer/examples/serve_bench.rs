//! How near `infer.segment` over a model server comes to a client that only sends tensors that are ready.
//!
//! ```text
//! python tasks/infer/examples/infer_bench.py FOLDER
//! cargo run --release -p swath-infer --example serve_bench -- FOLDER [THREADS [ROUNDS]]
//! cargo run --release -p swath-infer --example serve_bench -- FOLDER memory
//! ```
//!
//! A Triton Inference Server is started on this machine, with the network in its Python backend and its dynamic batcher on.
//! Each measurement is a process of its own, raw and whole in turns, one JSON line each; the last line is the median of the
//! ratios. The raw client has as many requests in flight and sends as many tiles, from one buffer, over gRPC as well.
//!
//! What memory the client takes is seen on the large raster, with networks of next to no work: pixels over gRPC and REST, and whole
//! tiles. `memory` measures that alone. The peak is that of the client's process, not of the server's.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use swath_infer::{Classify, Inputs, Segment};
use swath_task::local::LocalHost;
use swath_task::{Digest, Task};
use swath_testkit::triton::Triton;

use proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// The same messages that `infer.segment` sends.
#[expect(unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("inference");
}

const TILE: usize = 256;
/// What the server gathers at most, and what is in flight of it.
const BATCH: usize = 4;
const IN_FLIGHT: usize = 2 * BATCH;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["raw", url, model, bands, tiles] => raw(url, model, bands.parse()?, tiles.parse()?),
        ["segment", url, folder, raster] => task::<Segment>("infer.segment over Triton", url, folder, raster),
        ["classify", url, folder, raster] => task::<Classify>("infer.classify over Triton", url, folder, raster),
        [folder, "memory"] => memory(folder, &serve(folder, "2")?),
        [folder] => all(folder, "2", 3),
        [folder, threads] => all(folder, threads, 3),
        [folder, threads, rounds] => all(folder, threads, rounds.parse()?),
        _ => Err("serve_bench FOLDER [THREADS [ROUNDS] | memory]".into()),
    }
}

fn all(folder: &str, threads: &str, rounds: usize) -> Outcome {
    let served = serve(folder, threads)?;
    let (url, unet) = (served.triton.grpc(), served.model("unet"));
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let whole = measure(&["segment", &url, &unet, &format!("{folder}/ten.tif")])?;
        let raw = measure(&["raw", &url, "unet", "10", &whole["tiles"].to_string()])?;
        let rate = |line: &Value| line["tiles_per_second"].as_f64().unwrap_or(f64::NAN);
        ratios.push(rate(&whole) / rate(&raw));
    }
    memory(folder, &served)?;
    ratios.sort_by(f64::total_cmp);
    let counts: Value = serde_json::from_str(&served.triton.get(0, "/v2/models/unet/versions/1/stats"))?;
    let of = |name: &str| counts["model_stats"][0][name].as_f64().unwrap_or(f64::NAN);
    let gathered = of("inference_count") / of("execution_count");
    println!(
        "{}",
        json!({
            "bench": "ratio of whole to raw", "median": ratios[ratios.len() / 2], "all": ratios,
            "tiles_a_run_of_the_network": (gathered * 100.0).round() / 100.0
        })
    );
    Ok(())
}

/// A server, and the model folders of what it serves.
struct Served {
    triton: Triton,
    models: tempfile::TempDir,
}

impl Served {
    fn model(&self, name: &str) -> String {
        self.models.path().join(name).display().to_string()
    }
}

fn serve(folder: &str, threads: &str) -> Outcome<Served> {
    let models = tempfile::tempdir()?;
    for (name, bands, output) in [("unet", 10, [1, -1, -1]), ("thin", 3, [1, -1, -1]), ("whole", 3, [1, 1, 1])] {
        model(&Path::new(folder).join(name), &models.path().join(name), (bands, output), threads)?;
    }
    Ok(Served { triton: Triton::start(models.path(), &[]), models })
}

/// What the client takes of memory over a large raster.
fn memory(folder: &str, served: &Served) -> Outcome {
    let raster = format!("{folder}/three.tif");
    for (task, url, model) in [
        ("segment", served.triton.grpc(), "thin"),
        ("segment", served.triton.http(), "thin"),
        ("classify", served.triton.grpc(), "whole"),
    ] {
        measure(&[task, &url, &served.model(model), &raster])?;
    }
    Ok(())
}

fn measure(arguments: &[&str]) -> Outcome<Value> {
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let line = String::from_utf8(output.stdout)?;
    print!("{line}");
    Ok(serde_json::from_str(&line)?)
}

/// A model folder, with a configuration that lets the server gather requests.
fn model(from: &Path, to: &Path, (bands, output): (usize, [i32; 3]), threads: &str) -> Outcome {
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::fs::create_dir_all(to.join("1"))?;
    let network = std::fs::read(from.join("1/model.onnx"))?;
    std::fs::write(to.join("1/model.onnx"), &network)?;
    let config = format!(
        "name: \"{name}\"\nbackend: \"onnxruntime\"\nmax_batch_size: {BATCH}\n\
         dynamic_batching {{ preferred_batch_size: [ {BATCH} ] max_queue_delay_microseconds: 2000 }}\n\
         input [ {{ name: \"image\" data_type: TYPE_FP32 dims: [ {bands}, -1, -1 ] }} ]\n\
         output [ {{ name: \"logits\" data_type: TYPE_FP32 dims: {output:?} }} ]\n\
         instance_group [ {{ count: 1 kind: KIND_CPU }} ]\n\
         parameters {{ key: \"threads\" value {{ string_value: \"{threads}\" }} }}\n"
    );
    std::fs::write(to.join("config.pbtxt"), config)?;
    let names: Vec<Value> = (0..bands).map(|i| json!({ "name": format!("b{i}") })).collect();
    let manifest = json!({
        "name": name, "version": 1, "about": "random weights", "file": "1/model.onnx",
        "digest": Digest::of(&network), "bands": names,
        "normalisation": { "method": "standard", "mean": vec![0.25; bands], "std": vec![0.06; bands], "fill": 0.0 },
        "input": { "name": "image", "channels": bands }, "output": { "name": "logits", "channels": 1 },
        "activation": "logits", "tile": { "size": TILE, "multiple_of": 16 }, "classes": ["a"], "gsd": 10.0
    });
    Ok(std::fs::write(to.join("manifest.json"), manifest.to_string())?)
}

fn raw(url: &str, model: &str, bands: usize, tiles: usize) -> Outcome {
    let numbers: Vec<f32> = (0..bands * TILE * TILE).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
    let ready = proto::ModelInferRequest {
        model_name: model.to_owned(),
        model_version: "1".to_owned(),
        id: "raw".to_owned(),
        inputs: vec![InferInputTensor {
            name: "image".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, bands as i64, TILE as i64, TILE as i64],
        }],
        outputs: vec![InferRequestedOutputTensor { name: "logits".to_owned() }],
        raw_input_contents: vec![bytemuck::cast_slice::<f32, u8>(&numbers).to_vec().into()],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = GrpcInferenceServiceClient::connect(url.replace("grpc://", "http://")).await?;
        let sent = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let senders: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (mut client, sent, ready) = (client.clone(), sent.clone(), ready.clone());
                tokio::spawn(async move {
                    while sent.fetch_add(1, Ordering::Relaxed) < tiles {
                        client.model_infer(ready.clone()).await?;
                    }
                    Ok::<(), tonic::Status>(())
                })
            })
            .collect();
        for sender in senders {
            sender.await??;
        }
        report("raw client", tiles, start);
        Ok(())
    })
}

fn task<T: Task<Inputs = Inputs>>(name: &str, url: &str, folder: &str, raster: &str) -> Outcome {
    let scratch = tempfile::tempdir()?;
    let host = LocalHost::new(scratch.path())?;
    let with = json!({
        "model": folder, "backend": "triton", "batch": 1, "memory": "512 MiB",
        "triton": { "url": url, "requests": IN_FLIGHT }
    });
    let task: T = serde_json::from_value(with)?;
    let inputs = Inputs { raster: host.import(Path::new(raster))?, model: None, stretch: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let start = Instant::now();
    let outputs = serde_json::to_value(runtime.block_on(task.run(inputs, &host.context(2)))?)?;
    report(
        &format!("{name}, {}", url.split(':').next().unwrap_or_default()),
        outputs["tiles"].as_u64().unwrap_or(0) as usize,
        start,
    );
    Ok(())
}

fn report(bench: &str, tiles: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    println!(
        "{}",
        json!({
            "bench": bench, "tiles": tiles, "seconds": (seconds * 1000.0).round() / 1000.0,
            "tiles_per_second": (tiles as f64 / seconds * 100.0).round() / 100.0, "peak_mib": peak.map(|kib| kib / 1024)
        })
    );
}
