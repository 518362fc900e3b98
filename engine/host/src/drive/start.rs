//! From ready to running: evaluated, bound, taken from the cache or given slots, claimed and started; `record` says when.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::Value;
use swath_run::{Fault, Input, InstanceState, RunState};
use swath_store::{CacheTerms, KeyParts};
use tokio_util::sync::CancellationToken;

use super::{BATCH, Claimed, DriveError, Driver, LONG, Live, Prepared, Report, SCHEDULING_PROBLEM};
use crate::attempt::{self, Attempt, AttemptEnd, AttemptError};
use crate::isolate::{self, Apart};
use crate::observe::{AttemptId, Figures, Update};
use crate::program::{Action, Items};
use crate::reuse::{self, Reuse};
use crate::slots::{Beyond, Missing};
use crate::sub_flow::{self, SubFlow};
use crate::{TRACE, lock, now};

/// How many entries of the ready queue are looked at before waiting for slots.
const WINDOW: usize = 256;

/// The run that an earlier result is of, and its outputs.
type Found = (String, Value);

/// What came of trying to start an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// It is started, reused or refused.
    Moved,
    /// It waits, and so do those behind it, which need the same.
    Waits,
    /// It waits for its own reason.
    WaitsForEqualWork,
}

impl Tried {
    fn of(moved: bool) -> Self {
        if moved { Self::Moved } else { Self::Waits }
    }
}

/// Calls what a task or an expression defines. A panic in it is a fault of the step, never the end of the loop.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic)))
}

fn panicked(panic: Box<dyn Any + Send>) -> Fault {
    let fault = swath_task::panic_fault(panic);
    Fault::new(fault.code, fault.message, fault.help)
}

impl Driver {
    /// Evaluates, reuses and claims until nothing more can be done without the world. `true`: there is more, and what has
    /// been done so far should be made durable first.
    pub(super) async fn advance(&mut self) -> Result<bool, DriveError> {
        while !self.stop.is_cancelled() {
            if self.append.events.len() > 4 * BATCH || self.gathered > LONG {
                return Ok(true);
            }
            let mut moved = false;
            let evaluations: Vec<u32> = self.machine.evaluations().collect();
            for step in evaluations {
                let outcome = match guarded(|| self.program.evaluate(step as usize, &self.outputs)) {
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
            let paused = self.machine.state() == RunState::Paused;
            if paused {
                // Nobody waits for one that does not want to start.
                self.prepared.values_mut().for_each(|prepared| prepared.turn = None);
            }
            let most = if paused { 0 } else { WINDOW };
            let heads: Vec<(u32, u32)> = self.machine.ready().take(most).collect();
            for (step, head) in heads {
                // What waits for equal work does not keep those behind it from starting.
                for index in head..head.saturating_add(WINDOW as u32) {
                    if index > head && self.machine.instance(step, index) != Some(InstanceState::Ready) {
                        break;
                    }
                    let tried = self.try_start(step, index).await?;
                    moved |= tried == Tried::Moved;
                    if tried == Tried::Waits || (tried == Tried::Moved && index == head) {
                        break;
                    }
                }
            }
            if !moved {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Reuses, refuses or claims a ready instance.
    async fn try_start(&mut self, step: u32, index: u32) -> Result<Tried, DriveError> {
        if !self.prepared.contains_key(&(step, index)) {
            if let Some(result) = self.taken_over(step, index).await? {
                return Ok(Tried::of(self.take_over(step, index, result)));
            }
            let stop = self.stop.clone();
            // Digesting what a step reads, and what an earlier result holds, may take long.
            let prepared = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Tried::Waits),
                prepared = self.prepare(step, index) => prepared?,
            };
            let (prepared, found) = match prepared {
                Ok(prepared) => prepared,
                Err(fault) => return Ok(Tried::of(self.offer(Input::Refused { step, index, fault }))),
            };
            if prepared.reuse.as_ref().is_some_and(|reuse| reuse.look_up) {
                let task = self.program.task(step as usize).to_owned();
                self.waiting.updates.push(Update::LookedUp { task, found: found.is_some() });
            }
            if let (Some(found), Some(reuse)) = (found, &prepared.reuse) {
                let parts = reuse.parts.clone();
                self.reuse(step, index, found, parts);
                return Ok(Tried::Moved);
            }
            self.prepared.insert((step, index), prepared);
        }
        let Some(prepared) = self.prepared.get(&(step, index)) else { return Ok(Tried::Waits) };
        let key = prepared.reuse.as_ref().filter(|reuse| reuse.look_up).map(|reuse| reuse.key);
        if let Some(run) = key.and_then(|key| self.engine.in_flight(&key)) {
            return Ok(self.waits_for_equal_work(step, index, run));
        }
        if let (true, Some(reuse)) = (prepared.waited, &prepared.reuse) {
            let parts = reuse.parts.clone();
            if let Some(found) = reuse.find(&self.engine, now() as i64).await? {
                self.prepared.remove(&(step, index));
                self.note_missing(step, None);
                let task = self.program.task(step as usize).to_owned();
                self.waiting.updates.push(Update::LookedUp { task, found: true });
                self.reuse(step, index, found, parts);
                return Ok(Tried::Moved);
            }
        }
        let Some(prepared) = self.prepared.get_mut(&(step, index)) else { return Ok(Tried::Waits) };
        prepared.waited = false;
        if prepared.bound.is_flow() && self.sub_flows() >= self.engine.most_sub_flows {
            // The end of any of them is heard.
            self.note_missing(step, Some(Missing::SubFlow));
            return Ok(Tried::Waits);
        }
        let now = self.steady();
        let Some(prepared) = self.prepared.get_mut(&(step, index)) else { return Ok(Tried::Waits) };
        let held = match self.engine.take_slots(&prepared.bound.needs, prepared.turn.as_ref()) {
            Ok(held) => held,
            Err(missing) => {
                self.starved = true;
                let since = *prepared.lacking.get_or_insert(now);
                let waited = Duration::from_millis(now.saturating_sub(since));
                if prepared.turn.is_none() && waited >= self.engine.patience {
                    prepared.turn = self.engine.put_first(&missing);
                }
                self.note_missing(step, Some(missing));
                return Ok(Tried::Waits);
            }
        };
        let flight = match key {
            None => None,
            Some(key) => match self.engine.take_off(key, &self.run) {
                Some(flight) => Some(flight),
                // Another run was faster.
                None => {
                    let run = self.engine.in_flight(&key).unwrap_or_default();
                    return Ok(self.waits_for_equal_work(step, index, run));
                }
            },
        };
        self.note_missing(step, None);
        if !self.offer(Input::Claim { step, index }) {
            return Ok(Tried::Waits);
        }
        if let Some(mut prepared) = self.prepared.remove(&(step, index)) {
            prepared.turn = None;
            self.waiting.claimed.push(Claimed { step, index, prepared, held, flight });
        }
        Ok(Tried::Moved)
    }

    fn waits_for_equal_work(&mut self, step: u32, index: u32, run: String) -> Tried {
        if let Some(prepared) = self.prepared.get_mut(&(step, index)) {
            prepared.waited = true;
            prepared.turn = None;
        }
        self.starved = true;
        self.note_missing(step, Some(Missing::EqualWork(run)));
        Tried::WaitsForEqualWork
    }

    /// Takes an earlier result. The entry stays as it is: of the run that made the result, and of that age.
    fn reuse(&mut self, step: u32, index: u32, (run, outputs): Found, parts: KeyParts) {
        self.trace_reuse(step, index, &run);
        if self.offer(Input::Reused { step, index }) {
            self.succeeded(step, index, 0, outputs, Some(parts), CacheTerms::Off, Some(run), 0);
        }
    }

    /// Keeps what a step lacks to start, for those who ask why it does not.
    pub(super) fn note_missing(&mut self, step: u32, missing: Option<Missing>) {
        if self.missing.get(&step) == missing.as_ref() {
            return;
        }
        let mut all = lock(&self.engine.missing);
        match missing {
            Some(missing) => {
                all.insert((self.run.clone(), step), missing.clone());
                self.missing.insert(step, missing);
            }
            None => {
                all.remove(&(self.run.clone(), step));
                self.missing.remove(&step);
            }
        }
    }

    /// How long a ready instance has waited.
    fn waited(&mut self, step: u32, index: u32) -> Duration {
        let since = self.again.remove(&(step, index)).unwrap_or(0).max(self.opened[step as usize]);
        Duration::from_millis(self.steady().saturating_sub(since))
    }

    /// Binds an instance, and looks for an earlier result of it.
    async fn prepare(&self, step: u32, index: u32) -> Result<Result<(Prepared, Option<Found>), Fault>, DriveError> {
        let item = match self.items.get(&step).and_then(|items| items.get(index as usize)) {
            None if self.program.is_lifted(step as usize) => {
                let message =
                    format!("the list that `{}` is lifted over is not what it was when the run began", self.path(step));
                return Ok(Err(Fault::new("E313", message, None)));
            }
            item => item.map(|item| (item, u64::from(index))),
        };
        let mut bound = match guarded(|| self.program.bind(step as usize, item, &self.outputs)) {
            Ok(bound) => bound,
            Err(fault) => return Ok(Err(fault)),
        };
        let apart = match isolate::applies(self.engine.isolation.as_ref(), bound.isolate, bound.native) {
            Ok(apart) => apart && !bound.is_flow(),
            Err(fault) => return Ok(Err(Fault::new(fault.code, fault.message, fault.help))),
        };
        if apart {
            bound.needs.cpu = bound.needs.cpu.max(isolate::LEAST_CPU);
        }
        if let Err(beyond) = lock(&self.engine.slots).possible(&bound.needs) {
            let message = format!("`{}` needs more {beyond} than there is for all steps together", self.path(step));
            let help = match beyond {
                Beyond::Limit(name) => format!("lower it in its `needs`, or raise the limit: `--limit {name}=COUNT`"),
                Beyond::Gpu if bound.gpu_by_flow => {
                    "run it where there is a GPU and say so with `--gpus 1`, or lower its `needs`".to_owned()
                }
                Beyond::Gpu => {
                    "a parameter asks for it: take `device: cpu`, or where there is a GPU say so with `--gpus 1`"
                        .to_owned()
                }
            };
            return Ok(Err(Fault::new(SCHEDULING_PROBLEM, message, Some(help))));
        }
        let reuse = match &bound.action {
            Action::Task { name, version, task } => {
                let id = (name.as_str(), *version);
                let work = Reuse::of(&self.engine, id, task, &bound.inputs, bound.cache, now() as i64);
                match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(reuse) => reuse,
                    Err(panic) => return Ok(Err(panicked(panic))),
                }
            }
            Action::Flow(_) => None,
        };
        let found = match &reuse {
            Some(reuse) => reuse.find(&self.engine, now() as i64).await?,
            None => None,
        };
        Ok(Ok((Prepared { bound, reuse, waited: false, lacking: None, turn: None, apart }, found)))
    }

    /// Starts what was claimed. The answer is what observers are to be told of it.
    pub(super) fn start(&mut self, claimed: Vec<Claimed>) -> Vec<Update> {
        let mut updates = Vec::with_capacity(claimed.len());
        for Claimed { step, index, prepared, held, flight } in claimed {
            let Some((attempt, epoch, started)) = self.machine.attempt(step, index) else { continue };
            // The wish to stop came while its claim was being written.
            if self.stop.is_cancelled() || self.machine.state() == RunState::Cancelling {
                self.offer(Input::Stopped { step, index, epoch });
                continue;
            }
            let at = AttemptId { step: self.path(step), instance: self.instance(step, index), attempt };
            let (task, waited) = (self.program.task(step as usize).to_owned(), self.waited(step, index));
            let cancel = CancellationToken::new();
            let Prepared { bound, reuse, apart, .. } = prepared;
            let gpus = held.gpus();
            let apart = match &bound.action {
                Action::Task { name, version, .. } if apart => Some(Apart {
                    task: name.clone(),
                    version: *version,
                    needed: bound.needs.memory,
                    gpus: gpus.clone(),
                }),
                _ => None,
            };
            let (cpus, watched) = (held.cpus(), reuse.as_ref().map(|reuse| reuse.watched.clone()).unwrap_or_default());
            let step_id = self.machine.graph().steps[step as usize].id.clone();
            let span = (self.engine.span)(&self.run, &step_id, &at.instance, attempt);
            span.record("swath.task", task.as_str());
            if !waited.is_zero() {
                let waited = waited.as_millis() as i64;
                tracing::debug!(target: TRACE, parent: &span, { swath.wait_ms = waited }, "waited to start");
            }
            updates.push(Update::AttemptStarted { at: at.clone(), task, waited });
            let live = Live {
                cancel: cancel.clone(),
                reuse,
                flight,
                at: at.clone(),
                span: span.clone(),
                began: Instant::now(),
                started,
                is_flow: bound.is_flow(),
                _held: held,
            };
            self.live.insert((step, index), live);
            let reporter = self.reporter.clone();
            let engine = self.engine.clone();
            let run = self.run.clone();
            let paused = self.paused.subscribe();
            let work = async move {
                let attempt = async {
                    match bound.action {
                        Action::Task { task, .. } => {
                            let timeout = bound.timeout;
                            let inputs = bound.inputs;
                            let attempt = Attempt { id: at, run, inputs, cpus, gpus, timeout, cancel, apart };
                            attempt::run(&engine, task, attempt).await
                        }
                        Action::Flow(program) => {
                            let timeout = bound.timeout;
                            sub_flow::run(engine.clone(), SubFlow { parent: run, at, program, timeout, cancel, paused })
                                .await
                        }
                    }
                };
                let end = AssertUnwindSafe(attempt).catch_unwind().await;
                let end = end.unwrap_or_else(|panic| {
                    let error = AttemptError::Task(swath_task::panic_fault(panic).permanent());
                    AttemptEnd { result: Err(error), figures: Figures::default(), below: None, kept: None }
                });
                if let Err(error) = &end.result {
                    // The name that `swath_telemetry::FAULTS` has.
                    tracing::error!(target: "swath::fault", "{error}");
                }
                let stale = end.result.is_ok() && !reuse::unchanged(&engine, &watched).await;
                // The loop is gone only when the run is given up.
                let _ = reporter.send(Report { step, index, epoch, end, stale });
            };
            tokio::spawn(tracing::Instrument::instrument(work, span));
        }
        updates
    }
}
