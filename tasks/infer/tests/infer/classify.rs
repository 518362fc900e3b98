//! `infer.classify` end to end: a small classifier over small rasters and a ConvNeXt over a real scene, held against numpy and
//! Python's onnxruntime, on everything that computes; and what detections make of its result.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use swath_detect::Polygons;
use swath_infer::{Classify, Inputs, TASKS};
use swath_kinds::{Cog, Model};
use swath_nets::Network;
use swath_onnx::{Export, ExportInputs};
use swath_task::local::LocalHost;
use swath_task::{Artifact, Digest, Fault, Task};
use swath_testkit::triton::Triton;

use crate::servers::{TRAINED, TRITON, counts, counts_when, on};
use crate::support::{Bench, case_of_tiles, input};

/// What 32-bit floats differ by that are averaged over a tile in another order.
const ROUNDING: f64 = 1e-5;

/// Runs each setting and holds what it made against the reference. Returns what that saw.
async fn judged(bench: &Bench, settings: &[(&Path, &str, Value)], tolerance: f64) -> Vec<Value> {
    let mut cases = Vec::new();
    let mut tiles = Vec::new();
    for (model, raster, with) in settings {
        let mut with = with.clone();
        with["model"] = json!(model);
        let (output, ran) = bench.classify(with.clone(), raster).await.unwrap();
        tiles.push(ran);
        cases.push(case_of_tiles(model, raster, &output, &with));
    }
    let seen = bench.compare_by("compare_tiles.py", &cases);
    for ((seen, ran), (_, raster, with)) in seen.iter().zip(tiles).zip(settings) {
        let tolerance = match with["values"].as_str() {
            Some("uint8") => 0.5 / 250.0 + tolerance,
            Some("uint16") => 0.5 / 50_000.0 + tolerance,
            _ => tolerance,
        };
        let off = seen["off"].as_f64().unwrap();
        assert!(off <= tolerance, "{raster} {with}: off by {off}");
        assert_eq!((&seen["same_nodata"], &seen["same_grid"]), (&json!(true), &json!(true)), "{raster} {with}: {seen}");
        assert_eq!((&seen["ran"], &seen["valid_cog"]), (&json!(ran), &json!(true)), "{raster} {with}: {seen}");
        assert_eq!(seen["type"], json!(with["values"].as_str().unwrap_or("float32")));
    }
    seen
}

#[tokio::test]
async fn probabilities_of_tiles_agree_with_numpy_and_onnxruntime() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    let fixed = bench.model("classes_64", |m| m["tile"]["multiple_of"] = json!(0));
    let apart = bench.model("classes", |m| m["activation"] = json!("logits"));
    let settings: &[(&Path, &str, Value)] = &[
        (&model, "large", json!({})),
        (&fixed, "large", json!({ "batch": 3 })),
        (&model, "large", json!({ "stride": 24 })),
        (&model, "large", json!({ "stride": 33, "edges": "reflected", "tile": 48 })),
        (&model, "large", json!({ "min_valid": 0.0 })),
        (&model, "large", json!({ "min_valid": 1.0, "stride": 40 })),
        (&apart, "large", json!({ "memory": "90 MiB", "stride": 8 })),
        (&model, "floats", json!({ "values": "uint8", "stride": 16 })),
        (&model, "floats", json!({ "values": "uint16", "edges": "reflected" })),
        (&model, "small", json!({})),
    ];
    let seen = judged(&bench, settings, ROUNDING).await;
    // A constant would agree with many a wrong result.
    assert!(seen[..9].iter().all(|seen| seen["spread"].as_f64().unwrap() > 0.01), "{seen:?}");
    let nodata = |at: usize| seen[at]["nodata"].as_u64().unwrap();
    assert!(nodata(4) < nodata(0) && nodata(0) < nodata(5), "{seen:?}");
    assert_eq!((&seen[0]["shape"], &seen[9]["shape"]), (&json!([5, 4]), &json!([1, 1])));
    assert_eq!(seen[0]["bands"], json!(["field", "wood", "lake"]));
    let tags = &seen[2]["tags"];
    assert_eq!((&tags["SWATH_STRIDE"], &tags["SWATH_MIN_VALID"]), (&json!("24"), &json!("0.5")));
    assert_eq!((&tags["SWATH_TILE"], &tags["SWATH_MODEL_VERSION"]), (&json!("64"), &json!("3")));
}

#[tokio::test]
async fn a_raster_without_enough_data_anywhere_is_no_data_and_no_failure() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    // Each of the four tiles shows a part of what has no data.
    let seen = judged(&bench, &[(&model, "large", json!({ "tile": 192, "min_valid": 1.0 }))], 0.0).await;
    assert_eq!((&seen[0]["ran"], &seen[0]["nodata"], &seen[0]["shape"]), (&json!(0), &json!(4), &json!([2, 2])));
}

#[tokio::test]
async fn equal_input_gives_the_same_file_on_any_number_of_threads() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    let mut digests = Vec::new();
    for (threads, batch) in [(1, 1), (2, 1), (3, 4)] {
        let with = json!({ "model": model, "stride": 16, "threads": threads, "batch": batch });
        let (output, tiles) = bench.classify(with, "large").await.unwrap();
        assert!(tiles > 100);
        digests.push(Digest::of(&std::fs::read(output).unwrap()));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// Real bands of the scene that ships with Swath.
const BANDS: [&str; 4] = ["B02", "B03", "B04", "B08"];
/// The least that a ConvNeXt takes.
const TILE: u32 = 32;

/// A ConvNeXt as a training leaves it, but for the training: a checkpoint folder.
fn checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("checkpoint");
    std::fs::create_dir_all(&path).unwrap();
    let network = json!({ "architecture": "convnext", "size": "tiny", "in_channels": BANDS.len(), "classes": 3 });
    let device = Device::flex();
    device.seed(11);
    let weights = path.join("weights.safetensors");
    serde_json::from_value::<Network>(network.clone()).unwrap().init(&device).unwrap().save(&weights).unwrap();
    // Its blocks begin by adding next to nothing.
    let mut bytes = std::fs::read(&weights).unwrap();
    let begin = bytes.as_ptr() as usize;
    let scales: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .filter(|(name, _)| name.ends_with("layer_scale"))
        .map(|(_, tensor)| {
            tensor.data().as_ptr() as usize - begin..tensor.data().as_ptr() as usize - begin + tensor.data().len()
        })
        .collect();
    assert!(scales.len() >= 18, "{scales:?}");
    for scale in scales {
        for (at, number) in bytes[scale].chunks_exact_mut(4).enumerate() {
            number.copy_from_slice(&(0.2 + (at % 7) as f32 * 0.1).to_le_bytes());
        }
    }
    std::fs::write(&weights, &bytes).unwrap();
    let manifest = json!({
        "format": "swath.checkpoint/1",
        "weights": { "file": "weights.safetensors", "digest": Digest::of(&bytes), "network": network },
        "bands": BANDS.map(|name| json!({ "name": name })),
        "normalisation": {
            "method": "standard", "mean": [0.13, 0.1, 0.09, 0.12], "std": [0.02, 0.03, 0.04, 0.08], "fill": 0.0
        },
        "activation": "class_logits", "classes": ["field", "wood", "lake"], "tile": TILE, "gsd": 10.0,
        "training": {
            "dataset": Digest::of(b"dataset"), "seed": 1, "epochs": 1, "epoch": 1, "settings": {},
            "validation": {}, "test": {}
        }
    });
    std::fs::write(path.join("checkpoint.json"), manifest.to_string()).unwrap();
    path
}

/// The model folder that `onnx.export` makes of it, in a folder of models.
async fn exported(host: &Arc<LocalHost>, folder: &Path) -> PathBuf {
    let export: Export =
        serde_json::from_value(json!({ "name": "land", "about": "for a test", "max_batch": 8 })).unwrap();
    let inputs = ExportInputs { checkpoint: host.import(&checkpoint(folder)).unwrap(), dataset: None };
    let outputs = export.run(inputs, &host.context(2)).await.unwrap();
    let model = folder.join("models/land");
    swath_task::files::copy(&host.path(outputs.model.record()), &model, &|_| Ok(())).unwrap();
    model
}

#[tokio::test]
async fn a_convnext_tells_the_same_of_a_real_scene_in_onnx_runtime_triton_and_burn() {
    let bench = Bench::new();
    let model = exported(&bench.host, bench.folder.path()).await;
    let triton = Triton::start(model.parent().unwrap(), &[]);
    let with = |backend: &str, url: String, edit: Value| {
        let mut with = json!({ "backend": backend });
        if backend == "triton" {
            with["triton"] = json!({ "url": url });
        }
        edit.as_object().unwrap().iter().for_each(|(key, value)| with[key] = value.clone());
        (&*model, "real", with)
    };
    let settings = [
        with("ort", String::new(), json!({})),
        with("ort", String::new(), json!({ "batch": 5, "stride": 20 })),
        with("burn", String::new(), json!({})),
        with("triton", triton.grpc(), json!({})),
        with("triton", triton.http(), json!({ "batch": 4 })),
    ];
    // Of the same reference: at most twice as much of each other.
    let seen = judged(&bench, &settings, 5e-5).await;
    for (seen, (_, _, with)) in seen.iter().zip(&settings) {
        println!(
            "{}: off by {:.1e}, spread {:.1e}",
            with["backend"],
            seen["off"].as_f64().unwrap(),
            seen["spread"].as_f64().unwrap()
        );
        assert!(seen["spread"].as_f64().unwrap() > 1e-3 && seen["ran"].as_u64().unwrap() > 70, "{seen}");
        // The corner that was cut off.
        assert!(seen["nodata"].as_u64().unwrap() > 5, "{seen}");
    }
}

#[tokio::test]
async fn several_requests_in_flight_keep_their_tiles_apart() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    let before = counts(&TRITON, "classes").0;
    let grpc = on(&TRITON.grpc(), &model, json!({ "stride": 16 }));
    let http = on(&TRITON.http(), &model, json!({ "stride": 16, "batch": 3, "triton": { "requests": 3 } }));
    let seen = judged(&bench, &[(&model, "large", grpc), (&model, "large", http)], ROUNDING).await;
    let ran: u64 = seen.iter().map(|seen| seen["ran"].as_u64().unwrap()).sum();
    assert_eq!(counts_when(&TRITON, "classes", before + ran).await.0 - before, ran);
}

async fn refused(bench: &Bench, with: Value, raster: &str) -> Fault {
    match bench.failure(bench.classify(with, raster).await) {
        (fault, false) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_network_of_the_other_kind_is_refused_with_the_task_that_is_for_it() {
    let bench = Bench::new();
    // Sides that are free say nothing before the first tile.
    let (pixels, images) = (bench.model("wide", |_| {}), bench.model("classes", |_| {}));
    let fixed = bench.model("fixed", |_| {});
    for (model, with) in [(&pixels, json!({})), (&fixed, json!({}))] {
        let mut with = with;
        with["model"] = json!(model);
        let fault = refused(&bench, with, "large").await;
        assert!(fault.code == "M106" && fault.message.contains("`infer.segment` wants it"), "{fault}");
    }
    let fault = bench.fault(json!({ "model": images, "overlap": 16 }), "large").await;
    assert!(fault.code == "M106" && fault.message.contains("`infer.classify` wants it"), "{fault}");
    let trained = TRAINED.model(&bench, |_| {});
    let fault = refused(&bench, json!({ "model": trained, "backend": "burn" }), "large").await;
    assert!(fault.code == "M127" && fault.message.contains("`infer.segment` runs it"), "{fault}");
    for url in [TRITON.grpc(), TRITON.http()] {
        let fault = bench.fault(on(&url, &images, json!({ "overlap": 16 })), "large").await;
        assert!(fault.code == "M122" && fault.message.contains("`infer.classify` wants it"), "{fault}");
        let fault = refused(&bench, on(&url, &trained, json!({})), "large").await;
        assert!(fault.code == "M122" && fault.message.contains("`infer.segment` wants it"), "{fault}");
        let fault = refused(&bench, on(&url, &pixels, json!({})), "large").await;
        assert!(fault.code == "M123" && fault.message.contains("`infer.segment` wants it"), "{fault}");
    }
}

#[tokio::test]
async fn raster_and_model_must_suit_each_other_as_for_pixels() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    let fault = refused(&bench, json!({ "model": model }), "one").await;
    assert!(fault.code == "M108" && fault.message.contains("no band `B03`"), "{fault}");
    let coarse = bench.model("classes", |m| m["gsd"] = json!(20.0));
    assert_eq!(refused(&bench, json!({ "model": coarse }), "large").await.code, "M109");
    let changed = bench.model("classes", |m| m["digest"] = json!(Digest::of(b"another").to_string()));
    assert_eq!(refused(&bench, json!({ "model": changed }), "large").await.code, "M103");
    assert_eq!(refused(&bench, json!({}), "large").await.code, "M114");
    for (with, word) in [
        (json!({ "stride": 65 }), "from 8 to 64 px apart"),
        (json!({ "stride": 7 }), "from 8 to 64 px apart"),
        (json!({ "tile": 60 }), "multiple of 8"),
    ] {
        let mut with = with;
        with["model"] = json!(model);
        let fault = refused(&bench, with, "large").await;
        assert!(fault.code == "M115" && fault.message.contains(word), "{fault}");
    }
    let twice: Classify = serde_json::from_value(json!({ "model": model })).unwrap();
    let given: Artifact<Model> = bench.host.import(&model).unwrap();
    let raster: Artifact<Cog> = bench.host.import(&input("large.tif")).unwrap();
    let inputs = Inputs { raster, model: Some(given), stretch: None };
    let error = twice.run(inputs, &bench.host.context(1)).await.unwrap_err();
    assert!(error.to_string().contains("M114") && error.to_string().contains("`infer.classify`"), "{error}");
}

#[test]
fn parameters_are_checked_before_anything_runs() {
    let definition = TASKS.iter().find(|task| task.name == "infer.classify").unwrap();
    assert!(definition.bind(json!({ "model": "m", "stride": 32, "min_valid": 0.9 })).is_ok());
    for (with, at) in [
        (json!({ "stride": 0 }), "/stride"),
        (json!({ "tile": 64, "stride": 65 }), "/stride"),
        (json!({ "tile": 64, "stride": 7 }), "/stride"),
        (json!({ "min_valid": 1.5 }), "/min_valid"),
        (json!({ "batch": 0 }), "/batch"),
        (json!({ "triton": { "url": "ftp://a" } }), "/triton/url"),
    ] {
        assert_eq!(definition.bind(with.clone()).err().unwrap()[0].at, at, "{with}");
    }
    let ports = definition.ports();
    let names: Vec<&str> = ports.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["raster", "model", "stretch"]);
    assert_eq!(ports.outputs[0].of.name(), "raster.cog");
}

#[tokio::test]
async fn tiles_above_a_threshold_become_polygons_where_they_lie() {
    let bench = Bench::new();
    let model = bench.model("classes", |_| {});
    let (output, _) = bench.classify(json!({ "model": model, "stride": 32 }), "large").await.unwrap();
    let find =
        json!({ "band": "lake", "class": "lake", "threshold": 0.5, "min_pixels": 1, "merge": { "method": "none" } });
    let polygons: Polygons = serde_json::from_value(find).unwrap();
    let inputs = swath_detect::Inputs { raster: bench.host.import(&output).unwrap() };
    let outputs = polygons.run(inputs, &bench.host.context(1)).await.unwrap();
    let text = std::fs::read_to_string(bench.host.path(outputs.detections.record())).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let area: f64 =
        found["features"].as_array().unwrap().iter().map(|f| f["properties"]["area_m2"].as_f64().unwrap()).sum();
    // As many pixels of 320 m as numpy finds above the threshold, all inside of the raster's outline.
    let seen =
        bench.compare_by("compare_tiles.py", &[case_of_tiles(&model, "large", &output, &json!({ "stride": 32 }))]);
    let above = seen[0]["above_half"][2].as_f64().unwrap();
    assert!(above > 1.0 && above < 60.0, "{seen:?}");
    assert!((area / (above * 320.0 * 320.0) - 1.0).abs() < 2e-3, "{area} m2 for {above} pixels");
}
