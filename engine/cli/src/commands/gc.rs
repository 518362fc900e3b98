//! `swath gc`: removes old runs, unused cache entries, and artifacts nothing refers to.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::json;
use swath_store::{Access, Artifacts, Retention, RunFilter, Stored, Swept};
use swath_task::Bytes;

use crate::arguments::{Gc, Global};
use crate::failure::Failure;

/// Artifacts younger than this may belong to an attempt that has not recorded its result yet.
const YOUNG: Duration = Duration::from_secs(3600);

pub(crate) fn run(global: &Global, command: Gc) -> Result<ExitCode, Failure> {
    if !(command.older_than >= 0.0 && command.unused_for >= 0.0) {
        return Err(Failure::Usage("days must not be negative".to_owned()));
    }
    super::block_on(async move {
        let store = super::existing(global, Access::Exclusive).await?;
        let now = jiff::Timestamp::now().as_millisecond();
        let before = |days: f64| now - (days * 86_400_000.0) as i64;
        let retention = Retention {
            runs_ended_before: before(command.older_than),
            ended_states: ["completed", "failed", "cancelled"].map(str::to_owned).to_vec(),
            keep_runs: Vec::new(),
            cache_used_before: before(command.unused_for),
            now,
            dry_run: command.dry_run,
        };
        let collected = store.collect(&retention).await?;
        let artifacts = Artifacts::local(&global.home)?;
        let referenced = match collected.referenced.clone() {
            Some(left) => left,
            None => store.referenced().await?,
        };
        let before = SystemTime::now() - YOUNG;
        let swept = if command.dry_run { Swept::default() } else { artifacts.sweep(&referenced, before).await? };
        let unreferenced = |stored: &Stored| !referenced.contains(&stored.digest);
        let left = artifacts.list().await?.into_iter().filter(unreferenced);
        // Of what nothing refers to a collection leaves only what is young; a dry run leaves the rest, too.
        let (old, young): (Vec<Stored>, Vec<Stored>) = left.partition(|stored| stored.committed_at < before);
        let swept = match command.dry_run {
            true => Swept {
                bytes: old.iter().map(|stored| stored.size).sum(),
                artifacts: old.iter().map(|stored| stored.digest).collect(),
            },
            false => swept,
        };
        let young_bytes: u64 = young.iter().map(|stored| stored.size).sum();
        let mut cleaned = Vec::new();
        if !command.dry_run {
            let home = global.address().home();
            cleaned = home.clean_scratch(store.as_ref()).await?;
            let left: std::collections::HashMap<String, String> =
                store.list_runs(&RunFilter::default()).await?.into_iter().map(|row| (row.id, row.state)).collect();
            home.clean_locks(|run| left.contains_key(run))?;
            home.clean_keep(|run| left.get(run).is_some_and(|state| state != "completed"))?;
        }
        store.close().await;
        if global.json {
            super::print_json(
                &json!({ "runs": collected.runs, "cache_entries": collected.cache_entries, "artifacts": swept.artifacts, "bytes": swept.bytes, "scratch": cleaned, "dry_run": command.dry_run,
                    "kept_young": { "artifacts": young.len(), "bytes": young_bytes } }),
            )?;
        } else {
            tell!(
                "{} {} runs, {} cache entries, {} artifacts ({})",
                if command.dry_run { "would remove" } else { "removed" },
                collected.runs.len(),
                collected.cache_entries,
                swept.artifacts.len(),
                Bytes(swept.bytes)
            );
            if !young.is_empty() {
                tell!(
                    "{} artifacts ({}) that nothing refers to are younger than an hour and kept; a later `swath gc` removes them",
                    young.len(),
                    Bytes(young_bytes)
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
