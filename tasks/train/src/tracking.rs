//! Whom a training is told to: an MLflow server, a folder in its layout, or nobody but the log.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_task::{Digest, LocalPath, Problem};
use swath_tracking::{Credentials, Pace, Place, Settings, State, Tracking};

/// Where below the folder lies what no server has taken yet.
const UNSENT: &str = ".unsent";

/// Where a training is told to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackBy {
    /// An MLflow server, `https://mlflow.example`. Default: `MLFLOW_TRACKING_URI`, and without that the folder. Who may write
    /// there is told by `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.
    #[serde(default)]
    pub address: Option<String>,
    /// A folder in the layout of MLflow's file store. With a server it holds, in `.unsent`, what the server has not taken yet.
    pub folder: LocalPath,
    /// The experiment that the run belongs to; made when there is none of that name.
    #[serde(default = "swath")]
    pub experiment: String,
}

fn swath() -> String {
    "swath".to_owned()
}

impl TrackBy {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Option<Problem> {
        let address = self.address.as_deref()?;
        match Settings::new(Some(address), self.experiment.as_str()) {
            Err(error) => Some(Problem::new("/tracking/address", error.to_string()).help(error.help())),
            Ok(Settings { place: Place::Folder(_), .. }) => {
                let message = format!("`{address}` is no address of a server");
                Some(Problem::new("/tracking/address", message).help("a folder is told by `folder`"))
            }
            Ok(Settings { place: Place::Server(url), .. }) => {
                let own = Settings::new(Some(url.as_str()), "").map(|plain| plain.credentials);
                let given = Settings::new(Some(address), "").map(|told| told.credentials);
                (own.ok() != given.ok()).then(|| {
                    Problem::new("/tracking/address", "a flow is no place for a password")
                        .help("set `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` where steps run")
                })
            }
        }
    }

    fn settings(&self) -> Result<Settings, swath_tracking::Error> {
        let server = self.address.clone().or_else(|| std::env::var("MLFLOW_TRACKING_URI").ok());
        match server.filter(|server| !server.is_empty()) {
            Some(server) => Settings::new(Some(&server), self.experiment.as_str()),
            None => {
                let folder = Settings::new(Some(&self.folder.0.to_string_lossy()), self.experiment.as_str())?;
                Ok(folder.credentials(Credentials::None))
            }
        }
    }
}

/// A run of an experiment. Nothing here fails or blocks a training; after a kill the same run is gone on with, and an epoch
/// that is told twice counts once.
/// With the folder, where it goes into one.
pub(crate) struct Tracker(Option<(Tracking, Option<PathBuf>)>);

impl Tracker {
    /// Begins the run of the training that `fingerprint` is of, or goes on with it.
    pub fn open(by: Option<&TrackBy>, name: &str, fingerprint: Digest) -> Self {
        let Some(by) = by else { return Self(None) };
        let digest = fingerprint.to_string();
        let spool = by.folder.0.join(UNSENT).join(&fingerprint.hex()[..16]);
        let opened = by.settings().and_then(|to| {
            let folder = if let Place::Folder(folder) = &to.place { Some(folder.clone()) } else { None };
            Ok((Tracking::open(to, name, &spool, &[("swath.training", &digest)])?, folder))
        });
        let opened = opened.inspect_err(|error| tracing::warn!("this training is not tracked: {error}"));
        Self(opened.ok())
    }

    /// The parameters, a mapping: `optimiser.learning_rate` is one within.
    pub fn params(&self, params: &Value) {
        if let Some((tracking, _)) = &self.0 {
            let mut all = Vec::new();
            flatten("", params, &mut all);
            tracking.params(all);
        }
    }

    /// The figures of an epoch.
    pub fn metrics(&self, epoch: u32, figures: impl IntoIterator<Item = (impl AsRef<str>, f64)>) {
        if let Some((tracking, _)) = &self.0 {
            tracking.metrics(u64::from(epoch), figures);
        }
    }

    /// A file or folder of results, under a name.
    pub fn artifact(&self, path: &Path, name: &str) {
        if let Some((tracking, _)) = &self.0 {
            tracking.artifact(path, name);
        }
    }

    /// The end; the address of the run for people, if it has one.
    pub fn finish(&mut self, state: State) -> Option<String> {
        let (tracking, folder) = self.0.take()?;
        let report = tracking.finish(state);
        if report.waiting > 0 {
            let (count, spool) = (report.waiting, report.spool.display());
            let why = report.trouble.map(|trouble| format!(": {}", trouble.message)).unwrap_or_default();
            tracing::warn!("{count} things wait in `{spool}` for the tracking server{why}");
        } else {
            if report.lost == 0 && state == State::Finished {
                // All has arrived: nothing is left to go on from.
                if let Err(error) = std::fs::remove_dir_all(&report.spool) {
                    tracing::debug!("`{}` stays: {error}", report.spool.display());
                }
            }
            if let Some(unsent) = report.spool.parent() {
                send_earlier(unsent, &report.spool);
            }
        }
        // Where a folder lies on this machine is nothing to those who read the checkpoint.
        let run = report.run?;
        let inside = folder.and_then(|folder| Some(Path::new(&run).strip_prefix(folder).ok()?.display().to_string()));
        Some(inside.unwrap_or(run))
    }
}

/// Sends what waits of trainings before this one, whose server was down.
fn send_earlier(unsent: &Path, own: &Path) {
    let folders = std::fs::read_dir(unsent).into_iter().flatten().flatten().map(|entry| entry.path());
    for spool in folders.filter(|spool| spool != own && spool.is_dir()) {
        // One that is in use belongs to a training that goes on beside this one.
        match Tracking::send(&spool, Credentials::from_env(), Pace::default()) {
            // The folder stays: the training may have been cut off, and goes on in its run.
            Ok(report) => tracing::debug!("{} things wait in `{}`", report.waiting, spool.display()),
            Err(error) => tracing::debug!("what waits in `{}` stays: {error}", spool.display()),
        }
    }
}

fn flatten(above: &str, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
                flatten(&path, value, all);
            }
        }
        Value::Null => {}
        Value::String(text) => all.push((above.to_owned(), text.clone())),
        other => all.push((above.to_owned(), other.to_string())),
    }
}
