//! What takes in what was told: a server or a folder, and how it says no.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use swath_task::Fault;

use crate::entry::{Fact, State, Version};
use crate::spool::Head;

/// A run where it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The experiment's id.
    pub(crate) experiment: String,
    /// Its own.
    pub(crate) id: String,
    /// Where its artifacts lie, as a URI of MLflow's.
    pub(crate) artifacts: String,
    /// Where people look at it.
    pub(crate) page: String,
}

/// Why something was not taken in.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may pass by itself.
    Passing {
        /// What happened.
        fault: Fault,
        /// The pause that was asked for.
        wait: Option<Duration>,
    },
    /// Nothing is taken in until a person has done something.
    Blocked(Fault),
    /// This will never be taken in; other things are.
    Refused(Fault),
}

/// What takes in what was told.
///
/// # Contract
/// All calls may come again with what was taken in already, whole or in part, and then change nothing: it is not known
/// whether a request whose answer did not come was carried out.
pub(crate) trait Sink {
    /// The run of this spool, made when there is none.
    async fn run(&mut self, head: &Head) -> Result<Run, Trouble>;
    /// Takes in values: at most as many as [`crate::entry::MOST_VALUES`] and [`crate::entry::MOST_PARAMS`] say. What is
    /// [`Trouble::Refused`] is the request; single values are then tried by themselves.
    async fn facts(&mut self, run: &Run, facts: &[Fact]) -> Result<(), Trouble>;
    /// Takes in a file as the artifact `to`.
    async fn artifact(&mut self, run: &Run, file: &Path, to: &str) -> Result<(), Trouble>;
    /// The number of the version of a registered model that was made of the artifacts below `source`, if one was.
    async fn find_version(&mut self, run: &Run, model: &str, source: &str) -> Result<Option<u32>, Trouble>;
    /// Makes one, which none was before. All its artifacts are there.
    async fn add_version(&mut self, run: &Run, version: &Version, source: &str) -> Result<u32, Trouble>;
    /// Lets an alias point to the version of this number, unless it points to one that got it later.
    async fn point(&mut self, alias: &str, number: u32, version: &Version) -> Result<(), Trouble>;
    /// Says how the run is since a time in milliseconds.
    async fn state(&mut self, run: &Run, state: State, at: i64) -> Result<(), Trouble>;
}
