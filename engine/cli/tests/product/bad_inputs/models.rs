//! Networks and the manifests that tell of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use swath_task::Digest;

use super::{Case, Ends, INPUTS, checkout, hold};

/// A model folder around a network, told of as `edit` leaves it.
fn model(name: &str, network: &[u8], edit: impl FnOnce(&mut Value)) -> PathBuf {
    let folder = INPUTS.path().join("models").join(name);
    std::fs::create_dir_all(folder.join("1")).unwrap();
    std::fs::write(folder.join("1/model.onnx"), network).unwrap();
    let mut manifest = json!({
        "name": name, "version": 1, "about": "for a test", "file": "1/model.onnx", "digest": Digest::of(network).to_string(),
        "bands": [{"name": "P"}], "normalisation": {"method": "none", "fill": 0.0},
        "input": {"name": "image", "channels": 1}, "output": {"name": "logits", "channels": 1}, "activation": "probability",
        "tile": {"size": 64, "multiple_of": 8}, "classes": ["ship"], "gsd": 10.0
    });
    edit(&mut manifest);
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

fn segment(name: &str, model: &Path, raster: &str, ends: Ends) -> Case {
    let raster = INPUTS.path().join(format!("networks/{raster}.tif"));
    let steps = format!(
        "  raster:
    task: run.command
    with: {{ command: [cp, {}, \"{{outputs.raster}}\"], outputs: {{ raster: {{ kind: raster.cog, name: raster.tif }} }} }}
  predict:
    task: infer.segment
    in: {{ raster: raster.raster }}
    with: {{ model: {}, overlap: 16 }}
",
        raster.display(),
        model.display()
    );
    Case { name: name.to_owned(), steps, outputs: "raster: predict.raster", ends, _server: None }
}

#[test]
fn models() {
    use Ends::{Badly, Nothing};
    let network = |name: &str| std::fs::read(INPUTS.path().join(format!("networks/{name}.onnx"))).unwrap();
    let mut cases: Vec<Case> = [
        ("empty", "M104", &["predict:", "model.onnx", "it is empty"][..]),
        ("random", "M104", &["model.onnx", "not a whole ONNX file"]),
        ("truncated", "M104", &["model.onnx", "not a whole ONNX file"]),
        ("external", "M105", &["model.onnx", "weights.bin"]),
        ("unknown_operator", "M107", &["model.onnx", "Frobnicate"]),
        ("two_outputs", "M106", &["model.onnx", "2 outputs (`logits`, `more`)"]),
        ("two_inputs", "M106", &["model.onnx", "2 inputs (`image`, `more`)"]),
        ("wrong_input_name", "M106", &["model.onnx", "its input is called `x`, not `image`"]),
        ("wrong_output_name", "M106", &["model.onnx", "its output is called `y`, not `logits`"]),
        ("wrong_channels", "M106", &["model.onnx", "[any, 4, any, any]"]),
        ("wrong_rank", "M106", &["model.onnx", "[any, 1, any]"]),
        ("wrong_type", "M106", &["model.onnx", "f64"]),
        ("wrong_size", "M106", &["model.onnx", "[any, 1, 100, 100]"]),
        ("half_size", "M106", &["model.onnx", "its output has shape"]),
    ]
    .into_iter()
    .map(|(name, code, words)| {
        segment(&name.replace('_', "-"), &model(name, &network(name), |_| {}), "one", Badly(1, code, words))
    })
    .collect();
    let sound = network("identity");
    let shipped = checkout().join("model_repository/water_unet");
    let manifest: Value = serde_json::from_slice(&std::fs::read(shipped.join("manifest.json")).unwrap()).unwrap();
    let water = std::fs::read(shipped.join(manifest["file"].as_str().unwrap())).unwrap();
    let mut flipped = water.clone();
    flipped[water.len() / 2] ^= 1;
    let original = Digest::of(&water).to_string();
    let outside = INPUTS.path().join("networks/identity.onnx");
    let linked = model("linked", &sound, |_| {});
    std::fs::remove_file(linked.join("1/model.onnx")).unwrap();
    std::os::unix::fs::symlink(&outside, linked.join("1/model.onnx")).unwrap();
    let broken = model("broken", &sound, |_| {});
    std::fs::write(broken.join("manifest.json"), "{\"name\": \"broken\", ").unwrap();
    let bare = INPUTS.path().join("models");
    let more: Vec<(&str, PathBuf, &str, Ends)> = vec![
        (
            "flipped-weight",
            model("flipped", &flipped, |manifest| manifest["digest"] = json!(original)),
            "one",
            Badly(1, "M103", &["model.onnx", "not what the manifest tells of"]),
        ),
        (
            "half-of-the-water-model",
            model("half", &water[..water.len() / 2], |_| {}),
            "one",
            Badly(1, "M104", &["model.onnx", "not a whole ONNX file"]),
        ),
        ("no-such-model", INPUTS.path().join("no-such-model"), "one", Badly(1, "M101", &["no-such-model"])),
        ("no-manifest", bare, "one", Badly(1, "M101", &["manifest.json"])),
        ("broken-manifest", broken, "one", Badly(1, "M102", &["manifest.json", "line 1"])),
        (
            "no-network",
            model("no-network", &sound, |manifest| manifest["file"] = json!("2/model.onnx")),
            "one",
            Badly(1, "M101", &["2/model.onnx"]),
        ),
        (
            "network-above",
            model("above", &sound, |manifest| manifest["file"] = json!("../identity.onnx")),
            "one",
            Badly(1, "M102", &["../identity.onnx"]),
        ),
        ("network-linked-elsewhere", linked, "one", Badly(1, "M102", &["manifest.json", "networks/identity.onnx"])),
        (
            "not-a-number",
            model("sqrt", &network("sqrt"), |_| {}),
            "negative",
            Badly(1, "M110", &["class `ship` at row 0, column 0"]),
        ),
        (
            "no-probability",
            model("identity", &sound, |_| {}),
            "negative",
            Badly(1, "M111", &["-0.5", "class `ship` at row 0, column 0"]),
        ),
        ("other-bands", model("identity", &sound, |_| {}), "unnamed", Badly(1, "M108", &["no band `P`", "`P2`"])),
        ("other-pixels", model("identity", &sound, |_| {}), "coarse", Badly(1, "M109", &["20.00 m"])),
        ("no-data-to-predict", model("identity", &sound, |_| {}), "empty", Nothing("the raster holds no data")),
    ];
    cases.extend(more.into_iter().map(|(name, folder, raster, ends)| segment(name, &folder, raster, ends)));
    hold(cases);
}
