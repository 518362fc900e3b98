//! `swath check`: whether what is stored of the runs keeps the invariants.

use std::process::ExitCode;

use serde_json::json;
use swath_host::check_store;

use crate::arguments::Global;
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::reader(global).await?;
        let (runs, broken) = check_store(store.as_ref()).await?;
        if global.json {
            super::print_json(&json!({ "store": store.place(), "runs": runs, "broken": broken }))?;
        } else if broken.is_empty() {
            tell!("{runs} runs in `{}`: every rule holds", store.place());
        } else {
            let rows: Vec<_> = broken.iter().map(|b| vec![b.run.clone(), b.rule.clone(), b.what.clone()]).collect();
            super::print(&style::table(&["RUN", "RULE", "BROKEN BY"], &rows, false))?;
        }
        Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    })
}
