//! The scores that the shipped model's card tells, counted again on what the shipped flows make.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use swath_testkit::python;

use crate::common::Place;

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn the_card_tells_what_detect_finds_on_ground_that_was_held_out() {
    let checkout = Path::new(CHECKOUT).canonicalize().unwrap();
    let place = Place::new("");
    for (flow, out) in [("ingest", "made"), ("detect", "found")] {
        let flow = checkout.join(format!("flows/{flow}.yaml"));
        let out = place.path().join(out);
        let mut words = vec!["run", flow.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let results = format!("results={}", out.display());
        if flow.ends_with("detect.yaml") {
            words.extend(["-p", &results]);
        }
        let (code, ended) = place.json(&words);
        assert_eq!(code, Some(0), "{ended}");
    }
    let manifest = checkout.join("model_repository/water_unet/manifest.json");
    let counted = Command::new(python::interpreter())
        .arg(checkout.join("engine/cli/tests/product/held_out.py"))
        .arg(&manifest)
        .args(["made/dataset.json", "made/chips", "found/probability.tif"].map(|name| place.path().join(name)))
        .arg(checkout.join("flows/data/s2-l1c-t33uuu/labels"))
        .output()
        .unwrap();
    assert!(counted.status.success(), "{}", String::from_utf8_lossy(&counted.stderr));
    let counted: Value = serde_json::from_slice(&counted.stdout).unwrap();
    let told: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    // Training scores chips by themselves; `detect` sees what lies around them, too.
    for score in ["f1", "iou", "precision", "recall"] {
        let (here, there) = (counted[score].as_f64().unwrap(), told["training"]["test"][score].as_f64().unwrap());
        assert!((here - there).abs() < 0.03, "{score}: {here} is counted, {there} told: {counted}");
    }
    assert!(counted["pixels"].as_u64() > Some(100_000), "{counted}");
    // Polygons that are in no label: water is found, and the rest is not called so.
    let polygons = &counted["reference"];
    assert!(polygons["water"].as_f64() > Some(0.9) && polygons["other"].as_f64() < Some(0.05), "{counted}");
}
