//! What a run tells whoever watches it.

use std::borrow::Cow;

use swath_task::ArtifactRecord;

/// A change worth showing. Steps are named by their path (`outer/inner`), instances of lifted steps by index (`3`).
#[derive(Clone, Debug)]
pub enum Update {
    /// The run began or was taken up again.
    RunStarted {
        /// Run id.
        run: String,
        /// Steps in the plan, those of sub-flows not counted.
        steps: usize,
    },
    /// A lifted step now has so many instances.
    StepExpanded {
        /// Step path.
        step: String,
        /// Instances.
        count: u64,
    },
    /// An attempt began.
    AttemptStarted {
        /// Which one.
        at: AttemptId,
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
    /// An attempt failed and will be tried again.
    Retrying {
        /// Which one.
        at: AttemptId,
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
    /// The run ended or stopped.
    RunEnded {
        /// Name of its state.
        state: String,
    },
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

/// Watches nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn update(&self, _: &str, _: &Update) {}
}
