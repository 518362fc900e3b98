//! `swath pause`: a run starts nothing new until it is resumed; what runs may end.

use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::{Global, Pause};
use crate::failure::Failure;
use crate::runs_at::{RunsAt, has_ended, told};

/// Whoever drives a run looks for wishes more than once a second.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(global: &Global, command: Pause) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let mut runs = RunsAt::open(global, command.at.server.as_deref()).await?;
        let run = runs.find(&command.run).await?;
        runs.pause(&run).await?;
        let state = runs.wait(&run, PATIENCE, |state| state == "paused" || has_ended(state)).await?;
        if state != "paused" {
            let message = format!("run `{run}` was asked to pause and did not: it is {state}");
            return Err(Failure::Usage(message));
        }
        told(global, &run, &state)
    })
}
