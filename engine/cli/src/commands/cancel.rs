//! `swath cancel`: asks whoever drives a run to end it, or ends a run that nobody drives.

use std::process::ExitCode;

use swath_run::{Event, Graph, Input, Machine};
use swath_store::{Access, Append, Home, NewEvent, RunUpdate, SqliteStore, Store};

use crate::arguments::{Cancel, Global};
use crate::failure::Failure;

pub(crate) fn run(global: &Global, command: Cancel) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::reader(&global.home).await?;
        let row = super::find_run(&store, &command.run).await?;
        let state = super::shown_state(&store, &row);
        if matches!(state.as_str(), "completed" | "failed" | "cancelled") {
            return Err(Failure::Usage(format!("run `{}` has ended already: it is {state}", row.id)));
        }
        if store.run_holder(&row.id)?.is_some() {
            Home::new(&global.home).ask_to_cancel(&row.id)?;
            for _ in 0..75 {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                if store.run_holder(&row.id)?.is_none() {
                    let state = store.get_run(&row.id).await?.row.state;
                    return told(global, &row.id, &state);
                }
            }
            return Err(Failure::Usage(format!(
                "run `{}` was asked to stop and has not yet; look again with `swath show`",
                row.id
            )));
        }
        drop(store);
        let store = SqliteStore::open(&global.home, Access::Write).await?;
        let _lease = store.lease_run(&row.id)?;
        end_idle(&store, &row.id).await?;
        told(global, &row.id, "cancelled")
    })
}

fn told(global: &Global, run: &str, state: &str) -> Result<ExitCode, Failure> {
    if global.json {
        super::print_json(&serde_json::json!({ "run": run, "state": state }))?;
    } else {
        tell!("run {run} is {state}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a run that nobody drives: its attempts died with its process.
async fn end_idle(store: &SqliteStore, run: &str) -> Result<(), Failure> {
    let stored = store.load_events(run, 0, u32::MAX).await?;
    let events: Result<Vec<Event>, _> = stored.iter().map(|event| Event::decode(&event.payload)).collect();
    let events = events.map_err(|error| Failure::Usage(error.to_string()))?;
    let graph: Graph = crate::commands::show::graph_of(store, run).await?;
    let mut machine = Machine::restore(graph, &events).map_err(|error| Failure::Usage(error.to_string()))?;
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
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
        at,
        events,
        update: Some(update),
        ..Append::default()
    };
    store.append(append).await?;
    store.close().await;
    Ok(())
}
