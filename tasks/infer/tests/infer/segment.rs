//! `infer.segment` end to end: tiny networks over small rasters, held against numpy and Python's onnxruntime, and every
//! kind of bad model.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_infer::{Inputs, Segment, TASKS};
use swath_kinds::{Cog, Model, StretchFile};
use swath_task::{Artifact, Digest, Task, TaskError};

use crate::support::{Bench, case, input};

#[tokio::test]
async fn probabilities_agree_with_numpy_and_onnxruntime() {
    let bench = Bench::new();
    let wide = bench.model("wide", |_| {});
    let fixed = bench.model("fixed", |_| {});
    let stretched = bench.model("wide", |m| {
        m["normalisation"] =
            json!({ "method": "stretch", "low": [0.02, 0.03, 0.01], "high": [0.3, 0.25, 0.35], "fill": 0.5 })
    });
    let settings: &[(&Path, &str, Value, Option<u32>)] = &[
        (&wide, "large", json!({ "overlap": 16 }), None),
        (&wide, "large", json!({ "overlap": 16, "batch": 3 }), None),
        (&wide, "large", json!({ "overlap": 24, "blend": "smooth" }), None),
        (&wide, "large", json!({ "overlap": 16, "edges": "reflected", "blend": "smooth", "tile": 48 }), None),
        (&wide, "small", json!({ "overlap": 16 }), None),
        (&wide, "small", json!({ "overlap": 16, "edges": "reflected" }), None),
        (&fixed, "large", json!({ "overlap": 16 }), Some(4)),
        (&stretched, "floats", json!({ "overlap": 0 }), None),
        (&wide, "floats", json!({ "overlap": 16, "values": "uint8" }), None),
        (&wide, "floats", json!({ "overlap": 16, "values": "uint16" }), None),
    ];
    let mut cases = Vec::new();
    for (model, raster, with, fixed_batch) in settings {
        let mut with = with.clone();
        with["model"] = json!(model);
        let (output, tiles) = bench.run(with.clone(), raster).await.unwrap();
        assert!(tiles > 0);
        cases.push(case(model, raster, &output, &with, *fixed_batch));
    }
    for (seen, (model, raster, with, _)) in bench.compare(&cases).iter().zip(settings) {
        let tolerance = match with["values"].as_str() {
            Some("uint8") => 0.5 / 250.0 + 1e-6,
            Some("uint16") => 0.5 / 50_000.0 + 1e-6,
            _ => 1e-6,
        };
        let off = seen["off"].as_f64().unwrap();
        assert!(off <= tolerance, "{model:?} {raster} {with}: off by {off}");
        // The reference varies: a constant would agree with many a wrong result.
        assert!(seen["spread"].as_f64().unwrap() > 0.01, "{seen}");
        assert_eq!((&seen["same_nodata"], &seen["same_grid"]), (&json!(true), &json!(true)), "{raster} {with}");
        assert_eq!(seen["bands"], json!(["water", "ice"]));
        assert_eq!(seen["type"], json!(with["values"].as_str().unwrap_or("float32")));
        assert_eq!((&seen["layout"], &seen["valid_cog"]), (&json!("COG"), &json!(true)));
        assert_eq!(seen["tags"]["SWATH_MODEL_VERSION"], json!("3"));
        assert!(seen["tags"]["SWATH_MODEL_DIGEST"].as_str().unwrap().starts_with("blake3:"));
        if *raster == "large" {
            assert!(seen["nodata_share"].as_f64().unwrap() > 0.05);
        }
    }
}

#[tokio::test]
async fn a_constant_image_gives_a_constant_raster_and_tiles_without_data_cost_nothing() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    for blend in ["average", "smooth"] {
        let with = json!({ "model": model, "overlap": 20, "blend": blend });
        let (output, tiles) = bench.run(with.clone(), "constant").await.unwrap();
        assert_eq!(tiles, 49);
        let seen = bench.compare(&[case(&model, "constant", &output, &with, None)]);
        assert!(seen[0]["off"].as_f64().unwrap() < 1e-6 && seen[0]["spread"].as_f64().unwrap() < 1e-9, "{seen:?}");
    }
    let (_, tiles) = bench.run(json!({ "model": model, "overlap": 16 }), "empty").await.unwrap();
    assert_eq!(tiles, 0);
    let metrics = bench.host.metrics();
    assert!(metrics.contains(&("tiles", 49.0)) && metrics.contains(&("pixels", 90_000.0)), "{metrics:?}");
}

#[tokio::test]
async fn a_stretch_beside_the_raster_replaces_the_limits_of_the_manifest() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let file = bench.folder.path().join("stretch.json");
    std::fs::write(&file, r#"{"percentiles":[2,98],"bands":[{"name":"P","low":0.1,"high":0.4}]}"#).unwrap();
    let stretch: Artifact<StretchFile> = bench.host.import(&file).unwrap();
    let with = json!({ "model": model, "overlap": 16 });
    let ctx = bench.host.context(2);
    let (output, _) = bench.run_in(with.clone(), "one", Some(stretch), &ctx).await.unwrap();
    let mut expected = case(&model, "one", &output, &with, None);
    expected["normalisation"] = json!({ "method": "stretch", "low": [0.1], "high": [0.4], "fill": 0.0 });
    let seen = bench.compare(&[expected]);
    assert!(seen[0]["off"].as_f64().unwrap() < 1e-6, "{seen:?}");

    let other = bench.folder.path().join("other.json");
    std::fs::write(&other, r#"{"percentiles":[2,98],"bands":[{"name":"Q","low":0.1,"high":0.4}]}"#).unwrap();
    let stretch: Artifact<StretchFile> = bench.host.import(&other).unwrap();
    let error = bench.run_in(with, "one", Some(stretch), &ctx).await.unwrap_err();
    assert!(error.to_string().contains("no band `P`") && error.to_string().contains("M116"), "{error}");
}

#[tokio::test]
async fn every_bad_model_is_refused_by_its_kind_and_its_file() {
    let bench = Bench::new();
    for (network, code, words) in [
        ("empty", "M104", "it is empty"),
        ("random", "M104", "not a whole ONNX file"),
        ("truncated", "M104", "not a whole ONNX file"),
        ("external", "M105", "weights.bin"),
        ("unknown_operator", "M107", "Frobnicate"),
        ("two_outputs", "M106", "2 outputs (`logits`, `more`)"),
        ("two_inputs", "M106", "2 inputs (`image`, `more`)"),
        ("wrong_input_name", "M106", "its input is called `x`, not `image`"),
        ("wrong_output_name", "M106", "its output is called `y`, not `logits`"),
        ("wrong_channels", "M106", "[any, 4, any, any]"),
        ("wrong_rank", "M106", "[any, 1, any]"),
        ("wrong_type", "M106", "f64"),
        ("wrong_size", "M106", "[any, 1, 100, 100]"),
        ("half_size", "M106", "its output has shape"),
    ] {
        let model = bench.model(network, |_| {});
        // What is truncated is a network of three bands.
        let raster = if network == "truncated" { "floats" } else { "one" };
        let fault = bench.fault(json!({ "model": model, "overlap": 16 }), raster).await;
        assert!(fault.code == code && fault.message.contains(words), "{network}: {fault}");
        assert!(fault.message.contains("model.onnx"), "{network}: {fault}");
        assert!(fault.help.is_some());
    }
    let changed = bench.model("identity", |m| m["digest"] = json!(Digest::of(b"another").to_string()));
    let fault = bench.fault(json!({ "model": changed, "overlap": 16 }), "one").await;
    assert_eq!(fault.code, "M103");
    let nan = bench.model("sqrt", |_| {});
    let fault = bench.fault(json!({ "model": nan, "overlap": 16 }), "negative").await;
    assert!(fault.code == "M110" && fault.message.contains("class `ship` at row 0, column 0"), "{fault}");
    let logits = bench.model("identity", |_| {});
    let fault = bench.fault(json!({ "model": logits, "overlap": 16 }), "negative").await;
    assert!(fault.code == "M111" && fault.help.as_ref().unwrap().contains("logits"), "{fault}");
}

#[tokio::test]
async fn what_does_not_suit_the_model_is_told_with_both_sides() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let with = json!({ "model": model, "overlap": 16 });
    let fault = bench.fault(with.clone(), "unnamed").await;
    assert!(fault.code == "M108" && fault.message.contains("no band `P`; its bands are (unnamed), `P2`"), "{fault}");
    let fault = bench.fault(with.clone(), "coarse").await;
    assert!(fault.code == "M109" && fault.message.contains("20.00 m"), "{fault}");
    let mut allowed = with.clone();
    allowed["allow_gsd"] = json!(true);
    bench.run(allowed, "coarse").await.unwrap();
    // Degrees are turned into metres before they are compared (45 degrees north: 10 m by 7 m).
    let fault = bench.fault(with.clone(), "degrees").await;
    assert!(fault.code == "M109" && fault.message.contains("8.4"), "{fault}");
    for (key, value, code, word) in [
        ("tile", json!(60), "M115", "multiple of 8"),
        ("overlap", json!(60), "M115", "at most 56"),
        ("memory", json!("1 MiB"), "M113", "is too little"),
    ] {
        let mut with = with.clone();
        with[key] = value;
        let fault = bench.fault(with, "one").await;
        assert!(fault.code == code && fault.message.contains(word), "{fault}");
    }
    let fixed = bench.model("fixed", |_| {});
    let fault = bench.fault(json!({ "model": fixed, "overlap": 16, "batch": 3 }), "large").await;
    assert!(fault.code == "M115" && fault.message.contains("batches of 4"), "{fault}");
    let fault = bench.fault(json!({ "overlap": 16 }), "one").await;
    assert!(fault.code == "M114" && fault.message.contains("nowhere"), "{fault}");
    let fault = bench.fault(json!({ "model": bench.folder.path(), "overlap": 16 }), "one").await;
    assert_eq!(fault.code, "M101");
}

#[tokio::test]
async fn equal_input_gives_the_same_file_on_any_number_of_threads() {
    let bench = Bench::new();
    let model = bench.model("wide", |_| {});
    let mut digests = Vec::new();
    for threads in [1, 2, 2, 3] {
        let with = json!({ "model": model, "overlap": 16, "threads": threads, "blend": "smooth" });
        let (output, _) = bench.run(with, "large").await.unwrap();
        digests.push(Digest::of(&std::fs::read(output).unwrap()));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn the_manifest_of_the_guide_is_a_valid_one() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/model-folder.md");
    let text = std::fs::read_to_string(guide).unwrap();
    let manifest = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    let manifest = swath_infer::read_manifest(folder.path()).unwrap();
    assert_eq!((manifest.bands.len(), manifest.tile.size), (3, 256));
}

#[tokio::test]
async fn a_model_can_come_from_a_step_before() {
    let bench = Bench::new();
    let model: Artifact<Model> = bench.host.import(&bench.model("identity", |_| {})).unwrap();
    let raster: Artifact<Cog> = bench.host.import(&input("one.tif")).unwrap();
    let segment: Segment = serde_json::from_value(json!({ "overlap": 16 })).unwrap();
    let inputs = Inputs { raster, model: Some(model), stretch: None };
    assert_eq!(segment.run(inputs, &bench.host.context(1)).await.unwrap().tiles, 9);
}

#[tokio::test]
async fn a_wish_to_stop_is_heeded_long_before_the_end_and_leaves_nothing() {
    let bench = Bench::new();
    let model = bench.model("wide", |_| {});
    let cancel = tokio_util::sync::CancellationToken::new();
    let ctx = bench.host.cancellable(1, cancel.clone());
    // Over 32,000 tiles: minutes of work.
    let with = json!({ "model": model, "overlap": 56, "threads": 1 });
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cancel.cancel();
        Instant::now()
    };
    let (result, stopped) = tokio::join!(bench.run_in(with, "big", None, &ctx), stopping);
    assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    assert_eq!(std::fs::read_dir(bench.folder.path().join("host/scratch")).unwrap().count(), 0);
}

#[test]
fn parameters_are_checked_before_anything_runs() {
    let definition = TASKS.iter().find(|task| task.name == "infer.segment").unwrap();
    let problems = |with: Value| definition.bind(with).err().unwrap_or_default();
    assert!(definition.bind(json!({ "model": "m" })).is_ok());
    assert!(definition.bind(json!({ "model": "m", "batch": "auto", "memory": "1 GiB" })).is_ok());
    for (with, at) in [
        (json!({ "tile": 0 }), "/tile"),
        (json!({ "tile": 9000 }), "/tile"),
        (json!({ "tile": 64, "overlap": 60 }), "/overlap"),
        (json!({ "batch": 0 }), "/batch"),
        (json!({ "threads": 0 }), "/threads"),
    ] {
        assert_eq!(problems(with.clone())[0].at, at, "{with}");
    }
    assert!(problems(json!({ "overlapp": 3 }))[0].message.contains("overlapp"));
    let ports = definition.ports();
    let names: Vec<&str> = ports.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["raster", "model", "stretch"]);
    assert!(ports.inputs[0].required && !ports.inputs[1].required && ports.outputs[0].of.name() == "raster.cog");
}
