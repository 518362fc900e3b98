//! A re-run: a new run of the text that an earlier one is pinned to, which takes results of that one over.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use swath_flow::{Diagnostic, SCHEDULE};
use swath_plan::{Catalogue, Given, Plan, RerunProblem};
use swath_schedule::Fire;
use swath_store::{Store, StoredRun};

use crate::ask::{self, Refusal};
use crate::{Asked, FlowText};

/// What is asked of a re-run.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Steps to run again, with all that reads them or comes after them; every step when there are none.
    pub from: Vec<String>,
    /// Parameters that change, as they are written on a command line.
    pub params: Vec<(String, String)>,
}

/// Why there is no re-run.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// The run cannot be run again now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What is asked for does not fit the run.
    #[error(transparent)]
    Problem(#[from] RerunProblem),
    /// The flow does not take the parameters.
    #[error("the flow does not take these parameters")]
    Flow(Vec<Diagnostic>),
}

/// The plan of a re-run of `run`, and what the run is pinned to. Relative paths among the changed parameters start from
/// `params_folder`; everything else is as it was, what `now` means included.
pub async fn plan(
    store: &dyn Store,
    catalogue: &Catalogue,
    run: &str,
    wish: &Wish,
    params_folder: &Path,
) -> Result<(Plan, StoredRun), AgainError> {
    ask::rerun(store, run).await?;
    let stored = store.get_run(run).await.map_err(Refusal::from)?;
    let version = |_| RerunProblem::Version(run.to_owned());
    let earlier: Plan = serde_json::from_str(&stored.plan).map_err(version)?;
    let created = Timestamp::from_millisecond(stored.row.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let now = earlier.rerun.as_ref().map_or(created, |rerun| rerun.now);
    let changed = |name: &str| wish.params.iter().any(|(changed, _)| changed == name);
    let own = |name: &str| name != SCHEDULE && !changed(name);
    let kept = earlier.params.iter().filter(|(name, value)| !value.is_null() && own(name));
    let kept = kept.map(|(name, value)| (name.clone(), Given::Value(value.clone())));
    let given = wish.params.iter().map(|(name, value)| (name.clone(), Given::Text(value.clone())));
    // It covers what the earlier run covers.
    let fire = earlier.params.get(SCHEDULE).and_then(fire_of);
    let asked = Asked { params: kept.chain(given).collect(), params_folder: params_folder.to_owned(), fire };
    let flow = FlowText::new(&stored.row.source, &earlier.folder, stored.text.clone().into_bytes());
    let plan = flow.plan(&asked, catalogue, now).map_err(AgainError::Flow)?;
    Ok((plan.again(run, &earlier, now, &wish.from)?, stored))
}

/// The fire whose interval a plan has among its parameters.
fn fire_of(interval: &Value) -> Option<Fire> {
    let instant = |name: &str| interval.get(name)?.as_str()?.parse().ok();
    Some(Fire { since: instant("start")?, at: instant("end")? })
}
