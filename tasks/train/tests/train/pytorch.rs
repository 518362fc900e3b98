//! The same network, data and settings give the same training as PyTorch.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};
use swath_nets::Network;
use swath_testkit::python;

use crate::support::{Bench, Chips, Numbers, checkpoint, read, run};

/// Runs `pytorch.py` and reads what it tells.
fn pytorch(arguments: &[&Path]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch.py");
    let told = python::run(&python::torch(), std::iter::once(script.as_path()).chain(arguments.iter().copied()));
    serde_json::from_str(&told).unwrap()
}

/// Weights that both begin with.
fn first_weights(network: &Value, path: &Path) {
    let device = burn::tensor::Device::flex();
    let network: Network = serde_json::from_value(network.clone()).unwrap();
    // From here rounding stays small for sixteen steps. There are beginnings from which four steps make a thousandfold of it.
    network.init(&device).unwrap().map(&mut Draw(Numbers(11))).save(path).unwrap();
}

/// He's weights, the same every time. Burn's own are not, and must not be looked at, which draws them: all threads of the process
/// share its numbers, and a training of another test may be drawing.
struct Draw(Numbers);

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        let (id, shape, device) = (param.id, param.lazy_shape().dims::<D>(), param.lazy_device());
        let bound = (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        let values = (0..shape.iter().product()).map(|_| (2.0 * self.0.next() - 1.0) * bound);
        let values = TensorData::new(values.collect::<Vec<f32>>(), shape);
        param.transform_for_load(Tensor::from_data(values, &device), id)
    }
}

/// Trains sixteen epochs of one batch, here and in PyTorch, and compares loss and learning rate of every one, and the scores of
/// the last network.
fn agrees(name: &str, changed: &Value) {
    // All chips are one batch, so that both see the same whatever the order.
    let bench = Bench::new(&Chips::usual(6));
    let network = json!({"architecture": "unet", "encoder": "small", "width": 8, "in_channels": 2});
    let weights = bench.folder.path().join("first.safetensors");
    first_weights(&network, &weights);
    let mut settings = json!({
        "network": network, "weights": weights, "epochs": 16, "batch": 6, "patience": 50, "monitor": "loss",
        "optimiser": {"learning_rate": 2e-3, "weight_decay": 0.05},
        "augmentation": {"rotate": false, "flip": false, "brightness": 0.0, "noise": 0.0}
    });
    for (key, value) in changed.as_object().unwrap() {
        settings[key] = value.clone();
    }
    let outputs = run("train.segmentation", settings.clone(), &bench.inputs, bench.host.context(2)).unwrap();
    let metrics = read(&checkpoint(&bench.host, &outputs).join("metrics.json"));
    let told = bench.folder.path().join("settings.json");
    std::fs::write(&told, settings.to_string()).unwrap();
    let folder = bench.folder.path();
    let theirs = pytorch(&[&told, &folder.join("chips"), &folder.join("dataset.json"), &weights]);
    let ours = metrics["epochs"].as_array().unwrap();
    let theirs = theirs.as_array().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let number = |value: &Value| value.as_f64().unwrap();
    for (ours, theirs) in ours.iter().zip(theirs) {
        let rates = (number(&ours["learning_rate"]), number(&theirs["learning_rate"]));
        assert!((rates.0 - rates.1).abs() <= 1e-12, "{name}: learning rates {rates:?} in {ours}");
        let losses = (number(&ours["train_loss"]), number(&theirs["train_loss"]));
        assert!((losses.0 - losses.1).abs() <= 1e-3 * losses.1, "{name}: losses {losses:?} in {ours}");
        let validation = (number(&ours["validation"]["figures"]["loss"]), number(&theirs["validation_loss"]));
        assert!((validation.0 - validation.1).abs() <= 5e-3 * validation.1, "{name}: losses {validation:?} in {ours}");
    }
    let (first, last) = (number(&theirs[0]["train_loss"]), number(&theirs[theirs.len() - 1]["train_loss"]));
    assert!(last < 0.9 * first, "{name}: something was learnt: {first} to {last}");
}

#[test]
fn cosine_with_warm_up_and_clipping_trains_as_in_pytorch() {
    agrees("cosine", &json!({"schedule": {"kind": "cosine", "warm_up": 3, "least": 1e-5}, "clip": 0.1}));
}

#[test]
fn plateaus_without_clipping_train_as_in_pytorch() {
    agrees("plateau", &json!({"schedule": {"kind": "plateau", "patience": 1, "factor": 0.7}, "clip": null}));
}

#[test]
fn cross_entropy_trains_as_in_pytorch() {
    let changed = json!({"loss": {"kind": "cross_entropy", "smoothing": 0.1}, "schedule": {"kind": "constant"}});
    agrees("cross-entropy", &changed);
}
