//! Peak memory on a raster that is larger than it: a program of its own, so that nothing else counts.

mod support;

use serde_json::{Value, json};
use support::{Bench, judge};
use swath_datasets::{ChipWriter, Header, Measures, Place, Sources};
use swath_kinds::ChipSetFolder;
use swath_labels::{CutChips, LabelSites, SplitDataset};
use swath_task::{Digest, Task};

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

/// A set of chips that nearly all lie over each other, every third of them positive.
fn pile(folder: &std::path::Path, count: usize) {
    let sources = Sources { raster: Digest::of(b"raster"), label: Digest::of(b"label") };
    let (size, bands) = (16, vec!["B04".to_owned()]);
    let header = Header { size, stride: 1, bands, crs: "EPSG:32633".to_owned(), sources };
    let mut writer = ChipWriter::create(folder, header, 32 << 20).unwrap();
    for chip in 0..count {
        let left = chip as f64 * 0.05;
        let place = Place {
            window: [chip, 0, size, size],
            transform: [left, 1000.0, 0.0, 0.0, 0.0, -1000.0],
            bounds: [left, -16_000.0, left + 16_000.0, 0.0],
            bbox: [15.0 + left * 1.3e-5, 47.0, 15.2 + left * 1.3e-5, 47.15],
            area_km2: None,
        };
        let image = vec![chip as f32; size * size];
        let label = vec![f32::from(u8::from(chip % 3 == 0)); size * size];
        writer.push(&place, &image, &label, &Measures::of(&image, &label)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn labels_and_chips_of_a_large_raster_keep_to_their_memory() {
    let bench = Bench::new();
    // 8,192 x 6,144 pixels of three bands: 288 MiB, and 576 MiB as the floats that chips hold.
    judge("large.py", &[bench.folder.path()]);
    let sites = json!({ "sites": bench.file("sites.json"), "buffer": "3 km" });
    let mut inputs = bench.cog("large.tif");
    inputs["label"] = within::<LabelSites>(&bench, sites, inputs.clone())["label"].clone();
    // Twenty million entries that are no sites.
    let hostile = bench.file("hostile.json");
    std::fs::write(&hostile, format!("[{}1]", "1,".repeat(20 << 20))).unwrap();
    let params = json!({ "sites": hostile });
    let needs = serde_json::from_value::<LabelSites>(params.clone()).unwrap().needs().memory.0;
    assert!(bench.run::<LabelSites>(params, bench.cog("large.tif")).is_err());
    assert!(peak() < needs, "{} MiB", peak() >> 20);
    let chips = within::<CutChips>(&bench, json!({ "size": 128 }), inputs);
    assert_eq!(chips["count"], 64 * 48);
    let folder = bench.file("pile");
    pile(&folder, 30_000);
    let inputs = json!({ "chips": [bench.import::<ChipSetFolder>(&folder)] });
    let split = json!({ "block": "300 m", "negatives": { "ratio": null } });
    let needs = serde_json::from_value::<SplitDataset>(split.clone()).unwrap().needs().memory.0;
    assert!(bench.run::<SplitDataset>(split, inputs).is_err(), "chips over each other cannot be on different sides");
    assert!(peak() < needs, "{} MiB", peak() >> 20);
    let outputs = within::<SplitDataset>(&bench, json!({ "block": "5 km" }), json!({ "chips": [chips["chips"]] }));
    assert_eq!(outputs["leaks"], 0);
}
