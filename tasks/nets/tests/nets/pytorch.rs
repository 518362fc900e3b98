//! The same weights and images give here what they give in PyTorch: outputs, gradients and statistics, and PyTorch
//! loads what is written here.

use std::path::{Path, PathBuf};

use crate::support::{Tensors, device, difference, json, network, reference, run};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor};
use swath_nets::{Error, Focal, Model, Network, Output, cross_entropy, dice, focal_dice};

/// How far an output may be from PyTorch's.
const TOLERANCE: f32 = 1e-4;

fn weights(folder: &Path) -> PathBuf {
    let safetensors = folder.join("weights.safetensors");
    if safetensors.exists() { safetensors } else { folder.join("weights.pth") }
}

/// The network of a case with PyTorch's weights.
fn load(case: &str) -> (Network, Model) {
    let folder = reference().join(case);
    let told = json(&folder.join("network.json"));
    let network = network(&told["network"]);
    let model = network.init(&device()).expect("a network");
    assert_eq!(model.parameters() as u64, told["parameters"].as_u64().expect("a number"), "parameters of {case}");
    (network, model.load(&weights(&folder)).expect("weights of PyTorch"))
}

/// All images of a case give what PyTorch gives.
fn agrees(case: &str) {
    let (network, model) = load(case);
    let mut images = Tensors::open(&reference().join(case).join("images.safetensors"));
    let count = images.names().len() / 3;
    assert!(count > 0);
    for index in 0..count {
        let input = images.images(&format!("input_{index}"), &device());
        assert_eq!(input.dims()[1], network.in_channels());
        let [batch, _, height, width] = input.dims();
        let output = model.forward(input);
        let pixels = if network.output() == Output::Pixels { [height, width] } else { [1, 1] };
        assert_eq!(output.dims(), [batch, network.classes(), pixels[0], pixels[1]]);
        let wanted = images.data(&format!("output_{index}"));
        let output = output.into_data();
        let (off, largest) = difference(&output, &wanted);
        let exact = images.data(&format!("exact_{index}"));
        let (exactly, theirs) = (difference(&output, &exact).0, difference(&wanted, &exact).0);
        println!(
            "{case} {batch} x {height} x {width}: max abs difference {off:.1e} of values up to {largest:.1}; \
             of double precision {exactly:.1e}, PyTorch's own {theirs:.1e}"
        );
        assert!(largest > 0.1, "the reference says nothing: {largest}");
        assert!(off < TOLERANCE, "{case}: {off}");
    }
}

#[test]
fn unet_with_resnet18_gives_what_pytorch_gives() {
    agrees("unet-resnet18");
}

#[test]
fn unet_with_resnet34_gives_what_pytorch_gives() {
    agrees("unet-resnet34");
}

#[test]
fn unet_with_resnet50_gives_what_pytorch_gives() {
    agrees("unet-resnet50");
}

#[test]
fn small_unets_give_what_pytorch_gives() {
    agrees("unet-small");
    agrees("unet-small-24");
}

#[test]
fn deeplab_gives_what_pytorch_gives() {
    agrees("deeplab-resnet50");
    agrees("deeplab-small");
}

#[test]
fn unets_with_two_encoders_give_what_pytorch_gives() {
    agrees("dual-resnet18");
    agrees("dual-small");
}

#[test]
fn convnext_gives_what_pytorch_gives() {
    agrees("convnext-tiny");
    agrees("convnext-small");
    agrees("convnext-base");
}

/// Holds every gradient against PyTorch's.
struct Compare<'a> {
    gradients: &'a Gradients,
    wanted: Tensors,
    path: Vec<String>,
    compared: usize,
}

impl ModuleVisitor for Compare<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        if name.contains("running_") {
            return;
        }
        let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("no gradient of {name}"));
        let (off, largest) = difference(&gradient.into_data(), &self.wanted.data(&format!("gradient.{name}")));
        assert!(off <= 1e-4 * largest.max(0.1), "gradient of {name}: {off} of {largest}");
        self.compared += 1;
    }
}

#[test]
fn a_step_of_training_has_pytorchs_gradients_and_statistics() {
    let folder = reference().join("step");
    let device = device().autodiff();
    let model = network(&json(&folder.join("network.json"))).init(&device).expect("a network");
    let model = model.load(&weights(&folder)).expect("weights of PyTorch");
    let mut step = Tensors::open(&folder.join("step.safetensors"));

    let missed = model.forward(step.images("input", &device)) - step.images("wanted", &device);
    let loss = (missed.clone() * missed).mean();
    let (off, _) = difference(&loss.clone().into_data(), &step.data("loss"));
    assert!(off < 1e-5, "loss: {off}");
    let gradients = loss.backward();
    let wanted = Tensors::open(&folder.join("step.safetensors"));
    let mut compare = Compare { gradients: &gradients, wanted, path: Vec::new(), compared: 0 };
    model.visit(&mut compare);
    let wanted = step.names();
    assert_eq!(compare.compared, wanted.iter().filter(|name| name.starts_with("gradient.")).count());

    // Saved, the statistics of this very batch are in it.
    let folder = tempfile::tempdir().expect("a folder");
    let saved = folder.path().join("saved.safetensors");
    model.save(&saved).expect("saved");
    let mut saved = Tensors::open(&saved);
    let after: Vec<&String> = wanted.iter().filter(|name| name.starts_with("after.")).collect();
    assert!(after.len() > 30);
    for name in after {
        let (off, largest) = difference(&saved.data(&name["after.".len()..]), &step.data(name));
        assert!(off <= 1e-5 * largest.max(1.0), "{name}: {off} of {largest}");
    }
}

#[test]
fn pytorch_loads_what_is_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    for case in ["unet-small", "deeplab-small", "dual-small", "convnext-tiny"] {
        let (_, model) = load(case);
        model.save(&folder.path().join(format!("{case}.safetensors"))).expect("saved");
    }
    let told = run("load_back.py", &[reference(), folder.path()]);
    let differences: std::collections::BTreeMap<String, f32> = serde_json::from_str(&told).expect("JSON");
    assert_eq!(differences.len(), 4, "{told}");
    assert!(differences.values().all(|off| *off == 0.0), "weights are PyTorch's own again: {told}");
}

#[test]
fn first_layers_are_inflated_as_smp_inflates_them() {
    let folder = reference().join("imagenet");
    let mut wanted = Tensors::open(&folder.join("inflated.safetensors"));
    let results = tempfile::tempdir().expect("a folder");
    let saved = results.path().join("transferred.safetensors");
    for channels in [1, 2, 3, 4, 10, 12] {
        let unet =
            network(&serde_json::json!({"architecture": "unet", "encoder": "resnet18", "in_channels": channels}));
        let model = unet.init(&device()).expect("a network");
        model.transfer(&folder.join("resnet18.pth")).expect("transferred").save(&saved).expect("saved");
        let mut found = Tensors::open(&saved);
        let (off, _) = difference(&found.data("encoder.conv1.weight"), &wanted.data(&format!("resnet18.{channels}")));
        assert!(off < 1e-6, "{channels} channels: {off}");
        let last = found.data("encoder.layer4.1.bn2.weight");
        assert_eq!(difference(&last, &wanted.data("resnet18.last")).0, 0.0);
    }
    let dual = network(&serde_json::json!({"architecture": "dual_unet", "encoder": "resnet18"}));
    let model = dual.init(&device()).expect("a network");
    model.transfer(&folder.join("resnet18.pth")).expect("transferred").save(&saved).expect("saved");
    let mut found = Tensors::open(&saved);
    assert!(difference(&found.data("optical.conv1.weight"), &wanted.data("resnet18.10")).0 < 1e-6);
    assert!(difference(&found.data("sar.conv1.weight"), &wanted.data("resnet18.2")).0 < 1e-6);

    let convnext = network(&serde_json::json!({"architecture": "convnext", "in_channels": 10, "classes": 2}));
    let before = convnext.init(&device()).expect("a network");
    let head = results.path().join("head.safetensors");
    before.save(&head).expect("saved");
    before.transfer(&folder.join("convnext_tiny.pth")).expect("transferred").save(&saved).expect("saved");
    let mut found = Tensors::open(&saved);
    let wanted = wanted.data("convnext_tiny.10").convert::<f32>();
    assert!(difference(&found.data("features.0.0.weight"), &wanted).0 < 1e-4);
    let head = Tensors::open(&head).data("classifier.2.weight");
    assert_eq!(difference(&found.data("classifier.2.weight"), &head).0, 0.0, "the last layer stays");
}

#[test]
fn losses_and_their_gradients_are_pytorchs() {
    type Loss<'a> = &'a dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<1>;
    let mut wanted = Tensors::open(&reference().join("losses.safetensors"));
    let device = device().autodiff();
    let mut agrees = |name: &str, loss: Loss<'_>| {
        let logits = wanted.images(&format!("{name}.logits"), &device).require_grad();
        let valid = wanted.images(&format!("{name}.valid"), &device);
        let value = loss(logits.clone(), wanted.images(&format!("{name}.targets"), &device), valid);
        let (off, size) = difference(&value.clone().into_data(), &wanted.data(&format!("{name}.loss")));
        assert!(off <= 1e-6 * size.max(0.1), "{name}: {off} of {size}");
        let gradient = logits.grad(&value.backward()).expect("a gradient");
        let (off, size) = difference(&gradient.into_data(), &wanted.data(&format!("{name}.gradient")));
        assert!(size > 0.0 && off <= 1e-5 * size, "gradient of {name}: {off} of {size}");
    };
    let focal = Focal::default();
    for part in ["", "_of_a_part"] {
        let mut agrees = |name: &str, loss: Loss<'_>| agrees(&format!("{name}{part}"), loss);
        agrees("focal", &|logits, targets, valid| focal.forward(logits, targets, valid));
        agrees("dice", &dice);
        agrees("dice_of_three", &dice);
        agrees("focal_dice", &|logits, targets, valid| focal_dice(&focal, logits, targets, valid));
        agrees("cross_entropy", &|logits, targets, valid| cross_entropy(logits, targets, valid, 0.1));
        agrees("cross_entropy_of_pixels", &|logits, targets, valid| cross_entropy(logits, targets, valid, 0.0));
    }
}

#[test]
fn what_takes_no_part_may_be_anything() {
    let device = device().autodiff();
    let loss = |hidden: f32| {
        let logits = Tensor::<4>::from_floats([[[[0.3, -1.2], [2.0, 0.1]]]], &device).require_grad();
        let targets = Tensor::<4>::from_floats([[[[1.0, 0.0], [hidden, 0.5]]]], &device);
        let valid = Tensor::<4>::from_floats([[[[1.0, 1.0], [0.0, 1.0]]]], &device);
        let value = focal_dice(&Focal::default(), logits.clone(), targets, valid);
        let gradient = logits.grad(&value.backward()).expect("a gradient");
        (value.into_data(), gradient.into_data())
    };
    assert_eq!(loss(f32::NAN), loss(1.0));
    let (value, gradient) = loss(f32::NAN);
    assert!(value.as_slice::<f32>().expect("f32")[0] > 0.0);
    assert_eq!(gradient.as_slice::<f32>().expect("f32")[2], 0.0);
}

/// Collects every gradient.
struct Collect<'a> {
    gradients: &'a Gradients,
    found: Vec<Vec<f32>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.is_require_grad().then(|| param.val().grad(self.gradients)).flatten() {
            self.found.push(gradient.into_data().try_into_vec().expect("f32"));
        }
    }
}

/// Norms keep their precision, and the gradients reach the weights that are kept in full.
#[test]
fn mixed_precision_is_near_to_full() {
    let device = device().autodiff();
    let folder = reference().join("unet-small");
    let told = json(&folder.join("network.json"));
    let model = network(&told["network"]).init(&device).expect("a network");
    let model = model.load(&weights(&folder)).expect("weights of PyTorch");
    let input = Tensors::open(&folder.join("images.safetensors")).images("input_0", &device);
    let gradients = |logits: Tensor<4>| {
        let gradients = (logits.clone() * logits.clone()).mean().backward();
        let mut found = Collect { gradients: &gradients, found: Vec::new() };
        model.visit(&mut found);
        (logits.into_data(), found.found)
    };
    let (full, wanted) = gradients(model.forward(input.clone()));
    let mixed = model.mixed(FloatDType::BF16).forward(input.cast(FloatDType::BF16));
    let (mixed, found) = gradients(mixed.cast(FloatDType::F32));
    let norm = |all: &[f32]| all.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let (mixed, full) = (mixed.try_to_vec::<f32>().expect("floats"), full.try_to_vec::<f32>().expect("floats"));
    let off = norm(&mixed.iter().zip(&full).map(|(a, b)| a - b).collect::<Vec<_>>()) / norm(&full);
    assert!(off > 0.0 && off < 0.1, "logits differ by {off} of their length");
    assert!(found.len() == wanted.len() && found.len() > 50, "every weight has its gradient");
    let apart: Vec<f32> = found.iter().flatten().zip(wanted.iter().flatten()).map(|(a, b)| a - b).collect();
    let size = norm(&wanted.concat());
    // PyTorch's own autocast to bf16, on a CPU, for this network and these images: half precision costs that much.
    const AUTOCAST: f64 = 0.2926;
    assert!(norm(&apart) < 1.05 * AUTOCAST * size, "{} of {size}", norm(&apart));
}

#[test]
fn imagenet_weights_are_where_torchvision_has_them() {
    let urls = json(&reference().join("urls.json"));
    let told = |value: serde_json::Value| network(&value).imagenet().map(|file| file.url());
    for encoder in ["resnet18", "resnet34", "resnet50"] {
        for architecture in ["unet", "deeplabv3plus"] {
            let url = told(serde_json::json!({"architecture": architecture, "encoder": encoder, "in_channels": 10}));
            assert_eq!(url.expect("published"), urls[encoder]);
        }
    }
    for size in ["tiny", "small", "base"] {
        let url = told(serde_json::json!({"architecture": "convnext", "size": size, "in_channels": 10}));
        assert_eq!(url.expect("published"), urls[format!("convnext_{size}")]);
    }
    for unpublished in [
        serde_json::json!({"architecture": "unet", "encoder": "small", "in_channels": 3}),
        serde_json::json!({"architecture": "unet", "encoder": "small", "width": 64, "in_channels": 3}),
        serde_json::json!({"architecture": "unet", "width": 32, "in_channels": 3}),
    ] {
        assert!(matches!(told(unpublished), Err(Error::NotPublished)));
    }
}
