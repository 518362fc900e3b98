//! Published versions as MLflow's own client finds them among its registered models.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use swath_task::LocalPath;
use swath_testkit::mlflow::{Mlflow, python};
use swath_tracking::{Credentials, Pace, State, TrackBy, Tracking, portable, send_all};

use crate::publish::{exported, repository, scored, settings};
use crate::support::{Place, edit};

/// What the judge of `swath-tracking` finds: `[WHAT, PLACE, NAME, USER]`.
fn look(what: &str, place: &str, name: &str) -> Value {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracking/tests/tracking/look.py");
    let mut command = Command::new(python());
    command.arg(judge).env("DO_NOT_TRACK", "true").env("MLFLOW_DISABLE_TELEMETRY", "true");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        json!([what, place, name, null]).to_string().as_bytes(),
    )
    .unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let answer = said.lines().find_map(|line| line.strip_prefix("=> ")).expect("the judge answers");
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["error"], Value::Null, "{}", answer["error"].as_str().unwrap_or_default());
    answer["found"].clone()
}

fn by(place: &Place, address: Option<&str>, patience: u32) -> TrackBy {
    let folder = LocalPath(place.path("runs"));
    TrackBy { address: address.map(str::to_owned), folder, experiment: "pads".to_owned(), patience }
}

/// A training that tells of itself; what its checkpoint tells of the run.
fn trained(by: &TrackBy) -> String {
    let to = by.settings().unwrap();
    let place = to.place.clone();
    let tracking = Tracking::open(to, "pads of 1a2b", &by.spool("training"), &[]).unwrap();
    tracking.metrics(1, [("val/f1", 0.5)]);
    portable(tracking.finish(State::Finished).reference(), &place)
}

/// The model of that training, as if it had ended with this F1.
fn of_run(place: &Place, f1: f64, run: &str) -> PathBuf {
    let folder = scored(place, f1);
    edit(&folder.join("manifest.json"), |manifest| manifest["training"]["run"] = json!(run));
    folder
}

fn tracked(place: &Place, by: &TrackBy, promote: Value) -> Value {
    settings(place, json!({ "tracking": by, "promote": promote }))
}

#[test]
fn a_published_version_is_registered_in_the_run_that_trained_it() {
    let (place, server) = (Place::new(), Mlflow::start());
    let url = server.url();
    let by = by(&place, Some(&url), 120);
    let run = trained(&by);
    assert!(run.starts_with(&url), "{run}");
    let manifest: Value = serde_json::from_slice(&fs::read(exported().join("manifest.json")).unwrap()).unwrap();
    let publish = |f1: f64, promote: Value| {
        let outputs = place.publish(&of_run(&place, f1, &run), tracked(&place, &by, promote)).unwrap();
        (outputs.version, outputs.promoted, outputs.registered)
    };
    let better = || json!({ "better": "f1" });
    assert_eq!(publish(0.7, better()), (1, true, Some(1)));
    assert_eq!(publish(0.8, better()), (2, true, Some(2)));
    assert_eq!(publish(0.75, better()), (3, false, Some(3)));
    assert_eq!(look("model", &url, "pads")["aliases"], json!({ "champion": 2 }));
    // Back to the first one.
    assert_eq!(publish(0.7, json!("always")), (1, true, Some(1)));

    let model = look("model", &url, "pads");
    assert_eq!(model["aliases"], json!({ "champion": 1 }), "{model:#}");
    let versions = model["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 3, "{model:#}");
    let id = run.rsplit('/').next().unwrap();
    for (version, f1) in versions.iter().zip(["0.7000", "0.8000", "0.7500"]) {
        let number = &version["version"];
        assert_eq!((&version["run"], &version["about"]), (&json!(id), &json!("Launch pads")));
        assert_eq!(
            (&version["tags"]["f1"], &version["tags"]["swath.version"]),
            (&json!(f1), &json!(number.to_string()))
        );
        let folder = repository(&place).join("pads").join(number.to_string());
        assert_eq!(version["tags"]["swath.folder"], json!(folder));
        // The published files, to the last bit.
        let wanted: BTreeMap<String, String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), sha256(&entry.path())))
            .collect();
        assert_eq!(version["files"], json!(wanted));
    }
    assert!(!place.path(".runs.unsent").exists(), "nothing waits");

    // What MLflow's own client makes of it.
    let loaded = look("load", &url, "pads@champion");
    let (channels, size) = (manifest["input"]["channels"].clone(), manifest["tile"]["size"].clone());
    let inputs = json!([manifest["input"]["name"], "float32", [-1, channels, size, size]]);
    assert_eq!(loaded, json!({ "inputs": inputs, "difference": 0.0 }));
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_server_that_is_down_keeps_nothing_from_being_published_and_is_told_later() {
    let (place, mut server) = (Place::new(), Mlflow::down());
    let url = server.url();
    let by = by(&place, Some(&url), 0);
    let run = trained(&by);
    assert!(run.starts_with("spool:"), "{run}");
    let published = place.publish(&of_run(&place, 0.7, &run), tracked(&place, &by, json!("always"))).unwrap();
    assert_eq!((published.version, published.promoted, published.registered), (1, true, None));
    let again = place.publish(&of_run(&place, 0.7, &run), tracked(&place, &by, json!("always"))).unwrap();
    assert_eq!((again.version, again.registered), (1, None));

    server.up();
    let pace = Pace { finish: std::time::Duration::from_secs(120), ..Pace::default() };
    let sent = send_all(&by.folder.0, None, &Credentials::None, &pace, &|| false, &|_| {});
    assert!(sent.iter().all(|(_, sent)| sent.as_ref().unwrap().waiting == 0), "{sent:#?}");
    let (model, runs) = (look("model", &url, "pads"), look("runs", &url, "pads"));
    assert_eq!((model["versions"].as_array().unwrap().len(), &model["aliases"]), (1, &json!({ "champion": 1 })));
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["id"]), (1, &model["versions"][0]["run"]));
}

#[test]
fn without_a_server_versions_are_registered_in_the_folder_that_mlflow_opens() {
    let place = Place::new();
    let by = by(&place, None, 30);
    let run = trained(&by);
    assert!(place.path("runs").join(&run).is_dir(), "{run}");
    for (f1, registered) in [(0.7, 1), (0.8, 2)] {
        let alias = json!({ "tracking": by, "alias": "in-use" });
        let outputs = place.publish(&of_run(&place, f1, &run), settings(&place, alias)).unwrap();
        assert_eq!(outputs.registered, Some(registered));
    }
    let folder = place.path("runs");
    let model = look("model", folder.to_str().unwrap(), "pads");
    assert_eq!(model["aliases"], json!({ "in-use": 2 }));
    assert_eq!(model["versions"][1]["run"], json!(run.rsplit('/').next().unwrap()));
    assert_eq!(model["versions"][0]["tags"]["f1"], json!("0.7000"));
    assert_eq!(look("runs", folder.to_str().unwrap(), "pads").as_array().unwrap().len(), 1);
}
