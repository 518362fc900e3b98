//! `swath gc`: removes old runs, unused cache entries, and artifacts nothing refers to.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::json;
use swath_store::{Access, Artifacts, Retention, RunFilter, Stored};
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
        };
        let collected = store.collect(&retention).await?;
        let artifacts = Artifacts::local(&global.home)?;
        let referenced = store.referenced().await?;
        let swept = artifacts.sweep(&referenced, SystemTime::now() - YOUNG).await?;
        let unreferenced = |stored: &Stored| !referenced.contains(&stored.digest);
        let young: Vec<Stored> = artifacts.list().await?.into_iter().filter(unreferenced).collect();
        let young_bytes: u64 = young.iter().map(|stored| stored.size).sum();
        let home = global.address().home();
        let cleaned = home.clean_scratch(store.as_ref()).await?;
        let left: std::collections::HashSet<String> =
            store.list_runs(&RunFilter::default()).await?.into_iter().map(|row| row.id).collect();
        home.clean_locks(|run| left.contains(run))?;
        store.close().await;
        if global.json {
            super::print_json(
                &json!({ "runs": collected.runs, "cache_entries": collected.cache_entries, "artifacts": swept.artifacts, "bytes": swept.bytes, "scratch": cleaned,
                    "kept_young": { "artifacts": young.len(), "bytes": young_bytes } }),
            )?;
        } else {
            tell!(
                "removed {} runs, {} cache entries, {} artifacts ({})",
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
