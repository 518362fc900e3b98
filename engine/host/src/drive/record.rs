//! Makes what happened durable, and does then what had to wait for it.
//!
//! One append is under way at a time. What happens meanwhile gathers for the next, so that a slow disk makes appends
//! longer and the drive no slower.

use std::future::pending;
use std::panic::resume_unwind;
use std::path::PathBuf;

use serde_json::{Value, json};
use swath_run::RunState;
use swath_store::{Append, Error, RunUpdate};
use swath_task::Purity;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{Claimed, DriveError, Driver, OUTPUTS, show};
use crate::flights::Flight;
use crate::now;
use crate::observe::Update;
use crate::program::Action;

/// Outputs of a flow that would make the summary of its run longer than this are left out: steps keep their own.
const LONGEST_SUMMARY: usize = 256 << 10;
/// Events, besides the first and the last, that change the state of the run.
const CHANGING: [&str; 4] = ["reopened", "cancel_requested", "paused", "unpaused"];

/// What waits until an append is durable.
#[derive(Default)]
pub(super) struct Waiting {
    /// Told to the observers then.
    pub updates: Vec<Update>,
    /// Started then.
    pub claimed: Vec<Claimed>,
    /// Over then: whoever waits for their results finds them.
    pub landed: Vec<Flight>,
    /// Folders of steps that have succeeded: taken away then, for before that an attempt may be needed again.
    pub kept: Vec<PathBuf>,
}

/// An append under way.
pub(super) struct Writing {
    answer: JoinHandle<Result<u64, Error>>,
    /// State of the run when it is durable.
    state: RunState,
    pub waiting: Waiting,
}

impl Claimed {
    /// Whether it may start while its claim is still being written. What a pure task does is seen by nobody before its
    /// result is durable, and its events come into the journal in their order: a crash costs no more than doing it again.
    fn may_start_ahead(&self) -> bool {
        let bound = &self.prepared.bound;
        !self.prepared.apart && matches!(&bound.action, Action::Task { task, .. } if task.purity() == Purity::Pure)
    }
}

impl Driver {
    /// Begins to make everything since the last time durable, unless an append is under way.
    pub(super) fn record(&mut self) {
        if self.writing.is_some() {
            return;
        }
        self.compute_outputs();
        let ready = self.machine.queued();
        if self.queued != ready {
            self.queued = ready;
            self.waiting.updates.push(Update::Queued { ready });
        }
        let waiting = std::mem::take(&mut self.waiting);
        if self.append.events.is_empty() {
            self.go_on(waiting);
            return;
        }
        let state = self.state();
        self.gathered = 0;
        let mut append = std::mem::take(&mut self.append);
        append.run = self.run.clone();
        append.expected_seq = self.seq;
        append.epoch = self.term.epoch();
        append.at = now() as i64;
        let first = self.seq == 0;
        if first || state.has_ended() || append.events.iter().any(|e| CHANGING.contains(&e.kind.as_str())) {
            append.update = Some(self.change(state, &append, first));
        }
        let span = tracing::debug_span!(target: "swath::store", "append to the journal", swath.events = append.events.len() as i64);
        let store = self.engine.store.clone();
        let answer = tokio::spawn(async move { store.append(append).await }.instrument(span));
        self.writing = Some(Writing { answer, state, waiting });
    }

    /// What an append changes on the row of the run.
    fn change(&self, state: RunState, append: &Append, first: bool) -> RunUpdate {
        RunUpdate {
            state: Some(state.name().to_owned()),
            started_at: first.then_some(append.at),
            ended_at: state.has_ended().then_some(append.at),
            error: match &self.yielded {
                Some(Err(fault)) => Some(format!("{OUTPUTS}: {}", show(fault))),
                _ => self
                    .failures
                    .first()
                    .filter(|_| state == RunState::Failed)
                    .map(|failed| format!("{}: {}", failed.step, show(&failed.fault))),
            },
            summary: state.has_ended().then(|| self.summary()),
        }
    }

    /// Takes the answer of an append.
    pub(super) fn recorded(&mut self, answer: Result<u64, Error>) -> Result<(), DriveError> {
        let Some(Writing { state, mut waiting, .. }) = self.writing.take() else { return Ok(()) };
        self.seq = answer?;
        self.paused.send_if_modified(|paused| std::mem::replace(paused, state == RunState::Paused) != *paused);
        if state.has_ended() {
            waiting.updates.push(Update::RunEnded { state: state.name().to_owned() });
        }
        self.go_on(waiting);
        Ok(())
    }

    /// Makes everything durable.
    pub(super) async fn settle(&mut self) -> Result<(), DriveError> {
        loop {
            self.record();
            if self.writing.is_none() {
                return Ok(());
            }
            let answer = answer(&mut self.writing).await;
            self.recorded(answer)?;
        }
    }

    /// Does what waited.
    fn go_on(&mut self, waiting: Waiting) {
        self.tell(waiting.updates);
        drop(waiting.landed);
        for folder in waiting.kept {
            if let Err(error) = self.engine.home.discard_keep(&folder) {
                tracing::debug!(%error, folder = %folder.display(), "what a step kept stays until the run ends");
            }
        }
        let started = self.start(waiting.claimed);
        self.tell(started);
    }

    fn tell(&self, updates: Vec<Update>) {
        updates.iter().for_each(|update| self.engine.observer.update(&self.run, update));
    }

    /// Starts what need not wait for its claim to be durable. Only in a run that was never cut off, and whose journal tells
    /// that it has begun, so that a task which takes the whole process down is counted the second time (I11).
    pub(super) fn start_ahead(&mut self) {
        if self.resumed || self.seq == 0 {
            return;
        }
        let machine = &self.machine;
        let first = |claimed: &Claimed| matches!(machine.attempt(claimed.step, claimed.index), Some((1, ..)));
        let ahead = self.waiting.claimed.extract_if(.., |claimed| claimed.may_start_ahead() && first(claimed));
        let ahead = ahead.collect();
        let started = self.start(ahead);
        self.waiting.updates.extend(started);
    }

    /// What is kept of a run that has ended beside its journal: counts, and the outputs of the flow where they are not
    /// too long.
    fn summary(&self) -> String {
        let mut summary = json!({ "ran": self.ran, "reused": self.reused });
        if let Some(Ok(outputs)) = &self.yielded {
            summary["outputs"] = outputs.clone();
            let text = summary.to_string();
            if text.len() <= LONGEST_SUMMARY {
                return text;
            }
            summary["outputs"] = Value::Null;
        }
        summary.to_string()
    }
}

/// Waits for an append under way.
pub(super) async fn answer(writing: &mut Option<Writing>) -> Result<u64, Error> {
    match writing {
        Some(writing) => (&mut writing.answer).await.unwrap_or_else(|ended| resume_unwind(ended.into_panic())),
        None => pending().await,
    }
}
