//! `swath cache`: the results that may be reused, and how to be rid of some.

use std::process::ExitCode;

use serde_json::json;
use swath_store::{Access, CacheFilter, CacheRow};
use swath_task::Bytes;

use crate::arguments::{Cache, CacheChoice, CacheCommand, Global};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Cache) -> Result<ExitCode, Failure> {
    match command.command {
        CacheCommand::List { choice, limit } => list(global, choice, limit),
        CacheCommand::Drop { choice, keys, all, dry_run } => drop_entries(global, choice, &keys, all, dry_run),
    }
}

fn list(global: &Global, choice: CacheChoice, limit: usize) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::reader(global).await?;
        let entries = store.cache_list(&filter(choice)).await?;
        let shown = &entries[..entries.len().min(limit)];
        if global.json {
            super::print_json(&shown)?;
            return Ok(ExitCode::SUCCESS);
        }
        let line = |row: &CacheRow| {
            let step =
                if row.instance.is_empty() { row.step.clone() } else { format!("{}[{}]", row.step, row.instance) };
            let expires = row.expires_at.map(style::time).unwrap_or_default();
            let key = row.key.hex()[..12].to_owned();
            let task = row.task.clone().unwrap_or_else(|| "-".to_owned());
            let size = Bytes(row.bytes).to_string();
            vec![key, task, step, row.run.clone(), size, style::time(row.created_at), style::time(row.used_at), expires]
        };
        let lines: Vec<_> = shown.iter().map(line).collect();
        super::print(&style::table(&["KEY", "TASK", "STEP", "RUN", "SIZE", "MADE", "USED", "UNTIL"], &lines, false))?;
        if shown.len() < entries.len() && !global.quiet {
            tell!("{} of {}; `--limit` shows more", shown.len(), entries.len());
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn drop_entries(
    global: &Global,
    choice: CacheChoice,
    keys: &[String],
    all: bool,
    dry_run: bool,
) -> Result<ExitCode, Failure> {
    let filter = filter(choice);
    if filter == CacheFilter::default() && keys.is_empty() && !all {
        let message = "say which: --task, --step, --run, --older or --key; --all drops every result";
        return Err(Failure::Usage(message.to_owned()));
    }
    super::block_on(async move {
        let reader = super::reader(global).await?;
        let mut entries = reader.cache_list(&filter).await?;
        drop(reader);
        if let Some(key) = keys.iter().find(|key| !entries.iter().any(|row| row.key.hex().starts_with(*key))) {
            return Err(Failure::Usage(format!("no such result has a key that begins with `{key}`")));
        }
        entries.retain(|row| keys.is_empty() || keys.iter().any(|key| row.key.hex().starts_with(key)));
        if !dry_run {
            let store = super::existing(global, Access::Write).await?;
            for row in &entries {
                store.cache_forget(&row.key).await?;
            }
            store.close().await;
        }
        let bytes: u64 = entries.iter().map(|row| row.bytes).sum();
        if global.json {
            super::print_json(&json!({ "dropped": entries, "bytes": bytes, "dry_run": dry_run }))?;
        } else if !global.quiet {
            let verb = if dry_run { "would drop" } else { "dropped" };
            tell!("{verb} {} results ({}); `swath gc` frees what no run holds", entries.len(), Bytes(bytes));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn filter(choice: CacheChoice) -> CacheFilter {
    let now = jiff::Timestamp::now().as_millisecond();
    let before = |age: std::time::Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    CacheFilter { task: choice.task, step: choice.step, run: choice.run, made_before: choice.older.map(before) }
}
