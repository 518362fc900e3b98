//! Drives one run: inputs from the world, events into the journal, attempts out into the world.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use swath_run::{Event, Failure, Fault, FaultClass, Input, Machine, RunState, StepState};
use swath_store::{Append, CacheTerms, Metric, NewEvent, NewResult, RunUpdate, Store};
use swath_task::TaskError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Attempt, AttemptEnd, AttemptError};
use crate::observe::{AttemptId, Ended, Update};
use crate::outputs::StepOutputs;
use crate::program::{Action, Bound, Items, Program};
use crate::reuse::{Reuse, artifacts_in};
use crate::slots::Held;
use crate::sub_flow::{self, SubFlow};
use crate::{Engine, now};

/// How many entries of the ready queue are looked at before waiting for slots.
const WINDOW: usize = 256;
/// How many answers are taken into one append.
const BATCH: usize = 512;
/// How often a cancellation asked for by another process is looked for.
const TICK: Duration = Duration::from_millis(400);
/// How long a cancelled run may take to end.
const CANCEL_GRACE: u64 = 15_000;
/// Page size when a journal is loaded.
const PAGE: u32 = 10_000;
/// Code of the fault of a step whose needs no slot of this machine can meet.
pub const SCHEDULING_PROBLEM: &str = "E312";

/// How a drive ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// State of the run; `Running` when the drive was interrupted and the run can be resumed.
    pub state: RunState,
    /// Outputs of the flow, when it completed.
    pub outputs: Option<Value>,
    /// Instances that failed for good: step path, instance, why.
    pub failures: Vec<(String, String, Fault)>,
    /// Instances that ran in this drive.
    pub ran: u64,
    /// Instances whose earlier results were taken in this drive.
    pub reused: u64,
}

/// A drive that could not go on. The run stays as its journal has it.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] swath_store::Error),
    /// The journal holds something that is no event.
    #[error("the journal of run `{run}` cannot be read: {source}")]
    Journal {
        /// The run.
        run: String,
        /// Why.
        source: swath_run::EventDecodeError,
    },
    /// The journal is not one of a run of this flow.
    #[error("the journal of run `{run}` cannot be read: {source}")]
    IllegalJournal {
        /// The run.
        run: String,
        /// Where and why.
        source: swath_run::IllegalEvent,
    },
}

/// What an attempt reports to its loop.
struct Report {
    step: u32,
    index: u32,
    epoch: u64,
    end: AttemptEnd,
}

/// An instance bound and waiting for its slots.
struct Prepared {
    bound: Bound,
    reuse: Option<Reuse>,
}

/// A live attempt.
struct Live {
    held: Held,
    cancel: CancellationToken,
    reuse: Option<Reuse>,
    at: AttemptId,
    started: u64,
}

struct Driver {
    engine: Arc<Engine>,
    program: Arc<dyn Program>,
    run: String,
    /// Path of the steps above, `outer/`, for a sub-flow.
    prefix: String,
    machine: Machine,
    outputs: StepOutputs,
    items: HashMap<u32, Vec<Value>>,
    seq: u64,
    append: Append,
    updates: Vec<Update>,
    prepared: HashMap<(u32, u32), Prepared>,
    claimed: Vec<(u32, u32, Prepared, Held)>,
    live: HashMap<(u32, u32), Live>,
    reports: mpsc::UnboundedReceiver<Report>,
    reporter: mpsc::UnboundedSender<Report>,
    failures: Vec<(String, String, Fault)>,
    ran: u64,
    reused: u64,
    starved: bool,
}

impl Engine {
    /// Takes a run that is in the store from where its journal ends to where the run ends. The caller holds its lease.
    ///
    /// # Errors
    /// [`DriveError`] when the store fails: nothing that was not durable has been acted on.
    pub async fn drive(self: &Arc<Self>, run: &str, program: Arc<dyn Program>) -> Result<Ending, DriveError> {
        let (engine, run) = (self.clone(), run.to_owned());
        // A task of its own, so that an attempt it starts can go on in the same thread: a hop between threads costs more
        // than a short step.
        let drive =
            tokio::spawn(
                async move { engine.drive_below(&run, program, String::new(), engine.stop.child_token()).await },
            );
        match drive.await {
            Ok(ending) => ending,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    pub(crate) async fn drive_below(
        self: &Arc<Self>,
        run: &str,
        program: Arc<dyn Program>,
        prefix: String,
        stop: CancellationToken,
    ) -> Result<Ending, DriveError> {
        let mut events = Vec::new();
        loop {
            let page = self.store.load_events(run, events.len() as u64, PAGE).await?;
            let last = page.len() < PAGE as usize;
            for stored in page {
                let event = Event::decode(&stored.payload);
                events.push(event.map_err(|source| DriveError::Journal { run: run.to_owned(), source })?);
            }
            if last {
                break;
            }
        }
        // What attempts of a dead process left. This process holds the run's lease, so nobody is in there.
        self.discard_scratch(run);
        let graph = program.graph();
        let steps = graph.steps.len();
        let machine = Machine::restore(graph, &events)
            .map_err(|source| DriveError::IllegalJournal { run: run.to_owned(), source })?;
        let (reporter, reports) = mpsc::unbounded_channel();
        let mut driver = Driver {
            engine: self.clone(),
            program,
            run: run.to_owned(),
            prefix,
            machine,
            outputs: StepOutputs::new(steps),
            items: HashMap::new(),
            seq: events.len() as u64,
            append: Append::default(),
            updates: Vec::new(),
            prepared: HashMap::new(),
            claimed: Vec::new(),
            live: HashMap::new(),
            reports,
            reporter,
            failures: Vec::new(),
            ran: 0,
            reused: 0,
            starved: false,
        };
        driver.restore().await?;
        let ending = driver.turn(stop).await?;
        self.discard_scratch(run);
        Ok(ending)
    }

    /// Takes a run's scratch away while none of its attempts is live.
    fn discard_scratch(&self, run: &str) {
        if let Err(error) = self.home.discard_run_scratch(run) {
            tracing::debug!(%error, "the scratch of run `{run}` stays until the next collection");
        }
    }
}

impl Driver {
    /// Brings back what the journal does not hold: outputs of steps, and the lists of lifted ones.
    async fn restore(&mut self) -> Result<(), DriveError> {
        if self.seq == 0 {
            return Ok(());
        }
        let steps = self.machine.graph().steps.len();
        let ids: HashMap<String, usize> = (0..steps).map(|s| (self.machine.graph().steps[s].id.clone(), s)).collect();
        for s in 0..steps {
            if self.program.is_lifted(s) {
                self.outputs.open(s, self.machine.tally(s as u32).total as usize);
            }
        }
        for result in self.engine.store.results(&self.run, None).await? {
            let Some(&s) = ids.get(&result.step) else { continue };
            let index = result.instance.parse().unwrap_or(0);
            let outputs = serde_json::from_str(&result.outputs).unwrap_or(Value::Null);
            self.outputs.put(s, self.program.is_lifted(s), index, outputs);
        }
        for s in 0..steps {
            if self.program.is_lifted(s) && self.machine.step(s as u32) == StepState::Succeeded {
                self.outputs.close(s, &self.program.ports(s));
            }
        }
        for s in 0..steps {
            let tally = self.machine.tally(s as u32);
            let unfinished = self.program.is_lifted(s) && tally.succeeded < tally.total;
            // A list that cannot be evaluated again fails its instances when they are bound, each with the reason.
            if unfinished && let Ok(Some(Items::Each(items))) = self.program.evaluate(s, &self.outputs) {
                self.items.insert(s as u32, items);
            }
        }
        Ok(())
    }

    async fn turn(mut self, stop: CancellationToken) -> Result<Ending, DriveError> {
        let first = if self.seq == 0 { Input::Begin } else { Input::Recovered };
        self.updates.push(Update::RunStarted { run: self.run.clone(), steps: self.machine.graph().steps.len() });
        self.offer(first);
        if matches!(self.machine.state(), RunState::Failed | RunState::Cancelled) {
            self.offer(Input::Reopen);
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.advance().await?;
            self.persist().await?;
            self.start_claimed();
            if self.machine.state().has_ended() {
                return Ok(self.ending());
            }
            let due = self.machine.next_due();
            let wait = due.map(|due| Duration::from_millis(due.saturating_sub(now())));
            let starved = self.starved;
            let engine = self.engine.clone();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    self.hear(report);
                    for _ in 1..BATCH {
                        let Ok(report) = self.reports.try_recv() else { break };
                        self.hear(report);
                    }
                }
                () = stop.cancelled() => return self.interrupt().await,
                () = engine.freed.notified(), if starved => {}
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {
                    self.offer(Input::TimerDue);
                }
                _ = ticks.tick() => {
                    if self.engine.cancel_asked(&self.run) {
                        self.offer(Input::Cancel { deadline: now() + CANCEL_GRACE });
                        self.live.values().for_each(|live| live.cancel.cancel());
                    }
                }
            }
        }
    }

    /// Takes an input into the machine, and its events into the next append.
    fn offer(&mut self, input: Input) -> bool {
        let events = self.machine.offer(input, now());
        let any = !events.is_empty();
        for event in events {
            self.note(&event);
            let step = event.step().map(|s| self.machine.graph().steps[s as usize].id.clone());
            self.append.events.push(NewEvent { kind: event.kind().to_owned(), step, payload: event.encode() });
        }
        any
    }

    fn path(&self, s: u32) -> String {
        format!("{}{}", self.prefix, self.machine.graph().steps[s as usize].id)
    }

    fn instance(&self, s: u32, i: u32) -> String {
        if self.program.is_lifted(s as usize) { i.to_string() } else { String::new() }
    }

    /// What observers are told of an event, once it is durable.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Opened { s, n } if self.program.is_lifted(*s as usize) => {
                self.outputs.open(*s as usize, *n as usize);
                self.updates.push(Update::StepExpanded { step: self.path(*s), count: u64::from(*n) });
                self.close_if_done(*s);
            }
            Event::Skipped { s, why } => {
                let because = match why {
                    swath_run::SkipReason::Condition => "its condition is false".to_owned(),
                    swath_run::SkipReason::Skipped(of) => format!("`{}` was skipped", self.path(*of)),
                };
                let step = self.path(*s);
                self.updates.push(Update::StepEnded { step, instance: String::new(), how: Ended::Skipped { because } });
            }
            Event::UpstreamFailed { s, .. } => {
                let step = self.path(*s);
                self.updates.push(Update::StepEnded { step, instance: String::new(), how: Ended::UpstreamFailed });
            }
            Event::Dropped { s } => {
                self.prepared.retain(|(step, _), _| step != s);
                let step = self.path(*s);
                self.updates.push(Update::StepEnded { step, instance: String::new(), how: Ended::Cancelled });
            }
            Event::Cancelled { s, i, .. } => {
                let (step, instance) = (self.path(*s), self.instance(*s, *i));
                self.updates.push(Update::StepEnded { step, instance, how: Ended::Cancelled });
            }
            Event::StepFailed { s, fault } => self.failed(self.path(*s), String::new(), fault),
            Event::Failed { s, i, fault, .. } => self.failed(self.path(*s), self.instance(*s, *i), fault),
            Event::Retried { s, i, fault, until, .. } => {
                let attempt = self.live.get(&(*s, *i)).map_or(1, |live| live.at.attempt);
                let at = AttemptId { step: self.path(*s), instance: self.instance(*s, *i), attempt };
                let wait = until.saturating_sub(now());
                self.updates.push(Update::Retrying { at, error: show(fault), wait });
            }
            _ => {}
        }
    }

    fn failed(&mut self, step: String, instance: String, fault: &Fault) {
        let how = Ended::Failed { error: show(fault) };
        self.updates.push(Update::StepEnded { step: step.clone(), instance: instance.clone(), how });
        self.failures.push((step, instance, fault.clone()));
    }

    fn close_if_done(&mut self, s: u32) {
        if self.program.is_lifted(s as usize) && self.machine.step(s) == StepState::Succeeded {
            self.outputs.close(s as usize, &self.program.ports(s as usize));
        }
    }

    /// Evaluates, reuses and claims until nothing more can be done without the world.
    async fn advance(&mut self) -> Result<(), DriveError> {
        loop {
            let mut moved = false;
            let evaluations: Vec<u32> = self.machine.evaluations().collect();
            for step in evaluations {
                let outcome = match self.program.evaluate(step as usize, &self.outputs) {
                    Ok(None) => Ok(None),
                    Ok(Some(Items::One)) => Ok(Some(1)),
                    Ok(Some(Items::Each(items))) => {
                        let count = items.len() as u32;
                        self.items.insert(step, items);
                        Ok(Some(count))
                    }
                    Err(fault) => Err(fault),
                };
                moved |= self.offer(Input::Evaluated { step, outcome });
            }
            self.starved = false;
            let heads: Vec<(u32, u32)> = self.machine.ready().take(WINDOW).collect();
            for (step, index) in heads {
                moved |= self.try_start(step, index).await?;
            }
            if !moved {
                return Ok(());
            }
            if self.append.events.len() > 4 * BATCH {
                self.persist().await?;
                self.start_claimed();
            }
        }
    }

    /// Reuses, refuses or claims a ready instance. `false`: it waits for slots.
    async fn try_start(&mut self, step: u32, index: u32) -> Result<bool, DriveError> {
        if !self.prepared.contains_key(&(step, index)) {
            let prepared = match self.prepare(step, index).await? {
                Ok(prepared) => prepared,
                Err(fault) => return Ok(self.offer(Input::Refused { step, index, fault })),
            };
            let at = now() as i64;
            let found = match &prepared.reuse {
                Some(reuse) => reuse.find(&self.engine, at).await?,
                None => None,
            };
            if let (Some(entry), Some(reuse)) = (found, &prepared.reuse) {
                let outputs: Value = serde_json::from_str(&entry.outputs).unwrap_or(Value::Null);
                let terms = if reuse.terms == CacheTerms::Keep { CacheTerms::Keep } else { CacheTerms::Off };
                let parts = reuse.parts.clone();
                if self.offer(Input::Reused { step, index }) {
                    self.succeeded(step, index, 0, outputs, Some(parts), terms, Some(entry.run), 0);
                }
                return Ok(true);
            }
            self.prepared.insert((step, index), prepared);
        }
        let Some(prepared) = self.prepared.get(&(step, index)) else { return Ok(false) };
        let taken = lock(&self.engine.slots).take(&prepared.bound.needs);
        let Ok(held) = taken else {
            self.starved = true;
            return Ok(false);
        };
        if !self.offer(Input::Claim { step, index }) {
            self.release(held);
            return Ok(false);
        }
        if let Some(prepared) = self.prepared.remove(&(step, index)) {
            self.claimed.push((step, index, prepared, held));
        }
        Ok(true)
    }

    async fn prepare(&self, step: u32, index: u32) -> Result<Result<Prepared, Fault>, DriveError> {
        let item = match self.items.get(&step) {
            Some(items) => match items.get(index as usize) {
                Some(item) => Some((item, u64::from(index))),
                None => {
                    let message =
                        format!("the list that `{}` is lifted over has changed since the run began", self.path(step));
                    return Ok(Err(Fault::new("E313", message, None)));
                }
            },
            None => None,
        };
        let bound = match self.program.bind(step as usize, item, &self.outputs) {
            Ok(bound) => bound,
            Err(fault) => return Ok(Err(fault)),
        };
        if let Err(missing) = lock(&self.engine.slots).possible(&bound.needs) {
            let message = format!("`{}` needs more {missing} than this machine gives to steps", self.path(step));
            let help = "lower its `needs`, or raise the capacity with `--slots`".to_owned();
            return Ok(Err(Fault::new(SCHEDULING_PROBLEM, message, Some(help))));
        }
        let reuse = match &bound.action {
            Action::Task { name, version, task } => {
                let id = (name.as_str(), *version);
                Reuse::of(&self.engine, id, task, &bound.inputs, bound.cache, now() as i64).await
            }
            Action::Flow(_) => None,
        };
        Ok(Ok(Prepared { bound, reuse }))
    }

    /// Takes the answer of an attempt.
    fn hear(&mut self, report: Report) {
        let Report { step, index, epoch, end } = report;
        let Some(live) = self.live.get(&(step, index)) else { return };
        let (at, started) = (live.at.clone(), live.started);
        let metrics = end.metrics.into_iter().map(|(name, value)| Metric {
            step: self.machine.graph().steps[step as usize].id.clone(),
            instance: at.instance.clone(),
            attempt: at.attempt,
            name: name.to_owned(),
            value,
        });
        let metrics: Vec<Metric> = metrics.collect();
        if let Some((ran, reused)) = end.below {
            self.ran += ran;
            self.reused += reused;
        }
        match end.result {
            Ok(outputs) => {
                if self.offer(Input::Finished { step, index, epoch, outcome: Ok(()) }) {
                    self.append.metrics.extend(metrics);
                    let reuse = self.live.get_mut(&(step, index)).and_then(|live| live.reuse.take());
                    let (parts, terms) =
                        reuse.map_or((None, CacheTerms::Off), |reuse| (Some(reuse.parts), reuse.terms));
                    // What a sub-flow did has been counted below it.
                    self.ran += u64::from(end.below.is_none());
                    self.succeeded(step, index, at.attempt, outputs, parts, terms, None, now().saturating_sub(started));
                }
            }
            Err(error) => {
                let failure = failure_of(error, &at);
                self.offer(Input::Finished { step, index, epoch, outcome: Err(failure) });
            }
        }
        if let Some(live) = self.live.remove(&(step, index)) {
            self.release(live.held);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of results, written in one place")]
    fn succeeded(
        &mut self,
        step: u32,
        index: u32,
        attempt: u32,
        outputs: Value,
        key: Option<swath_store::KeyParts>,
        cache: CacheTerms,
        reused_from: Option<String>,
        took: u64,
    ) {
        let artifacts = artifacts_in(&outputs);
        let instance = self.instance(step, index);
        let how = match &reused_from {
            Some(from) => {
                self.reused += 1;
                Ended::Reused { from: from.clone(), artifacts: artifacts.clone() }
            }
            None => Ended::Succeeded { took, artifacts: artifacts.clone() },
        };
        self.updates.push(Update::StepEnded { step: self.path(step), instance: instance.clone(), how });
        self.append.results.push(NewResult {
            step: self.machine.graph().steps[step as usize].id.clone(),
            instance,
            attempt,
            outputs: outputs.to_string(),
            artifacts,
            key,
            cache,
            reused_from,
        });
        let lifted = self.program.is_lifted(step as usize);
        self.outputs.put(step as usize, lifted, index as usize, outputs);
        self.close_if_done(step);
    }

    /// Makes everything since the last time durable, then tells the observers.
    async fn persist(&mut self) -> Result<(), DriveError> {
        if self.append.events.is_empty() {
            self.tell();
            return Ok(());
        }
        let mut append = std::mem::take(&mut self.append);
        append.run = self.run.clone();
        append.expected_seq = self.seq;
        append.at = now() as i64;
        let state = self.machine.state();
        let first = self.seq == 0;
        if first
            || state.has_ended()
            || append.events.iter().any(|e| e.kind == "reopened" || e.kind == "cancel_requested")
        {
            append.update = Some(RunUpdate {
                state: Some(state.name().to_owned()),
                started_at: first.then_some(append.at),
                ended_at: state.has_ended().then_some(append.at),
                error: self
                    .failures
                    .first()
                    .filter(|_| state == RunState::Failed)
                    .map(|(step, _, f)| format!("{step}: {}", show(f))),
                summary: state.has_ended().then(|| format!(r#"{{"ran":{},"reused":{}}}"#, self.ran, self.reused)),
            });
        }
        self.seq = self.engine.store.append(append).await?;
        if state.has_ended() {
            self.updates.push(Update::RunEnded { state: state.name().to_owned() });
        }
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        for update in self.updates.drain(..) {
            self.engine.observer.update(&update);
        }
    }

    /// Starts what was claimed, now that the claim is durable.
    fn start_claimed(&mut self) {
        if self.claimed.is_empty() {
            return;
        }
        // One pass over all that runs: a fan-out claims thousands at a time, and a search for each would square them.
        let running = self.machine.running().map(|(s, i, attempt, epoch, started)| ((s, i), (attempt, epoch, started)));
        let running: HashMap<(u32, u32), (u32, u64, u64)> = running.collect();
        for (step, index, prepared, held) in std::mem::take(&mut self.claimed) {
            let Some(&(attempt, epoch, started)) = running.get(&(step, index)) else {
                self.release(held);
                continue;
            };
            let at = AttemptId { step: self.path(step), instance: self.instance(step, index), attempt };
            self.engine.observer.update(&Update::AttemptStarted { at: at.clone() });
            let cancel = CancellationToken::new();
            let Prepared { bound, reuse } = prepared;
            let live = Live { cancel: cancel.clone(), reuse, at: at.clone(), started, held: held.clone() };
            self.live.insert((step, index), live);
            let reporter = self.reporter.clone();
            let engine = self.engine.clone();
            let run = self.run.clone();
            let step_id = self.machine.graph().steps[step as usize].id.clone();
            let span = (engine.span)(&self.run, &step_id, &at.instance, attempt);
            let work = async move {
                let end = match bound.action {
                    Action::Task { task, .. } => {
                        let attempt = Attempt {
                            id: at,
                            run,
                            inputs: bound.inputs,
                            cpus: held.cpus,
                            timeout: bound.timeout,
                            cancel,
                        };
                        attempt::run(&engine, task, attempt).await
                    }
                    Action::Flow(program) => {
                        sub_flow::run(engine, SubFlow { parent: run, at, program, timeout: bound.timeout, cancel })
                            .await
                    }
                };
                // The loop is gone only when the run is given up.
                let _ = reporter.send(Report { step, index, epoch, end });
            };
            tokio::spawn(tracing::Instrument::instrument(work, span));
        }
    }

    fn release(&self, held: Held) {
        lock(&self.engine.slots).release(held);
        self.engine.freed.notify_waiters();
    }

    /// Stops in good order: attempts are told to stop, what still finishes counts, the rest starts over when the run is
    /// resumed.
    async fn interrupt(mut self) -> Result<Ending, DriveError> {
        self.live.values().for_each(|live| live.cancel.cancel());
        while !self.live.is_empty() {
            let Some(report) = self.reports.recv().await else { break };
            match &report.end.result {
                Err(AttemptError::Task(TaskError::Cancelled)) => {
                    let Report { step, index, epoch, .. } = report;
                    self.offer(Input::Stopped { step, index, epoch });
                    if let Some(live) = self.live.remove(&(step, index)) {
                        self.release(live.held);
                    }
                }
                _ => self.hear(report),
            }
        }
        self.persist().await?;
        Ok(self.ending())
    }

    fn ending(&mut self) -> Ending {
        let state = self.machine.state();
        let outputs = match state {
            RunState::Completed => match self.program.outputs(&self.outputs) {
                Ok(outputs) => Some(outputs),
                Err(fault) => {
                    self.failures.push(("outputs".to_owned(), String::new(), fault));
                    None
                }
            },
            _ => None,
        };
        let failures = std::mem::take(&mut self.failures);
        Ending { state, outputs, failures, ran: self.ran, reused: self.reused }
    }
}

fn failure_of(error: AttemptError, at: &AttemptId) -> Failure {
    let from = |fault: swath_task::Fault| Fault::new(fault.code, swath_store::redact(&fault.message), fault.help);
    match error {
        AttemptError::TimedOut => {
            let message = format!("`{}` ran longer than its timeout", at.step);
            let help = Some("raise `timeout`, or look at its log with `swath logs` for what it was doing".to_owned());
            Failure { class: FaultClass::Timeout, retry_after: 0, fault: Fault::new("E316", message, help) }
        }
        AttemptError::Task(TaskError::Transient { fault, retry_after }) => {
            let retry_after = retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            Failure { class: FaultClass::Transient, retry_after, fault: from(fault) }
        }
        AttemptError::Task(TaskError::Permanent(fault)) => {
            Failure { class: FaultClass::Permanent, retry_after: 0, fault: from(fault) }
        }
        AttemptError::Task(TaskError::Cancelled) => {
            let fault = Fault::new("E317", format!("`{}` was told to stop", at.step), None);
            Failure { class: FaultClass::Cancelled, retry_after: 0, fault }
        }
    }
}

fn show(fault: &Fault) -> String {
    let help = fault.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{} [{}]{help}", fault.message, fault.code)
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
