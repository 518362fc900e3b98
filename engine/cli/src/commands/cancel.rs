//! `swath cancel`: asks whoever drives a run to end it, or ends a run that nobody drives.

use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::{Cancel, Global};
use crate::failure::Failure;
use crate::runs_at::{RunsAt, has_ended, told};

/// Longer than a cancelled run may take, 15 s, and than a lease holds as a rule.
const PATIENCE: Duration = Duration::from_secs(20);
/// State of a run that nobody drives any more.
const INTERRUPTED: &str = "interrupted";

pub(crate) fn run(global: &Global, command: Cancel) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let mut runs = RunsAt::open(global, command.at.server.as_deref()).await?;
        let run = runs.find(&command.run).await?;
        let state = runs.state(&run).await?;
        if has_ended(&state) {
            return Err(Failure::Usage(format!("run `{run}` has ended already: it is {state}")));
        }
        runs.cancel(&run).await?;
        let mut state = runs.wait(&run, PATIENCE, is_settled).await?;
        if state == INTERRUPTED {
            // Whoever drove it has died and not heard it.
            runs.cancel(&run).await?;
            state = runs.wait(&run, PATIENCE, has_ended).await?;
        }
        if !has_ended(&state) {
            let message = format!("run `{run}` was asked to stop and has not yet; look again with `swath show`");
            return Err(Failure::Usage(message));
        }
        told(global, &run, &state)
    })
}

fn is_settled(state: &str) -> bool {
    has_ended(state) || state == INTERRUPTED
}
