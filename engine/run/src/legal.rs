//! Which events a state allows, judged apart from `decide`: a second opinion on every event that is folded.
//!
//! A journal may have been written by another version, for another graph, or be damaged on disk. Following it must
//! never panic, and never make a state that no run can be in.

use crate::event::{Event, SkipReason};
use crate::graph::Graph;
use crate::machine::{InstanceState, Machine, RunState, StepState};

/// An event that the state before it does not allow (I1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {position} of the journal, `{kind}`, cannot have happened: {why}")]
pub struct IllegalEvent {
    /// Its place in the journal, from 0.
    pub position: u64,
    /// Its kind.
    pub kind: &'static str,
    /// What speaks against it.
    pub why: &'static str,
}

/// Fails with the reason unless the condition holds.
fn only(condition: bool, why: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(why) }
}

impl Machine {
    /// The run that a journal tells of.
    ///
    /// # Errors
    /// [`IllegalEvent`]: the journal is not one of a run of this graph.
    pub fn restore<'a>(graph: Graph, events: impl IntoIterator<Item = &'a Event>) -> Result<Self, IllegalEvent> {
        let mut machine = Self::new(graph);
        for (position, event) in events.into_iter().enumerate() {
            machine.follow(event).map_err(|illegal| IllegalEvent { position: position as u64, ..illegal })?;
        }
        // A journal is only ever cut between offers, so it holds every consequence already, but not who waits for the host.
        machine.note_evaluations();
        Ok(machine)
    }

    /// Applies one event of a journal, in order: for a reader that follows a run as it goes on.
    ///
    /// # Errors
    /// [`IllegalEvent`], with position 0: the state is as it was.
    pub fn follow(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        self.allows(event).map_err(|why| IllegalEvent { position: 0, kind: event.kind(), why })?;
        self.evolve(event);
        Ok(())
    }

    fn allows(&self, event: &Event) -> Result<(), &'static str> {
        let live = matches!(self.state, RunState::Running | RunState::Paused | RunState::Cancelling);
        if let Some(s) = event.step() {
            only((s as usize) < self.steps.len(), "the flow has no such step")?;
            only(live, "the run is not going on")?;
        }
        let dropping = self.dropping();
        match event {
            Event::Begun => only(self.state == RunState::Pending, "the run had begun"),
            Event::Opened { s, n } => {
                self.allows_opening(*s)?;
                only(self.graph.steps[*s as usize].evaluated || *n == 1, "the step is not lifted")
            }
            Event::Skipped { s, why: SkipReason::Condition } => self.allows_evaluation(*s),
            Event::StepFailed { s, .. } => self.allows_evaluation(*s),
            Event::Skipped { s, why: SkipReason::Skipped(of) } => {
                self.allows_settling(*s)?;
                only(self.reads(*s, *of), "it does not read that step")?;
                only(matches!(self.step(*of), StepState::Skipped(_)), "that step was not skipped")
            }
            Event::UpstreamFailed { s, of } => {
                self.allows_settling(*s)?;
                only(self.reads(*s, *of), "it does not read that step")?;
                let stopped = !matches!(self.step(*of), StepState::Succeeded | StepState::Skipped(_));
                only(stopped, "that step did not fail")
            }
            Event::Dropped { s } => {
                only(dropping, "nothing had stopped the run")?;
                let step = &self.steps[*s as usize];
                match step.state {
                    StepState::Waiting => only(step.blockers == 0, "the step waits for others"),
                    StepState::Open => Ok(()),
                    _ => Err("the step had ended"),
                }
            }
            Event::Started { s, i, epoch, .. } => {
                self.allows_in(*s, *i, InstanceState::Ready, "the instance was not ready")?;
                only(!dropping && self.state != RunState::Paused, "nothing new may start")?;
                only((self.next_epoch..u64::MAX).contains(epoch), "its epoch does not rise")
            }
            Event::Succeeded { s, i, epoch: 0 } | Event::Failed { s, i, epoch: 0, .. } => {
                self.allows_in(*s, *i, InstanceState::Ready, "the instance was not ready")?;
                only(!dropping && self.state != RunState::Paused, "nothing new may start")
            }
            Event::Succeeded { s, i, epoch } | Event::Failed { s, i, epoch, .. } => self.allows_end(*s, *i, *epoch),
            Event::Retried { s, i, epoch, .. } | Event::Released { s, i, epoch } => {
                only(!dropping, "nothing new may start")?;
                self.allows_end(*s, *i, *epoch)
            }
            Event::Cancelled { s, i, epoch } => {
                only(dropping, "nothing had stopped the run")?;
                self.allows_end(*s, *i, *epoch)
            }
            Event::Readied { s, i } => {
                only(self.state != RunState::Paused, "the run was paused")?;
                self.allows_in(*s, *i, InstanceState::Backoff, "the instance was not waiting for another attempt")
            }
            Event::CancelRequested { .. } => {
                let stoppable = matches!(self.state, RunState::Pending | RunState::Running | RunState::Paused);
                only(stoppable, "the run had ended or was stopping")
            }
            Event::Paused => only(self.state == RunState::Running, "the run was not going on"),
            Event::Unpaused => only(self.state == RunState::Paused, "the run was not paused"),
            Event::Ended { state } => {
                only(live && self.live_steps == 0, "something of the run was alive")?;
                only(*state == self.outcome(), "the run ended in another way")
            }
            Event::Reopened => {
                only(matches!(self.state, RunState::Failed | RunState::Cancelled), "the run had not failed or stopped")
            }
        }
    }

    fn reads(&self, s: u32, of: u32) -> bool {
        of < s && self.graph.steps[s as usize].reads.contains(&of)
    }

    fn allows_settling(&self, s: u32) -> Result<(), &'static str> {
        let step = &self.steps[s as usize];
        only(step.state == StepState::Waiting, "the step had opened or ended")?;
        only(step.blockers == 0, "the step waits for others")
    }

    fn allows_opening(&self, s: u32) -> Result<(), &'static str> {
        self.allows_settling(s)?;
        only(!self.dropping(), "nothing new may start")?;
        let succeeded = |of: &u32| *of >= s || self.step(*of) == StepState::Succeeded;
        only(self.graph.steps[s as usize].reads.iter().all(succeeded), "something it reads has not succeeded")
    }

    fn allows_evaluation(&self, s: u32) -> Result<(), &'static str> {
        self.allows_opening(s)?;
        only(self.graph.steps[s as usize].evaluated, "the step has no condition and no list")
    }

    fn allows_in(&self, s: u32, i: u32, state: InstanceState, why: &'static str) -> Result<(), &'static str> {
        only(self.steps[s as usize].state == StepState::Open, "the step was not open")?;
        only(self.instance(s, i) == Some(state), why)
    }

    fn allows_end(&self, s: u32, i: u32, epoch: u64) -> Result<(), &'static str> {
        self.allows_in(s, i, InstanceState::Running, "no attempt was running")?;
        let theirs = self.running.get(&(s, i)).is_some_and(|running| running.epoch == epoch);
        only(theirs, "another attempt was running")
    }
}
