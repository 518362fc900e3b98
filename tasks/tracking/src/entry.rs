//! A line of the spool: what was told, and when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most metrics, or all values together, in a request of MLflow's `log-batch`.
pub(crate) const MOST_VALUES: usize = 1000;
/// Most parameters and most tags in one.
pub(crate) const MOST_PARAMS: usize = 100;

/// How a run is or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It goes on.
    Running,
    /// It came to its end.
    Finished,
    /// It could not go on.
    Failed,
    /// It was told to stop.
    Killed,
}

impl State {
    /// As MLflow's REST API writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }

    /// As MLflow's file store numbers it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Running => 1,
            Self::Finished => 3,
            Self::Failed => 4,
            Self::Killed => 5,
        }
    }
}

/// What was told at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Milliseconds since 1970, UTC.
    pub(crate) at: i64,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Params(BTreeMap<String, String>),
    /// Values are text: JSON has no NaN, and every digit comes back.
    Metrics {
        step: i64,
        values: BTreeMap<String, String>,
    },
    Tags(BTreeMap<String, String>),
    /// A file of the spool folder, and its place among the artifacts of the run.
    Artifact {
        file: String,
        to: String,
    },
    /// A folder of the spool folder that is to be a version of a registered model.
    Model {
        folder: String,
        #[serde(flatten)]
        version: Version,
    },
    State(State),
}

/// What is told of a version of a registered model, besides its files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The registered model.
    pub(crate) name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// Words that point to it.
    pub(crate) aliases: Vec<String>,
    /// Since when they do, in milliseconds since 1970, UTC.
    pub(crate) since: i64,
    /// What tells it from all other versions of the run. None: its place in the spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl Version {
    /// Whether an alias stays where it points: whoever got it later, by [`SINCE_TAG`] of that version, keeps it, in whatever
    /// order what waited arrives.
    pub(crate) fn comes_late(&self, since: Option<&str>) -> bool {
        since.and_then(|since| since.parse::<i64>().ok()).is_some_and(|since| since > self.since)
    }
}

/// The tag of a version that tells since when its aliases point to it.
pub(crate) const SINCE_TAG: &str = "swath.since";

/// One value of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Param { key: String, value: String },
    Metric { key: String, value: f64, step: i64, at: i64 },
    Tag { key: String, value: String },
}

impl Entry {
    /// How many things a report counts in it.
    pub(crate) fn count(&self) -> u64 {
        match &self.what {
            What::Params(values) | What::Tags(values) | What::Metrics { values, .. } => values.len() as u64,
            What::Artifact { .. } | What::Model { .. } | What::State(_) => 1,
        }
    }

    /// Its values, when it is of those.
    pub(crate) fn facts(&self) -> Option<Vec<Fact>> {
        let pairs = |values: &BTreeMap<String, String>| values.clone().into_iter().collect::<Vec<_>>();
        match &self.what {
            What::Params(values) => {
                Some(pairs(values).into_iter().map(|(key, value)| Fact::Param { key, value }).collect())
            }
            What::Tags(values) => {
                Some(pairs(values).into_iter().map(|(key, value)| Fact::Tag { key, value }).collect())
            }
            What::Metrics { step, values } => {
                let metric = |(key, value): (String, String)| {
                    // Written from a number, so that it is one.
                    let value = value.parse().unwrap_or(f64::NAN);
                    Fact::Metric { key, value, step: *step, at: self.at }
                };
                Some(pairs(values).into_iter().map(metric).collect())
            }
            What::Artifact { .. } | What::Model { .. } | What::State(_) => None,
        }
    }
}

impl Fact {
    /// For messages: `parameter `lr``.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Param { key, .. } => format!("parameter `{key}`"),
            Self::Metric { key, step, .. } => format!("metric `{key}` of step {step}"),
            Self::Tag { key, .. } => format!("tag `{key}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_being_written_and_read() {
        for value in [0.1, -0.0, 1e300, 5e-324, f64::MAX, 1.0 / 3.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let values = BTreeMap::from([("loss".to_owned(), format!("{value:?}"))]);
            let entry = Entry { at: 7, what: What::Metrics { step: 3, values } };
            let line = serde_json::to_string(&entry).unwrap();
            let back: Entry = serde_json::from_str(&line).unwrap();
            assert_eq!(back, entry, "{line}");
            let facts = back.facts().unwrap();
            let same = matches!(&facts[..], [Fact::Metric { value: read, step: 3, at: 7, .. }] if read.to_bits() == value.to_bits());
            assert!(same, "{line}: {facts:?}");
        }
    }
}
