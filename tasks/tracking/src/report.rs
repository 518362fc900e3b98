//! What became of all that was told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swath_task::Fault;

/// What became of all that was told in a spool folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How many parameters, metric values, tags, files, models and states the server or folder took in.
    pub sent: u64,
    /// How many wait in the spool folder, to be sent by [`crate::Tracking::send`] or by a training that goes on there.
    pub waiting: u64,
    /// How many could not be kept, because the spool folder could not be written or the file was not there.
    pub lost: u64,
    /// The run for people: a page of the server, or a folder. None while no server has made it yet.
    pub run: Option<String>,
    /// The versions of registered models that came to be.
    pub models: Vec<Registered>,
    /// What was refused for good, the first of each kind with its reason; all else was taken.
    pub refused: Vec<Fault>,
    /// Why anything waits.
    pub trouble: Option<Fault>,
    /// The spool folder.
    pub spool: PathBuf,
}

/// A version of a registered model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The model.
    pub name: String,
    /// Its version, from 1.
    pub version: u32,
    /// Its place in the spool's file: equal models registered twice are two versions.
    pub(crate) at: u64,
}
