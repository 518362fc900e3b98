//! Runs that nobody drives: what shape they have, and how they are ended or paused.

use std::sync::Arc;

use jiff::Timestamp;
use swath_plan::{Action, Catalogue, Plan};
use swath_run::{Event, Graph, Input, Machine};
use swath_store::{Append, Error, NewEvent, RunLease, RunUpdate, Store};

use crate::{PlannedFlow, Program};

pub(crate) fn unreadable(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::Record { what: what.to_owned(), reason: reason.to_string() }
}

/// The shape of a stored run: of a sub-flow's, as the plan of the run above has it.
pub async fn graph_of(store: &dyn Store, run: &str) -> Result<Graph, Error> {
    let mut parts = run.split('.');
    let top = parts.next().unwrap_or(run);
    let stored = store.get_run(top).await?;
    let another = |error| unreadable("plan", format!("run `{top}` was planned by another version of swath ({error})"));
    let mut plan: Plan = serde_json::from_str(&stored.plan).map_err(another)?;
    for part in parts.filter(|part| !part.bytes().all(|b| b.is_ascii_digit())) {
        plan = match plan.step(part).map(|step| step.action.clone()) {
            Some(Action::Flow(inner)) => *inner,
            _ => return Err(unreadable("plan", format!("run `{top}` has no sub-flow `{part}`"))),
        };
    }
    Ok(PlannedFlow::new(plan, Arc::new(Catalogue::default()), Timestamp::UNIX_EPOCH).graph())
}

/// Cancels a run whose attempts died with its process.
pub(crate) async fn cancel(store: &dyn Store, lease: &RunLease) -> Result<(), Error> {
    let now = crate::now();
    offer(store, lease, now, &[Input::Cancel { deadline: now }, Input::Recovered]).await
}

/// Pauses a run that nobody drives.
pub(crate) async fn pause(store: &dyn Store, lease: &RunLease) -> Result<(), Error> {
    // One that has not begun begins, and starts nothing.
    offer(store, lease, crate::now(), &[Input::Begin, Input::Pause]).await
}

async fn offer(store: &dyn Store, lease: &RunLease, now: u64, inputs: &[Input]) -> Result<(), Error> {
    let run = lease.run();
    let stored = store.load_events(run, 0, u32::MAX).await?;
    let events: Result<Vec<Event>, _> = stored.iter().map(|event| Event::decode(&event.payload)).collect();
    let events = events.map_err(|error| unreadable("event", error))?;
    let mut machine =
        Machine::restore(graph_of(store, run).await?, &events).map_err(|error| unreadable("journal", error))?;
    let made: Vec<Event> = inputs.iter().flat_map(|input| machine.offer(input.clone(), now)).collect();
    if made.is_empty() {
        return Ok(());
    }
    let step = |event: &Event| event.step().map(|s| machine.graph().steps[s as usize].id.clone());
    let new = |e: &Event| NewEvent { kind: e.kind().to_owned(), step: step(e), payload: e.encode() };
    let at = i64::try_from(now).unwrap_or(i64::MAX);
    let append = Append {
        run: run.to_owned(),
        expected_seq: stored.len() as u64,
        epoch: lease.epoch(),
        at,
        events: made.iter().map(new).collect(),
        update: Some(RunUpdate {
            state: Some(machine.state().name().to_owned()),
            started_at: made.contains(&Event::Begun).then_some(at),
            ended_at: machine.state().has_ended().then_some(at),
            ..RunUpdate::default()
        }),
        ..Append::default()
    };
    store.append(append).await.map(|_| ())
}
