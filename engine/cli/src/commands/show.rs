//! `swath show`: a run, its steps, results and failures.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_control::{millis, v1};
use swath_plan::Plan;

use super::remote;
use crate::arguments::{Global, Show};
use crate::failure::Failure;
use crate::server::refused;
use crate::style;

/// Steps that are asked for at once.
const PAGE: i32 = 1000;

/// What is shown of a run, wherever it is kept.
struct Shown {
    run: String,
    flow: String,
    source: String,
    state: String,
    created_at: i64,
    /// When it began and ended, milliseconds since 1970.
    took: Option<(i64, i64)>,
    rerun_of: Option<String>,
    refused_writes: u64,
    params: Value,
    steps: Vec<v1::Step>,
    error: Option<String>,
}

pub(crate) fn run(global: &Global, command: Show) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        match &command.at.server {
            Some(server) => on_server(global, server, command.run).await?,
            None => in_store(global, &command.run).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn in_store(global: &Global, run: &str) -> Result<(), Failure> {
    let store = super::reader(global).await?;
    let row = super::find_run(store.as_ref(), run).await?;
    let stored = store.get_run(&row.id).await?;
    let plan: Option<Plan> = serde_json::from_str(&stored.plan).ok();
    let shown = Shown {
        run: row.id.clone(),
        flow: row.flow.clone(),
        source: row.source.clone(),
        state: super::shown_state(store.as_ref(), &row).await?,
        created_at: row.created_at,
        took: row.started_at.zip(row.ended_at),
        rerun_of: plan.and_then(|plan| plan.rerun).map(|rerun| rerun.of),
        refused_writes: store.refused(&row.id).await?,
        params: redacted(serde_json::from_str(&stored.params).unwrap_or(Value::Null)),
        steps: swath_control::steps(store.as_ref(), &row.id).await?,
        error: row.error.clone(),
    };
    if !global.json {
        return super::print(&shown.text());
    }
    let results = store.results(&row.id, None).await?;
    let results = results.iter().map(|r| {
        json!({ "step": r.step, "instance": r.instance, "attempt": r.attempt, "reused_from": r.reused_from,
            "outputs": serde_json::from_str::<Value>(&r.outputs).unwrap_or(Value::Null) })
    });
    super::print_json(&json!({
        "run": row, "shown_state": shown.state, "rerun_of": shown.rerun_of, "params": shown.params,
        "steps": shown.steps_json(), "results": results.collect::<Vec<_>>(), "faults": shown.faults_json(),
        "refused_writes": shown.refused_writes,
    }))
}

async fn on_server(global: &Global, server: &str, id: String) -> Result<(), Failure> {
    let mut runs = remote::runs(server).await?;
    let told = runs.get_run(v1::GetRunRequest { id: id.clone() }).await.map_err(refused)?.into_inner();
    let (mut steps, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListStepsRequest { run_id: id.clone(), page_size: PAGE, page_token };
        let page = runs.list_steps(request).await.map_err(refused)?.into_inner();
        steps.extend(page.steps);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let run = told.run.unwrap_or_default();
    let shown = Shown {
        state: remote::state(Some(&run)),
        created_at: millis(run.created_at.as_ref()).unwrap_or_default(),
        took: millis(run.started_at.as_ref()).zip(millis(run.ended_at.as_ref())),
        rerun_of: None,
        refused_writes: 0,
        params: serde_json::from_str(&told.parameters_json).unwrap_or_default(),
        steps,
        error: Some(run.error).filter(|error| !error.is_empty()),
        run: run.id,
        flow: run.flow,
        source: run.source,
    };
    if !global.json {
        return super::print(&shown.text());
    }
    let outputs: Value = serde_json::from_str(&told.outputs_json).unwrap_or_default();
    super::print_json(&json!({
        "run": { "id": shown.run, "flow": shown.flow, "source": shown.source, "created_at": shown.created_at,
            "error": shown.error },
        "shown_state": shown.state, "params": shown.params, "outputs": outputs, "steps": shown.steps_json(),
        "faults": shown.faults_json(),
    }))
}

impl Shown {
    fn text(&self) -> String {
        let Self { run, flow, source, state, .. } = self;
        let created = style::time(self.created_at);
        let mut text = format!("run      {run}\nflow     {flow} ({source})\nstate    {state}\ncreated  {created}\n");
        if let Some((start, end)) = self.took {
            text.push_str(&format!("took     {}\n", style::duration((end - start).max(0) as u64)));
        }
        if let Some(of) = &self.rerun_of {
            text.push_str(&format!("re-run   of {of}\n"));
        }
        if self.refused_writes > 0 {
            let count = self.refused_writes;
            text.push_str(&format!("refused  {count} writes of processes whose lease had ended\n"));
        }
        text.push_str(&format!("params   {}\n\n", self.params));
        let rows: Vec<Vec<String>> =
            self.steps.iter().map(|step| vec![step.id.clone(), state_of(step), count_of(step)]).collect();
        text.push_str(&style::table(&["STEP", "STATE", "INSTANCES"], &rows, false));
        let mut faults = String::new();
        for (step, fault) in self.faults() {
            faults.push_str(&format!("\n{}: {} [{}]", step.id, fault.message, fault.code));
        }
        // No step has failed and the run has: of its outputs no event tells.
        let failed = |step: &v1::Step| step.state() == v1::StepState::Failed;
        if let Some(error) = self.error.as_ref().filter(|_| state == "failed" && !self.steps.iter().any(failed)) {
            faults.push_str(&format!("\n{error}"));
        }
        if !faults.is_empty() {
            text.push_str(&faults);
            text.push('\n');
        }
        text
    }

    fn faults(&self) -> impl Iterator<Item = (&v1::Step, &v1::StepFault)> {
        self.steps.iter().flat_map(|step| step.faults.iter().map(move |fault| (step, fault)))
    }

    fn steps_json(&self) -> Vec<Value> {
        let step = |step: &v1::Step| json!({ "id": step.id, "state": state_of(step), "instances": count_of(step) });
        self.steps.iter().map(step).collect()
    }

    fn faults_json(&self) -> Vec<Value> {
        let fault = |(step, fault): (&v1::Step, &v1::StepFault)| {
            let told = json!({ "code": fault.code, "message": fault.message, "help": fault.help });
            json!({ "step": step.id, "instance": fault.instance, "tried_again": fault.tried_again, "fault": told })
        };
        self.faults().map(fault).collect()
    }
}

fn state_of(step: &v1::Step) -> String {
    step.state().as_str_name().trim_start_matches("STEP_STATE_").to_ascii_lowercase().replace('_', " ")
}

/// `3 of 4, 1 failed and tolerated`; nothing of one that is not lifted.
fn count_of(step: &v1::Step) -> String {
    let tolerated = match step.state() {
        v1::StepState::Succeeded if step.failed > 0 => format!(", {} failed and tolerated", step.failed),
        _ => String::new(),
    };
    match step.instances {
        2.. => format!("{} of {}{tolerated}", step.succeeded, step.instances),
        _ => tolerated.trim_start_matches(", ").to_owned(),
    }
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
