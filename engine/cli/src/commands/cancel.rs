//! `swath cancel`: asks whoever drives a run to end it, or ends a run that nobody drives.

use std::process::ExitCode;

use swath_host::end_idle;
use swath_store::Access;

use crate::arguments::{Cancel, Global};
use crate::failure::Failure;

pub(crate) fn run(global: &Global, command: Cancel) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = super::existing(global, Access::Write).await?;
        let row = super::find_run(store.as_ref(), &command.run).await?;
        let state = super::shown_state(store.as_ref(), &row).await?;
        if matches!(state.as_str(), "completed" | "failed" | "cancelled") {
            return Err(Failure::Usage(format!("run `{}` has ended already: it is {state}", row.id)));
        }
        if store.run_holder(&row.id).await?.is_some() {
            store.ask_to_cancel(&row.id).await?;
            for _ in 0..75 {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                if store.run_holder(&row.id).await?.is_none() {
                    let state = store.get_run(&row.id).await?.row.state;
                    return told(global, &row.id, &state);
                }
            }
            return Err(Failure::Usage(format!(
                "run `{}` was asked to stop and has not yet; look again with `swath show`",
                row.id
            )));
        }
        let lease = store.lease_run(&row.id).await?;
        end_idle(store.as_ref(), &lease).await?;
        drop(lease);
        store.close().await;
        told(global, &row.id, "cancelled")
    })
}

fn told(global: &Global, run: &str, state: &str) -> Result<ExitCode, Failure> {
    if global.json {
        super::print_json(&serde_json::json!({ "run": run, "state": state }))?;
    } else {
        tell!("run {run} is {state}");
    }
    Ok(ExitCode::SUCCESS)
}
