//! Whether what is stored of runs keeps the invariants: each journal is replayed by the run machine, and the rows are
//! asked by the database itself. For tests and for doubt: it reads the whole store.

use swath_run::{Event, Machine, RunState};
use swath_store::{Broken, Error, RunFilter, RunRow, Store, Vocabulary};

use crate::idle::graph_of;

/// Page size when a journal is loaded.
const PAGE: u32 = 10_000;

/// What the names of kinds and states in a store mean.
pub fn vocabulary() -> Vocabulary {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let ended = [RunState::Completed, RunState::Failed, RunState::Cancelled];
    Vocabulary {
        ended_states: ended.iter().map(|state| state.name().to_owned()).collect(),
        result_kinds: names(&["succeeded"]),
        begin_kinds: names(&["started"]),
        end_kinds: names(&["succeeded", "retried", "released", "failed", "cancelled"]),
    }
}

/// Every rule that a store breaks, with how many runs were looked at. Runs may be live meanwhile.
pub async fn check_store(store: &dyn Store) -> Result<(usize, Vec<Broken>), Error> {
    let mut broken = store.audit(&vocabulary()).await?;
    let runs = store.list_runs(&RunFilter::default()).await?;
    for row in &runs {
        broken.extend(check_run(store, row).await?);
    }
    broken.sort();
    broken.dedup();
    Ok((runs.len(), broken))
}

/// Every rule that the journal of a run breaks, up to the event that its row tells.
pub async fn check_run(store: &dyn Store, row: &RunRow) -> Result<Vec<Broken>, Error> {
    let told = |rule: &str, what: String| Broken { run: row.id.clone(), rule: rule.to_owned(), what };
    let mut events: Vec<Event> = Vec::new();
    while (events.len() as u64) < row.seq {
        let after = events.len() as u64;
        let limit = u32::try_from(row.seq - after).unwrap_or(PAGE).min(PAGE);
        let page = match store.load_events(&row.id, after, limit).await {
            Ok(page) => page,
            Err(Error::Corrupt { reason, .. }) => return Ok(vec![told("I3", reason)]),
            Err(error) => return Err(error),
        };
        if page.is_empty() {
            let what = format!("its row is at event {}, its journal ends at {after}", row.seq);
            return Ok(vec![told("I3", what)]);
        }
        for stored in page {
            match Event::decode(&stored.payload) {
                Ok(event) => events.push(event),
                Err(error) => return Ok(vec![told("I1", format!("event {} cannot be read: {error}", stored.seq))]),
            }
        }
    }
    let graph = match graph_of(store, &row.id).await {
        Ok(graph) => graph,
        Err(Error::Record { reason, .. }) => return Ok(vec![told("I18", reason)]),
        Err(error) => return Err(error),
    };
    let machine = match Machine::restore(graph, &events) {
        Ok(machine) => machine,
        Err(error) => return Ok(vec![told("I1", error.to_string())]),
    };
    let mut broken: Vec<Broken> = machine
        .check_invariants()
        .into_iter()
        .map(|broken| match broken.split_once(": ") {
            Some((rule, what)) => told(rule, what.to_owned()),
            None => told("I1", broken),
        })
        .collect();
    // A run whose steps are done and whose outputs cannot be computed has failed.
    let unyielded = row.state == RunState::Failed.name() && machine.state() == RunState::Completed;
    if row.state != machine.state().name() && !unyielded {
        let what = format!("its row says {}, its journal {}", row.state, machine.state().name());
        broken.push(told("I3", what));
    }
    Ok(broken)
}
