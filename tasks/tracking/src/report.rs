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
    /// Tells the run from all others: its tag `swath.spool` on a server, its folder's name in a folder.
    pub id: String,
    /// Nothing more is told in this spool folder: its run has finished, or was only added to.
    pub over: bool,
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

/// What a reference begins with to a run that no server has made yet.
pub(crate) const UNSENT_RUN: &str = "spool:";

impl Report {
    /// What [`crate::Tracking::join`] finds the run by: its page or folder, and while no server has made it `spool:` with
    /// its tag `swath.spool`.
    pub fn reference(&self) -> String {
        self.run.clone().unwrap_or_else(|| format!("{UNSENT_RUN}{}", self.id))
    }

    /// Removes the spool folder when nobody needs it any more: all has arrived, and nothing more will be told. The folder of all
    /// spool folders goes with the last one.
    pub fn tidy(&self) {
        if !self.over || self.waiting > 0 || self.lost > 0 {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.spool) {
            return tracing::debug!("`{}` stays: {error}", self.spool.display());
        }
        if let Some(all) = self.spool.parent().filter(|all| crate::unsent::is_of_spools(all)) {
            // It stays while there is anything in it.
            let _ = std::fs::remove_dir(all);
        }
    }
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
