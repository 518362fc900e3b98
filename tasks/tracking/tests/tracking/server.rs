//! A real MLflow server: up, down, killed, guarded.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use swath_testkit::mlflow::{Mlflow, USER};
use swath_tracking::{Credentials, Settings, State, Tracking};

use crate::support::{
    SERVER, Seen, SeenModel, assert_all_sent, assert_trained, hasty, keeper, look, look_as, only_run, pace, settings,
    train,
};

/// As `sha256sum` prints it.
fn sha256(content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("content");
    std::fs::write(&path, content).unwrap();
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn mlflows_own_client_finds_all_that_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let url = SERVER.url();
    let tags = [("dataset", "blake3:ab12"), ("odd name!", "größe")];
    let tracking = Tracking::open(settings(&url, "all"), "unet-r18", &spool, &tags).unwrap();

    // More of each than a request may carry.
    let params: Vec<(String, String)> = (0..250).map(|n| (format!("param/{n}"), format!("value {n}"))).collect();
    tracking.params(params.clone());
    tracking.params([("lr", "0.001"), ("long", &"ä".repeat(7000))]);
    train(&tracking, 0..2500);
    let many: Vec<(String, f64)> = (0..1500).map(|n| (format!("class {n}/iou"), f64::from(n) / 7.0)).collect();
    tracking.metrics(1, many);
    tracking.metrics(7, [("odd", f64::NAN), ("up", f64::INFINITY), ("down", f64::NEG_INFINITY), ("zero", -0.0)]);
    tracking.metrics(8, [("odd", 1e300), ("iou (built-up)", 0.5)]);
    tracking.tag("stage", "first");
    tracking.tag("stage", "second");

    // Larger than what is read or sent at once, and one that is empty.
    let weights: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    std::fs::create_dir_all(folder.path().join("checkpoint/plots")).unwrap();
    std::fs::write(folder.path().join("checkpoint/weights.safetensors"), &weights).unwrap();
    std::fs::write(folder.path().join("checkpoint/plots/curves 1.png"), b"picture").unwrap();
    std::fs::write(folder.path().join("empty.txt"), b"").unwrap();
    tracking.artifact(&folder.path().join("checkpoint"), "checkpoint");
    tracking.artifact(&folder.path().join("empty.txt"), "notes/empty.txt");
    // What is told is the file as it was.
    std::fs::write(folder.path().join("checkpoint/plots/curves 1.png"), b"another").unwrap();

    let version = tracking.register_model("pads", &folder.path().join("checkpoint"), &["champion"]);
    assert_eq!(version, Some(1), "{:#?}", tracking.report());
    std::fs::remove_dir_all(folder.path().join("checkpoint/plots")).unwrap();
    assert_eq!(tracking.register_model("pads", &folder.path().join("checkpoint"), &["champion", "small"]), Some(2));
    let report = tracking.finish(State::Finished);
    assert_all_sent(&report);
    // 252 parameters, 2500 + 1500 + 4 + 2 values, a tag that was told twice, 3 files, 2 models, 2 states.
    assert_eq!(report.sent, 252 + 4006 + 2 + 3 + 2 + 2, "{report:#?}");

    let seen = only_run(&url, "all");
    assert_eq!((seen.name.as_str(), seen.status.as_str()), ("unet-r18", "FINISHED"));
    assert!(seen.end.unwrap() >= seen.start);
    assert!(report.run.unwrap().ends_with(&format!("/runs/{}", seen.id)));
    let mut wanted: BTreeMap<String, String> = params.into_iter().collect();
    wanted.insert("lr".to_owned(), "0.001".to_owned());
    wanted.insert("long".to_owned(), format!("{}...", "ä".repeat(5997)));
    assert_eq!(seen.params, wanted);
    assert_trained(&seen, 2500);
    let values =
        |key: &str| seen.metrics[key].iter().map(|(step, value, _)| (*step, value.as_str())).collect::<Vec<_>>();
    assert_eq!(values("class 1499/iou"), [(1, "214.14285714285714")]);
    assert_eq!(values("odd"), [(7, "nan"), (8, "1e+300")]);
    // MLflow's databases keep the largest number in place of infinity, and one zero.
    assert_eq!(values("up"), [(7, "1.7976931348623157e+308")]);
    assert_eq!(values("down"), [(7, "-1.7976931348623157e+308")]);
    assert_eq!((values("zero"), values("iou _built-up_")), (vec![(7, "0.0")], vec![(8, "0.5")]));
    for (key, value) in [("dataset", "blake3:ab12"), ("odd name_", "größe"), ("stage", "second")] {
        assert_eq!(seen.tags[key], value);
    }
    let (weights, picture) = (sha256(&weights), sha256(b"picture"));
    let own: BTreeMap<&str, &str> = seen.artifacts.iter().map(|(path, sum)| (path.as_str(), sum.as_str())).collect();
    assert_eq!(own["checkpoint/weights.safetensors"], weights);
    assert_eq!(own["checkpoint/plots/curves 1.png"], picture);
    assert_eq!(own["notes/empty.txt"], sha256(b""));

    let model: SeenModel = look("model", &url, "pads");
    let another = sha256(b"another");
    let files =
        |of: &[(&str, &str)]| of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    assert_eq!(model.versions[0].files, files(&[("weights.safetensors", &weights), ("plots/curves 1.png", &another)]));
    assert_eq!(model.versions[1].files, files(&[("weights.safetensors", &weights)]));
    assert_eq!(model.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2]);
    assert!(model.versions.iter().all(|version| version.run == seen.id));
    assert_eq!(model.aliases, BTreeMap::from([("champion".to_owned(), 2), ("small".to_owned(), 2)]));
    // Nothing of what was sent is kept twice.
    assert_eq!(std::fs::read_dir(spool.join("files")).unwrap().count(), 0);
}

#[test]
fn a_server_that_comes_later_and_one_that_is_killed_get_every_value_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Mlflow::down();
    std::fs::write(folder.path().join("notes.txt"), b"kept").unwrap();

    // Nobody is there: the training ends in its time, and all waits.
    let spool = folder.path().join("early");
    let early = Tracking::open(settings(&server.url(), "early").pace(hasty()), "early", &spool, &[]).unwrap();
    train(&early, 0..50);
    early.artifact(&folder.path().join("notes.txt"), "notes.txt");
    let began = Instant::now();
    while early.report().trouble.is_none() {
        assert!(began.elapsed() < Duration::from_secs(300), "nobody is there, and nobody says so");
        std::thread::sleep(Duration::from_millis(10));
    }
    let report = early.finish(State::Finished);
    assert_eq!((report.sent, report.waiting, report.lost, &report.run), (0, 53, 0, &None), "{report:#?}");
    assert_eq!(report.trouble.unwrap().code, "S101");
    std::fs::remove_file(folder.path().join("notes.txt")).unwrap();

    // Another is in the middle of its work when the server comes, goes and comes again.
    let late = Tracking::open(settings(&server.url(), "late"), "late", &folder.path().join("late"), &[]).unwrap();
    train(&late, 0..500);
    server.up();
    while late.report().sent < 400 {
        std::thread::sleep(Duration::from_millis(20));
    }
    train(&late, 500..600);
    server.kill();
    train(&late, 600..1000);
    server.up();
    train(&late, 1000..1200);
    assert_all_sent(&late.finish(State::Finished));
    let seen = only_run(&server.url(), "late");
    assert_trained(&seen, 1200);
    assert_eq!(seen.status, "FINISHED");

    // What waited is sent by whoever is asked to.
    let report = Tracking::send(&spool, Credentials::None, pace()).unwrap();
    assert_all_sent(&report);
    assert_eq!(report.sent, 53);
    let seen = only_run(&server.url(), "early");
    assert_trained(&seen, 50);
    assert_eq!(seen.artifacts.into_iter().collect::<Vec<_>>(), [("notes.txt".to_owned(), sha256(b"kept"))]);
    assert_eq!(Tracking::send(&spool, Credentials::None, pace()).unwrap(), report, "there is nothing left to send");
}

/// The training that is killed is this test program itself, started again with this variable set.
const TRAINING: &str = "SWATH_TEST_TRAINING";

#[test]
fn a_training_that_is_killed_goes_on_in_its_run_and_doubles_nothing() {
    if let Ok(spool) = std::env::var(TRAINING) {
        let url = std::env::var("SWATH_TEST_SERVER").unwrap();
        let tracking = Tracking::open(settings(&url, "killed"), "killed", spool.as_ref(), &[]).unwrap();
        tracking.params([("lr", "0.1")]);
        for step in 0.. {
            train(&tracking, step..step + 1);
            println!("step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let url = SERVER.url();
    let mut last = 0;
    for round in 1..=3 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let own = "server::a_training_that_is_killed_goes_on_in_its_run_and_doubles_nothing";
        command.args(["--exact", own, "--nocapture"]).env(TRAINING, folder.path()).env("SWATH_TEST_SERVER", &url);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Each goes over the steps of the one before, as from a checkpoint, and further.
        for line in lines {
            if let Some(step) = line.strip_prefix("step ").and_then(|step| step.parse::<u64>().ok()) {
                last = last.max(step);
                if step >= round * 300 {
                    break;
                }
            }
        }
        // It does not come to its end: this is `kill -9`.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let tracking = Tracking::open(settings(&url, "killed"), "killed", folder.path(), &[]).unwrap();
    tracking.params([("lr", "0.1")]);
    train(&tracking, 0..last + 500);
    assert_all_sent(&tracking.finish(State::Finished));
    let seen = only_run(&url, "killed");
    assert_trained(&seen, last + 500);
    assert_eq!(seen.params, BTreeMap::from([("lr".to_owned(), "0.1".to_owned())]));
}

#[test]
fn what_is_sent_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.onnx"), b"network").unwrap();
    let (url, spool) = (SERVER.url(), folder.path().join("spool"));
    let tracking = Tracking::open(settings(&url, "again"), "again", &spool, &[]).unwrap();
    tracking.params([("lr", "0.1")]);
    train(&tracking, 0..1500);
    tracking.metrics(3, [("odd", f64::NAN), ("up", f64::INFINITY)]);
    assert_all_sent(&tracking.finish(State::Failed));
    let before = only_run(&url, "again");

    // How far it got is forgotten, as if the machine had died before it could be written.
    std::fs::remove_file(spool.join("sent.json")).unwrap();
    let report = Tracking::send(&spool, Credentials::None, pace()).unwrap();
    assert_all_sent(&report);
    assert_eq!(report.sent, 1505);
    let after = only_run(&url, "again");
    assert_trained(&after, 1500);
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!((after.status.as_str(), after.metrics["odd"].len(), after.metrics["up"].len()), ("FAILED", 1, 1));
}

#[test]
fn a_changed_parameter_is_refused_and_all_around_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let url = SERVER.url();
    let first = Tracking::open(settings(&url, "changed"), "changed", &folder.path().join("first"), &[]).unwrap();
    first.params([("lr", "0.1"), ("epochs", "20")]);
    // It tells another value itself: that is known without the server.
    first.params([("lr", "0.2")]);
    let report = first.finish(State::Finished);
    assert_eq!((report.waiting, report.refused.len()), (0, 1), "{report:#?}");
    assert_eq!(report.refused[0].code, "K108");
    assert!(report.refused[0].message.contains("`lr` was told as `0.1`"), "{}", report.refused[0]);

    // Another one goes on in the run, and the server knows better.
    let run = report.run.unwrap();
    let second = Tracking::join(settings(&url, "changed"), &run, &folder.path().join("second")).unwrap();
    second.params([("lr", "0.3"), ("opset", "17"), ("epochs", "20")]);
    train(&second, 0..200);
    second.tag("exported", "yes");
    let report = second.close();
    assert_eq!((report.waiting, report.refused.len()), (0, 1), "{report:#?}");
    let told = report.refused[0].to_string();
    assert!(
        told.contains("`lr`") && told.contains("0.1") && told.contains("0.3") && told.ends_with("[K108]"),
        "{told}"
    );
    assert_eq!(report.run.unwrap(), run);

    let seen = only_run(&url, "changed");
    let params = [("lr", "0.1"), ("epochs", "20"), ("opset", "17")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(seen.params, BTreeMap::from(params));
    assert_trained(&seen, 200);
    assert_eq!((seen.tags["exported"].as_str(), seen.status.as_str()), ("yes", "FINISHED"));
}

#[test]
fn a_run_that_was_deleted_takes_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = SERVER.url();
    let first = Tracking::open(settings(&url, "deleted"), "deleted", folder.path(), &[]).unwrap();
    train(&first, 0..10);
    first.finish(State::Finished);
    let id = only_run(&url, "deleted").id;
    let () = look("delete", &url, &id);

    let second = Tracking::open(settings(&url, "deleted"), "deleted", folder.path(), &[]).unwrap();
    train(&second, 0..20);
    let report = second.finish(State::Finished);
    assert_eq!((report.waiting, report.refused.len()), (12, 0), "{report:#?}");
    let trouble = report.trouble.unwrap();
    assert!(trouble.code == "K107" && trouble.help.unwrap().contains(&id), "{}", trouble.message);

    let () = look("restore", &url, &id);
    assert_all_sent(&Tracking::send(folder.path(), Credentials::None, pace()).unwrap());
    assert_trained(&only_run(&url, "deleted"), 20);
}

#[test]
fn a_guarded_server_lets_in_who_has_the_password_and_what_others_tell_waits() {
    let server = Mlflow::start_guarded();
    let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(model.path().join("model.onnx"), b"network").unwrap();
    for (round, wrong) in [Credentials::None, Credentials::Token("wrong".to_owned())].into_iter().enumerate() {
        let settings = settings(&server.url(), "guarded").credentials(wrong);
        let fault = Tracking::health(&settings).unwrap_err();
        assert_eq!(fault.code(), "K106", "{fault}");
        let tracking = Tracking::open(settings, "guarded", folder.path(), &[]).unwrap();
        train(&tracking, 0..30);
        assert_eq!(tracking.register_model("pads", model.path(), &[]), None);
        let report = tracking.finish(State::Finished);
        // Every round says how it began and ended, and has a model.
        assert_eq!((report.sent, report.waiting), (0, 30 + 3 * (round as u64 + 1)), "{report:#?}");
        assert_eq!(report.trouble.unwrap().code, "K106");
    }
    let told =
        format!("{:?}", std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>());
    for name in ["tracking.json", "entries.jsonl"] {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(!text.contains("wrong"), "{name}: {told}");
    }
    assert_eq!(Tracking::health(&settings(&server.url(), "x").credentials(keeper())).unwrap(), {
        let url = server.url();
        format!("MLflow 3.17.2 at `{url}/`")
    });
    let report = Tracking::send(folder.path(), keeper(), pace()).unwrap();
    assert_eq!((report.waiting, report.models.len()), (0, 2), "{report:#?}");
    let runs: Vec<Seen> = look_as("runs", &server.url(), "guarded", Some(USER));
    assert_eq!(runs.len(), 1);
    assert_trained(&runs[0], 30);
}

#[test]
fn health_tells_the_version_and_who_does_not_answer() {
    let told = Tracking::health(&settings(&SERVER.url(), "health")).unwrap();
    assert_eq!(told, format!("MLflow 3.17.2 at `{}/`", SERVER.url()));
    let nobody = Mlflow::down();
    let error = Tracking::health(&settings(&nobody.url(), "health")).unwrap_err();
    assert!(error.code() == "S101" && error.to_string().contains("cannot be reached"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path().to_str(), "health").unwrap();
    assert!(Tracking::health(&settings).unwrap().contains("with 0 experiments"));
}
