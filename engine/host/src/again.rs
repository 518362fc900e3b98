//! A re-run: a new run of the text that an earlier one is pinned to, which takes results of that one over.

use std::path::Path;

use jiff::Timestamp;
use swath_flow::Diagnostic;
use swath_plan::{Catalogue, Given, Plan, PlanInput, RerunProblem};
use swath_store::{SqliteStore, Store, StoredRun};

use crate::ask::{self, Refusal};
use crate::launch::read_text;

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
    store: &SqliteStore,
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
    let kept = earlier.params.iter().filter(|(name, value)| !value.is_null() && !changed(name));
    let kept = kept.map(|(name, value)| (name.clone(), Given::Value(value.clone())));
    let given = wish.params.iter().map(|(name, value)| (name.clone(), Given::Text(value.clone())));
    let reading = swath_flow::read(&stored.row.source, stored.text.as_bytes());
    let flow = reading.flow.filter(|_| reading.diagnostics.is_empty());
    let flow = flow.ok_or(AgainError::Flow(reading.diagnostics))?;
    let input = PlanInput {
        catalogue,
        params: &kept.chain(given).collect::<Vec<_>>(),
        params_folder,
        folder: Path::new(&earlier.folder),
        now,
        load: &|path| read_text(path).map_err(|error| error.to_string()),
    };
    let plan = swath_plan::plan(&flow, input).map_err(AgainError::Flow)?;
    Ok((plan.again(run, &earlier, now, &wish.from)?, stored))
}
