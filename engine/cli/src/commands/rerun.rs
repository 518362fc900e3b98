//! `swath rerun`: a new run of what an earlier one is pinned to, which takes results of that one over.

use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use swath_control::v1;
use swath_host::again::{self, AgainError, Wish};
use swath_host::{Isolated, launch, preflight};
use swath_plan::Catalogue;

use super::remote;
use super::run::{Finish, Ready, Session, isolation};
use crate::arguments::{Global, Rerun};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::server::refused;

pub(crate) fn run(global: &Global, command: Rerun, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", std::path::Path::new("."), &error))?;
    super::block_on(async move {
        let Rerun { run, from, params, at, slots, isolate, out } = command;
        if let Some(server) = &at.server {
            let mut runs = remote::runs(server).await?;
            let request = v1::RerunRunRequest {
                id: run,
                from,
                parameters: params.into_iter().collect(),
                parameter_folder: here.display().to_string(),
                idempotency_key: String::new(),
            };
            let answer = runs.rerun_run(request).await.map_err(refused)?.into_inner();
            return remote::follow(global, server, runs, answer.run.unwrap_or_default().id, 0).await;
        }
        // Only an existing store can hold a run to run again.
        let reader = super::reader(global).await?;
        let row = super::find_run(reader.as_ref(), &run).await?;
        drop(reader);
        let session = Session::open(global, &slots, isolation(global, &isolate, Isolated::None)).await?;
        let wish = Wish { from, params };
        let (plan, stored) = again::plan(session.store.as_ref(), &catalogue, &row.id, &wish, &here).await?;
        let outputs = Outputs::choose(session.store.as_ref(), Some(&row.id), out, &plan).await?;
        outputs.try_writing(&plan)?;
        preflight::check(&plan, &catalogue)?;
        let secrets = launch::secrets(&plan)?;
        let now = Timestamp::now();
        let lease = launch::lease_new(session.store.as_ref(), &plan.name, now).await?;
        launch::pin(session.store.as_ref(), &lease, &plan, &stored.text, now).await?;
        session.drive(global, Ready { lease, plan, secrets }, catalogue, Finish { outputs, explain: false }).await
    })
}

impl From<AgainError> for Failure {
    fn from(error: AgainError) -> Self {
        match error {
            AgainError::Refused(refusal) => refusal.into(),
            AgainError::Flow(problems) => Self::Flow(problems),
            AgainError::Problem(problem) => Self::Usage(problem.to_string()),
        }
    }
}
