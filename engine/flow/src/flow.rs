//! A flow as it was written: every field of the language, each with its place.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::parameter::Parameter;
use crate::{Node, Source, Span, Spanned};

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The text it was read from.
    pub source: Arc<Source>,
    /// Its name.
    pub name: Spanned<String>,
    /// What it does.
    pub about: Option<String>,
    /// Its parameters.
    pub params: Vec<Parameter>,
    /// Parameters of which only the name is known: what is wrong with them was reported.
    pub unread_params: Vec<String>,
    /// How it goes when it is deployed, as it was written.
    pub deployment: Option<Node>,
    /// Its steps in the order of the text.
    pub steps: Vec<Step>,
    /// What it yields, by name.
    pub outputs: Vec<(Spanned<String>, Node)>,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its id.
    pub id: Spanned<String>,
    /// What it is for.
    pub about: Option<String>,
    /// What it runs.
    pub action: Action,
    /// Its edges: port, and the outputs that lead into it.
    pub inputs: Vec<Edge>,
    /// Its parameters as they were written; a mapping.
    pub with: Option<Node>,
    /// The list it is lifted over.
    pub each: Option<Node>,
    /// The condition it runs on.
    pub when: Option<Node>,
    /// Steps that must have ended before.
    pub after: Vec<Spanned<String>>,
    /// When to try again.
    pub retry: Option<Retry>,
    /// Longest time of an attempt, milliseconds.
    pub timeout: Option<u64>,
    /// Whether results are reused.
    pub cache: Option<Cache>,
    /// Slots it holds while it runs, where the flow says otherwise than the task. None when it runs a flow.
    pub needs: Needs,
    /// Whether its attempts run in processes of their own. `None`: as the engine does it. Never said by a step that runs a
    /// flow.
    pub isolate: Option<Isolate>,
    /// What its failure means for the rest of the run.
    pub on_failure: Option<OnFailure>,
    /// How many instances of a lifted step may fail. `None` for a step that is not lifted.
    pub tolerate: Option<Tolerance>,
}

/// What a step runs.
#[derive(Clone, Debug)]
pub enum Action {
    /// A task by name.
    Task(Spanned<String>),
    /// Another flow by its path, relative to this one.
    Flow(Spanned<String>),
    /// Neither was given; it was reported.
    Missing(Span),
}

/// What leads into a port.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The port.
    pub port: Spanned<String>,
    /// The outputs, in order.
    pub from: Vec<Spanned<EdgeSource>>,
    /// Written as a list.
    pub list: bool,
}

/// Where an edge begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeSource {
    /// An output of a step.
    Output {
        /// The step.
        step: String,
        /// Its output.
        output: String,
    },
    /// The item that this instance of a lifted step was given.
    Item,
}

/// Reads `step.output` or `item`. `None` when it is neither.
pub fn read_edge(text: &str) -> Option<EdgeSource> {
    if text == "item" {
        return Some(EdgeSource::Item);
    }
    let (step, output) = text.split_once('.')?;
    let named = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    (named(step) && named(output)).then(|| EdgeSource::Output { step: step.to_owned(), output: output.to_owned() })
}

/// When and how often an attempt is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts after the first.
    pub times: u32,
    /// Wait before the second attempt, milliseconds.
    pub wait: u64,
    /// How the wait grows.
    pub backoff: Backoff,
    /// Longest wait, milliseconds.
    pub max_wait: u64,
    /// Share of the wait that is drawn at random, 0 to 1.
    pub jitter: f64,
    /// Classes of failure that are tried again.
    pub on: Vec<FailureClass>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            times: 0,
            wait: 1_000,
            backoff: Backoff::Exponential,
            max_wait: 3_600_000,
            jitter: 0.1,
            on: vec![FailureClass::Transient, FailureClass::Timeout],
        }
    }
}

/// How the wait between attempts grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same each time.
    Fixed,
    /// Doubled each time.
    Exponential,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// May pass by itself.
    Transient,
    /// Ran longer than its `timeout`.
    Timeout,
    /// The process that ran it died.
    Lost,
    /// Trying again with the same input gives the same failure.
    Permanent,
}

/// Whether results are reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// As the task's purity says.
    #[default]
    On,
    /// Neither looked up nor kept.
    Off,
    /// Not looked up, but kept.
    Refresh,
    /// Looked up when not older than this many milliseconds, also where the task's results age.
    Ttl(u64),
}

/// Slots a step holds, where the flow says otherwise than the task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// CPU cores.
    pub cpu: Option<f32>,
    /// Memory as it was written (`2 GiB`).
    pub memory: Option<Spanned<String>>,
    /// GPUs.
    pub gpu: Option<f32>,
    /// Named limits.
    pub limits: Vec<(String, u32)>,
}

/// Whether attempts of a step run in processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolate {
    /// Each in a process of its own: what it does to that process, the engine survives.
    Process,
    /// In the process of the engine.
    None,
}

/// What a failure of a step means for the rest of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing new starts and the run fails.
    #[default]
    Stop,
    /// Independent steps go on, and the run fails in the end.
    Collect,
    /// Independent steps go on, and the run does not fail because of it.
    Continue,
}

/// How many instances of a lifted step may fail without the step failing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// So many.
    Count(u32),
    /// So many of a hundred, 0 to 100; rounded down.
    Percent(f64),
}
