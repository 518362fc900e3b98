//! How an event changes the state. The only mutator; never refuses: what is refused never becomes an event.

use crate::event::Event;
use crate::graph::{FaultClass, OnFailure};
use crate::machine::{InstanceState, Machine, RunState, Running, StepState, Tally, Tries};

impl Machine {
    /// Applies one event of the journal.
    pub(crate) fn evolve(&mut self, event: &Event) {
        match event {
            Event::Begun => {
                self.state = RunState::Running;
                self.find_unblocked();
            }
            Event::Opened { s, n } => self.open(*s, *n),
            Event::Skipped { s, why } => self.finish_step(*s, StepState::Skipped(*why)),
            Event::UpstreamFailed { s, of } => self.finish_step(*s, StepState::UpstreamFailed(*of)),
            Event::StepFailed { s, .. } => {
                self.finish_step(*s, StepState::Failed);
                self.note_failure(*s);
            }
            Event::Dropped { s } => self.drop_unstarted(*s),
            Event::Started { s, i, attempt, epoch, at } => {
                self.ready.remove(*s, *i);
                self.set(*s, *i, InstanceState::Running);
                self.running.insert((*s, *i), Running { attempt: *attempt, epoch: *epoch, started: *at });
                self.next_epoch = epoch + 1;
            }
            Event::Succeeded { s, i, epoch } => {
                if *epoch == 0 {
                    self.steps[*s as usize].tally.reused += 1;
                }
                self.tries.remove(&(*s, *i));
                self.finish_instance(*s, *i, InstanceState::Succeeded);
            }
            Event::Retried { s, i, class, until, .. } => {
                self.running.remove(&(*s, *i));
                self.set(*s, *i, InstanceState::Backoff);
                let tries = self.tries.entry((*s, *i)).or_default();
                match class {
                    FaultClass::Lost => tries.losses += 1,
                    _ => tries.attempts += 1,
                }
                self.backoff.insert((*s, *i), *until);
                self.due.insert((*until, *s, *i));
            }
            Event::Released { s, i, .. } => {
                self.running.remove(&(*s, *i));
                self.tries.entry((*s, *i)).or_default().uncounted += 1;
                self.set(*s, *i, InstanceState::Ready);
                self.ready.push(*s, *i, *i + 1);
            }
            Event::Readied { s, i } => {
                self.end_backoff(*s, *i);
                self.set(*s, *i, InstanceState::Ready);
                self.ready.push(*s, *i, *i + 1);
            }
            Event::Failed { s, i, epoch, .. } => {
                self.note_ended(*s, *i, *epoch);
                self.finish_instance(*s, *i, InstanceState::Failed);
                if self.too_many_failed(*s) {
                    self.note_failure(*s);
                }
            }
            Event::Cancelled { s, i, epoch } => {
                self.note_ended(*s, *i, *epoch);
                self.finish_instance(*s, *i, InstanceState::Cancelled);
            }
            Event::CancelRequested { deadline } => {
                if self.state == RunState::Pending {
                    self.find_unblocked();
                }
                self.state = RunState::Cancelling;
                self.deadline = Some(*deadline);
                self.start_dropping();
            }
            Event::Paused => self.state = RunState::Paused,
            Event::Unpaused => self.state = RunState::Running,
            Event::Ended { state } => self.state = *state,
            Event::Reopened => self.reopen(),
        }
    }

    /// The last attempt of this generation keeps its number, should another generation follow. Epoch 0 was none.
    fn note_ended(&mut self, s: u32, i: u32, epoch: u64) {
        if epoch > 0 {
            self.tries.entry((s, i)).or_default().uncounted += 1;
        }
    }

    fn set(&mut self, s: u32, i: u32, state: InstanceState) {
        self.steps[s as usize].instances[i as usize] = state;
    }

    fn find_unblocked(&mut self) {
        let free = |(_, step): &(usize, &crate::machine::Step)| step.blockers == 0 && step.state == StepState::Waiting;
        self.unblocked = self.steps.iter().enumerate().filter(free).map(|(s, _)| s as u32).collect();
    }

    fn open(&mut self, s: u32, n: u32) {
        self.unblocked.remove(&s);
        self.evaluating.remove(&s);
        let step = &mut self.steps[s as usize];
        step.instances.clear();
        step.instances.resize(n as usize, InstanceState::Ready);
        step.tally = Tally { total: n, remaining: n, ..Tally::default() };
        if n == 0 {
            self.finish_step(s, StepState::Succeeded);
            return;
        }
        step.state = StepState::Open;
        self.open.insert(s);
        self.ready.push(s, 0, n);
    }

    fn finish_instance(&mut self, s: u32, i: u32, state: InstanceState) {
        if self.running.remove(&(s, i)).is_none() {
            self.ready.remove(s, i);
        }
        let step = &mut self.steps[s as usize];
        step.instances[i as usize] = state;
        step.tally.remaining -= 1;
        match state {
            InstanceState::Succeeded => step.tally.succeeded += 1,
            InstanceState::Failed => step.tally.failed += 1,
            _ => step.tally.cancelled += 1,
        }
        self.close_if_done(s);
    }

    fn close_if_done(&mut self, s: u32) {
        let tally = self.steps[s as usize].tally;
        if tally.remaining == 0 {
            self.finish_step(
                s,
                match (self.too_many_failed(s), tally.cancelled) {
                    (true, _) => StepState::Failed,
                    (false, 0) => StepState::Succeeded,
                    (false, _) => StepState::Cancelled,
                },
            );
        }
    }

    fn finish_step(&mut self, s: u32, state: StepState) {
        self.unblocked.remove(&s);
        self.evaluating.remove(&s);
        self.open.remove(&s);
        self.steps[s as usize].state = state;
        self.live_steps -= 1;
        for index in 0..self.followers[s as usize].len() {
            let follower = self.followers[s as usize][index];
            let step = &mut self.steps[follower as usize];
            step.blockers -= 1;
            if step.blockers == 0 && step.state == StepState::Waiting {
                self.unblocked.insert(follower);
            }
        }
    }

    fn note_failure(&mut self, s: u32) {
        if self.graph.steps[s as usize].on_failure == OnFailure::Stop && self.failing.is_none() {
            self.failing = Some(s);
            self.start_dropping();
        }
    }

    fn start_dropping(&mut self) {
        self.must_drop = true;
        self.ready.clear();
    }

    fn drop_unstarted(&mut self, s: u32) {
        if self.steps[s as usize].state == StepState::Waiting {
            self.finish_step(s, StepState::Cancelled);
            return;
        }
        let waits: Vec<u32> = self.backoff.range((s, 0)..=(s, u32::MAX)).map(|((_, i), _)| *i).collect();
        for i in waits {
            self.end_backoff(s, i);
        }
        let step = &mut self.steps[s as usize];
        for state in &mut step.instances {
            if matches!(state, InstanceState::Ready | InstanceState::Backoff) {
                *state = InstanceState::Cancelled;
                step.tally.remaining -= 1;
                step.tally.cancelled += 1;
            }
        }
        self.close_if_done(s);
    }

    fn end_backoff(&mut self, s: u32, i: u32) {
        if let Some(until) = self.backoff.remove(&(s, i)) {
            self.due.remove(&(until, s, i));
        }
    }

    /// A new generation: what succeeded or was skipped by its own condition stays, everything else starts over.
    fn reopen(&mut self) {
        self.state = RunState::Running;
        self.generation += 1;
        self.failing = None;
        self.deadline = None;
        self.must_drop = false;
        for tries in self.tries.values_mut() {
            *tries = Tries { uncounted: tries.ended(), ..Tries::default() };
        }
        self.ready.clear();
        for s in 0..self.steps.len() {
            let step = &mut self.steps[s];
            match step.state {
                StepState::Succeeded | StepState::Skipped(_) => continue,
                StepState::UpstreamFailed(_) => step.state = StepState::Waiting,
                _ if step.instances.is_empty() => step.state = StepState::Waiting,
                _ => {
                    step.state = StepState::Open;
                    step.tally.failed = 0;
                    step.tally.cancelled = 0;
                    step.tally.remaining = step.tally.total - step.tally.succeeded;
                    self.open.insert(s as u32);
                    for i in 0..step.instances.len() {
                        if step.instances[i] != InstanceState::Succeeded {
                            step.instances[i] = InstanceState::Ready;
                            self.ready.push(s as u32, i as u32, i as u32 + 1);
                        }
                    }
                }
            }
        }
        self.live_steps = self.steps.iter().filter(|step| !step.state.is_final()).count() as u32;
        for s in 0..self.steps.len() {
            self.steps[s].blockers = 0;
        }
        for s in 0..self.steps.len() {
            if !self.steps[s].state.is_final() {
                for index in 0..self.followers[s].len() {
                    let follower = self.followers[s][index];
                    self.steps[follower as usize].blockers += 1;
                }
            }
        }
        self.find_unblocked();
    }
}
