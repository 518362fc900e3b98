//! Many commands that run flows on one SQLite file at once: each ends well, and none of them meets a lock.

use std::process::{Child, Output};
use std::time::{Duration, Instant};

use crate::common::Place;

const FLOW: &str = "flow: crowd
steps:
  many: { task: run.command, each: [1, 2, 3, 4, 5, 6], with: { command: [\"true\"], purity: effect } }
  last: { task: run.command, after: many, with: { command: [\"true\"], purity: effect } }
";

/// `SWATH_CROWD` says for how many seconds, with sixty-four at a time (`make faults`: a minute); without it sixteen run once.
#[test]
fn commands_that_run_at_once_on_one_file_never_meet_a_lock() {
    let seconds: Option<u64> = std::env::var("SWATH_CROWD").ok().and_then(|text| text.parse().ok());
    let at_once = if seconds.is_some() { 64 } else { 16 };
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let place = Place::new(FLOW);
    // The store is made by the first of them, whichever that is.
    let start = || place.swath(&["run", "flow.yaml", "-q"]).spawn().unwrap();
    let mut crowd: Vec<Child> = (0..at_once).map(|_| start()).collect();
    let mut ended = 0;
    while let Some(one) = crowd.pop() {
        let Output { status, stdout, stderr } = one.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{told}");
        assert!(!told.contains("lock") && !told.contains("E113"), "{told}");
        ended += 1;
        if Instant::now() < until {
            crowd.insert(0, start());
        }
    }
    let (_, runs) = place.json(&["runs", "--limit", "1000000"]);
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), ended);
    assert!(runs.iter().all(|run| run["run"]["state"] == "completed"), "{runs:?}");
    let (code, checked) = place.json(&["check"]);
    assert_eq!((code, &checked["broken"]), (Some(0), &serde_json::json!([])), "{checked}");
    println!("{ended} commands on one file, {at_once} at a time");
}
