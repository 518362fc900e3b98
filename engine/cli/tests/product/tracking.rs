//! What trainings told while the tracking server was down, sent by hand.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::json;
use swath_catalog::tracking::{Pace, Settings, State, TrackBy, Tracking};
use swath_testkit::mlflow::Mlflow;

use crate::common::Place;

#[test]
fn what_a_server_that_was_down_has_missed_is_sent_by_hand() {
    let place = Place::new("flow: none\nsteps: {}\n");
    let (code, out, said) = place.run(&["tracking", "send", "results/tracking"]);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("there is no folder") && said.contains("nothing waits beside it"), "{said}");

    let mut server = Mlflow::down();
    let folder = place.path().join("results/tracking");
    let by: TrackBy = serde_json::from_value(json!({ "folder": folder, "address": server.url() })).unwrap();
    let pace = Pace { finish: Duration::ZERO, ..Pace::default() };
    let settings = Settings::new(Some(&server.url()), "by hand").unwrap().pace(pace);
    let training = Tracking::open(settings, "by hand", &by.spool("one"), &[]).unwrap();
    training.metrics(1, [("val/f1", 0.5)]);
    assert_eq!(training.finish(State::Finished).waiting, 3);

    let (code, told) = place.json(&["tracking", "send", "results/tracking", "--patience", "1s"]);
    assert_eq!(
        (code, &told[0]["waiting"], &told[0]["trouble"]["code"]),
        (Some(1), &json!(3), &json!("S101")),
        "{told}"
    );
    let (code, out, said) = place.run(&["tracking", "send", "results/tracking", "--patience", "1s"]);
    assert!(code == Some(1) && out.contains("WAITING") && said.contains("error[S101]"), "{out} {said}");

    // It says at once that it waits, and hears soon that the server is back.
    let mut sending = place.swath(&["tracking", "send", "results/tracking"]).spawn().unwrap();
    let mut said = BufReader::new(sending.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("trying again until ") && line.contains("--patience") && line.contains("[S101]"),
        "{line}"
    );
    server.up();
    let done = sending.wait_with_output().unwrap();
    let (out, page) = (String::from_utf8_lossy(&done.stdout), format!("{}/#/experiments/1/runs/", server.url()));
    assert!(done.status.success() && out.contains(&page), "{out}");
    assert!(!place.path().join("results/.tracking.unsent").exists(), "nothing waits any more");
    let (code, told) = place.json(&["tracking", "send", "results/tracking"]);
    assert_eq!((code, told), (Some(0), json!([])), "nothing waits any more");
}
