//! The invariants of the module documentation as a check over the whole state. For tests and for doubt: it scans.

use crate::machine::{InstanceState, Machine, RunState, StepState};

impl Machine {
    /// Every violated invariant by number; empty when all hold.
    pub fn check_invariants(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let (mut live, mut ready) = (0, 0);
        for (s, step) in self.steps.iter().enumerate() {
            let s = s as u32;
            let count = |state: InstanceState| step.instances.iter().filter(|i| **i == state).count() as u32;
            let running = self.running.range((s, 0)..=(s, u32::MAX)).count() as u32;
            let waiting = self.backoff.range((s, 0)..=(s, u32::MAX)).count() as u32;
            let tally = step.tally;
            ready += u64::from(count(InstanceState::Ready));
            live += u32::from(!step.state.is_final());
            if count(InstanceState::Running) != running {
                broken.push(format!("I5: step {s} has {running} leases for {} running", count(InstanceState::Running)));
            }
            if count(InstanceState::Backoff) != waiting {
                broken.push(format!("I9: step {s} has {waiting} timers for {} waiting", count(InstanceState::Backoff)));
            }
            let finals = tally.succeeded + tally.failed + tally.cancelled;
            let counted = [InstanceState::Succeeded, InstanceState::Failed, InstanceState::Cancelled].map(count);
            if counted != [tally.succeeded, tally.failed, tally.cancelled] || finals + tally.remaining != tally.total {
                broken.push(format!("I3: the tally of step {s} is {tally:?}, its instances say {counted:?}"));
            }
            if step.state == StepState::Open && tally.remaining == 0 {
                broken.push(format!("I1: step {s} is open with nothing left"));
            }
            let tolerated = if self.too_many_failed(s) { 0 } else { tally.failed };
            if step.state == StepState::Succeeded && tally.succeeded + tolerated != tally.total {
                broken.push(format!("I6: step {s} succeeded with {tally:?}"));
            }
            let opened = step.state == StepState::Open || !step.instances.is_empty();
            let spec = &self.graph.steps[s as usize];
            if opened && spec.reads.iter().any(|of| self.step(*of) != StepState::Succeeded) {
                broken.push(format!("I7: step {s} opened before all it reads succeeded"));
            }
            if opened && spec.after.iter().any(|of| self.generation == 1 && !self.step(*of).is_final()) {
                broken.push(format!("I7: step {s} opened before what it comes after was final"));
            }
        }
        for ((s, i), tries) in &self.tries {
            let retry = &self.graph.steps[*s as usize].retry;
            if tries.attempts > retry.times || tries.losses > retry.losses {
                broken.push(format!("I11: instance {s}/{i} had {tries:?}, allowed are {retry:?}"));
            }
        }
        if ready != self.ready.len() || self.ready().any(|(s, i)| self.instance(s, i) != Some(InstanceState::Ready)) {
            broken.push(format!("I9: {ready} instances are ready, {} are in the queue", self.ready.len()));
        }
        if live != self.live_steps {
            broken.push(format!("I3: {live} steps are live, {} are counted", self.live_steps));
        }
        if self.state.has_ended() && (live > 0 || !self.running.is_empty() || !self.backoff.is_empty()) {
            broken.push("I8: the run has ended with something alive".into());
        }
        let waits = self.ready.len() > 0
            || !self.running.is_empty()
            || self.next_due().is_some()
            || !self.evaluating.is_empty()
            || matches!(self.state, RunState::Pending | RunState::Paused);
        if !self.state.has_ended() && !waits {
            broken.push("I9: the run waits for nothing".into());
        }
        broken
    }
}
