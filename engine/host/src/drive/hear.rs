//! What attempts answer, and what observers are told of it.

use serde_json::Value;
use swath_run::{Event, Failure, Fault, FaultClass, Input, StepState};
use swath_store::{CacheTerms, Metric, NewResult};
use swath_task::TaskError;

use super::{Driver, FailedStep, Report, show, trace};
use crate::TRACE;
use crate::attempt::AttemptError;
use crate::observe::{AttemptId, Ended, Update};
use crate::reuse::artifacts_in;

impl Driver {
    /// Takes the answer of an attempt.
    pub(super) fn hear(&mut self, report: Report) {
        let Report { step, index, epoch, end, stale } = report;
        let Some(live) = self.live.get(&(step, index)) else { return };
        let (at, started) = (live.at.clone(), live.started);
        let how = end.state();
        live.span.record("swath.step.state", how.name());
        let ended = Update::AttemptEnded {
            at: at.clone(),
            task: self.program.task(step as usize).to_owned(),
            how,
            took: live.began.elapsed(),
            figures: end.figures.clone(),
        };
        let metrics = end.figures.told.into_iter().map(|(name, value)| Metric {
            step: self.machine.graph().steps[step as usize].id.clone(),
            instance: at.instance.clone(),
            attempt: at.attempt,
            name: name.into_owned(),
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
                    self.waiting.updates.push(ended);
                    self.waiting.kept.extend(end.kept);
                    self.append.metrics.extend(metrics);
                    let reuse = self.live.get_mut(&(step, index)).and_then(|live| live.reuse.take());
                    let (parts, terms) =
                        reuse.map_or((None, CacheTerms::Off), |reuse| (Some(reuse.parts), reuse.terms));
                    let terms = if stale { CacheTerms::Off } else { terms };
                    // What a sub-flow did has been counted below it.
                    self.ran += u64::from(end.below.is_none());
                    self.succeeded(
                        step,
                        index,
                        at.attempt,
                        outputs,
                        parts,
                        terms,
                        None,
                        self.steady().saturating_sub(started),
                    );
                }
            }
            Err(error) => {
                let failure = failure_of(error, &at);
                trace::failure(&live.span, &failure);
                if self.offer(Input::Finished { step, index, epoch, outcome: Err(failure) }) {
                    self.waiting.updates.push(ended);
                }
            }
        }
        if let Some(mut live) = self.live.remove(&(step, index)) {
            self.waiting.landed.extend(live.flight.take());
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of results, written in one place")]
    pub(super) fn succeeded(
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
        self.note_whether_taken_over(step, reused_from.as_deref());
        let artifacts = artifacts_in(&outputs);
        let instance = self.instance(step, index);
        let how = match &reused_from {
            Some(from) => {
                self.reused += 1;
                Ended::Reused { from: from.clone(), artifacts: artifacts.clone() }
            }
            None => Ended::Succeeded { took, artifacts: artifacts.clone() },
        };
        self.waiting.updates.push(Update::StepEnded { step: self.path(step), instance: instance.clone(), how });
        let text = outputs.to_string();
        self.gathered += text.len();
        self.append.results.push(NewResult {
            step: self.machine.graph().steps[step as usize].id.clone(),
            instance,
            attempt,
            outputs: text,
            artifacts,
            key,
            cache,
            reused_from,
        });
        let lifted = self.program.is_lifted(step as usize);
        self.outputs.put(step as usize, lifted, index as usize, outputs);
        self.close_if_done(step);
    }

    /// What observers are told of an event, once it is durable.
    pub(super) fn note(&mut self, event: &Event) {
        if let Event::Opened { s, .. } = event {
            self.opened[*s as usize] = self.steady();
        }
        match event {
            Event::CancelRequested { .. } => self.waiting.updates.push(Update::Cancelling),
            Event::Paused => self.waiting.updates.push(Update::Paused),
            Event::Unpaused => self.waiting.updates.push(Update::Unpaused),
            Event::Opened { s, n } if self.program.is_lifted(*s as usize) => {
                self.outputs.open(*s as usize, *n as usize);
                self.waiting.updates.push(Update::StepExpanded { step: self.path(*s), count: u64::from(*n) });
                self.close_if_done(*s);
            }
            Event::Skipped { s, why } => {
                let because = match why {
                    swath_run::SkipReason::Condition => "its condition is false".to_owned(),
                    swath_run::SkipReason::Skipped(of) => format!("`{}` was skipped", self.path(*of)),
                };
                let step = self.path(*s);
                self.waiting.updates.push(Update::StepEnded {
                    step,
                    instance: String::new(),
                    how: Ended::Skipped { because },
                });
            }
            Event::UpstreamFailed { s, .. } => {
                let step = self.path(*s);
                self.waiting.updates.push(Update::StepEnded {
                    step,
                    instance: String::new(),
                    how: Ended::UpstreamFailed,
                });
            }
            Event::Dropped { s } => {
                self.prepared.retain(|(step, _), _| step != s);
                self.note_missing(*s, None);
                let step = self.path(*s);
                self.waiting.updates.push(Update::StepEnded { step, instance: String::new(), how: Ended::Cancelled });
            }
            Event::Cancelled { s, i, .. } => {
                let (step, instance) = (self.path(*s), self.instance(*s, *i));
                self.waiting.updates.push(Update::StepEnded { step, instance, how: Ended::Cancelled });
            }
            Event::StepFailed { s, fault } => {
                self.failed(self.path(*s), String::new(), FaultClass::Permanent, fault);
            }
            Event::Failed { s, i, class, fault, .. } => {
                self.failed(self.path(*s), self.instance(*s, *i), *class, fault);
                // It may be the last one, and tolerated.
                self.close_if_done(*s);
            }
            Event::Retried { s, i, fault, until, .. } => {
                let attempt = self.live.get(&(*s, *i)).map_or(1, |live| live.at.attempt);
                let at = AttemptId { step: self.path(*s), instance: self.instance(*s, *i), attempt };
                let wait = until.saturating_sub(self.steady());
                if let Some(live) = self.live.get(&(*s, *i)) {
                    tracing::debug!(target: TRACE, parent: &live.span, { swath.wait_ms = wait as i64 }, "retry");
                }
                self.again.insert((*s, *i), *until);
                let task = self.program.task(*s as usize).to_owned();
                self.waiting.updates.push(Update::Retrying { at, task, error: show(fault), wait });
            }
            _ => {}
        }
    }

    fn failed(&mut self, step: String, instance: String, class: FaultClass, fault: &Fault) {
        let how = Ended::Failed { error: show(fault) };
        self.waiting.updates.push(Update::StepEnded { step: step.clone(), instance: instance.clone(), how });
        self.failures.push(FailedStep { step, instance, class, fault: fault.clone() });
    }

    fn close_if_done(&mut self, s: u32) {
        if self.program.is_lifted(s as usize) && self.machine.step(s) == StepState::Succeeded {
            self.outputs.close(s as usize, &self.program.ports(s as usize));
        }
    }
}

fn failure_of(error: AttemptError, at: &AttemptId) -> Failure {
    let from = |fault: swath_task::Fault| Fault::new(fault.code, fault.message, fault.help);
    match error {
        AttemptError::TimedOut(limit) => {
            let message = format!("`{}` ran longer than its timeout of {limit:?}", at.step);
            let help = Some("raise `timeout`, or look at its log with `swath logs` for what it was doing".to_owned());
            Failure { class: FaultClass::Timeout, retry_after: 0, fault: Fault::new("E316", message, help) }
        }
        AttemptError::Lost(fault) => Failure { class: FaultClass::Lost, retry_after: 0, fault: from(fault) },
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
