//! Whom a training is told to: an MLflow server, a folder in its layout, or nobody but the log.

use std::path::Path;

use serde_json::Value;
use swath_task::Digest;
pub use swath_tracking::TrackBy;
use swath_tracking::{Place, State, Tracking, portable};

/// A run of an experiment. Nothing here fails or blocks a training; after a kill the same run is gone on with, and an epoch
/// that is told twice counts once.
pub(crate) struct Tracker(Option<(Tracking, TrackBy, Place)>);

impl Tracker {
    /// Begins the run of the training that `fingerprint` is of, or goes on with it.
    pub fn open(by: Option<&TrackBy>, name: &str, fingerprint: Digest) -> Self {
        let Some(by) = by else { return Self(None) };
        let digest = fingerprint.to_string();
        let opened = by.settings().and_then(|to| {
            let place = to.place.clone();
            let spool = by.spool(&fingerprint.hex()[..16]);
            Ok((Tracking::open(to, name, &spool, &[("swath.training", &digest)])?, by.clone(), place))
        });
        let opened = opened.inspect_err(|error| tracing::warn!("this training is not tracked: {error}"));
        Self(opened.ok())
    }

    /// The parameters, a mapping: `optimiser.learning_rate` is one within.
    pub fn params(&self, params: &Value) {
        if let Some((tracking, ..)) = &self.0 {
            let mut all = Vec::new();
            flatten("", params, &mut all);
            tracking.params(all);
        }
    }

    /// The figures of an epoch.
    pub fn metrics(&self, epoch: u32, figures: impl IntoIterator<Item = (impl AsRef<str>, f64)>) {
        if let Some((tracking, ..)) = &self.0 {
            tracking.metrics(u64::from(epoch), figures);
        }
    }

    /// A file or folder of results, under a name.
    pub fn artifact(&self, path: &Path, name: &str) {
        if let Some((tracking, ..)) = &self.0 {
            tracking.artifact(path, name);
        }
    }

    /// The end; by what the run is found, also where no server has made it yet.
    pub fn finish(&mut self, state: State) -> Option<String> {
        let (tracking, by, place) = self.0.take()?;
        let report = tracking.finish(state);
        if report.waiting == 0 {
            report.tidy();
            by.send_earlier(&|| false);
        }
        Some(portable(report.reference(), &place))
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
