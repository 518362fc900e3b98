use std::fs;
use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor};
use serde_json::{Value, json};
use swath_kinds::ModelManifest;
use swath_nets::Model;
use swath_onnx::Export;
use swath_task::{Digest, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support::{Place, change, checkpoint, edit, judge, problems, small, told};

fn settings() -> Value {
    json!({ "name": "pads", "about": "Launch pads in Sentinel-2 reflectance" })
}

/// Exports a network and lets Python judge the folder.
fn judged(value: &Value, tile: u32) -> Value {
    let place = Place::new();
    let folder = place.path("checkpoint");
    let network = checkpoint(&folder, value, tile);
    let outputs = place.export(&folder, settings()).unwrap();
    let model = place.model(&outputs);
    let (given, wanted) = (place.path("given"), place.path("wanted"));
    predict(&network, value, tile, &given, &wanted);
    let found = judge(&[&model, &given, &wanted]);

    let number = |name: &str| found[name].as_f64().unwrap();
    assert!(number("difference") <= 1e-5 * number("largest"), "{value}: {found}");
    assert!(number("largest") > 0.01, "{value}: {found}");
    assert_eq!(found["opset"], json!({ "": 18 }));
    assert_eq!(found["external"], json!([]));
    let network: swath_nets::Network = serde_json::from_value(value.clone()).unwrap();
    let (channels, classes) = (network.in_channels(), network.classes());
    let output = if value["architecture"] == "convnext" { 1 } else { tile };
    assert_eq!(
        found["ends"],
        json!([[["image", ["batch", channels, tile, tile]]], [["logits", ["batch", classes, output, output]]]])
    );
    let triton = json!({
        "name": "pads", "platform": "onnxruntime_onnx", "max_batch_size": 32,
        "ends": [[["image", 11, [channels, tile, tile]]], [["logits", 11, [classes, output, output]]]],
        "versions": [1], "batches": true
    });
    assert_eq!(found["triton"], triton);
    println!("{value}: {} of {}", found["difference"], found["largest"]);
    found
}

/// Five random images, and what burn makes of them.
fn predict(network: &Model, value: &Value, tile: u32, given: &Path, wanted: &Path) {
    let channels = serde_json::from_value::<swath_nets::Network>(value.clone()).unwrap().in_channels();
    let shape = [5, channels, tile as usize, tile as usize];
    let images = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
    let logits = network.forward(images.clone());
    let write = |path: &Path, tensor: Tensor<4>| fs::write(path, &tensor.into_data().bytes()[..]).unwrap();
    write(given, images);
    write(wanted, logits);
}

#[test]
fn every_encoder_of_a_unet_is_the_same_in_onnx_runtime() {
    for encoder in ["resnet18", "resnet34", "resnet50", "small"] {
        let unet = json!({ "architecture": "unet", "encoder": encoder, "width": 16, "in_channels": 10, "classes": 1 });
        let found = judged(&unet, 64);
        // PyTorch's names, of the statistics too.
        let weights = found["weights"].as_array().unwrap();
        for name in ["encoder.conv1.weight", "encoder.bn1.running_var", "segmentation_head.0.bias"] {
            assert!(weights.contains(&json!(name)), "{name}: {weights:?}");
        }
    }
}

#[test]
fn deeplab_and_the_unet_of_two_encoders_are_the_same_in_onnx_runtime() {
    judged(
        &json!({ "architecture": "deeplabv3plus", "encoder": "resnet50", "width": 8, "in_channels": 4, "classes": 3 }),
        64,
    );
    judged(&json!({ "architecture": "deeplabv3plus", "encoder": "small", "in_channels": 4, "classes": 1 }), 96);
    let dual = json!({
        "architecture": "dual_unet", "encoder": "resnet34", "width": 8, "optical_channels": 10, "sar_channels": 2
    });
    judged(&dual, 64);
}

#[test]
fn convnext_is_the_same_in_onnx_runtime_with_an_exact_gelu() {
    for size in ["tiny", "small", "base"] {
        let found = judged(&json!({ "architecture": "convnext", "size": size, "in_channels": 6, "classes": 4 }), 64);
        let operators = found["operators"].as_array().unwrap();
        assert!(operators.contains(&json!("Erf")) && !operators.contains(&json!("Tanh")), "{operators:?}");
    }
}

#[test]
fn the_folder_tells_all_that_must_be_known() {
    let place = Place::new();
    let folder = place.path("checkpoint");
    checkpoint(&folder, &small(), 64);
    let mut settings = settings();
    settings["licence"] = json!("CC-BY-4.0");
    settings["limits"] = json!(["Pads under 50 m are not seen."]);
    settings["data"] = json!(["Imagery of 2021, CC-BY-4.0."]);
    settings["again"] = json!("swath run pads.yaml -p seed=42");
    settings["tile"] = json!(96);
    let outputs = place.export(&folder, settings).unwrap();
    let model = place.model(&outputs);
    let manifest = ModelManifest::of_folder(&model).unwrap();
    manifest.check().unwrap();
    assert_eq!((manifest.name.as_str(), manifest.version, manifest.opset), ("pads", 1, Some(18)));
    assert_eq!((manifest.tile.size, manifest.tile.multiple_of), (96, 0));
    let digest = |file: &str| Digest::of(&fs::read(model.join(file)).unwrap());
    assert_eq!((manifest.file.as_str(), manifest.digest), ("1/model.onnx", digest("1/model.onnx")));
    let weights = manifest.checkpoint.unwrap();
    assert_eq!((weights.file.as_str(), weights.digest), ("1/weights.safetensors", digest("1/weights.safetensors")));
    assert_eq!(weights.network, small());
    let training = manifest.training.unwrap();
    assert_eq!((training.epoch, training.test["f1"]), (21, 0.84));

    let card = fs::read_to_string(model.join("card.md")).unwrap();
    for told in [
        "# pads",
        "Launch pads in Sentinel-2 reflectance",
        "U-Net with a small encoder",
        &format!("{} parameters", outputs.parameters),
        &training.dataset.to_string(),
        "| f1 | 0.8400 | 0.8750 |",
        "| threshold |  | 0.4100 |",
        "The weights of epoch 21 of 30, seed 42",
        "\"loss\": \"focal_dice\"",
        "| B02 | 0.2 | 0.1 |",
        "a sigmoid makes a probability",
        "- Pads under 50 m are not seen.\n",
        "- Imagery of 2021, CC-BY-4.0.\n",
        "To make it again:\n\n    swath run pads.yaml -p seed=42\n",
        "Licence: CC-BY-4.0",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }
}

#[test]
fn the_same_checkpoint_makes_the_same_folder() {
    let place = Place::new();
    let folder = place.path("checkpoint");
    checkpoint(&folder, &small(), 64);
    let export = || place.export(&folder, settings()).unwrap().model.record().digest;
    assert_eq!(export(), export());
}

#[test]
fn the_dataset_must_be_the_one_it_was_trained_on_and_tells_its_size() {
    let place = Place::new();
    let folder = place.path("checkpoint");
    checkpoint(&folder, &small(), 64);
    let side = |positives: usize, negatives: usize| {
        let chip = json!({ "set": 0, "chip": 0, "id": "a", "positive": true });
        json!({ "positives": positives, "negatives": negatives, "blocks": 3,
                "labels": [
                    { "value": 0.0, "pixels": 70_000 }, { "value": 0.5, "pixels": 900 }, { "value": 1.0, "pixels": 800 }
                ],
                "chips": vec![chip; positives + negatives] })
    };
    let dataset = json!({
        "format": "swath.dataset/1", "size": 64, "bands": ["B00", "B01", "B02"], "seed": 1, "block_m": 5000.0, "gap_m": 640.0,
        "sets": [], "sides": { "train": side(40, 80), "validation": side(5, 10), "test": side(7, 12) },
        "left_out": { "ambiguous": 2, "border": 13, "negatives": 21 },
        "leakage": { "overlapping": 0, "within_gap": 0, "equal": 0 }, "statistics": []
    });
    let path = place.path("dataset.json");
    fs::write(&path, dataset.to_string()).unwrap();
    let export = || place.export_in(&folder, settings(), Some(&path), &place.host.context(2));
    let (code, message) = told(export());
    assert_eq!(code, "M146", "{message}");

    let digest = Digest::of(dataset.to_string().as_bytes());
    edit(&folder.join("checkpoint.json"), |manifest| manifest["training"]["dataset"] = json!(digest));
    let card = fs::read_to_string(place.model(&export().unwrap()).join("card.md")).unwrap();
    assert!(card.contains("chips of 64 x 64 pixels, split by blocks of 5000 m with a gap of 640 m"), "{card}");
    // 120 chips of 64 x 64 pixels, less those with a label.
    assert!(card.contains("| train | 120 | 40 | 80 | 3 | 71700 | 800 | 419820 |"), "{card}");
    assert!(card.contains("| test | 19 | 7 | 12 | 3 | 71700 | 800 | 6124 |"), "{card}");
    for told in ["no side: 2 that", " 13 along borders of sides, 21 without something", "on several sides: 0."] {
        assert!(card.contains(told), "{told}: {card}");
    }
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_told_with_its_place() {
    type Break = fn(&Path);
    let cases: &[(&str, &str, Break)] = &[
        ("M130", "checkpoint.json", |folder| fs::remove_file(folder.join("checkpoint.json")).unwrap()),
        ("M131", "EOF while parsing", |folder| fs::write(folder.join("checkpoint.json"), "{").unwrap()),
        ("M131", "swath.checkpoint/9", |folder| broken(folder, |m| m["format"] = json!("swath.checkpoint/9"))),
        ("M131", "`vgg`", |folder| broken(folder, |m| m["weights"]["network"]["architecture"] = json!("vgg"))),
        ("M131", "`width` of a network is 5", |folder| broken(folder, |m| m["weights"]["network"]["width"] = json!(5))),
        ("M131", "4 input channels, but `bands` names 3", |folder| {
            broken(folder, |m| m["weights"]["network"]["in_channels"] = json!(4));
        }),
        ("M131", "1 output channels, but `classes` names 2", |folder| {
            broken(folder, |m| m["classes"] = json!(["a", "b"]));
        }),
        ("M131", "`normalisation.std[0]` is 0", |folder| {
            broken(folder, |m| m["normalisation"]["std"] = json!([0.0, 1.0, 1.0]));
        }),
        ("M131", "`B01` twice", |folder| broken(folder, |m| m["bands"][0]["name"] = json!("B01"))),
        ("M131", "chips of 16 px", |folder| broken(folder, |m| m["tile"] = json!(16))),
        ("M140", "`../weights.safetensors`, which is no file name", |folder| {
            broken(folder, |m| m["weights"]["file"] = json!("../weights.safetensors"));
        }),
        ("M140", "No such file", |folder| fs::remove_file(folder.join("weights.safetensors")).unwrap()),
        ("M140", "the manifest tells of", |folder| change(&folder.join("weights.safetensors"), |_, n| n[0] += 1.0)),
        ("M141", "neither a whole safetensors file", |folder| {
            let path = folder.join("weights.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            sealed(folder);
        }),
        ("M141", "`encoder.conv1.weight` is [4, 3, 7, 7], must be [8, 3, 7, 7]", |folder| {
            broken(folder, |m| m["weights"]["network"]["width"] = json!(8));
        }),
        ("M141", "unexpected (`decoder.blocks.0.conv1.0.weight`", |folder| {
            broken(folder, |m| m["weights"]["network"]["architecture"] = json!("deeplabv3plus"));
        }),
        ("M142", "in 2 of their tensors: `encoder.bn1.weight`, `encoder.conv1.weight`", |folder| {
            change(&folder.join("weights.safetensors"), |name, numbers| match name {
                "encoder.conv1.weight" => numbers[5] = f32::NAN,
                "encoder.bn1.weight" => numbers[0] = f32::INFINITY,
                _ => {}
            });
            sealed(folder);
        }),
    ];
    let place = Place::new();
    let whole = place.path("whole");
    checkpoint(&whole, &small(), 64);
    for (index, (code, word, damage)) in cases.iter().enumerate() {
        let folder = place.path(&format!("broken-{index}"));
        crate::support::copy(&whole, &folder);
        damage(&folder);
        let (found, message) = told(place.export(&folder, settings()));
        assert!(found == *code && message.contains(word), "{code} {word}: {found} {message}");
        assert!(!message.ends_with('.'), "{message}");
    }
}

fn broken(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(&folder.join("checkpoint.json"), change);
}

/// Lets the manifest tell of the weights as they are.
fn sealed(folder: &Path) {
    let digest = Digest::of(&fs::read(folder.join("weights.safetensors")).unwrap());
    broken(folder, |manifest| manifest["weights"]["digest"] = json!(digest));
}

#[test]
fn an_export_that_is_cancelled_stops_and_leaves_nothing() {
    let place = Place::new();
    let folder = place.path("checkpoint");
    checkpoint(&folder, &small(), 64);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = place.export_in(&folder, settings(), None, &place.host.cancellable(1, cancel));
    assert!(matches!(result, Err(TaskError::Cancelled)), "{:?}", result.err());
    assert_eq!(fs::read_dir(place.path("host/scratch")).unwrap().count(), 0);
}

#[test]
fn parameters_that_make_no_model_are_told_before_anything_runs() {
    for (name, value, told) in [
        ("name", json!("../pads"), "/name: `../pads` cannot be the name of a model folder"),
        ("name", json!("a/b"), "/name"),
        ("about", json!(" "), "/about: `about` is empty"),
        ("tile", json!(16), "/tile: `tile` is 16"),
        ("max_batch", json!(0), "/max_batch: `max_batch` is 0"),
    ] {
        let mut settings = settings();
        settings[name] = value;
        let found = problems::<Export>(settings);
        assert!(found.starts_with(told), "{found}");
    }
}
