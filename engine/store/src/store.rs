//! What a journal must do, whatever database is behind it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use swath_task::Digest;

use crate::deployments::Deployments;
use crate::error::Error;
use crate::lease::RunLease;
use crate::record::{
    Append, Broken, CacheEntry, CacheFilter, CacheRow, Collected, Lineage, LogBatch, LogFilter, Metric, NewRun,
    Retention, RunFilter, RunRow, StoredEvent, StoredLogLine, StoredResult, StoredRun, Vocabulary,
};
use crate::tokens::Tokens;
use crate::workers::Workers;

/// How often a process looks what is asked of the runs that it drives.
pub(crate) const LOOK: Duration = Duration::from_millis(400);

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes, together with other processes. Creates the store when there is none.
    Write,
    /// Writes, with no other process writing: for collection.
    Exclusive,
    /// Reads only, also while a run is live.
    Read,
}

/// Journal, results, cache index, logs, and who drives which run.
///
/// # Contract
/// - I3: the events of a run are numbered from 1 without gaps; what was acknowledged survives a crash of process and machine.
/// - I4: [`Store::append`] is a compare-and-set on `expected_seq`; a repeated transition id returns the stored answer.
/// - I5: a run has at most one live lease, and its epoch rises with each. An append by another epoch than the newest is
///   refused, in the transaction of the append, and counted.
/// - I6: a result is set once, in the transaction of the events it came with.
/// - All of an [`Append`] becomes durable, or nothing of it.
/// - Appends to different runs never fail because of each other.
/// - I19, I20: errors and log lines are redacted and bounded before they are stored.
/// - I21: log lines of an attempt are read in the order they were written.
/// - Dropping the future of a write does not undo it: it may still be committed.
///
/// `tests/store/conformance.rs` checks this on every implementation.
#[async_trait]
pub trait Store: Deployments + Tokens + Workers + Send + Sync + 'static {
    /// Where the store is, as a person would name it; without a password.
    fn place(&self) -> String;

    /// Pins a new run. Creating the same run again (same content) succeeds.
    async fn create_run(&self, run: NewRun) -> Result<(), Error>;

    /// Makes a transition durable; the answer is the position of the run's last event.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the run is not at `expected_seq`, [`Error::LeaseLost`] when `epoch` is not that of its newest
    /// lease, [`Error::NoRun`], [`Error::ResultExists`].
    async fn append(&self, append: Append) -> Result<u64, Error>;

    /// Takes the right to drive a run, which need not be pinned yet: until the lease is dropped, the process ends, or the
    /// lease is lost ([`crate::Term::lost`]). Wishes to cancel or pause the run that were told before mean nothing any more,
    /// unless the lease they were meant for was still live when its holder died
    /// (I5).
    ///
    /// # Errors
    /// [`Error::RunHeld`] names the process that drives it, [`Error::NoRun`] refuses what cannot be an id.
    async fn lease_run(&self, run: &str) -> Result<RunLease, Error>;

    /// Who drives which of these runs now. A run in a live state that nobody drives was cut off.
    async fn holders(&self, runs: &[String]) -> Result<HashMap<String, String>, Error>;

    /// Who drives a run now; `None` when nobody does.
    async fn run_holder(&self, run: &str) -> Result<Option<String>, Error> {
        Ok(self.holders(&[run.to_owned()]).await?.remove(run))
    }

    /// Asks whoever drives a run, in this process or another, to cancel it soon.
    async fn ask_to_cancel(&self, run: &str) -> Result<(), Error>;

    /// Asks whoever drives a run, in this process or another, to start nothing new in it (`true`), or to go on with it. The
    /// newest wish counts.
    async fn ask_to_pause(&self, run: &str, pause: bool) -> Result<(), Error>;

    /// Notes durably that a server takes a run on, by a request with this digest: any server on the store may go on with
    /// it. A mark without a run means nothing.
    async fn mark_served(&self, run: &str, request: &str) -> Result<(), Error>;

    /// The digest of the request by which a server took a run on; `None` when none did.
    async fn served_by(&self, run: &str) -> Result<Option<String>, Error>;

    /// Keeps where the outputs of a run go: whoever goes on with it puts them there too.
    async fn keep_outputs(&self, run: &str, folder: &Path) -> Result<(), Error>;

    /// Where the outputs of a run go, if that was kept.
    async fn outputs_of(&self, run: &str) -> Result<Option<PathBuf>, Error>;

    /// How many writes to a run were refused because the lease of their writer had ended (I5).
    async fn refused(&self, run: &str) -> Result<u64, Error>;

    /// Looks for rows that break a rule, by questions to the database alone; in order. Reads the whole store.
    async fn audit(&self, vocabulary: &Vocabulary) -> Result<Vec<Broken>, Error>;

    /// Events after position `after`, in order, at most `limit` of them: load page by page until one is empty.
    async fn load_events(&self, run: &str, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error>;

    /// All that is pinned of a run.
    async fn get_run(&self, run: &str) -> Result<StoredRun, Error>;

    /// The row of a run, without its texts: cheap whatever its plan.
    async fn run_row(&self, run: &str) -> Result<RunRow, Error>;

    /// Runs, newest first.
    async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, Error>;

    /// Results of a run's step (of all steps for `None`), ordered by step and instance (as texts: `10` comes before `2`).
    async fn results(&self, run: &str, step: Option<&str>) -> Result<Vec<StoredResult>, Error>;

    /// Figures of a run, in the order they were recorded.
    async fn metrics(&self, run: &str) -> Result<Vec<Metric>, Error>;

    /// Keeps log lines. They are not part of the journal: they are written in groups, and the newest may be lost in a crash.
    async fn append_logs(&self, batch: LogBatch) -> Result<(), Error>;

    /// Log lines of a run, in order.
    async fn read_logs(&self, run: &str, filter: &LogFilter) -> Result<Vec<StoredLogLine>, Error>;

    /// A valid result for this key. `now` decides what has expired.
    async fn cache_get(&self, key: &Digest, now: i64) -> Result<Option<CacheEntry>, Error>;

    /// Notes that an entry was reused, for collection by age.
    async fn cache_touch(&self, key: &Digest, now: i64) -> Result<(), Error>;

    /// Forgets an entry whose artifacts turned out to be missing or damaged (I22).
    async fn cache_forget(&self, key: &Digest) -> Result<(), Error>;

    /// Results that may be reused, newest first.
    async fn cache_list(&self, filter: &CacheFilter) -> Result<Vec<CacheRow>, Error>;

    /// The newest results of the same step in earlier runs of flow `flow`, newest first:
    /// what [`crate::KeyParts::differences`] compares with to say why a step ran.
    async fn key_history(&self, flow: &str, step: &str, instance: &str, limit: u32)
    -> Result<Vec<StoredResult>, Error>;

    /// Which results hold this artifact: the one with an attempt made it, the others reused it.
    async fn lineage(&self, digest: &Digest) -> Result<Vec<Lineage>, Error>;

    /// Removes old runs and cache entries, or tells what would be removed. Artifacts are collected afterwards, from [`Store::referenced`].
    async fn collect(&self, retention: &Retention) -> Result<Collected, Error>;

    /// Digests of the artifacts that results or cache entries refer to (I23).
    async fn referenced(&self) -> Result<std::collections::HashSet<Digest>, Error>;

    /// Ends the writer after what was asked so far is durable, and closes the connections.
    async fn close(&self);
}

/// What every database refuses to pin.
pub(crate) fn check_new(run: &NewRun) -> Result<(), Error> {
    if crate::locks::is_plain_id(&run.id) {
        return Ok(());
    }
    let reason = "an id has 1 to 240 letters, digits, `-`, `_` or `.`, and does not begin with `.`".to_owned();
    Err(Error::Record { what: format!("run id `{}`", run.id.escape_debug()), reason })
}
