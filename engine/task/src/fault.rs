//! What can go wrong, in the words of the user and in classes the engine acts on.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A parameter that its type allows and its meaning does not; found before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer to the parameter, `/bands/2` for example; empty for the step as a whole.
    pub at: String,
    /// What is wrong, without a final period.
    pub message: String,
    /// The likely fix.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with the parameter at a JSON pointer.
    pub fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into(), help: None }
    }

    /// Adds the likely fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A failure of a step told to a person: a code with a page of its own, what happened and where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Code whose page `swath explain CODE` shows, `R102` for example.
    pub code: Cow<'static, str>,
    /// What happened and where: file, address, band, scene. No final period.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Fault {
    /// A fault with its code and what happened.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), help: None }
    }

    /// Adds what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The failure may pass by itself: the engine may try again, not before `retry_after` if given.
    pub fn transient(self, retry_after: Option<Duration>) -> TaskError {
        TaskError::Transient { fault: self, retry_after }
    }

    /// Trying again cannot help.
    pub fn permanent(self) -> TaskError {
        TaskError::Permanent(self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl From<Fault> for TaskError {
    fn from(fault: Fault) -> Self {
        fault.permanent()
    }
}

/// How an attempt of a step ended badly. It says what the engine may do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TaskError {
    /// May pass by itself: throttling, a connection cut, a server starting.
    #[error("{fault}")]
    Transient {
        /// What happened.
        fault: Fault,
        /// Earliest moment, from now, at which another attempt makes sense (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// Trying again with the same input gives the same failure.
    #[error("{0}")]
    Permanent(Fault),
    /// The attempt stopped because it was told to.
    #[error("cancelled")]
    Cancelled,
}

/// Classes of failure, as `retry: { on: [...] }` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// May pass by itself.
    Transient,
    /// Ran longer than its `timeout`.
    Timeout,
    /// The process that ran it died.
    Lost,
    /// Trying again with the same input gives the same failure.
    Permanent,
    /// Was told to stop.
    Cancelled,
}
