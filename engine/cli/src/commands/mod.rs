//! The commands, a file each.

pub(crate) mod attempt_worker;
pub(crate) mod cache;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod deployments;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod gc;
pub(crate) mod graph;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod remote;
pub(crate) mod rerun;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod sample;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod tasks;
pub(crate) mod test;
pub(crate) mod token;
pub(crate) mod tracking;
pub(crate) mod validate;
pub(crate) mod workers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use swath_store::{Access, Error, RunFilter, RunRow, Store};

use crate::arguments::Global;
use crate::failure::Failure;

/// Runs async work to its end on a runtime of this command's own.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Usage(format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(work);
    // A blocking attempt that ignores its cancellation must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    result
}

/// The place of whoever calls this program in its own trace, by W3C's `traceparent`.
pub(crate) fn traceparent() -> Option<String> {
    std::env::var("TRACEPARENT").ok().filter(|place| !place.is_empty())
}

/// Opens the store for reading.
pub(crate) async fn reader(global: &Global) -> Result<Arc<dyn Store>, Failure> {
    existing(global, Access::Read).await
}

/// Opens a store that is there.
pub(crate) async fn existing(global: &Global, access: Access) -> Result<Arc<dyn Store>, Failure> {
    let home = &global.home;
    if global.store.is_none() && !has_store(home)? {
        let message =
            format!("there is no store in `{}`: nothing has been run here, or `--home` names another", home.display());
        return Err(Failure::Usage(message));
    }
    Ok(global.address().open(access).await?)
}

/// Whether there is a store; a folder that cannot be looked into is an error of its own.
pub(crate) fn has_store(home: &Path) -> Result<bool, Failure> {
    match std::fs::metadata(swath_store::Home::new(home).database()) {
        Ok(found) => Ok(found.is_file()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io("look for a store in", home, &error)),
    }
}

/// The run of an id or the beginning of one.
pub(crate) async fn find_run(store: &dyn Store, id: &str) -> Result<RunRow, Failure> {
    match store.run_row(id).await {
        Err(Error::NoRun(_)) => {}
        found => return Ok(found?),
    }
    let rows = store.list_runs(&RunFilter { without_sub_flows: true, ..RunFilter::default() }).await?;
    let matching: Vec<&RunRow> = rows.iter().filter(|row| row.id.starts_with(id)).collect();
    match matching.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Failure::Usage(format!("there is no run `{id}`; `swath runs` lists them"))),
        several => {
            let ids: Vec<&str> = several.iter().take(5).map(|row| row.id.as_str()).collect();
            Err(Failure::Usage(format!("`{id}` is the beginning of {} runs: {}", several.len(), ids.join(", "))))
        }
    }
}

/// Refuses a step that the run has not.
pub(crate) async fn check_step(store: &dyn Store, run: &str, step: Option<&str>) -> Result<(), Failure> {
    let Some(step) = step else { return Ok(()) };
    let steps: Vec<String> = swath_host::graph_of(store, run).await?.steps.into_iter().map(|step| step.id).collect();
    if steps.iter().any(|known| known == step) {
        return Ok(());
    }
    Err(Failure::Usage(format!("run `{run}` has no step `{step}`; it has {}", steps.join(", "))))
}

/// Whether a run is one of a sub-flow: its id is that of the run above, a dot, and the step.
pub(crate) fn is_below(id: &str) -> bool {
    id.contains('.')
}

/// State of a run as a person should see it: one that had begun and that nobody drives was cut off.
pub(crate) async fn shown_state(store: &dyn Store, row: &RunRow) -> Result<String, Failure> {
    Ok(shown_states(store, std::slice::from_ref(row)).await?.pop().unwrap_or_default())
}

/// The same of many runs.
pub(crate) async fn shown_states(store: &dyn Store, rows: &[RunRow]) -> Result<Vec<String>, Failure> {
    let is_live = |row: &&RunRow| matches!(row.state.as_str(), "running" | "cancelling");
    let live: Vec<String> = rows.iter().filter(is_live).map(|row| row.id.clone()).collect();
    let driven = if live.is_empty() { HashMap::new() } else { store.holders(&live).await? };
    let shown = |row: &RunRow| match is_live(&row) && !driven.contains_key(&row.id) {
        true => "interrupted".to_owned(),
        false => row.state.clone(),
    };
    Ok(rows.iter().map(shown).collect())
}

/// Prints a JSON document on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Usage(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Prints on standard output. A closed pipe is the reader's choice, not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Usage(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
