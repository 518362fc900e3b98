//! `swath run --server`: a run on a server, followed until it ends.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_host::FlowText;
use tonic::Request;

use crate::arguments::Global;
use crate::failure::Failure;
use crate::server::{Server, connect, refused};
use crate::style;

pub(crate) fn run(
    global: &Global,
    server: &str,
    flow: &FlowText,
    params: &[(String, String)],
    interval: Option<String>,
) -> Result<ExitCode, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", std::path::Path::new("."), &error))?;
    let source = flow.folder.join(std::path::Path::new(&flow.name).file_name().unwrap_or_default());
    let request = v1::StartRunRequest {
        flow_text: String::from_utf8_lossy(&flow.bytes).into_owned(),
        source: source.display().to_string(),
        parameters: params.iter().cloned().collect(),
        idempotency_key: String::new(),
        parameter_folder: here.display().to_string(),
        interval: interval.unwrap_or_default(),
    };
    let mut request = Request::new(request);
    if let Some(place) = super::traceparent().and_then(|place| place.parse().ok()) {
        request.metadata_mut().insert("traceparent", place);
    }
    super::block_on(async move {
        let mut client = runs(server).await?;
        let answer = client.start_run(request).await.map_err(refused)?.into_inner();
        let id = answer.run.map(|run| run.id).unwrap_or_default();
        follow(global, server, client, id, 0).await
    })
}

/// Follows a run on a server from event `after` on until it has ended, and says how.
pub(crate) async fn follow(
    global: &Global,
    server: &str,
    mut runs: RunServiceClient<Server>,
    id: String,
    after: u64,
) -> Result<ExitCode, Failure> {
    if !global.quiet && !global.json {
        tell!("run {id} on {server}; it goes on when this command ends");
    }
    let watch = v1::WatchRunRequest { id: id.clone(), after };
    let mut events = runs.watch_run(watch).await.map_err(refused)?.into_inner();
    while let Some(answer) = events.message().await.map_err(refused)? {
        if let Some(event) = answer.event.filter(|_| !global.quiet && !global.json) {
            tell(&event);
        }
    }
    let told = runs.get_run(v1::GetRunRequest { id: id.clone() }).await.map_err(refused)?.into_inner();
    let run = told.run.unwrap_or_default();
    let state = state(Some(&run));
    let outputs: Value = serde_json::from_str(&told.outputs_json).unwrap_or_default();
    if global.json {
        super::print_json(&json!({ "run": id, "state": state, "outputs": outputs, "error": run.error }))?;
    } else if !global.quiet {
        tell!("{id} {state}");
        for (name, value) in outputs.as_object().into_iter().flatten() {
            tell!("  {name:16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    if !run.error.is_empty() && !global.json {
        tell!("{}: {}", style::error("error", style::colour()), run.error);
    }
    Ok(if run.state() == v1::RunState::Completed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// State of a run, as it is shown.
pub(crate) fn state(run: Option<&v1::Run>) -> String {
    let name = run.map_or("", |run| run.state().as_str_name());
    name.trim_start_matches("RUN_STATE_").to_ascii_lowercase()
}

/// The runs of a server.
pub(crate) async fn runs(server: &str) -> Result<RunServiceClient<Server>, Failure> {
    Ok(RunServiceClient::new(connect(server).await?))
}

/// A line for what happened to a step.
fn tell(event: &v1::RunEvent) {
    if event.step.is_empty() {
        return;
    }
    let (step, colour) = (&event.step, style::colour());
    let fault = || {
        let detail: Value = serde_json::from_str(&event.detail_json).unwrap_or_default();
        let fault = &detail["fault"];
        let text = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
        format!("{} [{}]", text("message"), text("code"))
    };
    match event.kind.as_str() {
        "started" => tell!("{step}: started"),
        "succeeded" => tell!("{step}: {}", style::good("done", colour)),
        "failed" | "step_failed" => tell!("{step}: {} {}", style::error("failed:", colour), fault()),
        "retried" => tell!("{step}: {} {}", style::warn("tried again:", colour), fault()),
        "upstream_failed" => tell!("{step}: {} something it reads failed", style::dim("not run:", colour)),
        kind @ ("skipped" | "cancelled") => tell!("{step}: {kind}"),
        _ => {}
    }
}
