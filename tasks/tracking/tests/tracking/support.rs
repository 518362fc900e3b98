//! A server, a judge, and one training that all tests tell of.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use swath_testkit::mlflow::{Mlflow, USER, python};
use swath_tracking::{Credentials, Pace, Report, Settings, Tracking};

/// The server of all tests that do not hurt it.
pub static SERVER: LazyLock<Mlflow> = LazyLock::new(Mlflow::start);

type Judge = (Child, ChildStdin, Lines<BufReader<ChildStdout>>);

/// MLflow's own client, in one process for all tests; it ends with its input, when this program does.
static JUDGE: LazyLock<Mutex<Judge>> = LazyLock::new(|| {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tracking/look.py"));
    command.env("DO_NOT_TRACK", "true").env("MLFLOW_DISABLE_TELEMETRY", "true");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let asked = child.stdin.take().unwrap();
    Mutex::new((child, asked, answers))
});

/// Quick to try again, and patient at the end: a machine that is busy must fail no test.
pub fn pace() -> Pace {
    Pace {
        gather: Duration::from_millis(20),
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(400),
        answer: Duration::from_secs(60),
        finish: Duration::from_secs(120),
    }
}

/// A pace that gives up at the end.
pub fn hasty() -> Pace {
    Pace { finish: Duration::from_millis(300), ..pace() }
}

pub fn settings(address: &str, experiment: &str) -> Settings {
    Settings::new(Some(address), experiment).unwrap().pace(pace())
}

pub fn keeper() -> Credentials {
    Credentials::User(USER.0.to_owned(), USER.1.to_owned())
}

/// A run as MLflow's client sees it.
#[derive(Debug, Deserialize)]
pub struct Seen {
    pub id: String,
    pub name: String,
    pub status: String,
    pub start: i64,
    pub end: Option<i64>,
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    /// Step, value as Python writes it, milliseconds.
    pub metrics: BTreeMap<String, Vec<(i64, String, i64)>>,
    /// SHA-256 by path.
    pub artifacts: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub struct SeenModel {
    pub aliases: BTreeMap<String, u32>,
    pub versions: Vec<SeenVersion>,
}

#[derive(Debug, Deserialize)]
pub struct SeenVersion {
    pub version: u32,
    pub run: String,
    pub files: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub about: Option<String>,
}

/// What the judge says.
pub fn look<T: DeserializeOwned>(what: &str, place: &str, name: &str) -> T {
    look_as(what, place, name, None)
}

/// What the judge says when it gives a name and a password.
pub fn look_as<T: DeserializeOwned>(what: &str, place: &str, name: &str, user: Option<(&str, &str)>) -> T {
    let mut judge = JUDGE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, asked, answers) = &mut *judge;
    writeln!(asked, "{}", json!([what, place, name, user])).unwrap();
    let said = answers.find_map(|line| Some(line.unwrap().strip_prefix("=> ")?.to_owned())).expect("the judge answers");
    drop(judge);
    let mut said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["error"].is_null(), "{}", said["error"].as_str().unwrap_or_default());
    serde_json::from_value(said["found"].take()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The only run of an experiment.
pub fn only_run(place: &str, experiment: &str) -> Seen {
    let mut runs: Vec<Seen> = look("runs", place, experiment);
    assert_eq!(runs.len(), 1, "{runs:#?}");
    runs.remove(0)
}

/// The value of `loss` at a step: of many digits.
pub fn loss(step: u64) -> f64 {
    1.0 / (step + 3) as f64
}

/// Tells `loss` for steps.
pub fn train(tracking: &Tracking, steps: std::ops::Range<u64>) {
    for step in steps {
        tracking.metrics(step, [("train/loss", loss(step))]);
    }
}

/// Asserts that `train/loss` has every step once, and its value to the last digit.
pub fn assert_trained(seen: &Seen, steps: u64) {
    let points = &seen.metrics["train/loss"];
    let found: Vec<(i64, f64)> = points.iter().map(|(step, value, _)| (*step, value.parse().unwrap())).collect();
    let wanted: Vec<(i64, f64)> = (0..steps).map(|step| (step as i64, loss(step))).collect();
    assert_eq!(found, wanted);
    assert!(points.iter().all(|(_, _, at)| *at >= seen.start), "times are those of the training");
}

pub fn assert_all_sent(report: &Report) {
    assert_eq!((report.waiting, report.lost), (0, 0), "{report:#?}");
    assert_eq!((&report.refused[..], &report.trouble), (&[][..], &None), "{report:#?}");
}
