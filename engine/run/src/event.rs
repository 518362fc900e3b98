//! What the world says ([`Input`]) and what happened ([`Event`]).

use serde::{Deserialize, Serialize};

use crate::graph::FaultClass;
use crate::machine::RunState;

/// Longest stored message or help text, bytes (I20).
const LONGEST: usize = 30 << 10;

/// A failure as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Code of its page.
    pub code: String,
    /// What happened and where.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Fault {
    /// A fault whose texts are cut to what may be stored (I20).
    pub fn new(code: impl Into<String>, message: impl Into<String>, help: Option<String>) -> Self {
        let mut code = code.into();
        cut(&mut code, 64);
        let mut message = message.into();
        cut(&mut message, LONGEST);
        let help = help.map(|mut help| {
            cut(&mut help, LONGEST);
            help
        });
        Self { code, message, help }
    }
}

fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// What the world says. It may be late, repeated, wrong, or from a worker thought dead: then it yields no event.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The run may begin.
    Begin,
    /// The host evaluated the condition and the list of a step.
    Evaluated {
        /// The step.
        step: u32,
        /// `Ok(None)`: the condition is false. `Ok(Some(n))`: so many instances (1 when it is not lifted).
        outcome: Result<Option<u32>, Fault>,
    },
    /// The host has slots for this ready instance and will start it when the event is durable.
    Claim {
        /// The step.
        step: u32,
        /// The instance.
        index: u32,
    },
    /// A ready instance has an earlier result that is still good.
    Reused {
        /// The step.
        step: u32,
        /// The instance.
        index: u32,
    },
    /// A ready instance cannot be started at all: its parameters do not bind, its needs can never be met.
    Refused {
        /// The step.
        step: u32,
        /// The instance.
        index: u32,
        /// Why.
        fault: Fault,
    },
    /// An attempt ended.
    Finished {
        /// The step.
        step: u32,
        /// The instance.
        index: u32,
        /// Epoch it was started with.
        epoch: u64,
        /// How.
        outcome: Result<(), Failure>,
    },
    /// An attempt was stopped because its process shuts down in good order: it starts over later and counts for nothing.
    Stopped {
        /// The step.
        step: u32,
        /// The instance.
        index: u32,
        /// Epoch it was started with.
        epoch: u64,
    },
    /// Time passed: something may be due.
    TimerDue,
    /// The process that drove the run is gone; attempts that were running are lost.
    Recovered,
    /// Stop, and be done by `deadline`.
    Cancel {
        /// Milliseconds since 1970.
        deadline: u64,
    },
    /// Start nothing new until told to go on: what runs may end, timers wait.
    Pause,
    /// Go on after a pause.
    Unpause,
    /// Take up a failed or cancelled run again: what has succeeded stays, the rest gets new attempts.
    Reopen,
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: FaultClass,
    /// Milliseconds to wait at least before another attempt.
    pub retry_after: u64,
    /// What happened.
    pub fault: Fault,
}

/// Why a step did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Its condition is false.
    Condition,
    /// It reads this step, which was skipped.
    Skipped(u32),
}

/// What happened. The journal is the sequence of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    Begun,
    /// A step has so many instances, all ready.
    Opened {
        /// The step.
        s: u32,
        /// How many.
        n: u32,
    },
    /// A step does not run.
    Skipped {
        /// The step.
        s: u32,
        /// Why.
        why: SkipReason,
    },
    /// A step cannot run: it reads step `of`, which did not succeed.
    UpstreamFailed {
        /// The step.
        s: u32,
        /// The step it reads.
        of: u32,
    },
    /// A step's condition or list could not be evaluated: it failed as a whole.
    StepFailed {
        /// The step.
        s: u32,
        /// Why.
        fault: Fault,
    },
    /// What has not started of a step never will in this generation.
    Dropped {
        /// The step.
        s: u32,
    },
    /// An attempt began.
    Started {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// From 1.
        attempt: u32,
        /// Lease epoch, rising over the whole run.
        epoch: u64,
        /// When.
        at: u64,
    },
    /// An instance succeeded.
    Succeeded {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// Epoch of the attempt; 0 when an earlier result was reused.
        epoch: u64,
    },
    /// An attempt failed and another will follow.
    Retried {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// Epoch of the attempt.
        epoch: u64,
        /// Its class.
        class: FaultClass,
        /// What happened.
        fault: Fault,
        /// Not before.
        until: u64,
    },
    /// An attempt was stopped in good order; its instance is ready again.
    Released {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// Epoch of the attempt.
        epoch: u64,
    },
    /// A wait is over.
    Readied {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
    },
    /// An instance failed for good.
    Failed {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// Epoch of the attempt; 0 when it never started.
        epoch: u64,
        /// Its class.
        class: FaultClass,
        /// What happened.
        fault: Fault,
    },
    /// A running instance was stopped.
    Cancelled {
        /// The step.
        s: u32,
        /// The instance.
        i: u32,
        /// Epoch of the attempt.
        epoch: u64,
    },
    /// Cancellation was asked for.
    CancelRequested {
        /// By when the run has ended.
        deadline: u64,
    },
    /// Nothing new starts from here on.
    Paused,
    /// The pause is over.
    Unpaused,
    /// The run ended.
    Ended {
        /// How.
        state: RunState,
    },
    /// The run was taken up again: a new generation.
    Reopened,
}

/// A journal entry that is no event.
#[derive(Debug, thiserror::Error)]
#[error("not an event: {0}")]
pub struct EventDecodeError(#[from] serde_json::Error);

impl Event {
    /// The journal's form: one line of JSON.
    pub fn encode(&self) -> String {
        // Every field is a number or a string: writing them as JSON cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the journal's form.
    pub fn decode(text: &str) -> Result<Self, EventDecodeError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Its name in the journal.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Opened { .. } => "opened",
            Self::Skipped { .. } => "skipped",
            Self::UpstreamFailed { .. } => "upstream_failed",
            Self::StepFailed { .. } => "step_failed",
            Self::Dropped { .. } => "dropped",
            Self::Started { .. } => "started",
            Self::Succeeded { .. } => "succeeded",
            Self::Retried { .. } => "retried",
            Self::Released { .. } => "released",
            Self::Readied { .. } => "readied",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Paused => "paused",
            Self::Unpaused => "unpaused",
            Self::Ended { .. } => "ended",
            Self::Reopened => "reopened",
        }
    }

    /// The step it is about.
    pub fn step(&self) -> Option<u32> {
        match self {
            Self::Opened { s, .. }
            | Self::Skipped { s, .. }
            | Self::UpstreamFailed { s, .. }
            | Self::StepFailed { s, .. }
            | Self::Dropped { s }
            | Self::Started { s, .. }
            | Self::Succeeded { s, .. }
            | Self::Retried { s, .. }
            | Self::Released { s, .. }
            | Self::Readied { s, .. }
            | Self::Failed { s, .. }
            | Self::Cancelled { s, .. } => Some(*s),
            Self::Begun
            | Self::CancelRequested { .. }
            | Self::Paused
            | Self::Unpaused
            | Self::Ended { .. }
            | Self::Reopened => None,
        }
    }
}
