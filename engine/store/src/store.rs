//! What a journal must do, whatever database is behind it.

use async_trait::async_trait;
use swath_task::Digest;

use crate::error::Error;
use crate::record::{
    Append, CacheEntry, CacheFilter, CacheRow, Collected, Lineage, LogBatch, LogFilter, Metric, NewRun, Retention,
    RunFilter, RunRow, StoredEvent, StoredLogLine, StoredResult, StoredRun,
};

/// Journal, results, cache index and logs.
///
/// # Contract
/// - I3: the events of a run are numbered from 1 without gaps; what was acknowledged survives a crash of process and machine.
/// - I4: [`Store::append`] is a compare-and-set on `expected_seq`; a repeated transition id returns the stored answer.
/// - I6: a result is set once, in the transaction of the events it came with.
/// - All of an [`Append`] becomes durable, or nothing of it.
/// - Appends to different runs never fail because of each other.
/// - I19, I20: errors and log lines are redacted and bounded before they are stored.
/// - I21: log lines of an attempt are read in the order they were written.
/// - Dropping the future of a write does not undo it: it may still be committed.
///
/// `tests/store/conformance.rs` checks this on every implementation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Pins a new run. Creating the same run again (same content) succeeds.
    async fn create_run(&self, run: NewRun) -> Result<(), Error>;

    /// Makes a transition durable; the answer is the position of the run's last event.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the run is not at `expected_seq`, [`Error::NoRun`], [`Error::ResultExists`].
    async fn append(&self, append: Append) -> Result<u64, Error>;

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
