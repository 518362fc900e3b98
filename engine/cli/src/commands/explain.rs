//! `swath explain`: an error code, or why each step of a run ran or was reused.

use std::process::ExitCode;

use serde_json::json;
use swath_store::{SqliteStore, Store, StoredResult};

use crate::arguments::{Explain, Global};
use crate::failure::Failure;
use crate::pages;

pub(crate) fn run(global: &Global, command: Explain) -> Result<ExitCode, Failure> {
    let is_code = command.what.len() == 4 && command.what[1..].bytes().all(|b| b.is_ascii_digit());
    if is_code && command.step.is_none() {
        let Some(page) = pages::page(&command.what) else {
            let known: Vec<&str> = pages::PAGES.iter().map(|(code, _)| *code).collect();
            return Err(Failure::Usage(format!(
                "there is no error code `{}`; there are {}",
                command.what,
                known.join(", ")
            )));
        };
        super::print(page)?;
        return Ok(ExitCode::SUCCESS);
    }
    super::block_on(async move {
        let store = super::reader(&global.home).await?;
        let row = super::find_run(&store, &command.what).await?;
        print_run(&store, &row.id, command.step.as_deref(), global.json).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Says for each step of a run why it ran or was reused.
pub(crate) async fn print_run(
    store: &SqliteStore,
    run: &str,
    step: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let flow = store.get_run(run).await?.row.flow;
    let mut reasons = Vec::new();
    for result in store.results(run, step).await? {
        let reason = reason(store, run, &flow, &result).await?;
        let at = if result.instance.is_empty() { result.step } else { format!("{}[{}]", result.step, result.instance) };
        reasons.push((at, reason));
    }
    if reasons.is_empty() {
        let of = step.map(|step| format!("step `{step}` of ")).unwrap_or_default();
        return Err(Failure::Usage(format!("{of}run `{run}` has no result yet")));
    }
    if as_json {
        let all: Vec<_> = reasons.iter().map(|(step, reason)| json!({ "step": step, "reason": reason })).collect();
        return super::print_json(&all);
    }
    let width = reasons.iter().map(|(step, _)| step.chars().count()).max().unwrap_or(0);
    let lines = reasons.iter().map(|(step, reason)| format!("{step:width$}  {reason}\n"));
    super::print(&lines.collect::<String>())
}

async fn reason(store: &SqliteStore, run: &str, flow: &str, result: &StoredResult) -> Result<String, Failure> {
    if let Some(from) = &result.reused_from {
        return Ok(format!("reused: task, version, parameters and inputs are those of run {from}"));
    }
    let Some(parts) = &result.parts else {
        return Ok("ran: results of this step are not reused (it has effects, its source may change, or `cache: off`)"
            .to_owned());
    };
    let history = store.key_history(flow, &result.step, &result.instance, 50).await?;
    // Newest first; what came after this result cannot have been its reason.
    let before = history.iter().find(|earlier| earlier.at < result.at);
    let Some(before) = before else { return Ok("ran: for the first time".to_owned()) };
    let differences = before.parts.as_ref().map(|earlier| parts.differences(earlier)).unwrap_or_default();
    if differences.is_empty() {
        return Ok(format!(
            "ran: nothing changed since an earlier run, but its result was refreshed, expired or gone (run {run})"
        ));
    }
    let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Ok(format!("ran: {}", words.join("; ")))
}
