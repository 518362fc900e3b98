//! The folder, as MLflow's own client opens it; and the spool folder.

use std::collections::BTreeMap;

use serde::Deserialize;
use swath_tracking::{Credentials, Settings, State, Tracking};

use crate::support::{Seen, SeenModel, assert_all_sent, assert_trained, look, only_run, pace, settings, train};

#[test]
fn mlflow_opens_the_folder_and_moves_it_into_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("my runs");
    let place = place.to_str().unwrap();
    let files = folder.path().join("model");
    std::fs::create_dir_all(files.join("1")).unwrap();
    std::fs::write(files.join("1/model.onnx"), b"network").unwrap();

    let tracking =
        Tracking::open(settings(place, "pads: 'north'"), "unet: \"r18\"", &folder.path().join("s"), &[("k", "v")]);
    let tracking = tracking.unwrap();
    tracking.params([("lr", "0.001"), ("net/width", "64")]);
    train(&tracking, 0..400);
    tracking.metrics(7, [("odd", f64::NAN), ("up", f64::INFINITY), ("small", 5e-324)]);
    tracking.artifact(&files.join("1/model.onnx"), "network/model.onnx");
    assert_eq!(tracking.register_model("pads", &files, &["champion"]), Some(1));
    assert_eq!(tracking.register_model("pads", &files, &[]), Some(2));
    let report = tracking.finish(State::Finished);
    assert_all_sent(&report);
    // Another training tells of the same experiment.
    let second = Tracking::open(settings(place, "pads: 'north'"), "second", &folder.path().join("t"), &[]).unwrap();
    train(&second, 0..3);
    assert_all_sent(&second.finish(State::Failed));

    let check = |runs: Vec<Seen>| {
        assert_eq!(runs.len(), 2, "{runs:#?}");
        let second = runs.iter().find(|run| run.name == "second").unwrap();
        assert_eq!(second.status, "FAILED");
        assert_trained(second, 3);
        let first = runs.iter().find(|run| run.name == "unet: \"r18\"").unwrap();
        assert_eq!(first.status, "FINISHED");
        assert!(first.end.unwrap() >= first.start);
        let params = [("lr", "0.001"), ("net/width", "64")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(first.params, BTreeMap::from(params));
        assert_trained(first, 400);
        let value = |key: &str| first.metrics[key][0].1.clone();
        assert_eq!((value("odd"), value("small")), ("nan".to_owned(), "5e-324".to_owned()));
        assert_eq!(first.tags["k"], "v");
        assert_eq!(first.artifacts.len(), 3, "{:?}", first.artifacts);
        assert!(first.artifacts.contains_key("network/model.onnx"));
        first.id.clone()
    };
    let id = check(look("runs", place, "pads: 'north'"));
    assert!(report.run.unwrap().ends_with(&id));
    let model: SeenModel = look("model", place, "pads");
    assert_eq!((model.versions.len(), model.aliases["champion"]), (2, 1));
    assert!(model.versions.iter().all(|version| version.run == id && version.files.contains_key("1/model.onnx")));

    // MLflow's way from a folder to a database loses nothing.
    #[derive(Deserialize)]
    struct Done {
        code: i32,
        said: String,
    }
    let database = format!("sqlite:///{}", folder.path().join("moved.db").display());
    let done: Done = look("migrate", place, &database);
    assert_eq!(done.code, 0, "{}", done.said);
    check(look("runs", &database, "pads: 'north'"));
}

#[test]
fn an_experiment_that_mlflow_made_is_found_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mlruns");
    let root = place.to_str().unwrap();
    let first = Tracking::open(settings(root, "Default"), "first", &folder.path().join("a"), &[]).unwrap();
    train(&first, 0..2);
    assert_all_sent(&first.finish(State::Finished));
    // As MLflow's writer of YAML puts a name that needs quotes.
    std::fs::create_dir_all(place.join("17")).unwrap();
    let meta = format!(
        "artifact_location: file://{root}/17\ncreation_time: 1\nexperiment_id: '17'\nlast_update_time: 1\n\
         lifecycle_stage: active\nname: 'it''s: one'\n"
    );
    std::fs::write(place.join("17/meta.yaml"), meta).unwrap();
    let second = Tracking::open(settings(root, "it's: one"), "second", &folder.path().join("b"), &[]).unwrap();
    train(&second, 0..4);
    let report = second.finish(State::Finished);
    assert!(report.run.unwrap().contains("/17/"));
    assert_trained(&only_run(root, "it's: one"), 4);
    assert_trained(&only_run(root, "Default"), 2);
}

#[test]
fn what_a_crash_left_half_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let (root, spool) = (folder.path().join("mlruns"), folder.path().join("spool"));
    let place = root.to_str().unwrap();
    let first = Tracking::open(settings(place, "mended"), "mended", &spool, &[]).unwrap();
    train(&first, 0..100);
    let report = first.finish(State::Finished);
    assert_all_sent(&report);

    // A power failure: how far was sent is lost, a metric's file and the spool end in half a line.
    let metric = std::path::Path::new(&report.run.unwrap()).join("metrics/train/loss");
    let text = std::fs::read_to_string(&metric).unwrap();
    let half = text.lines().take(60).collect::<Vec<_>>().join("\n") + "\n17000";
    std::fs::write(&metric, half).unwrap();
    std::fs::remove_file(spool.join("sent.json")).unwrap();
    let entries = spool.join("entries.jsonl");
    let told = std::fs::read_to_string(&entries).unwrap();
    std::fs::write(&entries, format!("{told}{{\"at\":17,\"metr")).unwrap();

    let second = Tracking::open(settings(place, "mended"), "mended", &spool, &[]).unwrap();
    train(&second, 0..130);
    assert_all_sent(&second.finish(State::Finished));
    assert_trained(&only_run(place, "mended"), 130);
}

#[test]
fn what_is_told_after_the_end_of_a_spool_was_lost_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let (root, spool) = (folder.path().join("mlruns"), folder.path().join("spool"));
    let place = root.to_str().unwrap();
    let first = Tracking::open(settings(place, "shorter"), "shorter", &spool, &[]).unwrap();
    train(&first, 0..100);
    assert_all_sent(&first.finish(State::Killed));
    // More was sent than is known: a disk that said too early that it had written.
    let entries = spool.join("entries.jsonl");
    let told = std::fs::read_to_string(&entries).unwrap();
    let kept: String = told.lines().take(60).map(|line| format!("{line}\n")).collect();
    std::fs::write(&entries, kept).unwrap();

    let second = Tracking::open(settings(place, "shorter"), "shorter", &spool, &[]).unwrap();
    train(&second, 100..110);
    second.tag("after", "yes");
    assert_all_sent(&second.finish(State::Finished));
    let seen = only_run(place, "shorter");
    assert_trained(&seen, 110);
    assert_eq!((seen.tags["after"].as_str(), seen.status.as_str()), ("yes", "FINISHED"));
}

#[test]
fn a_value_that_many_threads_tell_at_once_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mlruns");
    let place = root.to_str().unwrap();
    let tracking = Tracking::open(settings(place, "threads"), "threads", &folder.path().join("s"), &[]).unwrap();
    let begin = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                begin.wait();
                train(&tracking, 0..300);
            });
        }
    });
    let report = tracking.finish(State::Finished);
    assert_all_sent(&report);
    assert_eq!(report.sent, 302);
    assert_trained(&only_run(place, "threads"), 300);
}

#[test]
fn a_later_step_joins_the_run_of_a_training() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mlruns");
    let place = root.to_str().unwrap();
    let first = Tracking::open(settings(place, "joined"), "joined", &folder.path().join("a"), &[]).unwrap();
    train(&first, 0..10);
    let run = first.finish(State::Finished).run.unwrap();
    let second = Tracking::join(settings(place, "joined"), &run, &folder.path().join("b")).unwrap();
    second.params([("opset", "17")]);
    let version = second.register_model("joined", &folder.path().join("a"), &[]);
    assert_eq!(version, Some(1));
    let report = second.close();
    assert_all_sent(&report);
    assert_eq!(report.models[0].version, 1);
    let seen = only_run(place, "joined");
    assert_eq!((seen.params["opset"].as_str(), seen.status.as_str()), ("17", "FINISHED"));
    let lost = Tracking::join(settings(place, "joined"), "0123", &folder.path().join("c")).unwrap();
    lost.tag("k", "v");
    let report = lost.close();
    assert_eq!((report.waiting, report.trouble.unwrap().code.as_ref()), (1, "K107"));
}

#[test]
fn a_name_that_is_a_folder_already_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mlruns");
    let place = root.to_str().unwrap();
    let tracking = Tracking::open(settings(place, "names"), "names", &folder.path().join("s"), &[]).unwrap();
    tracking.metrics(0, [("train/loss", 1.0)]);
    tracking.metrics(0, [("train", 1.0)]);
    train(&tracking, 1..20);
    let report = tracking.finish(State::Finished);
    assert_eq!((report.waiting, report.refused.len()), (0, 1), "{report:#?}");
    assert!(report.refused[0].message.contains("metric `train` of step 0"), "{}", report.refused[0]);
    assert_eq!(only_run(place, "names").metrics["train/loss"].len(), 20);
}

#[test]
fn a_spool_folder_is_one_trainings_and_one_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (root, spool) = (folder.path().join("mlruns"), folder.path().join("spool"));
    let place = root.to_str().unwrap();
    let open = |experiment: &str| Tracking::open(settings(place, experiment), "run", &spool, &[]);
    let code = |opened: Result<Tracking, swath_tracking::Error>| opened.map(drop).unwrap_err().code().to_owned();
    let first = open("one").unwrap();
    assert_eq!(code(open("one")), "K104");
    assert_eq!(Tracking::send(&spool, Credentials::None, pace()).unwrap_err().code(), "K104");
    drop(first);
    assert_eq!(code(open("two")), "K103");
    drop(open("one").unwrap());

    assert_eq!(Tracking::send(folder.path(), Credentials::None, pace()).unwrap_err().code(), "K103");
    std::fs::write(spool.join("tracking.json"), "{ half").unwrap();
    assert_eq!(code(open("one")), "K103");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let nowhere = folder.path().join("file/spool");
    let settings = Settings::new(Some(place), "one").unwrap();
    assert_eq!(code(Tracking::open(settings, "run", &nowhere, &[])), "K102");
}
