//! `swath cancel`: asks whoever drives a run to end it, or ends a run that nobody drives.

use std::process::ExitCode;
use std::time::Duration;

use swath_host::end_idle;
use swath_store::Access;

use crate::arguments::{Cancel, Global};
use crate::failure::Failure;

/// How often it is looked whether a run has ended, and how many times: longer than a cancelled run may take, and a lease.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 120;

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
            let mut looks = 0;
            while store.run_holder(&row.id).await?.is_some() {
                if looks == LOOKS {
                    return Err(Failure::Usage(format!(
                        "run `{}` was asked to stop and has not yet; look again with `swath show`",
                        row.id
                    )));
                }
                looks += 1;
                tokio::time::sleep(LOOK).await;
            }
            let row = store.run_row(&row.id).await?;
            let state = super::shown_state(store.as_ref(), &row).await?;
            // A driver that has died meanwhile has not heard it.
            if state != "interrupted" {
                store.close().await;
                return told(global, &row.id, &state);
            }
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
