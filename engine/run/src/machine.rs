//! The state of a run, and what may be read off it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::event::{Event, Input, SkipReason};
use crate::graph::{Graph, OnFailure, StepSpec};
use crate::ready::Ready;

/// State of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Recorded, not begun.
    #[default]
    Pending,
    /// Going on.
    Running,
    /// Nothing new starts until somebody says so; what ran may end.
    Paused,
    /// Told to stop.
    Cancelling,
    /// Ended: every step that had to run did.
    Completed,
    /// Ended: a step failed whose failure stops the run.
    Failed,
    /// Ended: it was told to.
    Cancelled,
}

impl RunState {
    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is final.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// State of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepState {
    /// Waits for steps before it, or for the evaluation of its condition or list.
    #[default]
    Waiting,
    /// Has instances that are not final.
    Open,
    /// Every instance succeeded (there may be none), but for failures that it tolerates.
    Succeeded,
    /// It could not be evaluated, or more instances failed than it tolerates.
    Failed,
    /// Its condition was false, or something it reads was skipped.
    Skipped(SkipReason),
    /// Something it reads did not succeed.
    UpstreamFailed(u32),
    /// It was dropped or stopped before it could succeed.
    Cancelled,
}

impl StepState {
    /// Whether it is final in this generation.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Open)
    }
}

/// State of an instance of an open or ended step: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InstanceState {
    /// May start as soon as there are slots.
    Ready,
    /// An attempt runs.
    Running,
    /// Waits before another attempt.
    Backoff,
    /// Final: its result is there.
    Succeeded,
    /// Final: its attempts are used up, or trying again cannot help.
    Failed,
    /// Final: dropped or stopped.
    Cancelled,
}

/// How many instances of a step are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Instances in all.
    pub total: u32,
    /// Not final.
    pub remaining: u32,
    /// Succeeded, reused ones included.
    pub succeeded: u32,
    /// Reused.
    pub reused: u32,
    /// Failed.
    pub failed: u32,
    /// Dropped or stopped.
    pub cancelled: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Step {
    pub state: StepState,
    /// Steps before it that are not final.
    pub blockers: u32,
    pub instances: SmallVec<[InstanceState; 8]>,
    pub tally: Tally,
}

/// A live attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub attempt: u32,
    pub epoch: u64,
    pub started: u64,
}

/// Ended attempts of an instance that has not succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    /// Failed in this generation, and tried again.
    pub attempts: u32,
    /// Lost with their worker in this generation, and tried again.
    pub losses: u32,
    /// Count against no limit: of earlier generations, or stopped in good order. No two attempts share a number.
    pub uncounted: u32,
}

impl Tries {
    pub fn ended(self) -> u32 {
        self.attempts + self.losses + self.uncounted
    }
}

/// A run: fold of its events over its graph.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) graph: Graph,
    /// For each step, those that read it or come after it, each once.
    pub(crate) followers: Vec<Vec<u32>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) state: RunState,
    pub(crate) generation: u32,
    /// The step whose failure stops the run.
    pub(crate) failing: Option<u32>,
    pub(crate) deadline: Option<u64>,
    pub(crate) next_epoch: u64,
    pub(crate) ready: Ready,
    pub(crate) running: BTreeMap<(u32, u32), Running>,
    pub(crate) backoff: BTreeMap<(u32, u32), u64>,
    pub(crate) due: BTreeSet<(u64, u32, u32)>,
    pub(crate) tries: BTreeMap<(u32, u32), Tries>,
    /// Steps with nothing before them any more, to be settled.
    pub(crate) unblocked: BTreeSet<u32>,
    /// Steps that wait for the host's evaluation.
    pub(crate) evaluating: BTreeSet<u32>,
    pub(crate) open: BTreeSet<u32>,
    /// Steps that are not final.
    pub(crate) live_steps: u32,
    /// What has not started must be dropped.
    pub(crate) must_drop: bool,
    pub(crate) refused: u64,
}

impl Machine {
    /// A run that has not begun. The graph's steps are in topological order; edges that point forward are ignored.
    pub fn new(graph: Graph) -> Self {
        let mut followers = vec![Vec::new(); graph.steps.len()];
        let mut steps = Vec::with_capacity(graph.steps.len());
        for (index, spec) in graph.steps.iter().enumerate() {
            let before: BTreeSet<u32> =
                spec.reads.iter().chain(&spec.after).copied().filter(|b| (*b as usize) < index).collect();
            for step in &before {
                followers[*step as usize].push(index as u32);
            }
            steps.push(Step { blockers: before.len() as u32, ..Step::default() });
        }
        let live_steps = steps.len() as u32;
        Self {
            graph,
            followers,
            steps,
            state: RunState::Pending,
            generation: 1,
            failing: None,
            deadline: None,
            next_epoch: 1,
            ready: Ready::default(),
            running: BTreeMap::new(),
            backoff: BTreeMap::new(),
            due: BTreeSet::new(),
            tries: BTreeMap::new(),
            unblocked: BTreeSet::new(),
            evaluating: BTreeSet::new(),
            open: BTreeSet::new(),
            live_steps,
            must_drop: false,
            refused: 0,
        }
    }

    /// Takes in what the world says, and all that follows from it. The returned events have been applied: make them
    /// durable before acting on the new state, and give the machine up if that fails.
    pub fn offer(&mut self, input: Input, now: u64) -> Vec<Event> {
        let mut events = self.decide(input, now);
        for event in &events {
            self.evolve(event);
        }
        while let Some(event) = self.settle() {
            self.evolve(&event);
            events.push(event);
        }
        events
    }

    /// State of the run.
    pub fn state(&self) -> RunState {
        self.state
    }

    /// How often it has been taken up, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The graph it runs over.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The step whose failure stops the run.
    pub fn failing(&self) -> Option<u32> {
        self.failing
    }

    /// State of a step.
    pub fn step(&self, step: u32) -> StepState {
        self.steps[step as usize].state
    }

    /// How many instances of a step are in which state.
    pub fn tally(&self, step: u32) -> Tally {
        self.steps[step as usize].tally
    }

    /// State of an instance, `None` when the step has not opened or has fewer.
    pub fn instance(&self, step: u32, index: u32) -> Option<InstanceState> {
        self.steps.get(step as usize)?.instances.get(index as usize).copied()
    }

    /// The first ready instance of each entry of the queue, first come first: claim what there are slots for.
    pub fn ready(&self) -> impl Iterator<Item = (u32, u32)> {
        self.ready.heads()
    }

    /// Ready instances.
    pub fn queued(&self) -> u64 {
        self.ready.len()
    }

    /// Steps that wait for [`Input::Evaluated`].
    pub fn evaluations(&self) -> impl Iterator<Item = u32> {
        self.evaluating.iter().copied()
    }

    /// Live attempts: step, instance, attempt, epoch, start.
    pub fn running(&self) -> impl Iterator<Item = (u32, u32, u32, u64, u64)> {
        self.running.iter().map(|((s, i), r)| (*s, *i, r.attempt, r.epoch, r.started))
    }

    /// Attempt, epoch and start of a running instance.
    pub fn attempt(&self, step: u32, index: u32) -> Option<(u32, u64, u64)> {
        self.running.get(&(step, index)).map(|r| (r.attempt, r.epoch, r.started))
    }

    /// When [`Input::TimerDue`] should come next.
    pub fn next_due(&self) -> Option<u64> {
        // A wait that is over during a pause ends with the pause.
        let wait = self.due.first().map(|(until, ..)| *until).filter(|_| self.state != RunState::Paused);
        match (wait, self.deadline.filter(|_| self.state == RunState::Cancelling)) {
            (Some(wait), Some(deadline)) => Some(wait.min(deadline)),
            (wait, deadline) => wait.or(deadline),
        }
    }

    /// When the first instance of a step that waits for another attempt may have it.
    pub fn next_attempt(&self, step: u32) -> Option<u64> {
        self.backoff.range((step, 0)..=(step, u32::MAX)).map(|(_, until)| *until).min()
    }

    /// Answers from attempts that were no longer theirs to give (I5).
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether more instances of a step failed than it tolerates.
    pub(crate) fn too_many_failed(&self, step: u32) -> bool {
        let tally = self.tally(step);
        tally.failed > self.graph.steps[step as usize].tolerate.of(tally.total)
    }

    /// State of the run once none of its steps is live.
    pub(crate) fn outcome(&self) -> RunState {
        let collected = |(s, spec): (usize, &StepSpec)| {
            spec.on_failure == OnFailure::Collect && self.step(s as u32) == StepState::Failed
        };
        match self.state {
            RunState::Cancelling => RunState::Cancelled,
            _ if self.failing.is_some() || self.graph.steps.iter().enumerate().any(collected) => RunState::Failed,
            _ => RunState::Completed,
        }
    }

    /// Whether nothing new may start: the run is failing or being cancelled.
    pub(crate) fn dropping(&self) -> bool {
        self.failing.is_some() || self.state == RunState::Cancelling
    }
}

/// Equal when their journals say the same; counters of refused answers are not in the journal.
impl PartialEq for Machine {
    fn eq(&self, other: &Self) -> bool {
        let same_work = self.steps == other.steps && self.running == other.running && self.tries == other.tries;
        let same_waits = self.backoff == other.backoff && self.due == other.due && self.evaluating == other.evaluating;
        let same_run = self.state == other.state
            && self.generation == other.generation
            && self.failing == other.failing
            && self.deadline == other.deadline
            && self.next_epoch == other.next_epoch;
        same_run && same_work && same_waits && self.ready == other.ready && self.live_steps == other.live_steps
    }
}
