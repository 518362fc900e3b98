//! `swath resume`: goes on with a run from where its journal ends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use swath_control::v1;
use swath_host::ask::{self, Resume as Answer};
use swath_host::{Isolated, launch};
use swath_plan::{Catalogue, Plan};

use super::remote;
use super::run::{Finish, Ready, Session, isolation};
use crate::arguments::{Global, Resume};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::runs_at::{RunsAt, told};
use crate::server::refused;

/// Whoever drives a run looks for wishes more than once a second.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(global: &Global, command: Resume, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        if let Some(server) = &command.at.server {
            return on_server(global, server, command.run.clone()).await;
        }
        // Only an existing store can hold a run to resume.
        let reader = super::reader(global).await?;
        let row = super::find_run(reader.as_ref(), &command.run).await?;
        drop(reader);
        let session =
            Session::open(global, &command.slots, isolation(global, &command.isolate, Isolated::None)).await?;
        if ask::resume(session.store.as_ref(), &row.id).await? == Answer::Asked {
            let mut runs = RunsAt::Store(session.store);
            let state = runs.wait(&row.id, PATIENCE, |state| state != "paused").await?;
            if state == "paused" {
                let message =
                    format!("run `{}` was asked to go on and has not yet; look again with `swath show`", row.id);
                return Err(Failure::Usage(message));
            }
            return told(global, &row.id, &state);
        }
        let plan = pinned(&session, &row.id).await?;
        let outputs = Outputs::choose(session.store.as_ref(), Some(&row.id), command.out, &plan).await?;
        outputs.try_writing(&plan)?;
        if row.state == "completed" && !global.quiet {
            tell!("run {} has completed: nothing is left to do", row.id);
        }
        let secrets = launch::secrets(&plan)?;
        let lease = session.take_up(&row.id).await?;
        session.drive(global, Ready { lease, plan, secrets }, catalogue, Finish { outputs, explain: false }).await
    })
}

/// The plan that a run is held to.
pub(crate) async fn pinned(session: &Session, run: &str) -> Result<Plan, Failure> {
    let stored = session.store.get_run(run).await?;
    serde_json::from_str(&stored.plan).map_err(|error| {
        Failure::Usage(format!("run `{run}` was planned by another version of swath ({error}): start a new run"))
    })
}

async fn on_server(global: &Global, server: &str, id: String) -> Result<ExitCode, Failure> {
    let mut runs = remote::runs(server).await?;
    let before = runs.get_run(v1::GetRunRequest { id: id.clone() }).await.map_err(refused)?.into_inner();
    let after = before.run.map_or(0, |run| run.last_event);
    runs.resume_run(v1::ResumeRunRequest { id: id.clone() }).await.map_err(refused)?;
    remote::follow(global, server, runs, id, after).await
}
