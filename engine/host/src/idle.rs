//! Runs that nobody drives: what shape they have, and how they are ended.

use std::sync::Arc;

use jiff::Timestamp;
use swath_plan::{Action, Catalogue, Plan};
use swath_run::{Event, Graph, Input, Machine};
use swath_store::{Append, Error, NewEvent, RunLease, RunUpdate, Store};

use crate::{PlannedFlow, Program};

fn unreadable(what: &str, reason: impl std::fmt::Display) -> Error {
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
pub async fn end_idle(store: &dyn Store, lease: &RunLease) -> Result<(), Error> {
    let run = lease.run();
    let stored = store.load_events(run, 0, u32::MAX).await?;
    let events: Result<Vec<Event>, _> = stored.iter().map(|event| Event::decode(&event.payload)).collect();
    let events = events.map_err(|error| unreadable("event", error))?;
    let mut machine =
        Machine::restore(graph_of(store, run).await?, &events).map_err(|error| unreadable("journal", error))?;
    let now = crate::now();
    let mut made = machine.offer(Input::Cancel { deadline: now }, now);
    made.extend(machine.offer(Input::Recovered, now));
    let step = |event: &Event| event.step().map(|s| machine.graph().steps[s as usize].id.clone());
    let events =
        made.iter().map(|e| NewEvent { kind: e.kind().to_owned(), step: step(e), payload: e.encode() }).collect();
    let at = i64::try_from(now).unwrap_or(i64::MAX);
    let update =
        RunUpdate { state: Some(machine.state().name().to_owned()), ended_at: Some(at), ..RunUpdate::default() };
    let append = Append {
        run: run.to_owned(),
        expected_seq: stored.len() as u64,
        epoch: lease.epoch(),
        at,
        events,
        update: Some(update),
        ..Append::default()
    };
    store.append(append).await.map(|_| ())
}
