//! What the event loop needs of a plan: shape, evaluation and binding. [`crate::planned`] gives it for plans.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use swath_plan::Isolate;
use swath_run::{Fault, Graph};
use swath_task::{ErasedTask, Needs};

/// A runnable flow.
///
/// # Contract
/// - `graph` names every step at the position by which the other functions know it.
/// - `evaluate` and `bind` are pure: equal outputs give equal answers.
pub trait Program: Send + Sync {
    /// Name of the flow.
    fn name(&self) -> &str;
    /// The shape, in topological order.
    fn graph(&self) -> Graph;
    /// Whether a step is lifted over a list.
    fn is_lifted(&self, step: usize) -> bool;
    /// Name of the task that a step runs, [`FLOW`](crate::FLOW) where it runs another flow.
    fn task(&self, step: usize) -> &str;
    /// Names of a step's outputs.
    fn ports(&self, step: usize) -> Vec<String>;
    /// Condition and list of a step. `Ok(None)`: it is skipped. `Ok(Some(Items))`: what its instances are given.
    fn evaluate(&self, step: usize, done: &dyn Outputs) -> Result<Option<Items>, Fault>;
    /// The run whose results of this step are taken over, when this is a re-run.
    fn taken_over(&self, _step: usize) -> Option<&str> {
        None
    }
    /// Binds an instance of a step to its inputs and parameters.
    fn bind(&self, step: usize, item: Option<(&Value, u64)>, done: &dyn Outputs) -> Result<Bound, Fault>;
    /// The flow's outputs, when all steps are final.
    fn outputs(&self, done: &dyn Outputs) -> Result<Value, Fault>;
}

/// What the instances of a step are given.
#[derive(Clone, Debug, PartialEq)]
pub enum Items {
    /// The step is not lifted.
    One,
    /// One instance for each.
    Each(Vec<Value>),
}

/// Outputs of steps that have ended.
pub trait Outputs {
    /// An object by port; of a lifted step, an object of lists by port. `None` when the step did not succeed.
    fn of(&self, step: usize) -> Option<&Value>;
}

/// An instance ready to run.
pub struct Bound {
    /// What it runs.
    pub action: Action,
    /// Inputs by port.
    pub inputs: Value,
    /// Slots.
    pub needs: Needs,
    /// Whether it is the flow that says how many GPUs it needs, not the task by its parameters.
    pub gpu_by_flow: bool,
    /// Longest time of an attempt.
    pub timeout: Option<Duration>,
    /// Whether results are reused.
    pub cache: CachePolicy,
    /// Whether attempts run in processes of their own, where the flow says so.
    pub isolate: Option<Isolate>,
    /// It calls native code: [`swath_task::Task::NATIVE`].
    pub native: bool,
}

impl Bound {
    /// Whether it runs another flow.
    pub fn is_flow(&self) -> bool {
        matches!(self.action, Action::Flow(_))
    }
}

/// What an instance runs.
pub enum Action {
    /// A task.
    Task {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
        /// Itself, with its parameters.
        task: Arc<dyn ErasedTask>,
    },
    /// Another flow, as a run of its own below this one.
    Flow(Arc<dyn Program>),
}

/// Whether results are reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// As the task's purity says.
    #[default]
    On,
    /// Neither looked up nor kept.
    Off,
    /// Kept, not looked up.
    Refresh,
    /// Looked up when it is not older, kept so long; also for tasks whose results age.
    TimeToLive(Duration),
}
