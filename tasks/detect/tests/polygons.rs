//! `detect.polygons` from raster to GeoJSON: against independent libraries, and on rasters that go wrong.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Tiff, run_python};
use serde_json::{Value, json};
use swath_detect::{Inputs, Polygons};
use swath_kinds::{Cog, Detection};
use swath_task::local::LocalHost;
use swath_task::{Fault, Task, TaskError};

fn task(parameters: Value) -> Polygons {
    let task: Polygons = serde_json::from_value(parameters).unwrap();
    task.check().unwrap();
    task
}

async fn run_on(folder: &Path, raster: &Path, parameters: Value, cpus: usize) -> Result<(String, u64), TaskError> {
    let host = LocalHost::new(folder).unwrap();
    let raster = host.import::<Cog>(raster).unwrap();
    let outputs = task(parameters).run(Inputs { raster }, &host.context(cpus)).await?;
    let text = std::fs::read_to_string(host.path(outputs.detections.record())).unwrap();
    Ok((text, outputs.count))
}

async fn detect(tiff: &Tiff, parameters: Value) -> Result<Vec<Detection>, TaskError> {
    let folder = tempfile::tempdir().unwrap();
    let raster = folder.path().join("probability.tif");
    tiff.write(&raster);
    let (text, count) = run_on(folder.path(), &raster, parameters, 2).await?;
    let collection: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(collection["type"], "FeatureCollection");
    let features: Vec<Detection> = serde_json::from_value(collection["features"].clone()).unwrap();
    assert_eq!(features.len() as u64, count);
    Ok(features)
}

fn fault(result: Result<Vec<Detection>, TaskError>) -> Fault {
    match result {
        Err(TaskError::Permanent(fault)) => fault,
        other => panic!("a permanent fault was expected, got {other:?}"),
    }
}

#[tokio::test]
async fn detections_equal_those_of_scipy_rasterio_and_scikit_learn() {
    let folder = tempfile::tempdir().unwrap();
    run_python("oracle.py", &["make".as_ref(), folder.path().as_os_str()]);
    let cases = std::fs::read_to_string(folder.path().join("cases.json")).unwrap();
    let cases: BTreeMap<String, Value> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() >= 7);
    for (name, parameters) in cases {
        let raster = folder.path().join(format!("{name}.tif"));
        let (text, _) = run_on(folder.path(), &raster, parameters.clone(), 2).await.unwrap();
        std::fs::write(folder.path().join(format!("{name}.geojson")), &text).unwrap();
        let mut simple = parameters.clone();
        simple["simplify_m"] = json!(15);
        let (simplified, _) = run_on(folder.path(), &raster, simple, 2).await.unwrap();
        std::fs::write(folder.path().join(format!("{name}.simple.geojson")), simplified).unwrap();
        for cpus in [1, 3] {
            let (again, _) = run_on(folder.path(), &raster, parameters.clone(), cpus).await.unwrap();
            assert!(again == text, "{name}: {cpus} threads give other bytes");
        }
    }
    run_python("oracle.py", &["check".as_ref(), folder.path().as_os_str()]);
}

#[tokio::test]
async fn nothing_found_is_an_empty_collection() {
    for value in [0.0, 0.5, f32::NAN, -9999.0] {
        let tiff = Tiff { nodata: Some("-9999"), ..Tiff::of(70, 30, |_, _| value) };
        assert_eq!(detect(&tiff, json!({})).await.unwrap(), vec![], "{value}");
    }
}

#[tokio::test]
async fn rasters_of_one_pixel_one_row_and_one_column_are_whole() {
    for (width, height) in [(1, 1), (1, 100_000), (100_000, 1)] {
        let found = detect(&Tiff::of(width, height, |_, _| 0.75), json!({ "min_pixels": 1 })).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].properties.pixels, u64::from(width * height));
        assert_eq!(found[0].properties.mean_probability, 0.75);
    }
}

#[tokio::test]
async fn ids_are_those_of_the_outline_whatever_the_crop_and_the_order() {
    let blob = |x: u32, y: u32| (x / 10 + y / 10).is_multiple_of(2) && x % 10 < 6 && y % 10 < 6;
    let value = |x: u32, y: u32| if blob(x, y) { 0.6 + x as f32 / 1000.0 } else { 0.0 };
    let whole = detect(&Tiff::of(100, 100, value), json!({ "merge": { "method": "none" } })).await.unwrap();
    // The same ground, cut 20 columns and 30 rows in.
    let mut crop = Tiff::of(50, 40, |x, y| value(x + 20, y + 30));
    crop.place = (500_200.0, 5_299_700.0, 10.0);
    let part = detect(&crop, json!({ "merge": { "method": "none" } })).await.unwrap();
    assert_eq!((whole.len(), part.len()), (50, 10));
    for detection in &part {
        assert_eq!(whole.iter().filter(|other| *other == detection).count(), 1);
    }
    let other = detect(&crop, json!({ "merge": { "method": "none" }, "class": "lake" })).await.unwrap();
    assert!(other.iter().all(|lake| part.iter().all(|detection| detection.id != lake.id)));
}

#[tokio::test]
async fn the_best_of_a_cluster_stands_for_all_of_it() {
    // Three squares 100 m apart, one 10 km off.
    let value = |x: u32, y: u32| match (x / 10, y) {
        (0, 0..6) if x % 10 < 6 => 0.7,
        (1, 0..6) if x % 10 < 6 => 0.9,
        (2, 0..6) if x % 10 < 6 => 0.8,
        (103, 0..6) if x % 10 < 6 => 0.6,
        _ => 0.0,
    };
    let found = detect(&Tiff::of(1100, 10, value), json!({ "class": "pond" })).await.unwrap();
    let told: Vec<_> = found.iter().map(|d| (d.properties.mean_probability, d.properties.merged)).collect();
    assert_eq!(told, vec![(0.9, 3), (0.6, 1)]);
    assert_eq!(found[0].properties.class, "pond");
    let near = detect(&Tiff::of(1100, 10, value), json!({ "merge": { "eps_m": 50 } })).await.unwrap();
    assert_eq!(near.len(), 4);
    let lonely = detect(&Tiff::of(1100, 10, value), json!({ "merge": { "min_samples": 2 } })).await.unwrap();
    assert_eq!(lonely.len(), 1);
}

#[tokio::test]
async fn small_areas_are_dropped_by_pixels_and_by_square_metres() {
    let value = |x: u32, y: u32| if y < 4 && (x < 4 || (10..20).contains(&x)) { 0.9 } else { 0.0 };
    let merge = json!({ "method": "none" });
    for (parameters, count) in [
        (json!({ "min_pixels": 1, "merge": merge }), 2),
        (json!({ "min_pixels": 16, "merge": merge }), 2),
        (json!({ "min_pixels": 17, "merge": merge }), 1),
        (json!({ "min_area_m2": 1590, "merge": merge }), 2),
        (json!({ "min_area_m2": 1620, "merge": merge }), 1),
        (json!({ "min_area_m2": 5000, "merge": merge }), 0),
    ] {
        let found = detect(&Tiff::of(30, 10, value), parameters.clone()).await.unwrap();
        assert_eq!(found.len(), count, "{parameters}");
    }
}

#[tokio::test]
async fn simplified_outlines_have_fewer_corners_and_the_same_measures() {
    // A disc of 200 m with a hole of 60 m: nothing but stairs.
    let value = |x: u32, y: u32| {
        let radius = (f64::from(x) - 30.0).hypot(f64::from(y) - 30.0);
        if (6.0..20.0).contains(&radius) { 0.9 } else { 0.0 }
    };
    let exact = detect(&Tiff::of(60, 60, value), json!({})).await.unwrap();
    let simple = detect(&Tiff::of(60, 60, value), json!({ "simplify_m": 12 })).await.unwrap();
    assert_eq!((exact[0].id.as_str(), &exact[0].properties), (simple[0].id.as_str(), &simple[0].properties));
    let corners = |detection: &Detection| {
        let rings = detection.geometry["coordinates"].as_array().unwrap();
        rings.iter().map(|ring| ring.as_array().unwrap().len()).collect::<Vec<_>>()
    };
    let (before, after) = (corners(&exact[0]), corners(&simple[0]));
    assert_eq!(after.len(), 2, "the hole stays");
    assert!(after[0] * 2 < before[0] && after.iter().all(|count| *count >= 4), "{before:?} {after:?}");
}

#[tokio::test]
async fn a_raster_that_spans_the_globe_keeps_its_long_way_round() {
    // Web Mercator from -180 to 180: one band around the equator, one square.
    let mut tiff =
        Tiff::of(360, 100, |x, y| if y < 10 || (y > 50 && y < 60 && x > 100 && x < 110) { 0.9 } else { 0.0 });
    tiff.epsg = Some(3857);
    tiff.place = (-20_037_508.342_789_244, 5_000_000.0, 2.0 * 20_037_508.342_789_244 / 360.0);
    let found = detect(&tiff, json!({ "merge": { "method": "none" }, "ideal_area_km2": 1e6 })).await.unwrap();
    assert_eq!(found.len(), 2);
    let wide = found.iter().find(|d| d.properties.pixels == 3600).unwrap();
    // Between the latitudes of its edges, all around: area of the zone on the authalic sphere, within 1 %.
    let latitude = |y: f64| (y / 6_378_137.0).sinh().atan();
    let zone = 2.0
        * std::f64::consts::PI
        * 6_371_007.181f64.powi(2)
        * (latitude(5_000_000.0).sin() - latitude(5_000_000.0 - 10.0 * tiff.place.2).sin());
    assert!((wide.properties.area_m2 / zone - 1.0).abs() < 0.01, "{} {zone}", wide.properties.area_m2);
    let square = found.iter().find(|d| d.properties.pixels == 81).unwrap();
    let ring = square.geometry["coordinates"][0].as_array().unwrap();
    assert_eq!((ring.len(), square.geometry["type"].as_str()), (5, Some("Polygon")));
}

#[tokio::test]
async fn what_are_no_probabilities_is_refused_where_it_lies() {
    let fault =
        fault(detect(&Tiff::of(300, 300, |x, y| if (x, y) == (7, 290) { 255.0 } else { 0.2 }), json!({})).await);
    assert_eq!(fault.code, "D101");
    for word in ["band 1", "probability.tif", "255", "column 7", "row 290"] {
        assert!(fault.message.contains(word), "{fault}");
    }
}

#[tokio::test]
async fn a_raster_without_a_place_on_earth_is_refused() {
    let tiff = Tiff { epsg: None, ..Tiff::of(20, 20, |_, _| 0.9) };
    assert_eq!(fault(detect(&tiff, json!({})).await).code, "R106");
}

#[tokio::test]
async fn the_band_is_chosen_by_number_or_name_and_never_guessed() {
    let mut tiff = Tiff::of(20, 20, |_, _| 0.9);
    tiff.bands.push(vec![0.1; 400]);
    assert_eq!(fault(detect(&tiff, json!({})).await).code, "D103");
    assert_eq!(detect(&tiff, json!({ "band": 1 })).await.unwrap().len(), 1);
    assert_eq!(detect(&tiff, json!({ "band": 2 })).await.unwrap().len(), 0);
    assert_eq!(fault(detect(&tiff, json!({ "band": 3 })).await).code, "D103");
    tiff.names = vec!["clear", "probability"];
    assert_eq!(detect(&tiff, json!({})).await.unwrap().len(), 0);
    assert_eq!(detect(&tiff, json!({ "band": "clear" })).await.unwrap().len(), 1);
    let fault = fault(detect(&tiff, json!({ "band": "water" })).await);
    assert!(fault.help.unwrap().contains("1 (`clear`), 2 (`probability`)"));
}

#[tokio::test]
async fn noise_everywhere_ends_in_an_error_that_says_so() {
    let checkered = Tiff::of(1000, 1000, |x, y| ((x + y) % 2) as f32);
    let many = json!({ "min_pixels": 1, "max_candidates": 1000 });
    assert_eq!(fault(detect(&checkered, many).await).code, "D104");
    let ragged = json!({ "connectivity": 8, "max_corners": 10_000 });
    assert_eq!(fault(detect(&checkered, ragged).await).code, "D105");
    assert_eq!(detect(&checkered, json!({ "min_pixels": 2 })).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_cancelled_run_stops() {
    let folder = tempfile::tempdir().unwrap();
    let raster = folder.path().join("probability.tif");
    Tiff::of(500, 500, |_, _| 0.9).write(&raster);
    let host = LocalHost::new(folder.path()).unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    let raster = host.import::<Cog>(&raster).unwrap();
    let result = task(json!({})).run(Inputs { raster }, &host.cancellable(2, cancel)).await;
    assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
}

#[test]
fn parameters_without_a_meaning_are_told_before_anything_runs() {
    for (parameters, at) in [
        (json!({ "threshold": 1.5 }), "/threshold"),
        (json!({ "connectivity": 6 }), "/connectivity"),
        (json!({ "min_pixels": 0 }), "/min_pixels"),
        (json!({ "min_area_m2": -1 }), "/min_area_m2"),
        (json!({ "ideal_area_km2": 0 }), "/ideal_area_km2"),
        (json!({ "weights": { "probability": 0, "compactness": 0, "area": 0 } }), "/weights"),
        (json!({ "weights": { "area": -0.1 } }), "/weights"),
        (json!({ "merge": { "eps_m": -5 } }), "/merge/eps_m"),
        (json!({ "merge": { "min_samples": 0 } }), "/merge/min_samples"),
        (json!({ "merge": { "iou": 2 } }), "/merge/iou"),
        (json!({ "simplify_m": -1 }), "/simplify_m"),
        (json!({ "class": " " }), "/class"),
        (json!({ "band": 0 }), "/band"),
        (json!({ "max_candidates": 0 }), "/max_candidates"),
        (json!({ "max_corners": 0 }), "/max_corners"),
    ] {
        let task: Polygons = serde_json::from_value(parameters.clone()).unwrap();
        let problems = task.check().unwrap_err();
        assert_eq!(problems.iter().map(|p| p.at.as_str()).collect::<Vec<_>>(), vec![at], "{parameters}");
    }
    for unknown in [json!({ "treshold": 0.5 }), json!({ "merge": { "eps": 5 } }), json!({ "weights": { "size": 1 } })] {
        assert!(serde_json::from_value::<Polygons>(unknown).is_err());
    }
}
