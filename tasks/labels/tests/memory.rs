//! Peak memory on a raster that is larger than it: a program of its own, so that nothing else counts.

mod support;

use serde_json::{Value, json};
use support::{Bench, judge};
use swath_labels::{CutChips, LabelSites, SplitDataset};
use swath_task::Task;

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Runs a task and holds the peak so far against what it says it needs.
fn within<T: Task>(bench: &Bench, params: Value, inputs: Value) -> Value {
    let needs = serde_json::from_value::<T>(params.clone()).unwrap().needs().memory.0;
    let outputs = bench.run::<T>(params, inputs).unwrap();
    let peak = peak();
    eprintln!("{}: {} MiB of {}", T::NAME, peak >> 20, needs >> 20);
    assert!(peak < needs, "{}: {} MiB", T::NAME, peak >> 20);
    outputs
}

#[test]
fn labels_and_chips_of_a_large_raster_keep_to_their_memory() {
    let bench = Bench::new();
    // 8,192 x 6,144 pixels of three bands: 288 MiB, and 576 MiB as the floats that chips hold.
    judge("large.py", &[bench.folder.path()]);
    let sites = json!({ "sites": bench.file("sites.json"), "buffer": "3 km" });
    let mut inputs = bench.cog("large.tif");
    inputs["label"] = within::<LabelSites>(&bench, sites, inputs.clone())["label"].clone();
    let chips = within::<CutChips>(&bench, json!({ "size": 128 }), inputs);
    assert_eq!(chips["count"], 64 * 48);
    let outputs = within::<SplitDataset>(&bench, json!({ "block": "5 km" }), json!({ "chips": [chips["chips"]] }));
    assert_eq!(outputs["leaks"], 0);
}
