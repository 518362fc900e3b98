//! flows/detect.yaml against an independent pipeline in Python, from the scenes' files to polygons.

use std::path::Path;
use std::process::Command;

use crate::common::Place;
use serde_json::Value;

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs the flow and compares all that it leaves. What was compared.
fn compare(area: &str, collection: &str, period: &str) -> Value {
    let checkout = Path::new(CHECKOUT).canonicalize().unwrap();
    let flow = checkout.join("flows/detect.yaml");
    let place = Place::new("");
    let area = checkout.join("flows/aois").join(area);
    let results = place.path().join("results");
    let given = [
        format!("area={}", area.display()),
        format!("collection={collection}"),
        format!("period={period}"),
        "max_cloud_cover=100".to_owned(),
        format!("results={}", results.display()),
    ];
    let mut words = vec!["run", flow.to_str().unwrap(), "--out", results.to_str().unwrap()];
    words.extend(given.iter().flat_map(|given| ["-p", given]));
    let (code, ended) = place.json(&words);
    assert_eq!(code, Some(0), "{ended}");
    let compared = Command::new(checkout.join(".tools/py/bin/python"))
        .arg(checkout.join("engine/cli/tests/product/reference.py"))
        .arg(checkout.join("flows/data"))
        .args([collection, period])
        .arg(area)
        .arg(checkout.join("model_repository/water_unet"))
        .arg(&results)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compared.stderr);
    assert!(compared.status.success(), "{errors}");
    serde_json::from_slice(&compared.stdout).unwrap()
}

#[test]
fn lakes_of_one_clouded_date_are_those_of_an_independent_pipeline() {
    let compared = compare("beetzsee.geojson", "s2-l1c-t33uuu", "2017-02-01/2017-02-28");
    assert_eq!(compared["scenes"], 1);
    assert!(compared["detections"].as_u64() > Some(40) && compared["pixels"].as_u64() > Some(1_000_000), "{compared}");
}

#[test]
fn the_composite_of_several_dates_is_that_of_an_independent_pipeline() {
    let compared = compare("slovenia.geojson", "s2-l1c-slovenia", "2015-07-01/2015-09-30");
    assert!(compared["scenes"].as_u64() >= Some(5) && compared["pixels"].as_u64() > Some(5_000), "{compared}");
}
