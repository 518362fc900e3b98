//! What trainings learn and leave.

use serde_json::{Value, json};
use swath_datasets::{ChipSite, SiteWindow};
use swath_kinds::{CheckpointManifest, Normalisation, OutputActivation};
use swath_nets::Network;

use crate::support::{Bench, Chips, SIDE, checkpoint, curves, files, ground, read, run, small};

#[test]
fn a_network_learns_to_find_objects_and_says_how_well() {
    let bench = Bench::new(&Chips::usual(12));
    let mut settings = small(80);
    settings["patience"] = json!(80);
    settings["optimiser"] = json!({"learning_rate": 1e-2});
    settings["schedule"] = json!({"kind": "cosine", "warm_up": 2});
    let outputs = bench.train(settings).unwrap();
    assert!(outputs["f1"].as_f64().unwrap() > 0.7, "{outputs}");
    assert!(outputs["auroc"].as_f64().unwrap() > 0.95, "{outputs}");
    assert!(outputs["test"]["site_recall"].as_f64().unwrap() > 0.6, "{outputs}");
    assert_eq!(outputs["test"]["sites"], 3.0);

    let folder = checkpoint(&bench.host, &outputs);
    let manifest = CheckpointManifest::of_folder(&folder).unwrap();
    assert_eq!((manifest.tile, manifest.gsd), (SIDE as u32, 10.0));
    assert_eq!(manifest.activation, OutputActivation::Logits);
    let Normalisation::Standard { mean, std, fill } = &manifest.normalisation else { panic!("{manifest:?}") };
    assert!((mean[0] - 0.26).abs() < 0.02 && std.len() == 2 && *fill == 0.0, "{mean:?}");
    assert_eq!(manifest.training.epoch, outputs["best_epoch"].as_u64().unwrap() as u32);
    // JSON may lose the last digit of a number.
    assert!((manifest.training.test["f1"] - outputs["f1"].as_f64().unwrap()).abs() < 1e-12);
    let network: Network = serde_json::from_value(manifest.weights.network).unwrap();
    assert_eq!(network.in_channels(), 2);
    let device = burn::tensor::Device::flex();
    network.init(&device).unwrap().load(&folder.join("weights.safetensors")).unwrap();
    let bytes = std::fs::read(folder.join("weights.safetensors")).unwrap();
    assert_eq!(swath_task::Digest::of(&bytes), manifest.weights.digest);

    let metrics = read(&folder.join("metrics.json"));
    let epochs = metrics["epochs"].as_array().unwrap();
    assert_eq!(epochs.len() as u64, outputs["epochs"].as_u64().unwrap());
    let loss = |epoch: &Value| epoch["train_loss"].as_f64().unwrap();
    assert!(loss(&epochs[epochs.len() - 1]) < 0.5 * loss(&epochs[0]), "{metrics}");
    for best in metrics["best"].as_array().unwrap() {
        assert!(folder.join(best["file"].as_str().unwrap()).is_file());
    }
    assert_eq!(metrics["best"].as_array().unwrap().len(), 3);
    for path in [folder.join("curves.png"), folder.join("samples.png"), curves(&bench.host, &outputs)] {
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let colours: std::collections::HashSet<&[u8]> = pixels.chunks(3).collect();
        assert!(colours.len() > 5, "{} shows something", path.display());
    }
    let told = bench.host.metrics();
    for name in ["train_loss", "validation_loss", "validation_f1", "waiting_share", "epoch_seconds", "learning_rate"] {
        let count = told.iter().filter(|(metric, _)| *metric == name).count();
        assert_eq!(count, epochs.len(), "{name}: one an epoch");
    }
    let share = told.iter().filter(|(name, _)| *name == "waiting_share").all(|(_, share)| (0.0..=1.0).contains(share));
    assert!(share, "{told:?}");
}

#[test]
fn a_site_that_several_chips_show_is_one_site() {
    let site = |id: &str, chips: std::ops::Range<usize>| SiteWindow {
        site: ChipSite { id: id.to_owned(), lon: 15.0, lat: 45.0, buffer_m: 60.0 },
        window: [chips.start * SIDE, 0, chips.len() * SIDE, SIDE],
    };
    // Every other chip has an object: three of the validation side, from chip 6 on, and three of the test side, from 12 on.
    let sites = vec![site("a", 6..7), site("b", 8..11), site("c", 12..15), site("d", 16..17), site("unseen", 13..14)];
    let outputs = Bench::with_sites(&Chips::usual(6), sites).train(small(1)).unwrap();
    assert_eq!((&outputs["validation"]["sites"], &outputs["test"]["sites"]), (&json!(2.0), &json!(2.0)), "{outputs}");
}

#[test]
fn an_infinite_pixel_is_no_data_and_its_label_takes_no_part() {
    let trained = |value: f32, label: f32| {
        let mut chips = Chips::usual(4);
        chips.train[0].0[SIDE * SIDE + 40] = value;
        (chips.train[0].1[40], chips.train[0].1[41]) = (label, 1.0);
        files(&Bench::new(&chips).train(small(1)).unwrap())["weights.safetensors"]
    };
    let wanted = trained(f32::NAN, f32::NAN);
    assert_eq!(trained(f32::INFINITY, 1.0), wanted);
    assert_eq!(trained(f32::NEG_INFINITY, 0.0), wanted);
    assert_ne!(trained(0.5, 1.0), wanted);
}

#[test]
fn a_checkpoint_does_not_tell_where_its_first_weights_lay() {
    let bench = Bench::new(&Chips::usual(4));
    let first = bench.train(small(1)).unwrap();
    let weights = bench.folder.path().join("first.safetensors");
    std::fs::copy(checkpoint(&bench.host, &first).join("weights.safetensors"), &weights).unwrap();
    let mut settings = small(1);
    settings["weights"] = json!(weights);
    let outputs = bench.train(settings).unwrap();
    let text = std::fs::read_to_string(checkpoint(&bench.host, &outputs).join("checkpoint.json")).unwrap();
    assert!(!text.contains(&*bench.folder.path().to_string_lossy()), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["training"]["settings"]["weights"], "first.safetensors");
}

#[test]
fn several_classes_are_told_apart() {
    let relabel = |chips: Vec<(Vec<f32>, Vec<f32>)>| -> Vec<(Vec<f32>, Vec<f32>)> {
        let each = chips.into_iter().enumerate().map(|(index, (mut image, label))| {
            // In every other chip the object is of another kind: dark in the first band.
            let other = index % 4 == 2;
            for pixel in 0..SIDE * SIDE {
                if other && label[pixel] == 1.0 {
                    image[pixel] -= 0.3;
                }
            }
            let label = label.into_iter().map(|value| if other && value == 1.0 { 2.0 } else { value }).collect();
            (image, label)
        });
        each.collect()
    };
    let chips = Chips::usual(12);
    let chips = Chips { train: relabel(chips.train), validation: relabel(chips.validation), test: relabel(chips.test) };
    let bench = Bench::new(&chips);
    let mut settings = small(80);
    settings["patience"] = json!(80);
    settings["network"]["classes"] = json!(3);
    settings["classes"] = json!(["ground", "bright", "dark"]);
    settings["optimiser"] = json!({"learning_rate": 1e-2});
    settings["schedule"] = json!({"kind": "constant"});
    settings["normalisation"] = json!({"method": "stretch"});
    let outputs = bench.train(settings).unwrap();
    assert!(outputs["f1"].as_f64().unwrap() > 0.6, "{outputs}");
    assert!(outputs.get("threshold").is_none_or(Value::is_null));
    let folder = checkpoint(&bench.host, &outputs);
    let manifest = CheckpointManifest::of_folder(&folder).unwrap();
    assert_eq!(manifest.activation, OutputActivation::ClassLogits);
    assert_eq!(manifest.classes, ["ground", "bright", "dark"]);
    assert!(matches!(manifest.normalisation, Normalisation::Stretch { .. }));
    let metrics = read(&folder.join("metrics.json"));
    assert!(metrics["test"]["classes"]["bright"]["iou"].as_f64().unwrap() > 0.2, "{}", metrics["test"]);
}

#[test]
fn a_classifier_of_chips_is_trained() {
    let some = |from: u64, count: u64| (from..from + count).map(|index| ground(index, index % 2 == 0)).collect();
    let bench = Bench::new(&Chips { train: some(0, 8), validation: some(100, 4), test: some(200, 4) });
    let settings = json!({"network": {"architecture": "convnext"}, "epochs": 1, "batch": 8});
    let outputs = run("train.classification", settings, &bench.inputs, bench.host.context(2)).unwrap();
    assert_eq!(outputs["test"]["sites"], 2.0, "a chip is a site: {outputs}");
    assert!(outputs["auroc"].is_number() && outputs["validation"]["loss"].is_number());
    let manifest = CheckpointManifest::of_folder(&checkpoint(&bench.host, &outputs)).unwrap();
    assert_eq!(manifest.classes, ["object"]);
}

#[test]
fn a_frozen_encoder_stays_as_it_was_given() {
    let bench = Bench::new(&Chips::usual(8));
    let first = bench.train(small(1)).unwrap();
    let given = checkpoint(&bench.host, &first);
    let mut settings = small(2);
    settings["weights"] = json!(given);
    settings["freeze_epochs"] = json!(2);
    let outputs = bench.train(settings).unwrap();
    let trained = checkpoint(&bench.host, &outputs).join("weights.safetensors");
    let (before, after) = (std::fs::read(given.join("weights.safetensors")).unwrap(), std::fs::read(trained).unwrap());
    let before = safetensors::SafeTensors::deserialize(&before).unwrap();
    let after = safetensors::SafeTensors::deserialize(&after).unwrap();
    let mut changed = 0;
    for (name, tensor) in before.tensors() {
        let same = after.tensor(&name).unwrap().data() == tensor.data();
        assert!(same || !name.starts_with("encoder."), "{name} was frozen");
        changed += usize::from(!same);
    }
    assert!(changed > 10, "the decoder has learnt");
}

#[test]
fn a_training_is_told_to_a_folder_and_its_checkpoint_names_no_place_of_this_machine() {
    let tracked = tempfile::tempdir().unwrap();
    let bench = Bench::new(&Chips::usual(6));
    let mut settings = small(2);
    let runs = tracked.path().join("runs");
    settings["tracking"] = json!({ "folder": runs, "experiment": "pads" });
    let outputs = bench.train(settings).unwrap();
    let text = std::fs::read_to_string(checkpoint(&bench.host, &outputs).join("checkpoint.json")).unwrap();
    assert!(!text.contains(&*tracked.path().to_string_lossy()), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let run = runs.join(told["training"]["run"].as_str().unwrap());
    let losses = std::fs::read_to_string(run.join("metrics/train_loss")).unwrap();
    assert_eq!(losses.lines().count(), 2, "a line an epoch: {losses}");
    assert!(run.join("params/optimiser.learning_rate").is_file() && run.join("artifacts/curves.png").is_file());
    assert!(!tracked.path().join(".runs.unsent").exists(), "nothing waits");
    let inside = std::fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<String> = inside.filter(|name| !name.bytes().all(|byte| byte.is_ascii_digit())).collect();
    assert_eq!(strange, [""; 0], "MLflow takes each folder for an experiment");
}
