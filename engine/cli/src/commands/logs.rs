//! `swath logs`: the logs of a run, attempt by attempt, in the order they were written.

use std::process::ExitCode;

use swath_store::{LogFilter, StoredLogLine};

use crate::arguments::{Global, Logs};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Logs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::reader(global).await?;
        let row = super::find_run(store.as_ref(), &command.run).await?;
        super::check_step(store.as_ref(), &row.id, command.step.as_deref()).await?;
        let mut after = 0;
        loop {
            let filter = LogFilter { step: command.step.clone(), after, limit: None };
            let lines = store.read_logs(&row.id, &filter).await?;
            let Some(last) = lines.last() else { return Ok(ExitCode::SUCCESS) };
            after = last.id;
            for line in &lines {
                super::print(&show(line, global.json))?;
            }
        }
    })
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
