//! `swath resume`: goes on with a run from where its journal ends.

use std::process::ExitCode;
use std::sync::Arc;

use swath_host::{Isolated, launch};
use swath_plan::{Catalogue, Plan};

use super::run::{Finish, Ready, Session, isolation};
use crate::arguments::{Global, Resume};
use crate::failure::Failure;
use crate::outputs::Outputs;

pub(crate) fn run(global: &Global, command: Resume, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        // Only an existing store can hold a run to resume.
        let reader = super::reader(global).await?;
        let row = super::find_run(reader.as_ref(), &command.run).await?;
        drop(reader);
        let session =
            Session::open(global, &command.slots, isolation(global, &command.isolate, Isolated::None)).await?;
        let stored = session.store.get_run(&row.id).await?;
        if stored.plan.is_empty() {
            let above = row.id.split('.').next().unwrap_or_default();
            return Err(Failure::Usage(format!("`{}` is the run of a sub-flow: resume `{above}`", row.id)));
        }
        let plan: Plan = serde_json::from_str(&stored.plan).map_err(|error| {
            Failure::Usage(format!(
                "run `{}` was planned by another version of swath ({error}): start a new run",
                row.id
            ))
        })?;
        let outputs = Outputs::choose(session.store.as_ref(), Some(&row.id), command.out, &plan).await?;
        outputs.try_writing(&plan)?;
        if row.state == "completed" && !global.quiet {
            tell!("run {} has completed: nothing is left to do", row.id);
        }
        let secrets = launch::secrets(&plan)?;
        let lease = session.store.lease_run(&row.id).await?;
        session.drive(global, Ready { lease, plan, secrets }, catalogue, Finish { outputs, explain: false }).await
    })
}
