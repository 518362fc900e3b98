//! `store.geopackage` and `store.geojson`: what is particular to files, read back by SQLite alone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use swath_stores::{GeoJson, GeoPackageOutputs, Store};
use swath_task::{Task, TaskError};
use swath_testkit::python;

use crate::support::{Bench, detection, fault, look, script};

fn counts(outputs: &GeoPackageOutputs) -> (u64, u64, u64) {
    (outputs.rows_total, outputs.rows_added, outputs.rows_updated)
}

#[tokio::test]
async fn a_second_run_adds_nothing_and_leaves_the_file_byte_for_byte() {
    let bench = Bench::new();
    let path = bench.path("results/2024/found.gpkg");
    let parameters = json!({ "path": path });
    let both = [detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)];
    let first = bench.store(parameters.clone(), bench.inputs(&both)).await.unwrap();
    assert_eq!(counts(&first), (2, 2, 0));
    assert_eq!(Path::new(&first.geopackage), path);
    let before = std::fs::read(&path).unwrap();
    let second = bench.store(parameters.clone(), bench.inputs(&both)).await.unwrap();
    assert_eq!(counts(&second), (2, 0, 0));
    assert!(std::fs::read(&path).unwrap() == before, "nothing changed, so the file did not");
    let third = [detection("b", 11.0, 0.85), detection("c", 12.0, 0.1)];
    assert_eq!(counts(&bench.store(parameters.clone(), bench.inputs(&third)).await.unwrap()), (3, 1, 1));
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, vec!["found.gpkg"], "no other file is left beside it");

    let seen = look(&path, "detections");
    assert_eq!(seen["application_id"], 0x4750_4B47, "GPKG");
    assert_eq!(seen["integrity"], "ok");
    assert_eq!(seen["geometry"], json!({ "column_name": "geom", "srs_id": 4326 }));
    assert_eq!(seen["contents"]["data_type"], "features");
    assert_eq!(seen["contents"]["srs_id"], 4326);
    let extent = ["min_x", "min_y", "max_x", "max_y"].map(|side| seen["contents"][side].as_f64().unwrap());
    for (side, expected) in extent.into_iter().zip([10.0, 47.0, 12.01, 47.01]) {
        assert!((side - expected).abs() < 1e-9, "{extent:?}");
    }
    assert_eq!((seen["index"].as_u64(), seen["indexed"].as_u64()), (Some(1), Some(3)), "a spatial index over all rows");
    let rows: Vec<_> = seen["rows"].as_array().unwrap().iter().map(|r| (r["id"].clone(), r["score"].clone())).collect();
    assert_eq!(rows, vec![(json!("a"), json!(0.9)), (json!("b"), json!(0.85)), (json!("c"), json!(0.1))]);
    let row = &seen["rows"][0];
    assert_eq!(row["geom"], json!([10.0, 10.01, 47.0, 47.01]));
    for (column, value) in [
        ("class", json!("lake")),
        ("pixels", json!(8500)),
        ("max_probability", json!(1.0)),
        ("area_m2", json!(850_000.5)),
        ("merged", json!(2)),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
}

#[tokio::test]
async fn replacing_leaves_the_rows_of_this_run_and_other_layers() {
    let bench = Bench::new();
    let path = bench.path("found.gpkg");
    let all = bench.inputs(&[detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)]);
    bench.store(json!({ "path": path, "layer": "first" }), all).await.unwrap();
    bench.store(json!({ "path": path, "layer": "second" }), bench.inputs(&[detection("x", 1.0, 0.5)])).await.unwrap();
    let replace = json!({ "path": path, "layer": "first", "mode": "replace" });
    let stored = bench.store(replace, bench.inputs(&[detection("c", 12.0, 0.7)])).await.unwrap();
    assert_eq!(stored.rows_total, 1);
    assert_eq!(look(&path, "first")["rows"].as_array().unwrap().len(), 1);
    assert_eq!(look(&path, "second")["rows"][0]["id"], "x");
}

#[tokio::test]
async fn no_detections_are_an_empty_layer_with_all_columns() {
    let bench = Bench::new();
    let path = bench.path("none.gpkg");
    assert_eq!(counts(&bench.store(json!({ "path": path }), bench.inputs(&[])).await.unwrap()), (0, 0, 0));
    let columns = look(&path, "detections")["columns"].clone();
    let names: Vec<_> = columns.as_array().unwrap().iter().map(|column| column[0].as_str().unwrap()).collect();
    let known = swath_kinds::DetectionProperties::FIELDS.iter().map(|(name, _)| *name);
    assert_eq!(names, ["fid", "geom", "id"].into_iter().chain(known).collect::<Vec<_>>());
    let later = bench.store(json!({ "path": path }), bench.inputs(&[detection("a", 10.0, 0.9)])).await.unwrap();
    assert_eq!(counts(&later), (1, 1, 0));
}

#[tokio::test]
async fn other_properties_become_columns_of_the_type_that_holds_them() {
    let bench = Bench::new();
    let path = bench.path("more.gpkg");
    let (mut a, mut b) = (detection("a", 10.0, 0.9), detection("b", 11.0, 0.8));
    let coordinates = a["geometry"]["coordinates"].clone();
    a["geometry"] = json!({ "type": "MultiPolygon", "coordinates": [coordinates, b["geometry"]["coordinates"]] });
    a["properties"]["depth"] = json!(3);
    b["properties"]["depth"] = json!(3.5);
    a["properties"]["seen"] = json!(true);
    b["properties"]["tags"] = json!(["x"]);
    bench.store(json!({ "path": path }), bench.inputs(&[a, b])).await.unwrap();
    let rows = look(&path, "detections")["rows"].clone();
    assert_eq!(rows[0]["geom"], json!([10.0, 11.01, 47.0, 47.01]), "both polygons");
    assert_eq!((&rows[0]["depth"], &rows[1]["depth"]), (&json!(3.0), &json!(3.5)));
    assert_eq!((&rows[0]["seen"], &rows[1]["seen"]), (&json!(1), &Value::Null));
    assert_eq!(rows[1]["tags"], json!("[\"x\"]"));
}

#[tokio::test]
async fn what_is_not_a_geopackage_is_left_as_it_is() {
    let bench = Bench::new();
    for (name, content) in [("text.gpkg", "not a database".repeat(20)), ("empty.gpkg", String::new())] {
        let path = bench.path(name);
        std::fs::write(&path, &content).unwrap();
        let error = bench.store(json!({ "path": path }), bench.inputs(&[detection("a", 10.0, 0.9)])).await.unwrap_err();
        assert_eq!(fault(error).code, "D113");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    let path = bench.path("other.gpkg");
    let make = "import sqlite3,sys; db=sqlite3.connect(sys.argv[1]); db.execute('create table t(x)'); db.commit()";
    assert!(Command::new(python::interpreter()).args(["-c", make]).arg(&path).status().unwrap().success());
    let before = std::fs::read(&path).unwrap();
    let error = bench.store(json!({ "path": path }), bench.inputs(&[])).await.unwrap_err();
    assert_eq!(fault(error).code, "D113");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn places_that_cannot_be_written_are_told() {
    let bench = Bench::new();
    let folder = bench.path("folder.gpkg");
    std::fs::create_dir(&folder).unwrap();
    let error = bench.store(json!({ "path": folder }), bench.inputs(&[])).await.unwrap_err();
    assert_eq!(fault(error).code, "D112");
    std::fs::write(bench.path("file"), "x").unwrap();
    let error = bench.store(json!({ "path": bench.path("file/a.gpkg") }), bench.inputs(&[])).await.unwrap_err();
    let told = fault(error);
    assert_eq!(told.code, "D114");
    assert!(told.message.contains("file"), "{told}");
}

#[tokio::test]
async fn a_layer_of_other_columns_is_refused_untouched() {
    let bench = Bench::new();
    let path = bench.path("found.gpkg");
    bench.store(json!({ "path": path }), bench.inputs(&[detection("a", 10.0, 0.9)])).await.unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut more = detection("b", 11.0, 0.9);
    more["properties"]["depth"] = json!(3);
    let error = bench.store(json!({ "path": path }), bench.inputs(&[more])).await.unwrap_err();
    assert_eq!(fault(error).code, "D116");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn a_layer_in_another_reference_system_is_refused_untouched() {
    let bench = Bench::new();
    let path = bench.path("found.gpkg");
    let mut package = swath_geo::GeoPackage::open_or_create(&path).unwrap();
    let crs = swath_geo::Crs::from_epsg(32633).unwrap();
    let layer = swath_geo::Layer { name: "detections".into(), crs, fields: all_columns() };
    package.write(&layer, &swath_geo::WriteMode::Replace, []).unwrap();
    package.finish().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = bench.store(json!({ "path": path }), bench.inputs(&[detection("b", 11.0, 0.9)])).await.unwrap_err();
    let told = fault(error);
    assert!(told.code == "D116" && told.message.contains("EPSG:32633") && told.message.contains("EPSG:4326"), "{told}");
    assert!(std::fs::read(&path).unwrap() == before);
}

/// Columns of every type that a detection may have, more than needed.
fn all_columns() -> Vec<swath_geo::Field> {
    let fields = swath_kinds::DetectionProperties::FIELDS.iter();
    let names = std::iter::once("id").chain(fields.map(|(name, _)| *name)).chain(["site"]);
    names.map(|name| swath_geo::Field::new(name, swath_geo::FieldType::Text)).collect()
}

#[tokio::test]
async fn a_file_that_another_program_writes_is_a_failure_that_may_pass() {
    let bench = Bench::new();
    let path = bench.path("found.gpkg");
    bench.store(json!({ "path": path }), bench.inputs(&[])).await.unwrap();
    let mut other = Command::new(python::interpreter());
    let mut other = other.arg(script()).arg("hold").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "held");
    let result = bench.store(json!({ "path": path }), bench.inputs(&[detection("a", 10.0, 0.9)])).await;
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(matches!(&result, Err(TaskError::Transient { fault, .. }) if fault.code == "D115"), "{result:?}");
    let again = bench.store(json!({ "path": path }), bench.inputs(&[detection("a", 10.0, 0.9)])).await.unwrap();
    assert_eq!(counts(&again), (1, 1, 0));
}

#[tokio::test]
async fn geojson_is_placed_whole_beside_it() {
    let bench = Bench::new();
    let path = bench.path("new/folder/found.geojson");
    let task: GeoJson = serde_json::from_value(json!({ "path": path })).unwrap();
    for count in [2, 0] {
        let features: Vec<_> = (0..count).map(|n| detection(&n.to_string(), f64::from(n), 0.5)).collect();
        let inputs = bench.inputs(&features);
        let source = std::fs::read(bench.host.path(inputs.detections.record())).unwrap();
        let outputs = task.run(inputs, &bench.host.context(1)).await.unwrap();
        assert_eq!(outputs.count, u64::try_from(count).unwrap());
        assert!(std::fs::read(&path).unwrap() == source);
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let broken = task.run(bench.inputs_of("{}"), &bench.host.context(1)).await.unwrap_err();
    assert_eq!(fault(broken).code, "D111");
    assert!(path.exists(), "the old file stays");
}

#[test]
fn parameters_without_a_meaning_are_told_before_anything_runs() {
    for (parameters, at) in [
        (json!({ "path": "found.geojson" }), "/path"),
        (json!({ "path": "found" }), "/path"),
        (json!({ "path": "a.gpkg", "layer": "" }), "/layer"),
        (json!({ "path": "a.gpkg", "layer": "x\"; drop table y" }), "/layer"),
        (json!({ "path": "a.gpkg", "layer": "gpkg_contents" }), "/layer"),
        (json!({ "path": "a.gpkg", "key": "" }), "/key"),
    ] {
        let task: Store = serde_json::from_value(parameters.clone()).unwrap();
        assert_eq!(task.check().unwrap_err()[0].at, at, "{parameters}");
    }
    let task: GeoJson = serde_json::from_value(json!({ "path": "found.gpkg" })).unwrap();
    assert_eq!(task.check().unwrap_err()[0].at, "/path");
    assert!(serde_json::from_value::<Store>(json!({ "path": "a.gpkg", "modus": "append" })).is_err());
}
