//! Versions of registered models: told once, pointed to by who came last, and sent after the training that made them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use swath_task::LocalPath;
use swath_testkit::http::{Reply, Server};
use swath_testkit::mlflow::Mlflow;
use swath_tracking::{Credentials, NewVersion, Report, State, TrackBy, Tracking, send_all};

use crate::support::{SERVER, SeenModel, assert_all_sent, hasty, look, only_run, pace, settings, train};

fn version<'a>(folder: &'a Path, key: &str, since: u64) -> NewVersion<'a> {
    NewVersion {
        name: "lakes",
        folder,
        about: Some("Lakes: \"all\" of them"),
        tags: vec![("swath.version", key.to_owned()), ("site/recall", "0.9".to_owned())],
        aliases: &["champion"],
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + since),
        key: Some(key.to_owned()),
    }
}

fn model_folder(place: &Path) -> std::path::PathBuf {
    let folder = place.join("network");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.onnx"), b"network").unwrap();
    folder
}

/// Told to a place with a new spool folder, until it has arrived.
fn told(place: &str, run: &str, spool: &Path, version: &NewVersion<'_>) -> Report {
    let tracking = Tracking::join(settings(place, "versions"), run, spool).unwrap();
    tracking.register(version);
    let report = tracking.close();
    assert_all_sent(&report);
    report
}

fn versions_are_told_once_and_the_last_one_is_pointed_to(place: &str) {
    let folder = tempfile::tempdir().unwrap();
    let network = model_folder(folder.path());
    let training = Tracking::open(settings(place, "versions"), "trained", &folder.path().join("t"), &[]).unwrap();
    train(&training, 0..3);
    let run = training.finish(State::Finished).reference();
    let tell = |spool: &str, version: &NewVersion<'_>| {
        let report = told(place, &run, &folder.path().join(spool), version);
        report.models.last().unwrap().version
    };
    let seen = || look::<SeenModel>("model", place, "lakes");
    assert_eq!(tell("a", &version(&network, "one", 10)), 1);
    assert_eq!(seen().aliases["champion"], 1);
    // The third one was promoted before the second one, and arrives after it.
    assert_eq!(tell("b", &version(&network, "two", 30)), 2);
    assert_eq!(tell("c", &version(&network, "three", 20)), 3);
    assert_eq!(seen().aliases["champion"], 2);
    let laid = NewVersion { aliases: &[], ..version(&network, "four", 99) };
    assert_eq!(tell("d", &laid), 4);
    assert_eq!(seen().aliases["champion"], 2);
    // The first one is promoted again, by another process that has never told of it.
    assert_eq!(tell("e", &version(&network, "one", 40)), 1);
    let model = seen();
    assert_eq!((model.versions.len(), model.aliases["champion"]), (4, 1), "{model:#?}");
    let id = only_run(place, "versions").id;
    for (version, key) in model.versions.iter().zip(["one", "two", "three", "four"]) {
        assert_eq!((version.tags["swath.version"].as_str(), version.tags["site/recall"].as_str()), (key, "0.9"));
        assert_eq!(version.about.as_deref(), Some("Lakes: \"all\" of them"));
        assert!(version.run == id && version.files.contains_key("model.onnx"), "{version:#?}");
    }
}

#[test]
fn a_server_makes_each_version_once_and_points_to_the_one_promoted_last() {
    versions_are_told_once_and_the_last_one_is_pointed_to(&SERVER.url());
}

#[test]
fn a_folder_makes_each_version_once_and_points_to_the_one_promoted_last() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mlruns");
    versions_are_told_once_and_the_last_one_is_pointed_to(place.to_str().unwrap());
    let left: Vec<_> =
        std::fs::read_dir(&place).unwrap().chain(std::fs::read_dir(place.join("models/lakes")).unwrap()).collect();
    assert!(!left.iter().any(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".swath")));
}

#[test]
fn a_model_waits_for_the_training_that_a_server_missed() {
    let folder = tempfile::tempdir().unwrap();
    let network = model_folder(folder.path());
    let mut server = Mlflow::down();
    let url = server.url();
    let by = |experiment: &str| TrackBy {
        address: Some(url.clone()),
        folder: LocalPath(folder.path().join("runs")),
        experiment: experiment.to_owned(),
        patience: 0,
    };
    let told = settings(&url, "missed").pace(hasty());
    let training = Tracking::open(told, "missed", &by("missed").spool("training"), &[]).unwrap();
    train(&training, 0..40);
    let report = training.finish(State::Finished);
    assert_eq!((report.waiting, &report.run), (42, &None), "{report:#?}");
    let run = report.reference();
    assert!(run.starts_with("spool:"), "{run}");
    let model = by("missed").follow(Some(&run), "lakes 1", "published").unwrap();
    model.register(&version(&network, "one", 10));
    assert_eq!(model.finish(State::Finished).waiting, 1);

    server.up();
    // The model alone has no run to be registered in.
    let alone = Tracking::send(&by("missed").spool("published"), Credentials::None, pace()).unwrap();
    assert_eq!((alone.waiting, alone.trouble.unwrap().code.as_ref()), (1, "K111"));
    let sent = send_all(&folder.path().join("runs"), None, &Credentials::None, &pace(), &|| false, &|_| {});
    assert_eq!(sent.len(), 2);
    sent.iter().for_each(|(_, sent)| assert_all_sent(sent.as_ref().unwrap()));
    let id = only_run(&url, "missed").id;
    let model: SeenModel = look("model", &url, "lakes");
    assert_eq!((model.versions[0].run.as_str(), model.aliases["champion"]), (id.as_str(), 1));
    assert!(!folder.path().join(".runs.unsent").exists(), "nobody needs them any more");
}

#[test]
fn a_model_that_was_trained_elsewhere_has_a_run_of_its_own_once() {
    let folder = tempfile::tempdir().unwrap();
    let network = model_folder(folder.path());
    let by = TrackBy {
        address: None,
        folder: LocalPath(folder.path().join("here")),
        experiment: "elsewhere".to_owned(),
        patience: 60,
    };
    let place = folder.path().join("here");
    let place = place.to_str().unwrap();
    let elsewhere = "https://mlflow.example/#/experiments/1/runs/5c1f0a";
    for _ in 0..2 {
        let tracking = by.follow(Some(elsewhere), "lakes 1", "lakes-one").unwrap();
        tracking.register(&version(&network, "one", 10));
        let report = tracking.finish(State::Finished);
        assert_all_sent(&report);
        assert_eq!(report.models[0].version, 1);
        report.tidy();
        assert!(!report.spool.exists());
    }
    let run = only_run(place, "elsewhere");
    assert_eq!((run.name.as_str(), run.status.as_str()), ("lakes 1", "FINISHED"));
    assert_eq!(run.tags["swath.training_run"], elsewhere);
    assert_eq!(look::<SeenModel>("model", place, "lakes").versions[0].run, run.id);
}

#[test]
fn what_waits_for_one_server_is_not_sent_with_the_password_of_another() {
    let [one, other] = [(); 2].map(|()| Server::start(|_| Reply::status(401)));
    let folder = tempfile::tempdir().unwrap();
    let spool = |name: &str| folder.path().join(".runs.unsent").join(name);
    for (server, name) in [(&one, "one"), (&other, "other")] {
        let told = settings(&server.url(""), "both").pace(hasty());
        drop(Tracking::open(told, "both", &spool(name), &[]).unwrap());
    }
    let place = settings(&other.url(""), "both").place;
    let secret = Credentials::Token("SECRET".to_owned());
    let sent = send_all(&folder.path().join("runs"), Some(&place), &secret, &pace(), &|| false, &|_| {});
    assert_eq!(sent.iter().map(|(spool, _)| spool.clone()).collect::<Vec<_>>(), [spool("other")]);
    assert!(other.requests().iter().any(|request| request.header("authorization") == Some("Bearer SECRET")));
    assert!(one.requests().iter().all(|request| request.header("authorization").is_none()));
}
