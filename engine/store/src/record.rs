//! The records a store keeps. Times are milliseconds since 1970 UTC, given by the caller.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swath_task::{ArtifactRecord, Digest};

use crate::key::KeyParts;

/// A run about to begin. Its flow text, parameters and plan are pinned (I18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Id, unique in the store.
    pub id: String,
    /// Name of the flow.
    pub flow: String,
    /// Where the flow's text came from, as a person would name it.
    pub source: String,
    /// The flow's text.
    pub text: Arc<str>,
    /// Digest of the text.
    pub text_digest: Digest,
    /// Parameters as a JSON object; secrets are references, never values (I19).
    pub params: String,
    /// The plan, opaque to the store.
    pub plan: Arc<str>,
    /// Name of the state it starts in.
    pub state: String,
    /// When it was created.
    pub created_at: i64,
}

/// One event on its way into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened, `succeeded` for example.
    pub kind: String,
    /// The step it is about.
    pub step: Option<String>,
    /// The event itself, opaque to the store.
    pub payload: String,
}

/// An event of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Position in the run, from 1, without gaps (I3).
    pub seq: u64,
    /// What happened.
    pub kind: String,
    /// The step it is about.
    pub step: Option<String>,
    /// The event itself.
    pub payload: String,
    /// When it was appended.
    pub at: i64,
}

/// One transition of a run: its events and all that must become durable in the same transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Append {
    /// Id of the run.
    pub run: String,
    /// Position of the last event the writer knows; 0 before the first (I4).
    pub expected_seq: u64,
    /// Epoch of the lease that the writer has ([`crate::RunLease::epoch`]); 0 for a run that nobody has ever leased (I5).
    pub epoch: u64,
    /// Repeating an append with the same transition id returns the stored answer (I4).
    pub transition: Option<String>,
    /// When.
    pub at: i64,
    /// The events, in order. May be empty when only records change.
    pub events: Vec<NewEvent>,
    /// Results of step instances (I6).
    pub results: Vec<NewResult>,
    /// Figures that attempts reported.
    pub metrics: Vec<Metric>,
    /// New state of the run.
    pub update: Option<RunUpdate>,
}

/// The result of a step instance: set once, immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct NewResult {
    /// Step id. The steps of a sub-flow belong to its own run.
    pub step: String,
    /// Which instance of a lifted step (`3`); empty for a step that is not lifted.
    pub instance: String,
    /// The attempt that made it; 0 when it was reused.
    pub attempt: u32,
    /// Outputs as a JSON object.
    pub outputs: String,
    /// Every artifact in the outputs: lineage, and what garbage collection must keep.
    pub artifacts: Vec<ArtifactRecord>,
    /// The cache key and what it was made of, kept so that a later run can say what changed.
    pub key: Option<KeyParts>,
    /// Whether and how long the result may be reused.
    pub cache: CacheTerms,
    /// The run whose result it is, when it was reused.
    pub reused_from: Option<String>,
}

/// Whether a result enters the cache index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheTerms {
    /// It does not.
    #[default]
    Off,
    /// It may be reused for ever.
    Keep,
    /// It may be reused until then.
    Until(i64),
}

/// A figure an attempt reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Step id.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// `pixels`, `chips`, ...
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// What changes on the row of a run. `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunUpdate {
    /// Name of the state.
    pub state: Option<String>,
    /// First start.
    pub started_at: Option<i64>,
    /// End.
    pub ended_at: Option<i64>,
    /// The error it ended with, bounded and redacted by the store (I19, I20).
    pub error: Option<String>,
    /// A summary (counts a state, durations a step), opaque to the store.
    pub summary: Option<String>,
}

/// A run without its texts: a row of `swath runs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Its number in the store: a run that was pinned later has a higher one.
    #[serde(skip)]
    pub number: u64,
    /// Id.
    pub id: String,
    /// Name of the flow.
    pub flow: String,
    /// Where the flow's text came from.
    pub source: String,
    /// Name of the state.
    pub state: String,
    /// Position of the last event.
    pub seq: u64,
    /// When it was created.
    pub created_at: i64,
    /// When it first started.
    pub started_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// When it last changed.
    pub updated_at: i64,
    /// The error it ended with.
    pub error: Option<String>,
    /// The summary the host stored.
    pub summary: Option<String>,
}

impl RunRow {
    /// Where it stands in a list, for [`RunFilter::after`].
    pub fn cursor(&self) -> RunCursor {
        RunCursor { created_at: self.created_at, number: self.number }
    }
}

/// A place in the list of runs, newest first. It stays the same whatever comes and goes around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunCursor {
    /// When the run there was created.
    pub created_at: i64,
    /// Its number in the store.
    pub number: u64,
}

/// All that is pinned of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Its row.
    pub row: RunRow,
    /// The flow's text.
    pub text: String,
    /// Digest of the text.
    pub text_digest: Digest,
    /// Parameters as a JSON object.
    pub params: String,
    /// The plan.
    pub plan: String,
}

/// Which runs to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only in one of these states; all when empty.
    pub states: Vec<String>,
    /// Only of this flow.
    pub flow: Option<String>,
    /// Only of a flow whose text came from here.
    pub source: Option<String>,
    /// Not the runs of sub-flows, which belong to the run above them.
    pub without_sub_flows: bool,
    /// Only those that a server has taken on ([`crate::Store::mark_served`]).
    pub served: bool,
    /// Only what comes after this place in the list.
    pub after: Option<RunCursor>,
    /// At most so many; all when `None`.
    pub limit: Option<u32>,
}

/// A stored result of a step instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResult {
    /// Step id.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// The attempt that made it; 0 when it was reused.
    pub attempt: u32,
    /// Outputs as a JSON object.
    pub outputs: String,
    /// The cache key.
    pub key: Option<Digest>,
    /// What the key was made of.
    pub parts: Option<KeyParts>,
    /// The run whose result it is, when it was reused.
    pub reused_from: Option<String>,
    /// When it was recorded.
    pub at: i64,
}

/// A result that may be reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// The cache key.
    pub key: Digest,
    /// The run that made it.
    pub run: String,
    /// The step that made it.
    pub step: String,
    /// The instance that made it.
    pub instance: String,
    /// Outputs as a JSON object.
    pub outputs: String,
    /// The artifacts in the outputs.
    pub artifacts: Vec<ArtifactRecord>,
    /// When it was made.
    pub created_at: i64,
    /// When it was last reused.
    pub used_at: i64,
    /// When it ends to be valid.
    pub expires_at: Option<i64>,
}

/// Which results that may be reused to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheFilter {
    /// Only of this task.
    pub task: Option<String>,
    /// Only of a step of this id.
    pub step: Option<String>,
    /// Only made by this run, or by runs of its sub-flows.
    pub run: Option<String>,
    /// Only made before this.
    pub made_before: Option<i64>,
}

/// A result that may be reused, without its outputs: a row of `swath cache list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRow {
    /// The cache key.
    pub key: Digest,
    /// The task that made it; `None` when its run was collected.
    pub task: Option<String>,
    /// The run that made it.
    pub run: String,
    /// The step that made it.
    pub step: String,
    /// The instance that made it.
    pub instance: String,
    /// Bytes of its artifacts.
    pub bytes: u64,
    /// When it was made.
    pub created_at: i64,
    /// When it was last reused, to the hour.
    pub used_at: i64,
    /// When it ends to be valid.
    pub expires_at: Option<i64>,
}

/// Who made an artifact, or which runs use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The artifact.
    pub record: ArtifactRecord,
    /// Run that made or used it.
    pub run: String,
    /// Step whose result holds it.
    pub step: String,
    /// Instance whose result holds it.
    pub instance: String,
    /// Attempt that made it; 0 when the result was reused.
    pub attempt: u32,
    /// When the result was recorded.
    pub at: i64,
}

/// A line of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: i64,
    /// `error`, `warn`, `info`, `debug`, `trace`, `stdout` or `stderr`.
    pub level: String,
    /// Where it came from (module or program).
    pub target: String,
    /// The text, bounded and redacted by the store.
    pub message: String,
    /// Structured fields as a JSON object, empty when there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fields: String,
}

/// Lines of one attempt, in order (I21).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// Id of the run.
    pub run: String,
    /// Step id.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// When the batch was handed over.
    pub at: i64,
    /// The lines.
    pub lines: Vec<LogLine>,
    /// How many lines were dropped since the last batch.
    pub dropped: u64,
}

/// A stored line of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLogLine {
    /// Position in the store: ask for what follows with `after`.
    pub id: u64,
    /// Step id.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// The line.
    #[serde(flatten)]
    pub line: LogLine,
    /// How many lines were dropped just before this one.
    pub dropped: u64,
}

/// Which log lines to read, in the order they were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only of this step.
    pub step: Option<String>,
    /// Only after this position.
    pub after: u64,
    /// At most so many; 1,000 when `None`.
    pub limit: Option<u32>,
}

/// What a collection may remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Runs that ended before this, and are in one of `ended_states`, are removed.
    pub runs_ended_before: i64,
    /// Names of the states in which a run has ended.
    pub ended_states: Vec<String>,
    /// Runs kept whatever their age (the newest, those asked for).
    pub keep_runs: Vec<String>,
    /// Cache entries not used since this, or expired at `now`, are removed.
    pub cache_used_before: i64,
    /// The present.
    pub now: i64,
    /// Removes nothing, and tells what would be.
    pub dry_run: bool,
}

/// What a collection removed from the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Runs.
    pub runs: Vec<String>,
    /// Cache entries.
    pub cache_entries: u64,
    /// Of a dry run: the artifacts that results or cache entries would still refer to.
    pub referenced: Option<HashSet<Digest>>,
}

/// What the names of kinds and states mean, which a store that looks for broken rows ([`crate::Store::audit`]) is told by
/// those who know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// States in which a run has ended.
    pub ended_states: Vec<String>,
    /// Kinds of events that give an instance its result.
    pub result_kinds: Vec<String>,
    /// Kinds of events that begin an attempt.
    pub begin_kinds: Vec<String>,
    /// Kinds of events that end an attempt.
    pub end_kinds: Vec<String>,
}

/// A rule that stored rows break.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Broken {
    /// The run whose rows break it; empty when they are of none.
    pub run: String,
    /// The rule: `I3`, `I6`, ...
    pub rule: String,
    /// How.
    pub what: String,
}
