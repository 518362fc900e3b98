//! A plan: what a run is held to. It is pinned in the store with the run, so it serialises without loss.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swath_flow::{ExpressionError, FailureClass, ParameterSpec, Refusal, Scope, Surroundings};
use swath_task::{Bytes, Digest, FaultClass, PortType};

use crate::rerun::Rerun;
use crate::template::Template;

/// A checked flow: every name resolved, every known value filled in, steps in an order they can run in.
///
/// # Invariants
/// 1. A step reads and follows only steps before it in [`Plan::steps`].
/// 2. Secrets are names of environment variables, never values.
/// 3. Paths are absolute.
/// 4. A step that runs a flow has no needs: it would hold what the steps inside wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the flow.
    pub name: String,
    /// What it does.
    pub about: Option<String>,
    /// Digest of the flow's text.
    pub text_digest: Digest,
    /// The flow as the user named it.
    pub source: String,
    /// Folder of the flow, absolute.
    pub folder: String,
    /// What the parameters may be.
    pub parameters: Vec<ParameterSpec>,
    /// Values of the parameters, as far as they are known. A sub-flow's others come from its step ([`Plan::bind`]).
    pub params: Map<String, Value>,
    /// The steps in topological order.
    pub steps: Vec<PlannedStep>,
    /// What the flow yields.
    pub outputs: Vec<PlannedOutput>,
    /// The run it is a re-run of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun: Option<Rerun>,
}

/// A step of a plan. What is as usual is not written down: a plan may have a hundred thousand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its id.
    pub id: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What it runs.
    pub action: Action,
    /// Its parameters, a mapping. Of a sub-flow: the parameters given to it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub with: Template,
    /// Its edges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<PlannedInput>,
    /// The list it is lifted over. Its outputs are then lists in the order of the items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Each>,
    /// The condition it runs on; false: the step is skipped, and all that read it by an edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Template>,
    /// Steps, by position, whose outputs it reads by edges or expressions. It runs only when all have succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<usize>,
    /// Steps that must have ended before, however they ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<usize>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub retry: Retry,
    /// Longest time of an attempt, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Whether results are reused.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub cache: Cache,
    /// Slots, where the flow says otherwise than the task. None for a step that runs a flow.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub needs: NeedsOverride,
    /// Whether its attempts run in processes of their own. `None`: as the engine does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Isolate>,
    /// What its failure means for the rest of the run.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub on_failure: OnFailure,
    /// How many instances of a lifted step may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Tolerance>,
    /// What it makes, as a reader of the step sees it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
}

pub use swath_flow::{Backoff, Cache, Isolate, OnFailure, Tolerance};

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A task of the catalogue.
    Task {
        /// Its name.
        name: String,
        /// Its version when the plan was made.
        version: u32,
    },
    /// Another flow.
    Flow(Box<Plan>),
}

/// What leads into a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// The port.
    pub port: String,
    /// The outputs that lead into it, in order.
    pub from: Vec<InputSource>,
    /// The port takes a list. From one source that is a list, that list; otherwise the sources, joined in order.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub list: bool,
}

/// Where an edge begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSource {
    /// An output of a step.
    Output {
        /// Position of the step.
        step: usize,
        /// The output.
        output: String,
        /// It is a list.
        #[serde(default, skip_serializing_if = "is_usual")]
        list: bool,
    },
    /// The item that this instance of a lifted step was given.
    Item,
}

/// The list a step is lifted over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Each {
    /// An output that is a list.
    Output {
        /// Position of the step.
        step: usize,
        /// The output.
        output: String,
    },
    /// A value or expression that yields a list.
    Template(Template),
}

/// An output of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it is a list of, or is.
    pub of: PortType,
    /// How many lists deep: 0 is a single one; a lifted step adds one.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub lists: u8,
    /// Its documentation.
    pub about: String,
}

/// What a flow yields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedOutput {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub from: OutputSource,
    /// What it is.
    pub of: PortType,
    /// How many lists deep.
    pub lists: u8,
}

/// Where an output of a flow comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputSource {
    /// An output of a step.
    Output {
        /// Position of the step.
        step: usize,
        /// The output.
        output: String,
    },
    /// A value or expression.
    Template(Template),
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
    pub on: Vec<FaultClass>,
}

impl Default for Retry {
    fn default() -> Self {
        swath_flow::Retry::default().into()
    }
}

impl From<swath_flow::Retry> for Retry {
    fn from(written: swath_flow::Retry) -> Self {
        let class = |class: FailureClass| match class {
            FailureClass::Transient => FaultClass::Transient,
            FailureClass::Timeout => FaultClass::Timeout,
            FailureClass::Lost => FaultClass::Lost,
            FailureClass::Permanent => FaultClass::Permanent,
        };
        let swath_flow::Retry { times, wait, backoff, max_wait, jitter, on } = written;
        Self { times, wait, backoff, max_wait, jitter, on: on.into_iter().map(class).collect() }
    }
}

/// Slots of a step, where the flow says otherwise than the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NeedsOverride {
    /// CPU cores.
    pub cpu: Option<f32>,
    /// Peak memory.
    pub memory: Option<Bytes>,
    /// GPUs.
    pub gpu: Option<f32>,
    /// Named limits, added to the task's own.
    pub limits: BTreeMap<String, u32>,
}

impl NeedsOverride {
    /// The needs of a task, as the flow changes them.
    pub fn apply(&self, mut needs: swath_task::Needs) -> swath_task::Needs {
        needs.cpu = self.cpu.unwrap_or(needs.cpu);
        needs.memory = self.memory.unwrap_or(needs.memory);
        needs.gpu = self.gpu.unwrap_or(needs.gpu);
        needs.limits.extend(self.limits.iter().map(|(name, count)| (name.clone(), *count)));
        needs
    }
}

impl Plan {
    /// Values of a sub-flow's parameters: those known, and those its step gives. The name of the parameter stands
    /// before each refusal.
    pub fn bind(
        &self,
        given: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Map<String, Value>, Vec<(String, Refusal)>> {
        let around = Surroundings { folder: Path::new(&self.folder), now };
        let (mut params, mut refusals) = (self.params.clone(), Vec::new());
        for spec in &self.parameters {
            match given.get(&spec.name) {
                Some(value) => match spec.read(value, around) {
                    Ok(value) => drop(params.insert(spec.name.clone(), value)),
                    Err(refusal) => refusals.push((spec.name.clone(), refusal)),
                },
                None if params.contains_key(&spec.name) => {}
                None if spec.required => {
                    refusals.push((spec.name.clone(), Refusal { message: "is required".to_owned(), help: None }));
                }
                None => drop(params.insert(spec.name.clone(), Value::Null)),
            }
        }
        if refusals.is_empty() { Ok(params) } else { Err(refusals) }
    }

    /// The step of an id.
    pub fn step(&self, id: &str) -> Option<&PlannedStep> {
        self.steps.iter().find(|step| step.id == id)
    }
}

impl PlannedStep {
    /// Its parameters, computed. Of a task: what [`swath_task::TaskDef::bind`] takes.
    pub fn bind_params(&self, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
        self.with.evaluate(scope)
    }

    /// Whether it runs, as far as its own condition says.
    pub fn condition(&self, scope: &Scope<'_>) -> Result<bool, ExpressionError> {
        match self.when.as_ref().map(|when| when.evaluate(scope)) {
            None => Ok(true),
            Some(Ok(Value::Bool(condition))) => Ok(condition),
            Some(Ok(other)) => {
                Err(ExpressionError(format!("`when` yields `{other}`, which is neither true nor false")))
            }
            Some(Err(error)) => Err(error),
        }
    }
}

/// Borrows a map of values as a scope borrows them.
pub fn borrowed(values: &Map<String, Value>) -> HashMap<&str, &Value> {
    values.iter().map(|(name, value)| (name.as_str(), value)).collect()
}

/// Whether a value is what it is when nothing is said.
fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
