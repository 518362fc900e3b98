//! `swath cancel`: asks whoever drives a run to end it, or ends a run that nobody drives.

use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::{Cancel, Global};
use crate::failure::Failure;
use crate::runs_at::{RunsAt, has_ended, told};

/// A cancelled run ends by its deadline, 15 s.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(global: &Global, command: Cancel) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let mut runs = RunsAt::open(global, command.at.server.as_deref()).await?;
        let run = runs.find(&command.run).await?;
        let state = runs.state(&run).await?;
        if has_ended(&state) {
            return Err(Failure::Usage(format!("run `{run}` has ended already: it is {state}")));
        }
        runs.cancel(&run).await?;
        let state = runs.wait(&run, PATIENCE, has_ended).await?;
        if !has_ended(&state) {
            let message = format!("run `{run}` was asked to stop and has not yet; look again with `swath show`");
            return Err(Failure::Usage(message));
        }
        told(global, &run, &state)
    })
}
