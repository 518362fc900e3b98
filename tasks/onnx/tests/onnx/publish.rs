use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use swath_kinds::ModelManifest;
use swath_onnx::Publish;
use swath_task::{Digest, Task};
use tokio_util::sync::CancellationToken;

use crate::support::{Place, bind, block_on, checkpoint, copy, edit, problems, small, told};

/// A model folder as `onnx.export` makes it.
pub fn exported() -> &'static Path {
    static EXPORTED: LazyLock<(Place, PathBuf)> = LazyLock::new(|| {
        let place = Place::new();
        let folder = place.path("checkpoint");
        checkpoint(&folder, &small(), 32);
        let outputs = place.export(&folder, json!({ "name": "pads", "about": "Launch pads" })).unwrap();
        let model = place.model(&outputs);
        (place, model)
    });
    &EXPORTED.1
}

/// The same model as if another training had ended with this F1.
pub fn scored(place: &Place, f1: f64) -> PathBuf {
    let folder = place.path(&format!("scored-{f1}"));
    if !folder.exists() {
        copy(exported(), &folder);
        edit(&folder.join("manifest.json"), |manifest| manifest["training"]["test"]["f1"] = json!(f1));
    }
    folder
}

pub fn repository(place: &Place) -> PathBuf {
    place.path("served/models")
}

pub fn settings(place: &Place, more: Value) -> Value {
    let mut settings = json!({ "repository": repository(place) });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    settings
}

/// Every file below a folder, by its path there.
fn files(folder: &Path) -> Vec<String> {
    let record = swath_task::files::describe(folder, "", "").unwrap();
    record.files.into_iter().map(|file| file.path).collect()
}

fn served(place: &Place) -> u32 {
    ModelManifest::of_folder(&repository(place).join("pads")).unwrap().version
}

#[test]
fn a_model_appears_with_its_first_version_and_is_published_once() {
    let place = Place::new();
    let outputs = place.publish(exported(), settings(&place, json!({ "promote": "never" }))).unwrap();
    assert_eq!((outputs.name.as_str(), outputs.version, outputs.promoted), ("pads", 1, true));
    let model = repository(&place).join("pads");
    let version = ["MLmodel", "card.md", "config.pbtxt", "manifest.json", "model.onnx", "weights.safetensors"];
    let mut wanted: Vec<String> = version.iter().map(|file| format!("1/{file}")).collect();
    wanted.extend(["card.md", "config.pbtxt", "manifest.json"].map(str::to_owned));
    assert_eq!(files(&model), wanted);
    assert_eq!(fs::read_dir(place.path("served")).unwrap().count(), 1, "nothing stays beside the repository");

    // Seen from both places, every file is the one that its manifest tells of.
    for folder in [model.clone(), model.join("1")] {
        let manifest = ModelManifest::of_folder(&folder).unwrap();
        assert_eq!(Digest::of(&fs::read(folder.join(&manifest.file)).unwrap()), manifest.digest);
        let weights = manifest.checkpoint.unwrap();
        assert_eq!(Digest::of(&fs::read(folder.join(&weights.file)).unwrap()), weights.digest);
    }

    let changed = || fs::metadata(model.join("config.pbtxt")).unwrap().modified().unwrap();
    let before = changed();
    let again = place.publish(exported(), settings(&place, json!({}))).unwrap();
    assert_eq!((again.version, again.promoted), (1, true));
    assert_eq!((files(&model), changed()), (wanted, before), "nothing was written");

    let task: Publish = bind(settings(&place, json!({})));
    let outputs = serde_json::to_value(again).unwrap();
    assert!(task.stands(&outputs));
    fs::write(model.join("1/model.onnx"), "other").unwrap();
    assert!(!task.stands(&outputs));
    fs::remove_dir_all(&model).unwrap();
    assert!(!task.stands(&outputs));
}

#[test]
fn versions_stay_and_the_promoted_one_is_told_to_triton() {
    let place = Place::new();
    let publish = |f1: f64, promote: Value| {
        place.publish(&scored(&place, f1), settings(&place, json!({ "promote": promote }))).unwrap()
    };
    assert_eq!(publish(0.7, json!("always")).version, 1);
    let model = repository(&place).join("pads");
    let first = files(&model.join("1")).into_iter().map(|file| fs::read(model.join("1").join(file)).unwrap());
    let first: Vec<Vec<u8>> = first.collect();

    let second = publish(0.8, json!("always"));
    assert_eq!((second.version, second.promoted, served(&place)), (2, true, 2));
    let config = fs::read_to_string(model.join("config.pbtxt")).unwrap();
    assert!(
        config.contains("version_policy: { specific: { versions: [ 2 ] } }") && !config.contains("[ 1 ]"),
        "{config}"
    );
    assert_eq!(ModelManifest::of_folder(&model).unwrap().file, "2/model.onnx");
    let kept = files(&model.join("1")).into_iter().map(|file| fs::read(model.join("1").join(file)).unwrap());
    assert_eq!(kept.collect::<Vec<_>>(), first, "the first version is untouched");

    let worse = publish(0.75, json!({ "better": "f1" }));
    assert_eq!((worse.version, worse.promoted, served(&place)), (3, false, 2));
    let better = publish(0.85, json!({ "better": "f1" }));
    assert_eq!((better.version, better.promoted, served(&place)), (4, true, 4));
    let unknown = publish(0.95, json!({ "better": "auroc" }));
    assert_eq!((unknown.version, unknown.promoted, served(&place)), (5, false, 4));
    let laid = publish(0.96, json!("never"));
    assert_eq!((laid.version, laid.promoted, served(&place)), (6, false, 4));
    // A version that lies there is promoted by publishing its model again.
    let back = publish(0.75, json!("always"));
    assert_eq!((back.version, back.promoted, served(&place)), (3, true, 3));
    assert_eq!(ModelManifest::of_folder(&model.join("3")).unwrap().training.unwrap().test["f1"], 0.75);
}

#[test]
fn a_model_that_is_not_good_enough_leaves_nothing() {
    let place = Place::new();
    let require =
        |require: Value| told(place.publish(&scored(&place, 0.7), settings(&place, json!({ "require": require }))));
    let (code, message) = require(json!({ "f1": 0.8, "iou": { "at_most": 0.1 }, "auroc": 0.9 }));
    assert_eq!(code, "M150");
    for part in [
        "`f1` is 0.7000, not 0.8 at least",
        "not 0.1 at most",
        "`auroc` is not among its test scores (it has `f1`, `iou`)",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!repository(&place).exists());

    let folder = scored(&place, 0.9);
    edit(&folder.join("manifest.json"), |manifest| drop(manifest.as_object_mut().unwrap().remove("training")));
    let (code, message) = told(place.publish(&folder, settings(&place, json!({ "require": { "f1": 0.1 } }))));
    assert!(code == "M150" && message.contains("(it has none)"), "{message}");
    assert!(!repository(&place).exists());

    let enough = json!({ "require": { "f1": 0.7, "iou": { "at_least": 0.5, "at_most": 1.0 } } });
    assert_eq!(place.publish(&scored(&place, 0.7), settings(&place, enough)).unwrap().version, 1);
}

#[test]
fn a_version_never_becomes_another_model() {
    let place = Place::new();
    let publish = |f1: f64| place.publish(&scored(&place, f1), settings(&place, json!({ "version": 4 })));
    assert_eq!(publish(0.7).unwrap().version, 4);
    let before = fs::read(repository(&place).join("pads/4/manifest.json")).unwrap();
    let (code, message) = told(publish(0.8));
    assert!(code == "M151" && message.contains("version 4 of `pads` is another model"), "{message}");
    assert_eq!(fs::read(repository(&place).join("pads/4/manifest.json")).unwrap(), before);
    assert_eq!(publish(0.7).unwrap().version, 4, "the same model is found");
    assert_eq!(place.publish(&scored(&place, 0.8), settings(&place, json!({}))).unwrap().version, 5, "the next one");
}

/// A model folder as a person makes one: nothing of a training, and a configuration with words of its own.
fn made_by_hand(place: &Place) -> PathBuf {
    let folder = place.path("by-hand");
    copy(exported(), &folder);
    fs::remove_file(folder.join("1/weights.safetensors")).unwrap();
    edit(&folder.join("manifest.json"), |manifest| {
        let fields = manifest.as_object_mut().unwrap();
        assert!(fields.remove("training").is_some() && fields.remove("checkpoint").is_some());
    });
    let config = "name: \"pads\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: 3\n";
    fs::write(folder.join("config.pbtxt"), config).unwrap();
    folder
}

#[test]
fn a_model_that_a_person_put_there_keeps_what_it_was() {
    let place = Place::new();
    let by_hand = made_by_hand(&place);
    let model = repository(&place).join("pads");
    copy(&by_hand, &model);
    let outputs = place.publish(exported(), settings(&place, json!({}))).unwrap();
    assert_eq!((outputs.version, outputs.promoted), (2, true));
    let first = ModelManifest::of_folder(&model.join("1")).unwrap();
    let told = ModelManifest::of_folder(&by_hand).unwrap();
    assert_eq!((first.version, first.digest, first.file.as_str()), (1, told.digest, "model.onnx"));
    assert_eq!(fs::read(model.join("1/card.md")).unwrap(), fs::read(by_hand.join("card.md")).unwrap());
    let config = fs::read_to_string(model.join("1/config.pbtxt")).unwrap();
    let own = fs::read_to_string(by_hand.join("config.pbtxt")).unwrap();
    assert!(config.starts_with(&own) && config.contains("versions: [ 1 ]"), "{config}");
    assert_eq!(fs::read(model.join("1/model.onnx")).unwrap(), fs::read(by_hand.join("1/model.onnx")).unwrap());
    let now = ModelManifest::of_folder(&model).unwrap();
    assert_eq!((now.name.as_str(), now.version), ("pads", 2));
    assert!(fs::read_to_string(model.join("config.pbtxt")).unwrap().contains("max_batch_size: 32"));
    // It is a version that can be published elsewhere, too, without a configuration for versions.
    let other = settings(&place, json!({ "name": "lakes" }));
    assert_eq!(place.publish(&by_hand, other).unwrap().version, 1);
    let config = fs::read_to_string(repository(&place).join("lakes/config.pbtxt")).unwrap();
    assert!(config.contains("max_batch_size: 3\n") && config.contains("versions: [ 1 ]"), "{config}");
    assert!(config.starts_with("name: \"lakes\"\n"), "{config}");
    // Its configuration names no version: back on it, Triton must not serve the newest one.
    let back = place.publish(&by_hand, settings(&place, json!({}))).unwrap();
    assert_eq!((back.version, back.promoted), (1, true));
    let config = fs::read_to_string(model.join("config.pbtxt")).unwrap();
    assert!(config.contains("versions: [ 1 ]") && config.contains("max_batch_size: 3\n"), "{config}");
}

#[test]
fn the_shipped_model_is_a_version_as_it_is_published() {
    let place = Place::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model_repository/water_unet");
    let told = ModelManifest::of_folder(&shipped).unwrap();
    let version = shipped.join(told.version.to_string());
    let at = json!({ "version": told.version });
    assert!(place.publish(&version, settings(&place, at)).unwrap().promoted);
    let published = repository(&place).join("water_unet");
    assert_eq!(files(&published), files(&shipped));
    for file in files(&shipped) {
        assert_eq!(fs::read(published.join(&file)).unwrap(), fs::read(shipped.join(&file)).unwrap(), "{file}");
    }
}

#[test]
fn nothing_of_the_version_before_is_shown_beside_the_one_that_is_served() {
    let place = Place::new();
    place.publish(exported(), settings(&place, json!({}))).unwrap();
    let plain = scored(&place, 0.9);
    fs::remove_file(plain.join("card.md")).unwrap();
    fs::remove_file(plain.join("config.pbtxt")).unwrap();
    assert_eq!(place.publish(&plain, settings(&place, json!({}))).unwrap().version, 2);
    let model = repository(&place).join("pads");
    assert!(!model.join("card.md").exists(), "it tells of the other version");
    assert!(fs::read_to_string(model.join("config.pbtxt")).unwrap().contains("versions: [ 2 ]"));
    assert!(place.publish(exported(), settings(&place, json!({}))).unwrap().promoted);
    assert!(model.join("card.md").exists());
}

#[test]
fn what_was_published_stands_while_it_is_served() {
    let place = Place::new();
    let task: Publish = bind(settings(&place, json!({})));
    let publish = |f1: f64| {
        let outputs = place.publish(&scored(&place, f1), settings(&place, json!({}))).unwrap();
        serde_json::to_value(outputs).unwrap()
    };
    let first = publish(0.7);
    assert!(task.stands(&first));
    let second = publish(0.8);
    assert!(task.stands(&second) && !task.stands(&first), "to go back is to publish the first one again");
    assert_eq!(publish(0.7)["promoted"], true);
    assert!(task.stands(&first) && !task.stands(&second));
}

#[test]
fn repositories_of_one_name_share_a_staging_folder() {
    let place = Place::new();
    let staging = place.path("staging");
    let models: Vec<PathBuf> = (0..8).map(|index| scored(&place, 0.5 + f64::from(index) / 100.0)).collect();
    thread::scope(|scope| {
        for at in ["here/models", "there/models"] {
            let (place, models, staging) = (&place, &models, &staging);
            scope.spawn(move || {
                for model in models {
                    let to = json!({ "repository": place.path(at), "staging": staging });
                    place.publish(model, to).unwrap();
                }
            });
        }
    });
    for at in ["here/models", "there/models"] {
        assert_eq!(look(&place.path(at)), models.len());
    }
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_published_is_told_with_its_place() {
    type Break = fn(&Path);
    let cases: &[(&str, &str, Break)] = &[
        ("M101", "manifest.json", |folder| fs::remove_file(folder.join("manifest.json")).unwrap()),
        ("M101", "1/model.onnx", |folder| fs::remove_file(folder.join("1/model.onnx")).unwrap()),
        ("M102", "unknown field `colour`", |folder| broken(folder, |m| m["colour"] = json!("red"))),
        ("M102", "`input.channels` is 9", |folder| broken(folder, |m| m["input"]["channels"] = json!(9))),
        ("M102", "`/etc/passwd` is not a path below", |folder| broken(folder, |m| m["file"] = json!("/etc/passwd"))),
        ("M103", "1/model.onnx` is not the file", |folder| fs::write(folder.join("1/model.onnx"), "x").unwrap()),
        ("M103", "weights.safetensors` is not the file", |folder| {
            fs::write(folder.join("1/weights.safetensors"), "x").unwrap();
        }),
        ("M104", "it ends inside of", |folder| {
            let bytes = fs::read(folder.join("1/model.onnx")).unwrap();
            fs::write(folder.join("1/model.onnx"), &bytes[..bytes.len() - 9]).unwrap();
            let digest = Digest::of(&bytes[..bytes.len() - 9]);
            edit(&folder.join("manifest.json"), |manifest| manifest["digest"] = json!(digest));
        }),
        ("M153", "`../pads`, which cannot be the name", |folder| broken(folder, |m| m["name"] = json!("../pads"))),
    ];
    let place = Place::new();
    for (index, (code, word, damage)) in cases.iter().enumerate() {
        let folder = place.path(&format!("broken-{index}"));
        copy(exported(), &folder);
        damage(&folder);
        let (found, message) = told(place.publish(&folder, settings(&place, json!({}))));
        assert!(found == *code && message.contains(word), "{code} {word}: {found} {message}");
    }
    assert!(!repository(&place).exists());

    fs::create_dir_all(repository(&place).join("pads/docs")).unwrap();
    let (code, message) = told(place.publish(exported(), settings(&place, json!({}))));
    assert!(code == "M153" && message.contains("it has no `manifest.json`"), "{message}");
    fs::write(place.path("file"), "").unwrap();
    let staging = json!({ "staging": place.path("file") });
    let (code, message) = told(place.publish(exported(), settings(&place, staging)));
    assert!(code == "M152" && message.contains(".models.publishing"), "{message}");
}

fn broken(folder: &Path, change: fn(&mut Value)) {
    edit(&folder.join("manifest.json"), change);
}

#[test]
fn parameters_that_publish_nothing_are_told_before_anything_runs() {
    let place = Place::new();
    for (more, told) in [
        (json!({ "name": "a/b" }), "/name: `a/b` cannot be the name of a model folder"),
        (json!({ "version": 0 }), "/version: `version` is 0"),
        (json!({ "require": { "f1": {} } }), "/require/f1"),
        (json!({ "require": { "f1": { "at_least": 0.9, "at_most": 0.1 } } }), "/require/f1"),
        (json!({ "staging": repository(&place) }), "/staging"),
        (json!({ "alias": "latest" }), "/alias: `latest` cannot be an alias"),
        (json!({ "tracking": { "folder": "runs", "address": "sqlite:///mlflow.db" } }), "/tracking/address"),
        (
            json!({ "tracking": { "folder": "runs", "address": "https://me:SECRET@host" } }),
            "/tracking/address: a flow is no",
        ),
    ] {
        let found = problems::<Publish>(settings(&place, more));
        assert!(found.starts_with(told), "{found}");
    }
}

/// What a server sees that looks for models: everything that is there is whole.
fn look(repository: &Path) -> usize {
    let Ok(models) = fs::read_dir(repository) else { return 0 };
    let mut versions = 0;
    for model in models.map(|model| model.unwrap().path()) {
        assert!(model.join("config.pbtxt").exists(), "{} has no configuration", model.display());
        let config = fs::read_to_string(model.join("config.pbtxt")).unwrap();
        let served = config.split("versions: [ ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let manifest = ModelManifest::of_folder(&model).unwrap();
        for version in [served, &manifest.version.to_string()] {
            let own = ModelManifest::of_folder(&model.join(version)).unwrap();
            let network = fs::read(model.join(version).join("model.onnx")).unwrap();
            assert_eq!(Digest::of(&network), own.digest);
        }
        for entry in fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            assert_eq!(files(&entry).len(), 6, "{} is not whole", entry.display());
            versions += 1;
        }
    }
    versions
}

#[test]
fn many_publishers_at_once_never_show_half_a_model() {
    let place = Place::new();
    // One that died before left its things beside the repository.
    let left = place.path("served/.models.publishing/version");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("model.onnx"), "half").unwrap();
    const EACH: usize = 6;
    let models: Vec<PathBuf> = (0..2 * EACH).map(|index| scored(&place, 0.5 + index as f64 / 100.0)).collect();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !finished.load(Ordering::Acquire) {
                look(&repository(&place));
                looks += 1;
            }
            looks
        });
        let publishers: Vec<_> = models
            .chunks(EACH)
            .map(|models| {
                scope.spawn(|| {
                    let publish = |model: &PathBuf| place.publish(model, settings(&place, json!({}))).unwrap().version;
                    models.iter().map(publish).collect::<Vec<u32>>()
                })
            })
            .collect();
        let versions = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap());
        let mut versions: Vec<u32> = versions.collect();
        finished.store(true, Ordering::Release);
        assert!(watch.join().unwrap() > 0);
        versions.sort_unstable();
        assert_eq!(versions, (1..=2 * EACH as u32).collect::<Vec<_>>(), "every model has a version of its own");
    });
    assert_eq!(look(&repository(&place)), 2 * EACH);
    assert!(!place.path("served/.models.publishing").exists());
}

#[test]
fn a_publisher_that_waits_for_its_turn_hears_that_it_is_cancelled() {
    let place = Place::new();
    fs::create_dir_all(repository(&place)).unwrap();
    let held = fs::File::open(repository(&place)).unwrap();
    held.lock().unwrap();
    let cancel = CancellationToken::new();
    let ctx = place.host.cancellable(1, cancel.clone());
    let inputs = swath_onnx::PublishInputs { model: place.host.import(exported()).unwrap() };
    let task: Publish = bind(settings(&place, json!({})));
    let result = thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(task.run(inputs, &ctx)));
        cancel.cancel();
        waiting.join().unwrap()
    });
    assert!(matches!(result, Err(swath_task::TaskError::Cancelled)), "{:?}", result.err());
    assert_eq!(look(&repository(&place)), 0);
}
