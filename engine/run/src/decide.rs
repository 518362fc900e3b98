//! Which events follow from what the world says, and from the state itself. Reads the state, never changes it.

use std::collections::BTreeMap;

use crate::event::{Event, Failure, Fault, Input, SkipReason};
use crate::graph::{FaultClass, OnFailure};
use crate::machine::{InstanceState, Machine, RunState, StepState};

impl Machine {
    /// The direct events of an input; none when it is stale, repeated or wrong (I2, I5).
    pub(crate) fn decide(&mut self, input: Input, now: u64) -> Vec<Event> {
        match input {
            Input::Begin if self.state == RunState::Pending => vec![Event::Begun],
            Input::Evaluated { step, outcome } if self.evaluating.contains(&step) => vec![match outcome {
                Ok(Some(n)) => Event::Opened { s: step, n },
                Ok(None) => Event::Skipped { s: step, why: SkipReason::Condition },
                Err(fault) => Event::StepFailed { s: step, fault },
            }],
            Input::Claim { step, index } if self.is_ready(step, index) => {
                let attempt = self.tries.get(&(step, index)).map_or(0, |tries| tries.ended()) + 1;
                vec![Event::Started { s: step, i: index, attempt, epoch: self.next_epoch, at: now }]
            }
            Input::Reused { step, index } if self.is_ready(step, index) => {
                vec![Event::Succeeded { s: step, i: index, epoch: 0 }]
            }
            Input::Refused { step, index, fault } if self.is_ready(step, index) => {
                vec![Event::Failed { s: step, i: index, epoch: 0, class: FaultClass::Permanent, fault }]
            }
            Input::Finished { step, index, epoch, outcome } => match self.running.get(&(step, index)) {
                Some(running) if running.epoch == epoch => vec![self.finished(step, index, epoch, outcome, now)],
                _ => {
                    self.refused += 1;
                    Vec::new()
                }
            },
            Input::Stopped { step, index, epoch } => match self.running.get(&(step, index)) {
                Some(running) if running.epoch == epoch && self.dropping() => {
                    vec![Event::Cancelled { s: step, i: index, epoch }]
                }
                Some(running) if running.epoch == epoch => vec![Event::Released { s: step, i: index, epoch }],
                _ => {
                    self.refused += 1;
                    Vec::new()
                }
            },
            Input::TimerDue => self.due_events(now),
            Input::Recovered => self.lost_events(now),
            Input::Cancel { deadline }
                if matches!(self.state, RunState::Pending | RunState::Running | RunState::Paused) =>
            {
                vec![Event::CancelRequested { deadline }]
            }
            Input::Pause if self.state == RunState::Running => vec![Event::Paused],
            Input::Unpause if self.state == RunState::Paused => vec![Event::Unpaused],
            Input::Reopen if matches!(self.state, RunState::Failed | RunState::Cancelled) => vec![Event::Reopened],
            _ => Vec::new(),
        }
    }

    fn is_ready(&self, step: u32, index: u32) -> bool {
        !self.dropping()
            && self.state == RunState::Running
            && self.instance(step, index) == Some(InstanceState::Ready)
            && self.steps[step as usize].state == StepState::Open
    }

    fn finished(&self, s: u32, i: u32, epoch: u64, outcome: Result<(), Failure>, now: u64) -> Event {
        let Failure { class, retry_after, fault } = match outcome {
            Ok(()) => return Event::Succeeded { s, i, epoch },
            Err(failure) => failure,
        };
        if class == FaultClass::Cancelled && self.state == RunState::Cancelling {
            return Event::Cancelled { s, i, epoch };
        }
        let tries = self.tries.get(&(s, i)).copied().unwrap_or_default();
        let retry = &self.graph.steps[s as usize].retry;
        // `attempts` counts those that ended before this one, losses not among them (I11).
        let again = match class {
            FaultClass::Lost => tries.losses < retry.losses,
            class => retry.on.contains(&class) && tries.attempts < retry.times,
        };
        if !again || self.dropping() {
            return Event::Failed { s, i, epoch, class, fault };
        }
        let wait = match class {
            FaultClass::Lost => 0,
            _ => retry.wait_after(tries.attempts + 1, retry_after, epoch ^ (u64::from(s) << 32 | u64::from(i))),
        };
        Event::Retried { s, i, epoch, class, fault, until: now.saturating_add(wait) }
    }

    fn due_events(&self, now: u64) -> Vec<Event> {
        if self.state == RunState::Cancelling {
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                let stop =
                    |(&(s, i), r): (&(u32, u32), &crate::machine::Running)| Event::Cancelled { s, i, epoch: r.epoch };
                return self.running.iter().map(stop).collect();
            }
            return Vec::new();
        }
        if self.state == RunState::Paused {
            return Vec::new();
        }
        self.due.iter().take_while(|(until, ..)| *until <= now).map(|&(_, s, i)| Event::Readied { s, i }).collect()
    }

    fn lost_events(&self, now: u64) -> Vec<Event> {
        let lost = |(&(s, i), running): (&(u32, u32), &crate::machine::Running)| {
            if self.state == RunState::Cancelling {
                return Event::Cancelled { s, i, epoch: running.epoch };
            }
            let message = "the process that ran this step died before the step ended";
            let failure = Failure { class: FaultClass::Lost, retry_after: 0, fault: Fault::new("E310", message, None) };
            self.finished(s, i, running.epoch, Err(failure), now)
        };
        let mut events: Vec<Event> = self.running.iter().map(lost).collect();
        if let Some(fatal) = self.first_fatal(&events) {
            // What comes after the failure that stops the run may not wait for another attempt.
            for event in &mut events[fatal + 1..] {
                if let Event::Retried { s, i, epoch, class, fault, .. } = event {
                    *event = Event::Failed { s: *s, i: *i, epoch: *epoch, class: *class, fault: fault.clone() };
                }
            }
        }
        events
    }

    /// The first of these events with which more instances of a step have failed than it tolerates, when that stops the
    /// run.
    fn first_fatal(&self, events: &[Event]) -> Option<usize> {
        let mut failed: BTreeMap<u32, u32> = BTreeMap::new();
        events.iter().position(|event| {
            let Event::Failed { s, .. } = event else { return false };
            let (spec, tally) = (&self.graph.steps[*s as usize], self.tally(*s));
            let count = failed.entry(*s).or_insert(tally.failed);
            *count += 1;
            spec.on_failure == OnFailure::Stop && *count > spec.tolerate.of(tally.total)
        })
    }

    /// One consequence of the state, if there is any left.
    pub(crate) fn settle(&mut self) -> Option<Event> {
        if matches!(self.state, RunState::Pending) || self.state.has_ended() {
            return None;
        }
        if self.must_drop {
            let unstarted = self.evaluating.iter().chain(&self.open).copied().find(|s| self.has_unstarted(*s));
            match unstarted {
                Some(s) => return Some(Event::Dropped { s }),
                None => self.must_drop = false,
            }
        }
        while let Some(s) = self.unblocked.first().copied() {
            if let Some(event) = self.unblock(s) {
                return Some(event);
            }
            self.unblocked.remove(&s);
            self.evaluating.insert(s);
        }
        (self.live_steps == 0).then(|| Event::Ended { state: self.outcome() })
    }

    fn has_unstarted(&self, s: u32) -> bool {
        let step = &self.steps[s as usize];
        let running = self.running.range((s, 0)..=(s, u32::MAX)).count() as u32;
        step.state == StepState::Waiting || step.tally.remaining > running
    }

    /// What becomes of a step with nothing before it any more; `None`: it waits for the host's evaluation.
    fn unblock(&self, s: u32) -> Option<Event> {
        let spec = &self.graph.steps[s as usize];
        let (mut skipped, mut cancelled) = (None, false);
        for &of in &spec.reads {
            match self.steps[of as usize].state {
                StepState::Succeeded => {}
                StepState::Skipped(_) => skipped = skipped.or(Some(of)),
                StepState::Cancelled => cancelled = true,
                _ => return Some(Event::UpstreamFailed { s, of }),
            }
        }
        if cancelled {
            return Some(Event::Dropped { s });
        }
        if let Some(of) = skipped {
            return Some(Event::Skipped { s, why: SkipReason::Skipped(of) });
        }
        if self.dropping() {
            return Some(Event::Dropped { s });
        }
        (!spec.evaluated).then_some(Event::Opened { s, n: 1 })
    }

    /// After a replay: steps that wait for the host are known to wait again.
    pub(crate) fn note_evaluations(&mut self) {
        if !matches!(self.state, RunState::Running | RunState::Paused) {
            return;
        }
        let waiting: Vec<u32> = self.unblocked.iter().copied().filter(|s| self.unblock(*s).is_none()).collect();
        for s in waiting {
            self.unblocked.remove(&s);
            self.evaluating.insert(s);
        }
    }
}
