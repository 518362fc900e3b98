//! What ships with the project is whole: imagery, flows and model.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use swath_kinds::ModelManifest;
use swath_task::Digest;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap().to_owned()
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Items below a catalogue or collection; every link and asset on the way must lead to a file of the folder.
fn items(path: &Path, found: &mut Vec<Value>) {
    let document = read(path);
    let folder = path.parent().unwrap();
    let target = |href: &Value| {
        let href = href.as_str().unwrap();
        assert!(!href.contains("://") && !href.starts_with('/'), "{}: `{href}` is not relative", path.display());
        let target = folder.join(href);
        assert!(target.is_file(), "{}: `{href}` leads nowhere", path.display());
        target
    };
    for link in document["links"].as_array().unwrap() {
        let target = target(&link["href"]);
        if link["rel"] == "child" || link["rel"] == "item" {
            items(&target, found);
        }
    }
    if document["type"] == "Feature" {
        document["assets"].as_object().unwrap().values().for_each(|asset| drop(target(&asset["href"])));
        found.push(document);
    }
}

#[test]
fn the_imagery_is_a_whole_catalogue_under_12_megabytes() {
    let mut found = Vec::new();
    items(&root().join("flows/data/catalog.json"), &mut found);
    let of = |name: &str| found.iter().filter(|item| item["collection"] == name).count();
    assert_eq!((of("s2-l1c-t33uuu"), of("s2-l1c-slovenia"), of("s2-l2a-castilla")), (1, 5, 33));

    let (mut bytes, mut folders) = (0, vec![root().join("flows/data")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                bytes += entry.metadata().unwrap().len();
            }
        }
    }
    assert!((1_000_000..12_000_000).contains(&bytes), "{bytes} bytes");
}

#[test]
fn the_model_is_the_one_its_manifest_and_card_tell_of() {
    let folder = root().join("model_repository/water_unet");
    let manifest: ModelManifest = serde_json::from_value(read(&folder.join("manifest.json"))).unwrap();
    let network = std::fs::read(folder.join(&manifest.file)).unwrap();
    assert_eq!(Digest::of(&network), manifest.digest);
    assert!(network.len() < 1_000_000);
    let training = manifest.training.expect("it is one that this project trained");
    let card = std::fs::read_to_string(folder.join("card.md")).unwrap();
    for score in ["f1", "iou", "precision", "recall", "auroc"] {
        let told = format!("| {score} | {:.4} | {:.4} |", training.test[score], training.validation[score]);
        assert!(card.contains(&told), "the card does not tell `{told}`");
    }
    // Nothing tells of the machine that trained it.
    let training = serde_json::to_string(&training).unwrap();
    assert!(!training.contains("\"/") && !card.contains("\"/"), "{training}");
}

#[test]
fn every_shipped_flow_is_valid() {
    let flows: Vec<PathBuf> = std::fs::read_dir(root().join("flows"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .filter(|path| !path.to_string_lossy().ends_with(".test.yaml"))
        .collect();
    assert!(flows.len() >= 3);
    let output = Command::new(env!("CARGO_BIN_EXE_hello-swath")).arg("validate").args(&flows).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for flow in flows {
        let text = std::fs::read_to_string(&flow).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=../docs/reference/"), "{}", flow.display());
    }
}
