//! `swath runs`: runs, newest first.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::json;
use swath_store::RunFilter;

use crate::arguments::{Global, Runs};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Runs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
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
            .map(|(state, row)| {
                let took =
                    row.started_at.zip(row.ended_at).map(|(start, end)| style::duration((end - start).max(0) as u64));
                vec![
                    row.id.clone(),
                    row.flow.clone(),
                    state.clone(),
                    style::time(row.created_at),
                    took.unwrap_or_default(),
                ]
            })
            .collect();
        super::print(&style::table(&["RUN", "FLOW", "STATE", "CREATED", "TOOK"], &lines, false))?;
        Ok(ExitCode::SUCCESS)
    })
}
