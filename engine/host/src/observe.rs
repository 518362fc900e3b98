//! What a run tells whoever watches it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use swath_task::ArtifactRecord;

/// A change worth showing. Steps are named by their path (`outer/inner`), instances of lifted steps by index (`3`).
#[derive(Clone, Debug)]
pub enum Update {
    /// Somebody whose own work is traced asked for the run, before it is driven.
    Asked {
        /// The caller's place in its trace, a W3C `traceparent`.
        traceparent: String,
    },
    /// A schedule has started the run.
    Due {
        /// Name of the flow, or of what was deployed.
        flow: String,
        /// So long after it was due.
        lag: Duration,
    },
    /// The run began or was taken up again.
    RunStarted {
        /// Run id.
        run: String,
        /// Name of the flow.
        flow: String,
        /// Steps in the plan, those of sub-flows not counted.
        steps: usize,
        /// Id of the run above, when this is one of a sub-flow.
        above: Option<String>,
        /// Whether its journal goes on, in this process or after another one.
        resumed: bool,
    },
    /// The run was told to stop, and is about to.
    Cancelling,
    /// Nothing new starts in the run until it is gone on with.
    Paused,
    /// The pause is over.
    Unpaused,
    /// So many instances could start if there were slots for them.
    Queued {
        /// Instances.
        ready: u64,
    },
    /// A lifted step now has so many instances.
    StepExpanded {
        /// Step path.
        step: String,
        /// Instances.
        count: u64,
    },
    /// An earlier result of an instance was looked for.
    LookedUp {
        /// Name of the task.
        task: String,
        /// Whether there is one, which is taken.
        found: bool,
    },
    /// An attempt began.
    AttemptStarted {
        /// Which one.
        at: AttemptId,
        /// Name of the task, [`FLOW`] where the step runs another flow.
        task: String,
        /// From when it could have started to when it did: its inputs were digested, and slots waited for.
        waited: Duration,
    },
    /// How far an attempt is.
    Progress {
        /// Which one.
        at: AttemptId,
        /// Units done.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
        /// `tiles`, `scenes`, ...
        unit: Cow<'static, str>,
    },
    /// An attempt ended, and its end counts.
    AttemptEnded {
        /// Which one.
        at: AttemptId,
        /// As it started.
        task: String,
        /// How.
        how: AttemptState,
        /// From its start to its end.
        took: Duration,
        /// Bytes of the artifacts it read and made, and the figures it told.
        figures: Figures,
    },
    /// An attempt failed and will be tried again.
    Retrying {
        /// Which one.
        at: AttemptId,
        /// As it started.
        task: String,
        /// Why.
        error: String,
        /// When, milliseconds from now.
        wait: u64,
    },
    /// A step instance ended.
    StepEnded {
        /// Step path.
        step: String,
        /// Instance, empty when the step is not lifted.
        instance: String,
        /// How.
        how: Ended,
    },
    /// The run ended.
    RunEnded {
        /// Name of its state.
        state: String,
    },
    /// This process drives the run no more: it ended, was interrupted, or cannot be driven on.
    Left,
}

/// The task of a step that runs another flow, where the names of tasks are told.
pub const FLOW: &str = "flow";

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// With its outputs.
    Succeeded,
    /// With a fault.
    Failed,
    /// It ran longer than its timeout.
    TimedOut,
    /// It was told to stop.
    Cancelled,
}

impl AttemptState {
    /// Its name, as steps have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What an attempt read, made and told of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Bytes of the artifacts it asked for.
    pub bytes_read: u64,
    /// Bytes of the artifacts it made.
    pub bytes_written: u64,
    /// What it told by `Context::metric`.
    pub told: Vec<(Cow<'static, str>, f64)>,
}

/// One attempt of one step instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    /// Step path.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// From 1.
    pub attempt: u32,
}

/// How a step instance ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It ran.
    Succeeded {
        /// Milliseconds of the attempt that succeeded.
        took: u64,
        /// What it made.
        artifacts: Vec<ArtifactRecord>,
    },
    /// An earlier result was taken.
    Reused {
        /// The run that made it.
        from: String,
        /// What it is.
        artifacts: Vec<ArtifactRecord>,
    },
    /// Its attempts are used up, or trying again cannot help.
    Failed {
        /// Why: message, code, help.
        error: String,
    },
    /// Its condition was false, or something it reads was skipped.
    Skipped {
        /// Why.
        because: String,
    },
    /// Something it reads failed.
    UpstreamFailed,
    /// It was told to stop.
    Cancelled,
}

/// Who is told. Called from the event loop, and for progress from the threads of tasks: it must not block.
pub trait Observer: Send + Sync {
    /// Something changed in `run`.
    fn update(&self, run: &str, update: &Update);
}

/// Several, told in this order.
impl Observer for Vec<Arc<dyn Observer>> {
    fn update(&self, run: &str, update: &Update) {
        self.iter().for_each(|observer| observer.update(run, update));
    }
}

/// Watches nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn update(&self, _: &str, _: &Update) {}
}
