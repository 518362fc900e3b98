//! Where the runs are that a command speaks of: in the store of this folder, or with a server. The one place that knows
//! both ways of asking something of a run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_host::ask::{self, Refusal};
use swath_store::{Access, Store};

use crate::arguments::Global;
use crate::commands::{existing, find_run, remote, shown_state};
use crate::failure::Failure;
use crate::server::{Server, refused};

/// How often a run that was asked for something is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Where the runs are.
pub(crate) enum RunsAt {
    /// In the store of this folder.
    Store(Arc<dyn Store>),
    /// With a server.
    Server(RunServiceClient<Server>),
}

impl RunsAt {
    /// With the server that is named, or else in the store.
    pub async fn open(global: &Global, server: Option<&str>) -> Result<Self, Failure> {
        if let Some(server) = server {
            return Ok(Self::Server(remote::runs(server).await?));
        }
        // Asking something of a run must not make a store.
        Ok(Self::Store(existing(global, Access::Write).await?))
    }

    /// The whole id of the run that a person names. A server is asked by whole ids.
    pub async fn find(&self, id: &str) -> Result<String, Failure> {
        match self {
            Self::Store(store) => Ok(find_run(store.as_ref(), id).await?.id),
            Self::Server(_) => Ok(id.to_owned()),
        }
    }

    /// State of a run, as it is shown.
    pub async fn state(&mut self, run: &str) -> Result<String, Failure> {
        match self {
            Self::Store(store) => shown_state(store.as_ref(), &store.run_row(run).await?).await,
            Self::Server(runs) => {
                let told = runs.get_run(v1::GetRunRequest { id: run.to_owned() }).await;
                Ok(remote::state(told.map_err(refused)?.into_inner().run.as_ref()))
            }
        }
    }

    /// Asks a run to end.
    pub async fn cancel(&mut self, run: &str) -> Result<(), Failure> {
        match self {
            Self::Store(store) => Ok(ask::cancel(store.as_ref(), run).await?),
            Self::Server(runs) => {
                let asked = runs.cancel_run(v1::CancelRunRequest { id: run.to_owned() }).await;
                asked.map(drop).map_err(refused)
            }
        }
    }

    /// Asks a run to start nothing new.
    pub async fn pause(&mut self, run: &str) -> Result<(), Failure> {
        match self {
            Self::Store(store) => Ok(ask::pause(store.as_ref(), run).await?),
            Self::Server(runs) => {
                let asked = runs.pause_run(v1::PauseRunRequest { id: run.to_owned() }).await;
                asked.map(drop).map_err(refused)
            }
        }
    }

    /// Waits until the state of a run is one that was asked for, at most `patience`; gives the last one seen.
    pub async fn wait(
        &mut self,
        run: &str,
        patience: Duration,
        until: impl Fn(&str) -> bool,
    ) -> Result<String, Failure> {
        let asked = Instant::now();
        loop {
            let state = self.state(run).await?;
            if until(&state) || asked.elapsed() > patience {
                return Ok(state);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether a run in this state will never change by itself.
pub(crate) fn has_ended(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "cancelled")
}

/// Says in which state a run is now.
pub(crate) fn told(global: &Global, run: &str, state: &str) -> Result<std::process::ExitCode, Failure> {
    if global.json {
        crate::commands::print_json(&serde_json::json!({ "run": run, "state": state }))?;
    } else if !global.quiet {
        tell!("run {run} is {state}");
    }
    Ok(std::process::ExitCode::SUCCESS)
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Store(error) => error.into(),
            refusal => Self::Usage(refusal.to_string()),
        }
    }
}
