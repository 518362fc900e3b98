//! Where a step of a run stands, and what it waits for: read off the journal, and off the slots where they are known.

use serde::Serialize;
use swath_run::{Event, InstanceState, Machine, RunState, StepState};
use swath_store::{Error, Store};

use crate::idle::{graph_of, unreadable};
use crate::slots::Missing;

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The step.
    pub step: String,
    /// `waiting`, `ready`, `running`, or how it ended.
    pub state: &'static str,
    /// How many of its instances ended, and how many there are; `(0, 0)` before it opens.
    pub done: (u32, u32),
    /// What it waits for, if it has not ended.
    pub waits_for: Vec<Wait>,
}

/// Something a step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// What kind of thing.
    pub kind: WaitKind,
    /// Which step, limit or fault, in words; empty when the kind says it all.
    pub what: String,
    /// Since when, milliseconds since 1970.
    pub since: i64,
    /// Until when, milliseconds since 1970, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// What kind of thing a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// A step before it.
    Upstream,
    /// Cores, memory, a GPU or a named limit: which, only the process that drives the run knows.
    Slots,
    /// What this names of the slots.
    Slot,
    /// The time of another attempt.
    Retry,
    /// The end of a pause.
    Pause,
    /// Somebody who drives the run.
    Driver,
    /// The end of its own live attempts.
    Attempts,
    /// Nothing: the run is being ended, and it will not start.
    Never,
}

impl WaitKind {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Slots => "slots",
            Self::Slot => "slot",
            Self::Retry => "retry",
            Self::Pause => "pause",
            Self::Driver => "driver",
            Self::Attempts => "attempts",
            Self::Never => "never",
        }
    }
}

impl Wait {
    /// The wait in words, without its times.
    pub fn words(&self) -> String {
        let what = &self.what;
        match self.kind {
            WaitKind::Upstream => format!("waits for {what}"),
            WaitKind::Slots => {
                "is ready and waits for its turn: for cores, memory, a GPU or a named limit; which of them, \
                                the process that drives the run knows"
                    .to_owned()
            }
            WaitKind::Slot => format!("waits for {what}"),
            WaitKind::Retry => format!("waits for another attempt, after: {what}"),
            WaitKind::Pause => "waits for the end of the pause: `swath resume` goes on".to_owned(),
            WaitKind::Driver => "waits for somebody to drive the run: `swath resume` goes on".to_owned(),
            WaitKind::Attempts => format!("runs: {what}"),
            WaitKind::Never => format!("will not start: {what}"),
        }
    }
}

/// When what happened that steps wait for.
struct Times {
    begun: i64,
    paused: i64,
    /// The run was told to stop, or a step failed.
    stopped: i64,
    last: i64,
    steps: Vec<StepTimes>,
}

/// When what happened to a step.
#[derive(Clone, Default)]
struct StepTimes {
    ready: i64,
    started: i64,
    retried: Option<(i64, String)>,
}

/// Where the steps of a run stand. `missing` is what the step at a position lacks to start, where that is known.
pub async fn of_run(
    store: &dyn Store,
    run: &str,
    missing: &(dyn Fn(u32) -> Option<Missing> + Sync),
) -> Result<Vec<Standing>, Error> {
    let mut machine = Machine::new(graph_of(store, run).await?);
    let count = machine.graph().steps.len();
    let created = store.run_row(run).await?.created_at;
    let steps = vec![StepTimes { ready: created, ..StepTimes::default() }; count];
    let mut times = Times { begun: created, paused: created, stopped: created, last: created, steps };
    for stored in store.load_events(run, 0, u32::MAX).await? {
        let event = Event::decode(&stored.payload).map_err(|error| unreadable("event", error))?;
        machine.follow(&event).map_err(|error| unreadable("journal", error))?;
        times.note(event, stored.at);
    }
    let driven = store.run_holder(run).await?.is_some();
    Ok((0..count as u32).map(|s| standing(&machine, s, &times, driven, missing(s))).collect())
}

impl Times {
    fn note(&mut self, event: Event, at: i64) {
        self.last = at;
        match event {
            Event::Begun => self.begun = at,
            Event::Reopened => {
                self.begun = at;
                self.steps.iter_mut().for_each(|step| step.ready = at);
            }
            Event::Paused => self.paused = at,
            Event::CancelRequested { .. } | Event::Failed { .. } | Event::StepFailed { .. } => self.stopped = at,
            Event::Opened { s, .. } | Event::Readied { s, .. } | Event::Released { s, .. } => {
                self.steps[s as usize].ready = at;
            }
            Event::Started { s, .. } => self.steps[s as usize].started = at,
            Event::Retried { s, fault, .. } => {
                self.steps[s as usize].retried = Some((at, format!("{} [{}]", fault.message, fault.code)));
            }
            _ => {}
        }
    }
}

fn standing(machine: &Machine, s: u32, times: &Times, driven: bool, missing: Option<Missing>) -> Standing {
    let tally = machine.tally(s);
    let running = machine.running().filter(|at| at.0 == s).count();
    let state = match machine.step(s) {
        StepState::Waiting => "waiting",
        StepState::Open if running > 0 && driven => "running",
        StepState::Open => "ready",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Skipped(_) => "skipped",
        StepState::UpstreamFailed(_) => "not run",
        StepState::Cancelled => "cancelled",
    };
    let mut waits_for = Vec::new();
    let mut wait = |kind, what: String, since, until| waits_for.push(Wait { kind, what, since, until });
    let live = !machine.step(s).is_final() && !machine.state().has_ended();
    if live && !driven {
        wait(WaitKind::Driver, String::new(), times.last, None);
    }
    if live && machine.state() == RunState::Paused {
        wait(WaitKind::Pause, String::new(), times.paused, None);
    }
    let ending = machine.state() == RunState::Cancelling || machine.failing().is_some();
    match machine.step(s) {
        _ if !live => {}
        _ if ending && running == 0 => {
            let why = match machine.failing() {
                Some(of) => {
                    format!("step `{}` failed, and the run ends with that", machine.graph().steps[of as usize].id)
                }
                None => "the run is being cancelled".to_owned(),
            };
            wait(WaitKind::Never, why, times.stopped, None);
        }
        StepState::Waiting => {
            let spec = &machine.graph().steps[s as usize];
            let mut before: Vec<u32> = spec.reads.iter().chain(&spec.after).copied().collect();
            before.sort_unstable();
            before.dedup();
            for of in before.into_iter().filter(|of| !machine.step(*of).is_final()) {
                let runs = machine.running().filter(|at| at.0 == of).count();
                let word = match machine.step(of) {
                    StepState::Waiting => "waits itself",
                    _ if runs > 0 && driven => "runs",
                    _ => "has not ended",
                };
                let since = times.begun;
                wait(
                    WaitKind::Upstream,
                    format!("step `{}`, which {word}", machine.graph().steps[of as usize].id),
                    since,
                    None,
                );
            }
        }
        _ => {
            if running > 0 && driven {
                let attempts = if running == 1 { "an attempt".to_owned() } else { format!("{running} attempts") };
                wait(WaitKind::Attempts, attempts, times.steps[s as usize].started, None);
            }
            let count = |state| (0..tally.total).filter(|i| machine.instance(s, *i) == Some(state)).count();
            if let (1.., Some((at, fault))) = (count(InstanceState::Backoff), &times.steps[s as usize].retried) {
                wait(WaitKind::Retry, fault.clone(), *at, machine.next_attempt(s).map(|until| until as i64));
            }
            if count(InstanceState::Ready) > 0 && driven && machine.state() == RunState::Running {
                match missing {
                    Some(missing) => wait(WaitKind::Slot, missing.to_string(), times.steps[s as usize].ready, None),
                    None => wait(WaitKind::Slots, String::new(), times.steps[s as usize].ready, None),
                }
            }
        }
    }
    Standing {
        step: machine.graph().steps[s as usize].id.clone(),
        state,
        done: (tally.total - tally.remaining, tally.total),
        waits_for,
    }
}
