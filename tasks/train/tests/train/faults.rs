//! What a training says of what it cannot use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_task::Fault;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, Chips, checkpoint, ground, read, run, small};

fn with(key: &str, value: Value) -> Value {
    let mut settings = small(1);
    settings[key] = value;
    settings
}

fn told(fault: &Fault, code: &str, parts: &[&str]) {
    assert_eq!(fault.code, code, "{fault}");
    for part in parts {
        assert!(fault.message.contains(part), "{part}: {fault}");
    }
    assert!(fault.help.is_some(), "{fault}");
}

#[test]
fn what_does_not_suit_the_dataset_is_told() {
    let bench = Bench::new(&Chips::usual(4));
    let network = json!({"architecture": "unet", "encoder": "small", "in_channels": 3});
    told(&bench.train(with("network", network)).unwrap_err(), "N101", &["3 channels", "2 bands: B04, B08"]);
    let network = json!({"architecture": "dual_unet", "encoder": "small"});
    told(&bench.train(with("network", network)).unwrap_err(), "N101", &["12 channels"]);
    let stretch = json!({"method": "stretch", "low": 1.0});
    told(&bench.train(with("normalisation", stretch)).unwrap_err(), "N107", &["no percentile 1", "2, 50, 98"]);
    let gpu = bench.train(with("device", json!("cuda:5"))).unwrap_err();
    told(&gpu, "N106", &["`cuda:5` is asked for"]);
    told(&bench.train(with("precision", json!("f16"))).unwrap_err(), "N111", &["half precision"]);
    assert!(bench.host.metrics().is_empty(), "nothing was computed");
}

#[test]
fn labels_beyond_the_classes_are_told_before_anything_is_computed() {
    let mut chips = Chips::usual(4);
    chips.validation[0].1[100] = 7.0;
    let bench = Bench::new(&chips);
    let network = json!({"architecture": "unet", "encoder": "small", "classes": 3});
    let mut settings = with("network", network);
    settings["classes"] = json!([]);
    let fault = bench.train(settings).unwrap_err();
    told(&fault, "N103", &["validation side", "1 pixels of class 7", "3 classes"]);
    assert!(fault.help.unwrap().contains("8 or more"));
}

#[test]
fn an_empty_side_is_told() {
    let chips = Chips { validation: Vec::new(), ..Chips::usual(4) };
    told(&Bench::new(&chips).train(small(1)).unwrap_err(), "N102", &["validation side of the dataset has no chips"]);
    let mut chips = Chips::usual(4);
    chips.train.iter_mut().for_each(|(_, label)| label.fill(f32::NAN));
    told(
        &Bench::new(&chips).train(small(1)).unwrap_err(),
        "N102",
        &["train side of the dataset has no labelled pixel"],
    );
    let background = (0..4).map(|index| ground(index, false)).collect();
    let bench = Bench::new(&Chips { train: background, ..Chips::usual(4) });
    told(&bench.train(small(1)).unwrap_err(), "N102", &["train side", "no positive pixel", "nothing to tell apart"]);
    let settings = json!({"network": {"architecture": "convnext"}, "epochs": 1});
    let fault = run("train.classification", settings, &bench.inputs, bench.host.context(2)).unwrap_err();
    told(&fault, "N102", &["no positive chip"]);
}

#[test]
fn without_a_test_side_the_scores_are_absent_and_not_nan() {
    let bench = Bench::new(&Chips { test: Vec::new(), ..Chips::usual(4) });
    let outputs = bench.train(small(1)).unwrap();
    assert!(outputs["f1"].is_null() && outputs["test"] == json!({}), "{outputs}");
    let metrics = read(&checkpoint(&bench.host, &outputs).join("metrics.json"));
    assert_eq!(metrics["test"]["undefined"], json!(["all: the test side has no chips"]));
}

#[test]
fn a_validation_of_one_class_is_judged_by_its_loss() {
    let mut chips = Chips::usual(4);
    chips.validation = (0..3).map(|index| ground(500 + index, false)).collect();
    let bench = Bench::new(&chips);
    let outputs = bench.train(small(2)).unwrap();
    assert!(outputs["validation"].get("auroc").is_none() && outputs["validation"]["threshold"] == 0.5, "{outputs}");
    let metrics = read(&checkpoint(&bench.host, &outputs).join("metrics.json"));
    assert_eq!(metrics["monitor"], "loss");
    let undefined = metrics["epochs"][0]["validation"]["undefined"].to_string();
    assert!(undefined.contains("auroc: there are no positives"), "{undefined}");
    assert!(!metrics.to_string().contains("NaN"));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_training_and_names_the_chips() {
    let mut chips = Chips::usual(4);
    chips.train[2].0.fill(3e38);
    let bench = Bench::new(&chips);
    let mut settings = with("normalisation", json!({"method": "none"}));
    settings["batch"] = json!(1);
    let fault = bench.train(settings.clone()).unwrap_err();
    told(&fault, "N104", &["is not finite in epoch 1, batch ", " of 4, at a learning rate of 0.001", &bench.chips[2]]);
    assert!(!fault.message.contains(&bench.chips[1]), "{fault}");
    assert!(!fault.help.unwrap().contains("clip"), "it is set");
    settings["clip"] = json!(null);
    assert!(bench.train(settings).unwrap_err().help.unwrap().contains("or set `clip`"));
    assert!(!bench.folder.path().join("host/keep/best").exists(), "there is nothing to keep");
}

#[test]
fn weights_that_cannot_be_used_are_told() {
    let bench = Bench::new(&Chips::usual(4));
    let missing = bench.folder.path().join("missing.safetensors");
    told(
        &bench.train(with("weights", json!(missing))).unwrap_err(),
        "N105",
        &["missing.safetensors", "cannot be read"],
    );
    let broken = bench.folder.path().join("broken.pth");
    std::fs::write(&broken, b"not weights").unwrap();
    told(&bench.train(with("weights", json!(broken))).unwrap_err(), "N105", &["broken.pth"]);
    told(
        &bench.train(with("weights", json!("imagenet"))).unwrap_err(),
        "N105",
        &["no ImageNet weights for this network"],
    );

    let tensor = |name: &str| {
        let data = vec![0u8; 16];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &data).unwrap();
        let path = bench.folder.path().join("other.safetensors");
        std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
        path
    };
    let other = tensor("somebody.elses.weight");
    let fault = bench.train(with("weights", json!(other))).unwrap_err();
    told(&fault, "N105", &["unexpected (`somebody.elses.weight`)", "missing (", "conv1.weight"]);
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let bench = Bench::new(&Chips::usual(4));
    let outputs = bench.train(small(1)).unwrap();
    let mut bytes = std::fs::read(checkpoint(&bench.host, &outputs).join("weights.safetensors")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = bench.folder.path().join("nan.safetensors");
    std::fs::write(&path, bytes).unwrap();
    told(&bench.train(with("weights", json!(path))).unwrap_err(), "N105", &["not finite"]);
}

#[test]
fn weights_of_a_checkpoint_that_are_not_its_own_are_refused() {
    let bench = Bench::new(&Chips::usual(4));
    let outputs = bench.train(small(1)).unwrap();
    let (from, folder) = (checkpoint(&bench.host, &outputs), bench.folder.path().join("given"));
    std::fs::create_dir(&folder).unwrap();
    for name in ["checkpoint.json", "weights.safetensors"] {
        std::fs::copy(from.join(name), folder.join(name)).unwrap();
    }
    let weights = folder.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let fault = bench.train(with("weights", json!(folder))).unwrap_err();
    told(&fault, "M103", &["given/weights.safetensors", "their digest is `blake3:", "not `blake3:"]);
    // As a file of its own it is what it is.
    bench.train(with("weights", json!(weights))).unwrap();
}

#[test]
fn weights_of_the_whole_network_with_other_names_are_refused() {
    let bench = Bench::new(&Chips::usual(4));
    let outputs = bench.train(small(1)).unwrap();
    let bytes = std::fs::read(checkpoint(&bench.host, &outputs).join("weights.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let write = |name: &str, rename: &dyn Fn(&str) -> Option<String>, more: &[&str]| {
        let zeros = [0u8; 16];
        let extra = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &zeros).unwrap();
        let mut all: Vec<_> = tensors.tensors().into_iter().filter_map(|(n, view)| Some((rename(&n)?, view))).collect();
        all.extend(more.iter().map(|name| ((*name).to_owned(), extra())));
        let path = bench.folder.path().join(name);
        std::fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
        path
    };
    let misnamed =
        |name: &str| Some(if name == "decoder.blocks.0.conv1.0.weight" { format!("{name}x") } else { name.to_owned() });
    let fault = bench.train(with("weights", json!(write("misnamed.safetensors", &misnamed, &[])))).unwrap_err();
    let parts = ["1 missing (`decoder.blocks.0.conv1.0.weight`)", "1 unexpected (`decoder.blocks.0.conv1.0.weightx`)"];
    told(&fault, "N105", &parts);
    let keep = |name: &str| Some(name.to_owned());
    let path = write("more.safetensors", &keep, &["encoder.bogus", "extra.weight"]);
    let fault = bench.train(with("weights", json!(path))).unwrap_err();
    told(&fault, "N105", &["2 unexpected (`encoder.bogus`, `extra.weight`)"]);
    // An encoder alone, and one in another network, are what was meant.
    let encoder = |name: &str| name.starts_with("encoder.").then(|| name.to_owned());
    bench.train(with("weights", json!(write("encoder.safetensors", &encoder, &[])))).unwrap();
    let other = |name: &str| Some(name.replace("decoder.", "other."));
    bench.train(with("weights", json!(write("other.safetensors", &other, &[])))).unwrap();
}

#[test]
fn chips_that_are_damaged_are_told() {
    let bench = Bench::new(&Chips::usual(4));
    let mut settings = small(1);
    settings["seed"] = json!(1);
    let artifacts = bench.folder.path().join("host/artifacts");
    let shard = std::fs::read_dir(&artifacts).unwrap().map(|entry| entry.unwrap().path().join("chips"));
    let shard = shard.map(|folder| folder.join("chips-00000.safetensors")).find(|path| path.exists()).unwrap();
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    told(&bench.train(settings).unwrap_err(), "L133", &["chips-00000.safetensors"]);
}

#[test]
fn a_wish_to_stop_is_heard_within_a_batch() {
    let bench = Arc::new(Bench::new(&Chips::usual(40)));
    let cancel = CancellationToken::new();
    let context = bench.host.cancellable(2, cancel.clone());
    let running = {
        let bench = bench.clone();
        std::thread::spawn(move || run("train.segmentation", small(100_000), &bench.inputs, context))
    };
    let began = Instant::now();
    while bench.host.metrics().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(120), "no epoch ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    cancel.cancel();
    let told = bench.host.metrics().len();
    assert_eq!(running.join().unwrap().unwrap_err().code, "cancelled");
    let after = bench.host.metrics()[told..].iter().filter(|(name, _)| *name == "train_loss").count();
    assert!(after <= 1, "{after} more epochs");
}
