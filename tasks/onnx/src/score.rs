//! Scores that decide: whether a model may be published at all, and whether it takes the place of the one before.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::ModelManifest;

/// What a score must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Bound {
    /// At least this.
    Least(f64),
    /// Between these.
    Range(Range),
}

/// Where a score must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The most that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// When a version that is published becomes the one that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// At once.
    #[default]
    Always,
    /// Never: it lies there until somebody promotes it.
    Never,
    /// When this test score is higher than that of the version that is served now.
    Better(String),
}

impl Bound {
    /// The limits: at least, at most.
    pub(crate) fn limits(self) -> (Option<f64>, Option<f64>) {
        match self {
            Self::Least(least) => (Some(least), None),
            Self::Range(Range { at_least, at_most }) => (at_least, at_most),
        }
    }
}

/// All that is required of a model's test scores and is not so, in words.
pub(crate) fn unmet(require: &BTreeMap<String, Bound>, manifest: &ModelManifest) -> Vec<String> {
    let none = BTreeMap::new();
    let scores = manifest.training.as_ref().map_or(&none, |training| &training.test);
    let mut unmet = Vec::new();
    for (name, bound) in require {
        let Some(score) = scores.get(name) else {
            let known: Vec<String> = scores.keys().map(|name| format!("`{name}`")).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            unmet.push(format!("`{name}` is not among its test scores ({known})"));
            continue;
        };
        let (least, most) = bound.limits();
        let below =
            least.filter(|least| score < least).map(|least| format!("`{name}` is {score:.4}, not {least} at least"));
        let above = most.filter(|most| score > most).map(|most| format!("`{name}` is {score:.4}, not {most} at most"));
        unmet.extend(below.into_iter().chain(above));
    }
    unmet
}

impl Promote {
    /// Whether `new` takes the place of `now`.
    pub(crate) fn decides(&self, new: &ModelManifest, now: &ModelManifest) -> bool {
        let score = |manifest: &ModelManifest, name: &str| manifest.training.as_ref()?.test.get(name).copied();
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Better(name) => match (score(new, name), score(now, name)) {
                (Some(better), Some(than)) => {
                    let dataset =
                        |manifest: &ModelManifest| manifest.training.as_ref().map(|training| training.dataset);
                    if dataset(new) != dataset(now) {
                        tracing::warn!(
                            "`{name}` of version {} was measured on another dataset: {better:.4} and {than:.4} may not compare",
                            now.version
                        );
                    }
                    better > than
                }
                // What was never scored is no match for what was.
                (new, _) => new.is_some(),
            },
        }
    }
}
