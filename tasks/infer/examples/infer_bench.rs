//! How near `infer.segment` comes to the bare ONNX Runtime session, and what memory it takes.
//!
//! ```text
//! python tasks/infer/examples/infer_bench.py FOLDER
//! cargo run --release -p swath-infer --example infer_bench -- FOLDER [THREADS [ROUNDS]]
//! ```
//!
//! Each measurement is a process of its own, bare and whole in turns, one JSON line each; the last line is the median
//! of the ratios. The bare session runs as many tiles as the raster has, from one buffer, with ONNX Runtime's defaults.
//!
//! `infer_bench task FOLDER RASTER THREADS MEMORY PARAMETERS ROUNDS` runs the task alone, ROUNDS times in one process, with more
//! parameters of it as JSON: what `bench/gpu/whole.py` measures on a GPU.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ort::session::Session;
use ort::value::TensorRef;
use serde_json::{Value, json};
use swath_infer::{Inputs, Segment};
use swath_task::local::LocalHost;
use swath_task::{Digest, Task};

const TILE: usize = 256;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bare", folder, bands, tiles, threads] => bare(folder, bands.parse()?, tiles.parse()?, threads.parse()?),
        ["task", folder, raster, threads, memory] => task(folder, raster, threads.parse()?, memory, "{}", 1),
        ["task", folder, raster, threads, memory, more, rounds] => {
            task(folder, raster, threads.parse()?, memory, more, rounds.parse()?)
        }
        [folder] => all(folder, "2", 3),
        [folder, threads] => all(folder, threads, 3),
        [folder, threads, rounds] => all(folder, threads, rounds.parse()?),
        _ => Err("infer_bench FOLDER [THREADS [ROUNDS]]".into()),
    }
}

fn all(folder: &str, threads: &str, rounds: usize) -> Outcome {
    manifest(&format!("{folder}/unet"), 10)?;
    manifest(&format!("{folder}/thin"), 3)?;
    let (unet, ten) = (format!("{folder}/unet"), format!("{folder}/ten.tif"));
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let whole = measure(&["task", &unet, &ten, threads, "512 MiB"])?;
        let tiles = whole["tiles"].to_string();
        let bare = measure(&["bare", &unet, "10", &tiles, threads])?;
        let rate = |line: &Value| line["tiles_per_second"].as_f64().unwrap_or(f64::NAN);
        ratios.push(rate(&whole) / rate(&bare));
    }
    measure(&["task", &format!("{folder}/thin"), &format!("{folder}/three.tif"), threads, "512 MiB"])?;
    ratios.sort_by(f64::total_cmp);
    println!("{}", json!({ "bench": "ratio of whole to bare", "median": ratios[ratios.len() / 2], "all": ratios }));
    Ok(())
}

fn measure(arguments: &[&str]) -> Result<Value, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let line = String::from_utf8(output.stdout)?;
    print!("{line}");
    Ok(serde_json::from_str(&line)?)
}

fn manifest(folder: &str, bands: usize) -> Outcome {
    let network = std::fs::read(format!("{folder}/1/model.onnx"))?;
    let names: Vec<Value> = (0..bands).map(|i| json!({ "name": format!("b{i}") })).collect();
    let manifest = json!({
        "name": "bench", "version": 1, "about": "random weights", "file": "1/model.onnx",
        "digest": Digest::of(&network), "bands": names,
        "normalisation": { "method": "standard", "mean": vec![0.25; bands], "std": vec![0.06; bands], "fill": 0.0 },
        "input": { "name": "image", "channels": bands }, "output": { "name": "logits", "channels": 1 },
        "activation": "logits", "tile": { "size": TILE, "multiple_of": 16 }, "classes": ["a"], "gsd": 10.0
    });
    Ok(std::fs::write(Path::new(folder).join("manifest.json"), manifest.to_string())?)
}

fn bare(folder: &str, bands: usize, tiles: usize, threads: usize) -> Outcome {
    let environment =
        ort::init_from(swath_infer::locate_onnx_runtime().map_err(|fault| fault.to_string())?)?.build()?;
    let builder = Session::builder(&environment)?.with_intra_threads(threads);
    let mut builder = builder.map_err(|error| error.to_string())?;
    let mut session = builder.commit_from_file(format!("{folder}/1/model.onnx"))?;
    let input: Vec<f32> = (0..bands * TILE * TILE).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
    let mut run = || -> ort::Result<()> {
        session.run(ort::inputs![TensorRef::from_array_view(([1, bands, TILE, TILE], &*input))?]).map(drop)
    };
    run()?;
    let start = Instant::now();
    for _ in 0..tiles {
        run()?;
    }
    report("bare session", tiles, start);
    Ok(())
}

fn task(folder: &str, raster: &str, threads: usize, memory: &str, more: &str, rounds: usize) -> Outcome {
    let mut parameters = json!({ "model": folder, "threads": threads, "memory": memory });
    for (name, value) in serde_json::from_str::<serde_json::Map<String, Value>>(more)? {
        parameters[name] = value;
    }
    let segment: Segment = serde_json::from_value(parameters)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for _ in 0..rounds {
        let scratch = tempfile::tempdir()?;
        let host = LocalHost::new(scratch.path())?;
        let inputs = Inputs { raster: host.import(Path::new(raster))?, model: None, stretch: None };
        let start = Instant::now();
        let outputs = runtime.block_on(segment.run(inputs, &host.context(threads)))?;
        report("infer.segment", outputs.tiles as usize, start);
    }
    Ok(())
}

fn report(bench: &str, tiles: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Vec<f64> = load.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    println!(
        "{}",
        json!({
            "bench": bench, "tiles": tiles, "seconds": (seconds * 1000.0).round() / 1000.0,
            "tiles_per_second": (tiles as f64 / seconds * 100.0).round() / 100.0, "cpu_seconds": ticks.iter().sum::<f64>() / 100.0,
            "peak_mib": peak.map(|kib| kib / 1024)
        })
    );
}
