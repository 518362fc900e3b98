//! `swath logs`: the logs of a run, attempt by attempt, in the order they were written; those to come with `--follow`.

use std::process::ExitCode;
use std::time::Duration;

use swath_control::{millis, v1};
use swath_store::{LogFilter, LogLine, Store, StoredLogLine};

use super::remote;
use crate::arguments::{Global, Logs};
use crate::failure::Failure;
use crate::server::refused;
use crate::style;

/// How often lines to come are looked for. Whoever drives a run carries its lines into the store more often, the last ones
/// when the run has ended.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(global: &Global, command: Logs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        if let Some(server) = &command.at.server {
            return on_server(global, server, &command).await;
        }
        let store = super::reader(global).await?;
        let row = super::find_run(store.as_ref(), &command.run).await?;
        super::check_step(store.as_ref(), &row.id, command.step.as_deref()).await?;
        let mut filter = LogFilter { step: command.step.clone(), after: 0, limit: None };
        let mut last = !command.follow;
        loop {
            let goes_on = !last && goes_on(store.as_ref(), &row.id).await?;
            loop {
                let lines = store.read_logs(&row.id, &filter).await?;
                let Some(newest) = lines.last() else { break };
                filter.after = newest.id;
                for line in &lines {
                    super::print(&show(line, global.json))?;
                }
            }
            if last {
                return Ok(ExitCode::SUCCESS);
            }
            last = !goes_on;
            tokio::time::sleep(LOOK).await;
        }
    })
}

/// Whether lines may still come: the run has not ended, and somebody drives it.
async fn goes_on(store: &dyn Store, run: &str) -> Result<bool, Failure> {
    let ended = crate::runs_at::has_ended(&store.run_row(run).await?.state);
    Ok(!ended && store.run_holder(run).await?.is_some())
}

async fn on_server(global: &Global, server: &str, command: &Logs) -> Result<ExitCode, Failure> {
    let request = v1::ReadLogsRequest {
        run_id: command.run.clone(),
        step: command.step.clone().unwrap_or_default(),
        after: 0,
        follow: command.follow,
    };
    let mut runs = remote::runs(server).await?;
    let mut lines = runs.read_logs(request).await.map_err(refused)?.into_inner();
    while let Some(line) = lines.message().await.map_err(refused)? {
        let stored = StoredLogLine {
            id: line.position,
            step: line.step,
            instance: line.instance,
            attempt: line.attempt,
            line: LogLine {
                at: millis(line.at.as_ref()).unwrap_or_default(),
                level: line.level,
                target: String::new(),
                message: line.message,
                fields: String::new(),
            },
            dropped: line.dropped,
        };
        super::print(&show(&stored, global.json))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(stored: &StoredLogLine, as_json: bool) -> String {
    if as_json {
        // An object a line: logs are a stream.
        return serde_json::to_string(stored).map(|text| format!("{text}\n")).unwrap_or_default();
    }
    let dropped = if stored.dropped > 0 { format!("({} lines dropped)\n", stored.dropped) } else { String::new() };
    let line = &stored.line;
    let at =
        if stored.instance.is_empty() { stored.step.clone() } else { format!("{}[{}]", stored.step, stored.instance) };
    let fields = if line.fields.is_empty() { String::new() } else { format!(" {}", line.fields) };
    format!("{dropped}{} {at}#{} {:5} {}{fields}\n", style::time(line.at), stored.attempt, line.level, line.message)
}
