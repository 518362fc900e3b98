//! The steps of a run as its journal has them: how each stands, how many instances it has, what went wrong.

use swath_run::{Event, Fault, Machine, StepState};
use swath_store::{Error, Store};

use crate::idle::{graph_of, unreadable};

/// Most faults that are told of a step.
const MOST_FAULTS: usize = 100;
/// Events that are read at once.
const PAGE: u32 = 10_000;

/// A step of a run.
#[derive(Clone, Debug)]
pub struct StepOf {
    /// Its id.
    pub id: String,
    /// `waiting`, `ready`, `running`, `succeeded`, `reused`, `failed`, `skipped`, `not run` or `cancelled`.
    pub state: &'static str,
    /// Its instances; 0 before they are known.
    pub instances: u32,
    /// Those that have succeeded, those with earlier results among them.
    pub succeeded: u32,
    /// Those whose earlier results were taken.
    pub reused: u32,
    /// Those that have failed for good.
    pub failed: u32,
    /// What went wrong in it, the first hundred times.
    pub faults: Vec<StepFault>,
}

/// Something that went wrong in a step.
#[derive(Clone, Debug)]
pub struct StepFault {
    /// Name of the event that tells of it: `retried`, `failed` or `step_failed`.
    pub kind: &'static str,
    /// The instance; `None` when it is of the whole step.
    pub instance: Option<u32>,
    /// What happened.
    pub fault: Fault,
}

/// The steps of a run, in an order in which they can run.
pub async fn of_run(store: &dyn Store, run: &str) -> Result<Vec<StepOf>, Error> {
    let mut machine = Machine::new(graph_of(store, run).await?);
    let mut faults = vec![Vec::new(); machine.graph().steps.len()];
    let mut seen = 0;
    loop {
        let page = store.load_events(run, seen, PAGE).await?;
        for stored in &page {
            let event = Event::decode(&stored.payload).map_err(|error| unreadable("event", error))?;
            machine.follow(&event).map_err(|error| unreadable("journal", error))?;
            let kind = event.kind();
            let (s, instance, fault) = match event {
                Event::Failed { s, i, fault, .. } | Event::Retried { s, i, fault, .. } => (s, Some(i), fault),
                Event::StepFailed { s, fault } => (s, None, fault),
                _ => continue,
            };
            if faults[s as usize].len() < MOST_FAULTS {
                faults[s as usize].push(StepFault { kind, instance, fault });
            }
        }
        seen += page.len() as u64;
        if page.len() < PAGE as usize {
            break;
        }
    }
    let driven = store.run_holder(run).await?.is_some();
    let steps = faults.into_iter().enumerate().map(|(s, faults)| step(&machine, s as u32, driven, faults));
    Ok(steps.collect())
}

fn step(machine: &Machine, s: u32, driven: bool, faults: Vec<StepFault>) -> StepOf {
    let tally = machine.tally(s);
    let state = match machine.step(s) {
        StepState::Waiting => "waiting",
        StepState::Open if driven && machine.running().any(|running| running.0 == s) => "running",
        StepState::Open => "ready",
        StepState::Succeeded if tally.reused == tally.total && tally.total > 0 => "reused",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Skipped(_) => "skipped",
        StepState::UpstreamFailed(_) => "not run",
        StepState::Cancelled => "cancelled",
    };
    StepOf {
        id: machine.graph().steps[s as usize].id.clone(),
        state,
        instances: tally.total,
        succeeded: tally.succeeded,
        reused: tally.reused,
        failed: tally.failed,
        faults,
    }
}
