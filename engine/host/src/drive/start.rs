//! From ready to running: evaluated, bound, taken from the cache or given slots, and started once the claim is durable.

use std::collections::HashMap;

use serde_json::Value;
use swath_run::{Fault, Input};
use swath_store::CacheTerms;
use tokio_util::sync::CancellationToken;

use super::{BATCH, DriveError, Driver, Live, Prepared, Report, SCHEDULING_PROBLEM, lock};
use crate::attempt::{self, Attempt};
use crate::now;
use crate::observe::{AttemptId, Update};
use crate::program::{Action, Items};
use crate::reuse::Reuse;
use crate::slots::Missing;
use crate::sub_flow::{self, SubFlow};

/// How many entries of the ready queue are looked at before waiting for slots.
const WINDOW: usize = 256;

impl Driver {
    /// Evaluates, reuses and claims until nothing more can be done without the world.
    pub(super) async fn advance(&mut self) -> Result<(), DriveError> {
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
            let message = format!("`{}` needs more {missing} than there is for all steps together", self.path(step));
            let help = match missing {
                Missing::Limit(name) => format!("lower it in its `needs`, or raise the limit: `--limit {name}=COUNT`"),
                Missing::Gpu => {
                    "run it where there is a GPU and say so with `--gpus 1`, or lower its `needs`".to_owned()
                }
                Missing::Cpu | Missing::Memory => "lower its `needs`, or raise `--cpus` and `--memory`".to_owned(),
            };
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

    /// Starts what was claimed, now that the claim is durable.
    pub(super) fn start_claimed(&mut self) {
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
}
