//! `swath runs`: runs, newest first.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::json;
use swath_control::{millis, v1};
use swath_store::RunFilter;

use super::remote;
use crate::arguments::{Global, Runs};
use crate::failure::Failure;
use crate::server::refused;
use crate::style;

pub(crate) fn run(global: &Global, command: Runs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        if let Some(server) = &command.server {
            return on_server(global, server, &command).await;
        }
        let store = super::reader(global).await?;
        let filter = RunFilter { flow: command.flow.clone(), without_sub_flows: !command.all, ..RunFilter::default() };
        let rows = store.list_runs(&filter).await?;
        if let Some(flow) = command.flow.as_ref().filter(|_| rows.is_empty()) {
            let known: BTreeSet<String> =
                store.list_runs(&RunFilter::default()).await?.into_iter().map(|row| row.flow).collect();
            let known: Vec<String> = known.into_iter().take(20).collect();
            let message = format!("no run is of a flow named `{flow}`; there are runs of {}", known.join(", "));
            return Err(Failure::Usage(if known.is_empty() { "there are no runs yet".to_owned() } else { message }));
        }
        let states = super::shown_states(store.as_ref(), &rows).await?;
        let rows: Vec<_> = states
            .into_iter()
            .zip(rows)
            .filter(|(state, _)| command.state.is_empty() || command.state.contains(state))
            .take(command.limit as usize)
            .collect();
        if global.json {
            let shown: Vec<_> = rows.iter().map(|(state, row)| json!({ "shown_state": state, "run": row })).collect();
            super::print_json(&shown)?;
            return Ok(ExitCode::SUCCESS);
        }
        let lines: Vec<Vec<String>> = rows
            .iter()
            .map(|(state, row)| line(&row.id, &row.flow, state, row.created_at, row.started_at.zip(row.ended_at)))
            .collect();
        print(&lines)
    })
}

async fn on_server(global: &Global, server: &str, command: &Runs) -> Result<ExitCode, Failure> {
    let states = command.state.iter().map(|state| format!("RUN_STATE_{}", state.to_ascii_uppercase()));
    let states: Vec<i32> = states.filter_map(|name| v1::RunState::from_str_name(&name)).map(i32::from).collect();
    let mut service = remote::runs(server).await?;
    let (mut runs, mut page_token) = (Vec::new(), String::new());
    while runs.len() < command.limit as usize {
        let request = v1::ListRunsRequest {
            states: states.clone(),
            flow: command.flow.clone().unwrap_or_default(),
            page_size: (command.limit as usize - runs.len()).min(1000) as i32,
            page_token,
        };
        let page = service.list_runs(request).await.map_err(refused)?.into_inner();
        runs.extend(page.runs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let at = |time: &Option<prost_types::Timestamp>| millis(time.as_ref());
    if global.json {
        let shown = runs.iter().map(|run| {
            json!({ "shown_state": remote::state(Some(run)), "run": { "id": run.id, "flow": run.flow,
                "source": run.source, "created_at": at(&run.created_at), "started_at": at(&run.started_at),
                "ended_at": at(&run.ended_at), "error": run.error } })
        });
        super::print_json(&shown.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = runs.iter().map(|run| {
        let took = at(&run.started_at).zip(at(&run.ended_at));
        line(&run.id, &run.flow, &remote::state(Some(run)), at(&run.created_at).unwrap_or_default(), took)
    });
    print(&lines.collect::<Vec<_>>())
}

fn line(id: &str, flow: &str, state: &str, created_at: i64, took: Option<(i64, i64)>) -> Vec<String> {
    let took = took.map(|(start, end)| style::duration((end - start).max(0) as u64)).unwrap_or_default();
    vec![id.to_owned(), flow.to_owned(), state.to_owned(), style::time(created_at), took]
}

fn print(lines: &[Vec<String>]) -> Result<ExitCode, Failure> {
    super::print(&style::table(&["RUN", "FLOW", "STATE", "CREATED", "TOOK"], lines, false))?;
    Ok(ExitCode::SUCCESS)
}
