//! `swath explain`: an error code, why each step of a run ran or was reused, or where a file comes from.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use swath_control::{millis, v1};
use swath_host::standing::{self, Wait};
use swath_plan::{Again, Plan, Rerun};
use swath_store::{Lineage, RunFilter, Store, StoredResult};
use swath_task::Bytes;

use super::remote;
use crate::arguments::{Explain, Global};
use crate::failure::Failure;
use crate::server::refused;
use crate::{pages, style};

pub(crate) fn run(global: &Global, command: Explain) -> Result<ExitCode, Failure> {
    let is_code = matches!(command.what.as_bytes(), [letter, digits @ ..]
        if letter.is_ascii_alphabetic() && digits.len() == 3 && digits.iter().all(u8::is_ascii_digit));
    if is_code {
        return explain_code(global, &command);
    }
    if let Some(server) = &command.server {
        return super::block_on(on_server(global, server, &command));
    }
    if Path::new(&command.what).exists() {
        return explain_file(global, &command);
    }
    super::block_on(async move {
        let store = super::reader(global).await?;
        let row = super::find_run(store.as_ref(), &command.what).await?;
        let step = command.step.as_deref();
        super::check_step(store.as_ref(), &row.id, step).await?;
        let mut reasons = reasons(store.as_ref(), &row.id, step).await?;
        // Another process may drive the run: what its steps lack to start is not in the store.
        for standing in standing::of_run(store.as_ref(), &row.id, &|_| None).await? {
            let told = step.is_none_or(|step| step == standing.step);
            if told && (standing.state != "succeeded" || standing.done.1 == 0) {
                reasons.extend(waits(&standing.step, standing.state, standing.waits_for.iter().map(wait)));
            }
        }
        tell_reasons(global, &reasons)
    })
}

fn tell_reasons(global: &Global, reasons: &[Reason]) -> Result<ExitCode, Failure> {
    if global.json {
        super::print_json(&reasons)?
    } else {
        super::print(&text(reasons))?
    }
    Ok(ExitCode::SUCCESS)
}

/// What a server says of a step that has not ended.
async fn on_server(global: &Global, server: &str, command: &Explain) -> Result<ExitCode, Failure> {
    let step = command.step.clone().unwrap_or_default();
    let request = v1::ExplainStepRequest { run_id: command.what.clone(), step: step.clone() };
    let answer = remote::runs(server).await?.explain_step(request).await.map_err(refused)?.into_inner();
    let waits_for = answer.waits_for.iter();
    let told =
        waits_for.map(|one| (one.words.clone(), millis(one.since.as_ref()).unwrap_or(0), millis(one.until.as_ref())));
    tell_reasons(global, &waits(&step, &answer.state, told))
}

fn wait(wait: &Wait) -> (String, i64, Option<i64>) {
    (swath_store::redact(&wait.words()).into_owned(), wait.since, wait.until)
}

/// A line for each thing that a step waits for, or one that says how it ended.
fn waits(step: &str, state: &str, waits_for: impl Iterator<Item = (String, i64, Option<i64>)>) -> Vec<Reason> {
    let reason = |reason: String| Reason { step: step.to_owned(), reason };
    let line = |(words, since, until): (String, i64, Option<i64>)| {
        let until = until.map(|until| format!(", until {}", style::time(until))).unwrap_or_default();
        reason(format!("{words} (since {}{until})", style::time(since)))
    };
    let lines: Vec<Reason> = waits_for.map(line).collect();
    if lines.is_empty() { vec![reason(state.to_owned())] } else { lines }
}

fn explain_code(global: &Global, command: &Explain) -> Result<ExitCode, Failure> {
    let Some(page) = pages::page(&command.what) else {
        let known: Vec<&str> = pages::PAGES.iter().map(|(code, _)| *code).collect();
        let message = format!("there is no error code `{}`; there are {}", command.what, known.join(", "));
        return Err(Failure::Usage(message));
    };
    if let Some(step) = &command.step {
        let message = format!("`{}` is an error code and has no step `{step}`; steps are those of a run", command.what);
        return Err(Failure::Usage(message));
    }
    if global.json {
        let title = page.lines().next().unwrap_or_default().split_once(": ").map(|(_, title)| title);
        super::print_json(&json!({ "code": command.what.to_ascii_uppercase(), "title": title, "page": page }))?;
    } else {
        super::print(page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a file or folder comes from: which runs hold the artifact that it is a copy of.
fn explain_file(global: &Global, command: &Explain) -> Result<ExitCode, Failure> {
    let path = Path::new(&command.what);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let record = swath_task::files::describe(path, &name, "").map_err(|error| Failure::io("read", path, &error))?;
    super::block_on(async move {
        let store = super::reader(global).await?;
        let lineage = store.lineage(&record.digest).await?;
        if global.json {
            super::print_json(
                &json!({ "file": path, "digest": record.digest, "size": record.size, "lineage": lineage }),
            )?;
        } else if lineage.is_empty() {
            let message = format!(
                "`{}` is not the result of a step in this store as it is now: it was made elsewhere, has changed, or \
                 its run was collected; what `store.*` steps write and folders of outputs are no results themselves",
                path.display()
            );
            return Err(Failure::Usage(message));
        } else {
            super::print(&lineage.iter().map(origin).collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn origin(lineage: &Lineage) -> String {
    let Lineage { record, run, step, instance, attempt, at } = lineage;
    let how = if *attempt == 0 { "reused by" } else { "made by" };
    let at = jiff::Timestamp::from_millisecond(*at).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%SZ");
    let step = place("", step, instance);
    format!("{how} step `{step}` of run {run}, {at} ({}, {}, {})\n", record.kind, Bytes(record.size), record.digest)
}

/// Why a step, or an instance of it, ran or was reused.
#[derive(Serialize)]
pub(crate) struct Reason {
    /// `composite`, `areas[0]`; of a sub-flow's steps with what is above them, `areas[0]/composite`.
    step: String,
    reason: String,
}

/// One line a reason.
pub(crate) fn text(reasons: &[Reason]) -> String {
    let width = reasons.iter().map(|at| at.step.chars().count()).max().unwrap_or(0);
    reasons.iter().map(|at| format!("{:width$}  {}\n", at.step, at.reason)).collect()
}

/// Says for each step of a run, or one of them, why it ran or was reused; of sub-flows step by step.
pub(crate) async fn reasons(store: &dyn Store, run: &str, step: Option<&str>) -> Result<Vec<Reason>, Failure> {
    let mut found = Vec::new();
    let runs = store.list_runs(&RunFilter::default()).await?;
    let runs: BTreeSet<String> = runs.into_iter().map(|row| row.id).collect();
    explain(store, &runs, run, "", step, &mut found).await?;
    Ok(found)
}

async fn explain(
    store: &dyn Store,
    runs: &BTreeSet<String>,
    run: &str,
    above: &str,
    step: Option<&str>,
    found: &mut Vec<Reason>,
) -> Result<(), Failure> {
    let stored = store.get_run(run).await?;
    let flow = stored.row.flow;
    let plan: Option<Plan> = serde_json::from_str(&stored.plan).ok();
    let mut below: BTreeSet<(&str, &str)> = runs.iter().filter_map(|id| directly_below(id, run)).collect();
    below.retain(|(of, _)| step.is_none_or(|step| step == *of));
    for result in store.results(run, step).await? {
        let at = place(above, &result.step, &result.instance);
        let child = child(run, &result.step, &result.instance);
        if runs.contains(&child) {
            below.retain(|at| *at != (result.step.as_str(), result.instance.as_str()));
            found.push(Reason { step: at.clone(), reason: "a sub-flow, told step by step".to_owned() });
            Box::pin(explain(store, runs, &child, &format!("{at}/"), None, found)).await?;
        } else {
            let again = plan.as_ref().and_then(|plan| again(plan, &result.step));
            let reason = match again {
                Some((rerun, again)) => again_reason(store, rerun, again, &result).await?,
                None => reason(store, run, &flow, &result).await?,
            };
            found.push(Reason { step: at, reason });
        }
    }
    // Sub-flows that have not ended well have no result, but their steps may.
    for (step, instance) in below {
        let at = place(above, step, instance);
        found
            .push(Reason { step: at.clone(), reason: "a sub-flow without a result yet, told step by step".to_owned() });
        Box::pin(explain(store, runs, &child(run, step, instance), &format!("{at}/"), None, found)).await?;
    }
    Ok(())
}

fn place(above: &str, step: &str, instance: &str) -> String {
    if instance.is_empty() { format!("{above}{step}") } else { format!("{above}{step}[{instance}]") }
}

/// Id of the run of a sub-flow.
fn child(run: &str, step: &str, instance: &str) -> String {
    if instance.is_empty() { format!("{run}.{step}") } else { format!("{run}.{step}.{instance}") }
}

/// Step and instance of the sub-flow whose run this is, if that is a step of `run` itself.
fn directly_below<'a>(id: &'a str, run: &str) -> Option<(&'a str, &'a str)> {
    let rest = id.strip_prefix(run)?.strip_prefix('.')?;
    let (step, instance) = rest.split_once('.').unwrap_or((rest, ""));
    instance.bytes().all(|b| b.is_ascii_digit()).then_some((step, instance))
}

/// What the plan of a re-run says of a step.
fn again<'a>(plan: &'a Plan, step: &str) -> Option<(&'a Rerun, Again)> {
    let rerun = plan.rerun.as_ref()?;
    let at = plan.steps.iter().position(|planned| planned.id == step)?;
    Some((rerun, *rerun.steps.get(at)?))
}

/// Why a step of a re-run ran, or not.
async fn again_reason(
    store: &dyn Store,
    rerun: &Rerun,
    again: Again,
    result: &StoredResult,
) -> Result<String, Failure> {
    let of = &rerun.of;
    let earlier = store.results(of, Some(&result.step)).await?.into_iter().find(|one| one.instance == result.instance);
    let changed = || {
        let parts = result.parts.as_ref().zip(earlier.as_ref().and_then(|earlier| earlier.parts.as_ref()));
        let words = parts.map(|(now, before)| now.differences(before)).unwrap_or_default();
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        swath_store::redact(&words.join("; ")).into_owned()
    };
    Ok(match (again, result.reused_from.as_ref()) {
        (Again::TakenOver, Some(from)) if from == of => format!("taken over from run {of}"),
        (_, Some(from)) => format!("reused: task, version, parameters and inputs are those of run {from}"),
        (Again::Asked, None) => {
            let named = rerun.from.is_empty() || rerun.from.contains(&result.step);
            let why = if named { String::new() } else { format!(": it comes after {}", rerun.from.join(", ")) };
            format!("ran: it was to run again{why}")
        }
        (Again::TakenOver, None) => format!("ran: run {of} has no whole result of it, or of what it reads"),
        (Again::Changed, None) => match changed() {
            words if words.is_empty() => format!("ran: changed parameters may reach it, since run {of}"),
            words => format!("ran: {words}"),
        },
    })
}

async fn reason(store: &dyn Store, run: &str, flow: &str, result: &StoredResult) -> Result<String, Failure> {
    if let Some(from) = &result.reused_from {
        return Ok(format!("reused: task, version, parameters and inputs are those of run {from}"));
    }
    let Some(parts) = &result.parts else {
        return Ok("ran: results of this step are not reused (it has effects, its source may change, or `cache: off`)"
            .to_owned());
    };
    let Some(before) = before(store, run, flow, result).await? else { return Ok("ran: for the first time".to_owned()) };
    let differences = before.parts.as_ref().map(|earlier| parts.differences(earlier)).unwrap_or_default();
    if differences.is_empty() {
        let earlier = run_of(store, run, flow, &before).await?.unwrap_or_else(|| "an earlier run".to_owned());
        return Ok(format!("ran: nothing changed since {earlier}, but its result was refreshed, expired or gone"));
    }
    let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Ok(format!("ran: {}", swath_store::redact(&words.join("; "))))
}

/// The newest earlier result of the same step instance: of a sub-flow, in the same place of an earlier run.
async fn before(
    store: &dyn Store,
    run: &str,
    flow: &str,
    result: &StoredResult,
) -> Result<Option<StoredResult>, Failure> {
    if super::is_below(run) {
        for row in same_place(store, run, flow).await? {
            let earlier = store.results(&row, Some(&result.step)).await?;
            let found = earlier.into_iter().find(|e| e.instance == result.instance && e.at < result.at);
            if found.is_some() {
                return Ok(found);
            }
        }
        return Ok(None);
    }
    let history = store.key_history(flow, &result.step, &result.instance, 50).await?;
    // Newest first; what came after this result cannot have been its reason.
    Ok(history.into_iter().find(|earlier| earlier.at < result.at))
}

/// Other runs of the flow, newest first: of a sub-flow, those of the same step and instance.
async fn same_place(store: &dyn Store, run: &str, flow: &str) -> Result<Vec<String>, Failure> {
    let place = |id: &str| id.split_once('.').map(|(_, place)| place.to_owned());
    let filter = RunFilter { flow: Some(flow.to_owned()), ..RunFilter::default() };
    let ids = store.list_runs(&filter).await?.into_iter().map(|row| row.id);
    Ok(ids.filter(|id| id != run && place(id) == place(run)).take(50).collect())
}

/// Which run an earlier result is of.
async fn run_of(store: &dyn Store, run: &str, flow: &str, of: &StoredResult) -> Result<Option<String>, Failure> {
    for row in same_place(store, run, flow).await? {
        if store.results(&row, Some(&of.step)).await?.contains(of) {
            return Ok(Some(format!("run {row}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_directly_below_the_one_whose_step_it_is() {
        let below = |id| directly_below(id, "season-1");
        assert_eq!(below("season-1.areas.0"), Some(("areas", "0")));
        assert_eq!(below("season-1.areas"), Some(("areas", "")));
        for id in ["season-1", "season-12.areas", "season-1.areas.0.deep", "season-1.areas.deep", "other.areas"] {
            assert_eq!(below(id), None, "{id}");
        }
    }
}
