//! Files of weights that fit, do not fit, are damaged, or mean harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, device, network, reference};
use burn::tensor::Tensor;
use serde_json::json;
use swath_nets::{Error, Misfit, Model, Weights};
use swath_testkit::python;

/// The network of the case `unet-small`, before training.
fn small() -> Model {
    let small = json!({"architecture": "unet", "encoder": "small", "in_channels": 2, "classes": 2});
    network(&small).init(&device()).expect("a network")
}

fn resnet18(in_channels: usize) -> Model {
    let unet = json!({"architecture": "unet", "encoder": "resnet18", "in_channels": in_channels});
    network(&unet).init(&device()).expect("a network")
}

/// Why weights were not taken. (A network's `Debug` is long.)
fn refusal(result: Result<Model, Error>) -> Error {
    result.map(|_| ()).expect_err("weights that must not be taken")
}

fn misfit(result: Result<Model, Error>) -> (Misfit, String) {
    let error = refusal(result);
    let told = error.to_string();
    let Error::Misfit { misfit, .. } = error else { panic!("{told}") };
    (misfit, told)
}

/// Runs Python on weights that `reference/unet-small` has: `edit` changes the dictionary `state`.
fn edited(folder: &Path, name: &str, edit: &str) -> PathBuf {
    let (from, to) = (reference().join("unet-small/weights.safetensors"), folder.join(name));
    let program = format!(
        "import sys, torch, safetensors.torch\nstate = safetensors.torch.load_file(sys.argv[1])\n{edit}\n\
         torch.save(state, sys.argv[2])"
    );
    let status =
        Command::new(python::torch()).arg("-c").arg(program).arg(from).arg(&to).status().expect("Python starts");
    assert!(status.success());
    to
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = edited(
        folder.path(),
        "edited.pth",
        "del state['decoder.blocks.0.conv1.0.weight'], state['encoder.bn1.running_var']\n\
         state['extra.weight'] = torch.zeros(3)\n\
         state['segmentation_head.0.bias'] = torch.zeros(7)\n\
         state['encoder.layer1.0.conv1.weight'] = torch.zeros(1, 2)\n\
         state['encoder.bn1.bias'] = torch.zeros(16, dtype=torch.int64)",
    );
    let (misfit, told) = misfit(small().load(&file));
    assert_eq!(misfit.missing, ["decoder.blocks.0.conv1.0.weight", "encoder.bn1.running_var"]);
    assert_eq!(misfit.unexpected, ["extra.weight"]);
    assert_eq!(misfit.not_numbers, ["encoder.bn1.bias"]);
    let reshaped: Vec<&str> = misfit.reshaped.iter().map(|reshaped| reshaped.name.as_str()).collect();
    assert_eq!(reshaped, ["encoder.layer1.0.conv1.weight", "segmentation_head.0.bias"]);
    let told = told.split_once(": ").expect("a cause").1;
    assert_eq!(
        told,
        "2 missing (`decoder.blocks.0.conv1.0.weight`, `encoder.bn1.running_var`); 1 unexpected (`extra.weight`); \
         1 of no floating-point type (`encoder.bn1.bias`); 2 of another shape (`encoder.layer1.0.conv1.weight` is \
         [1, 2], must be [16, 16, 3, 3], `segmentation_head.0.bias` is [7], must be [2])"
    );
}

#[test]
fn weights_of_another_network_do_not_fit() {
    let (other, _) = misfit(small().load(&reference().join("convnext-tiny/weights.safetensors")));
    assert!(other.missing.contains(&"encoder.conv1.weight".to_owned()));
    assert!(other.unexpected.contains(&"features.0.0.weight".to_owned()));

    // Three channels are not ten: `load` takes what is there, only `transfer` inflates.
    let file = reference().join("unet-resnet18/weights.safetensors");
    let (shape, _) = misfit(resnet18(10).load(&file));
    assert_eq!(shape.reshaped.len(), 1);
    assert_eq!(shape.reshaped[0].name, "encoder.conv1.weight");
    assert!(shape.missing.is_empty() && shape.unexpected.is_empty());
    resnet18(10).transfer(&file).expect("the encoder of a whole network");
    let left = resnet18(10).left(&file).expect("names");
    assert!(left.contains(&"segmentation_head.0.bias".to_owned()), "{left:?}");
    assert!(
        left.iter().all(|name| !name.starts_with("encoder.") && !name.ends_with("num_batches_tracked")),
        "{left:?}"
    );
    let names = resnet18(10).names();
    assert_eq!(left.len(), names.iter().filter(|name| !name.starts_with("encoder.")).count());
    let imagenet = resnet18(3).left(&reference().join("imagenet/resnet18.pth")).expect("names");
    assert_eq!(imagenet, [] as [String; 0], "a classifier is always left");
}

#[test]
fn weights_are_found_in_all_that_pytorch_writes() {
    let folder = reference().join("imagenet");
    let results = tempfile::tempdir().expect("a folder");
    let saved = |file: &str| {
        let path = results.path().join("saved.safetensors");
        resnet18(3).transfer(&folder.join(file)).expect(file).save(&path).expect("saved");
        let mut tensors = support::Tensors::open(&path);
        let encoder = tensors.names().into_iter().filter(|name| name.starts_with("encoder."));
        encoder.map(|name| tensors.data(&name).try_to_vec::<f32>().expect("f32")).collect::<Vec<_>>()
    };
    let plain = saved("resnet18.pth");
    assert_eq!(plain.len(), 100);
    assert!(plain == saved("resnet18-legacy.pth"), "as PyTorch wrote until 1.5");
    assert!(plain == saved("resnet18-checkpoint.pth"), "below `state_dict.module`, beside an optimizer's state");

    let twice = resnet18(3).transfer(&folder.join("resnet18-twice.pth"));
    let error = refusal(twice);
    assert!(error.to_string().contains("below `model.module`, `model_ema.module`"), "{error}");
}

#[test]
fn half_precision_and_double_become_single() {
    let folder = tempfile::tempdir().expect("a folder");
    let images = Tensor::<4>::ones([1, 2, 32, 32], &device());
    let single = small().load(&reference().join("unet-small/weights.safetensors")).expect("weights");
    let single = single.forward(images.clone()).into_data();
    for (kind, near) in [("double", 0.0), ("half", 0.1), ("bfloat16", 1.0)] {
        let edit = format!("state = {{k: v.{kind}() if v.is_floating_point() else v for k, v in state.items()}}");
        let model = small().load(&edited(folder.path(), kind, &edit)).expect(kind);
        let (off, _) = support::difference(&model.forward(images.clone()).into_data(), &single);
        assert!(off <= near, "{kind}: {off}");
    }
}

#[test]
fn a_pickle_that_runs_a_program_runs_nothing_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let ran = folder.path().join("ran");
    for name in ["plain.pth", "zip.pth", "legacy.pth"] {
        let evil = reference().join("evil").join(name);
        // Read by name from another folder, so that a program that ran would leave its mark in this one.
        let here = std::env::current_dir().expect("a folder").join("ran");
        assert!(!here.exists());
        let refused = refusal(resnet18(3).transfer(&evil));
        assert!(matches!(refused, Error::Broken { .. } | Error::Misfit { .. }), "{name}: {refused}");
        assert!(!here.exists(), "{name} ran a program");

        let load = "import sys, torch; torch.load(sys.argv[1], weights_only=False)";
        let load = if name == "plain.pth" { "import sys, pickle; pickle.load(open(sys.argv[1], 'rb'))" } else { load };
        Command::new(python::torch())
            .arg("-c")
            .arg(load)
            .arg(&evil)
            .current_dir(&folder)
            .status()
            .expect("Python starts");
        assert!(ran.exists(), "{name} harms who unpickles it, else this test proves nothing");
        fs::remove_file(&ran).expect("removed");
    }
}

#[test]
fn damaged_files_are_refused_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged");
    let broken = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        small().load(&path)
    };
    let zip = fs::read(edited(folder.path(), "whole.pth", "")).expect("a file");
    let legacy = edited(
        folder.path(),
        "legacy.pth",
        "torch.save(state, sys.argv[2], _use_new_zipfile_serialization=False)\nsys.exit()",
    );
    let legacy = fs::read(legacy).expect("a file");
    let safetensors = fs::read(reference().join("unet-small/weights.safetensors")).expect("a file");
    for whole in [&zip, &legacy, &safetensors] {
        broken(whole).expect("whole, it is taken");
        for part in [0, 1, 7, 9, 64, 300, whole.len() / 3, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
            let error = refusal(broken(&whole[..part]));
            assert!(matches!(error, Error::Broken { .. } | Error::Misfit { .. }), "{part}: {error}");
        }
    }

    // A byte of a tensor in a zip has a checksum; a header that lies about lengths is found out.
    let mut flipped = zip.clone();
    flipped[zip.len() / 2] ^= 1;
    assert!(matches!(broken(&flipped), Err(Error::Broken { .. })));
    let mut lying = safetensors.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(broken(&lying), Err(Error::Broken { .. })));

    for nonsense in [&b"GIF89a, by no means weights"[..], b"\x80\x02}q\x00.", b"PK\x03\x04", &[0; 4096], b"{}"] {
        let error = refusal(broken(nonsense));
        assert!(matches!(error, Error::Broken { .. } | Error::Misfit { .. }), "{error}");
    }
    let error = refusal(small().load(&folder.path().join("absent.pth"))).to_string();
    assert!(error.contains("absent.pth` cannot be read: No such file"), "{error}");
}

/// Bytes anywhere in the file are changed: it is taken or refused, and nothing else happens.
#[test]
fn no_changed_byte_makes_the_reader_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("changed");
    let zip = fs::read(edited(folder.path(), "whole.pth", "")).expect("a file");
    let safetensors = fs::read(reference().join("unet-small/weights.safetensors")).expect("a file");
    let mut random = 1u64;
    let mut refused = 0;
    for round in 0..400 {
        let whole = if round % 2 == 0 { &zip } else { &safetensors };
        let mut bytes = whole.clone();
        for _ in 0..8 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Nine in ten where names and lengths are: the front of safetensors, both ends of a zip.
            let span = if random % 10 < 9 { 20_000.min(bytes.len()) } else { bytes.len() };
            let at = (random >> 16) as usize % span;
            let at = if round % 4 == 0 { bytes.len() - 1 - at } else { at };
            bytes[at] = (random >> 8) as u8;
        }
        fs::write(&path, &bytes).expect("written");
        refused += usize::from(Weights::open(&path).and_then(|weights| weights.load(small())).is_err());
    }
    assert!(refused > 100, "only {refused} of 400 were refused");
}

#[test]
fn a_saved_network_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let trained = small().load(&reference().join("unet-small/weights.safetensors")).expect("weights");
    small().save(&path).expect("saved");
    trained.save(&path).expect("saved again");
    let files: Vec<_> = fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(files.len(), 1, "nothing is left beside it");
    let images = Tensor::<4>::ones([1, 2, 32, 32], &device());
    let again = small().load(&path).expect("its own weights").forward(images.clone()).into_data();
    assert_eq!(support::difference(&again, &trained.forward(images).into_data()).0, 0.0);

    let error = trained.save(&folder.path().join("absent/model.safetensors")).expect_err("no folder").to_string();
    assert!(error.contains("absent/model.safetensors` cannot be written"), "{error}");
}
