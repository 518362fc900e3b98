//! From a synthetic catalogue with a known truth to detections: every planted site is found, and nothing else.

use std::path::Path;

use crate::common::{Place, python};
use serde_json::Value;

const FLOW: &str = r#"
flow: truth
params: { model: { type: path } }
steps:
  search: { task: stac.search, with: { catalog: sample/catalog.json, area: sample/area.geojson } }
  composite:
    task: raster.composite
    in: { scenes: search.scenes }
    with: { bands: [B02, B03, B04, B08, B11, B12], mask: scl, clear: [4, 5, 6], area: sample/area.geojson }
  indices: { task: raster.indices, in: { raster: composite.raster }, with: { indices: [NDVI, NDWI] } }
  predict: { task: infer.segment, in: { raster: indices.raster }, with: { model: $model } }
  polygons:
    task: detect.polygons
    in: { raster: predict.raster }
    with: { min_area_m2: 2000, merge: { method: none } }
outputs: { detections: polygons.detections }
"#;

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["features"].as_array().unwrap().clone()
}

/// West, south, east, north of a feature.
fn bounds(feature: &Value) -> [f64; 4] {
    let mut bounds = [f64::MAX, f64::MAX, f64::MIN, f64::MIN];
    let mut todo = vec![&feature["geometry"]["coordinates"]];
    while let Some(value) = todo.pop() {
        let list = value.as_array().unwrap();
        match (list[0].as_f64(), list.get(1).and_then(Value::as_f64)) {
            (Some(x), Some(y)) => {
                bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
            }
            _ => todo.extend(list),
        }
    }
    bounds
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

#[test]
fn every_planted_site_is_found_and_nothing_else() {
    let place = Place::new(FLOW);
    let (code, made) = place.json(&["sample", "sample", "--size", "512", "--sites", "10", "--seed", "3"]);
    assert_eq!(code, Some(0), "{made}");
    // The landscape is made up: what is tried is the way there and back, with a network that is right about it.
    let model = place.path().join("index");
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap();
    python(&checkout.join("engine/cli/tests/product/index_model.py"), &[model.as_os_str()]);
    let model = model.display();
    let (code, ended) = place.json(&["run", "flow.yaml", "-p", &format!("model={model}")]);
    assert_eq!(code, Some(0), "{ended}");
    let found: Vec<_> = read(&place.path().join("results/truth/detections.geojson")).iter().map(bounds).collect();
    let sites: Vec<_> = read(&place.path().join("sample/truth/sites.geojson")).iter().map(bounds).collect();
    assert_eq!(sites.len(), 10);
    let recalled = sites.iter().filter(|site| found.iter().any(|one| overlap(site, one))).count();
    let right = found.iter().filter(|one| sites.iter().any(|site| overlap(site, one))).count();
    assert_eq!((recalled, right), (sites.len(), found.len()), "of {} sites, {} detections", sites.len(), found.len());
}
