//! Times `detect.polygons` on a raster and prints one line of JSON: `detect_bench RASTER [PARAMETERS] [OUT] [REPEATS]`.
//!
//! PARAMETERS is the JSON of a flow's `with`. Memory is the peak resident set of the process.

use std::path::PathBuf;
use std::time::Instant;

use swath_detect::Polygons;
use swath_task::local::LocalHost;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let raster = PathBuf::from(arguments.next().ok_or("usage: detect_bench RASTER [PARAMETERS] [OUT] [REPEATS]")?);
    let task: Polygons = serde_json::from_str(&arguments.next().unwrap_or_else(|| "{}".to_owned()))?;
    let folder = tempfile::tempdir()?;
    let out = arguments.next().map_or_else(|| folder.path().join("detections.geojson"), PathBuf::from);
    let repeats: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let host = LocalHost::new(folder.path())?;
    let cpus = std::thread::available_parallelism()?.get();
    let mut best = f64::INFINITY;
    let mut count = 0;
    for _ in 0..repeats {
        let start = Instant::now();
        count = task.detect(&raster, &out, &host.context(cpus))?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let metrics = host.metrics();
    let metric = |name| metrics.iter().rev().find(|(known, _)| *known == name).map_or(0.0, |(_, value)| *value);
    let line = serde_json::json!({
        "bench": "detect",
        "components": metric("components"),
        "candidates": metric("candidates"),
        "kept": count,
        "wall_s": (best * 1e4).round() / 1e4,
        "peak_rss_mb": peak_memory().unwrap_or(0.0).round(),
        "threads": cpus,
    });
    println!("{line}");
    Ok(())
}

/// Peak resident set in MiB, where the system tells it.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
