//! `swath show`: a run, its steps, results and failures.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_host::graph_of;
use swath_plan::Plan;
use swath_run::{Event, Machine, RunState, StepState};

use crate::arguments::{Global, Show};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Show) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::reader(global).await?;
        let row = super::find_run(store.as_ref(), &command.run).await?;
        let stored = store.get_run(&row.id).await?;
        let events = store.load_events(&row.id, 0, u32::MAX).await?;
        let decoded: Result<Vec<Event>, _> = events.iter().map(|event| Event::decode(&event.payload)).collect();
        let decoded = decoded.map_err(|error| Failure::Usage(format!("the journal cannot be read: {error}")))?;
        let machine = Machine::restore(graph_of(store.as_ref(), &row.id).await?, &decoded)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let results = store.results(&row.id, None).await?;
        let state = super::shown_state(store.as_ref(), &row).await?;
        let refused = store.refused(&row.id).await?;
        let steps: Vec<(String, String, String)> = (0..machine.graph().steps.len() as u32)
            .map(|s| {
                let id = machine.graph().steps[s as usize].id.clone();
                let tally = machine.tally(s);
                let words = match machine.step(s) {
                    StepState::Waiting => "waiting".to_owned(),
                    StepState::Open if machine.running().any(|r| r.0 == s) && state != "interrupted" => {
                        "running".to_owned()
                    }
                    StepState::Open => "ready".to_owned(),
                    StepState::Succeeded if tally.reused == tally.total && tally.total > 0 => "reused".to_owned(),
                    StepState::Succeeded => "succeeded".to_owned(),
                    StepState::Failed => "failed".to_owned(),
                    StepState::Skipped(_) => "skipped".to_owned(),
                    StepState::UpstreamFailed(_) => "not run".to_owned(),
                    StepState::Cancelled => "cancelled".to_owned(),
                };
                let tolerated = match machine.step(s) {
                    StepState::Succeeded if tally.failed > 0 => format!(", {} failed and tolerated", tally.failed),
                    _ => String::new(),
                };
                let count = match tally.total {
                    2.. => format!("{} of {}{tolerated}", tally.succeeded, tally.total),
                    _ => tolerated.trim_start_matches(", ").to_owned(),
                };
                (id, words, count)
            })
            .collect();
        let faults: Vec<(String, Value)> = decoded
            .iter()
            .filter_map(|event| match event {
                Event::Failed { fault, .. } | Event::StepFailed { fault, .. } | Event::Retried { fault, .. } => {
                    let step = event.step().map(|s| machine.graph().steps[s as usize].id.clone())?;
                    Some((step, json!({ "kind": event.kind(), "fault": fault })))
                }
                _ => None,
            })
            .collect();
        let plan: Option<Plan> = serde_json::from_str(&stored.plan).ok();
        let rerun_of = plan.and_then(|plan| plan.rerun).map(|rerun| rerun.of);
        let params = redacted(serde_json::from_str(&stored.params).unwrap_or(Value::Null));
        if global.json {
            let steps: Vec<_> = steps
                .iter()
                .map(|(id, state, count)| json!({ "id": id, "state": state, "instances": count }))
                .collect();
            let results: Vec<_> = results
                .iter()
                .map(|r| {
                    json!({ "step": r.step, "instance": r.instance, "attempt": r.attempt, "reused_from": r.reused_from,
                        "outputs": serde_json::from_str::<Value>(&r.outputs).unwrap_or(Value::Null) })
                })
                .collect();
            super::print_json(
                &json!({ "run": row, "shown_state": state, "rerun_of": rerun_of, "params": params, "steps": steps, "results": results, "faults": faults, "refused_writes": refused }),
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = format!(
            "run      {}\nflow     {} ({})\nstate    {state}\ncreated  {}\n",
            row.id,
            row.flow,
            row.source,
            style::time(row.created_at)
        );
        if let Some((start, end)) = row.started_at.zip(row.ended_at) {
            text.push_str(&format!("took     {}\n", style::duration((end - start).max(0) as u64)));
        }
        if let Some(of) = &rerun_of {
            text.push_str(&format!("re-run   of {of}\n"));
        }
        if refused > 0 {
            text.push_str(&format!("refused  {refused} writes of processes whose lease had ended\n"));
        }
        text.push_str(&format!("params   {params}\n\n"));
        let rows: Vec<Vec<String>> = steps.into_iter().map(|(id, state, count)| vec![id, state, count]).collect();
        text.push_str(&style::table(&["STEP", "STATE", "INSTANCES"], &rows, false));
        for (step, fault) in &faults {
            let fault = &fault["fault"];
            text.push_str(&format!(
                "\n{step}: {} [{}]",
                fault["message"].as_str().unwrap_or_default(),
                fault["code"].as_str().unwrap_or_default()
            ));
        }
        // Every step is done and the run has failed: of its outputs no event tells.
        let lone = row.error.as_ref().filter(|_| state == "failed" && machine.state() == RunState::Completed);
        if let Some(error) = lone {
            text.push_str(&format!("\n{error}"));
        }
        if !faults.is_empty() || lone.is_some() {
            text.push('\n');
        }
        super::print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A value without the passwords and signatures in its texts.
fn redacted(value: Value) -> Value {
    match value {
        Value::String(text) => swath_store::redact(&text).into_owned().into(),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, redacted(value))).collect(),
        plain => plain,
    }
}
