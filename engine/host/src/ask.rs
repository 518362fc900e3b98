//! What may be asked of a run from outside, whoever drives it: to end, to pause, to go on.
//!
//! A run that somebody drives is asked through the store, where its driver hears of it; of one that nobody drives the journal is written
//! here. Nothing here drives a run.

use std::time::Duration;

use swath_store::{Error, RunRow, Store};
use tokio::time::{Instant, sleep};

use crate::idle;

/// How long whoever asks waits until the run is seen to have heard. The wish stays.
const HEARING: Duration = Duration::from_secs(5);
/// How soon, and how often at most, is looked whether it has.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// Why a run cannot be asked for something.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The store failed, or does not have the run.
    #[error(transparent)]
    Store(#[from] Error),
    /// Runs of sub-flows go as the run above them goes.
    #[error("`{run}` is the run of a sub-flow: {verb} the run above it, `{above}`")]
    SubFlow {
        /// The run.
        run: String,
        /// The one to ask.
        above: String,
        /// What was asked for.
        verb: &'static str,
    },
    /// It has ended, and what was asked for is for runs that have not.
    #[error("run `{run}` has ended already: it is {state}")]
    Ended {
        /// The run.
        run: String,
        /// How it ended.
        state: String,
    },
    /// It was told to end and will.
    #[error("run `{run}` is being cancelled: once it has ended, it can be resumed")]
    Cancelling {
        /// The run.
        run: String,
    },
    /// It has not ended, and its results are still coming.
    #[error(
        "run `{run}` is {state}, driven by {holder}: cancel it, or let it end, before a re-run takes its results over"
    )]
    Driven {
        /// The run.
        run: String,
        /// Its state.
        state: String,
        /// Who drives it.
        holder: String,
    },
}

impl Refusal {
    /// Its name for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(_) => "STORE",
            Self::SubFlow { .. } => "RUN_OF_SUB_FLOW",
            Self::Ended { state, .. } if state == "completed" => "RUN_COMPLETED",
            Self::Ended { .. } => "RUN_ENDED",
            Self::Cancelling { .. } => "RUN_CANCELLING",
            Self::Driven { .. } => "RUN_DRIVEN",
        }
    }
}

/// Who goes on with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Whoever drives it: it was paused, and has been asked.
    Asked,
    /// Whoever asks: takes its lease, asks for the end of a pause ([`Store::ask_to_pause`]), and drives it.
    Drive,
}

/// Asks a run to end soon: its live attempts are told to stop. One that nobody drives ends at once.
pub async fn cancel(store: &dyn Store, run: &str) -> Result<(), Refusal> {
    live(store, run, "cancel").await?;
    let mut hearing = Hearing::new();
    loop {
        match store.lease_run(run).await {
            Ok(lease) => return Ok(idle::cancel(store, &lease).await?),
            Err(Error::RunHeld { .. }) => store.ask_to_cancel(run).await?,
            Err(error) => return Err(error.into()),
        }
        if hearing.is_over(store, run, &["cancelling"]).await? {
            return Ok(());
        }
    }
}

/// The time in which a run hears what it is asked for. Whoever had its lease may have given that back without driving it, or died:
/// then it is asked again.
struct Hearing {
    until: Instant,
    look: Duration,
}

impl Hearing {
    fn new() -> Self {
        Self { until: Instant::now() + HEARING, look: FIRST_LOOK }
    }

    /// Whether the run has come to one of these states or to its end, or nobody waits for it any more.
    async fn is_over(&mut self, store: &dyn Store, run: &str, heard: &[&str]) -> Result<bool, Error> {
        sleep(self.look).await;
        self.look = (self.look * 2).min(LAST_LOOK);
        let row = store.run_row(run).await?;
        Ok(has_ended(&row) || heard.contains(&row.state.as_str()) || Instant::now() >= self.until)
    }
}

/// Asks a run to start nothing new until it is resumed; what runs may end. One that nobody drives is paused at once.
pub async fn pause(store: &dyn Store, run: &str) -> Result<(), Refusal> {
    let row = live(store, run, "pause").await?;
    match row.state.as_str() {
        "cancelling" => return Err(Refusal::Cancelling { run: row.id }),
        "paused" => return Ok(()),
        _ => {}
    }
    let mut hearing = Hearing::new();
    loop {
        match store.lease_run(run).await {
            Ok(lease) => return Ok(idle::pause(store, &lease).await?),
            Err(Error::RunHeld { .. }) => store.ask_to_pause(run, true).await?,
            Err(error) => return Err(error.into()),
        }
        if hearing.is_over(store, run, &["paused", "cancelling"]).await? {
            return Ok(());
        }
    }
}

/// Says who goes on with a run that was paused, cut off or cancelled, or that failed; asks whoever drives it.
pub async fn resume(store: &dyn Store, run: &str) -> Result<Resume, Refusal> {
    let row = own(store, run, "resume").await?;
    let held = store.run_holder(run).await?.is_some();
    match row.state.as_str() {
        "cancelling" if held => Err(Refusal::Cancelling { run: row.id }),
        "paused" if held => {
            store.ask_to_pause(run, false).await?;
            Ok(Resume::Asked)
        }
        // A lease that is held is refused where it is taken.
        _ => Ok(Resume::Drive),
    }
}

/// Says whether a run can be run again: somebody may still be at it.
pub async fn rerun(store: &dyn Store, run: &str) -> Result<(), Refusal> {
    let row = own(store, run, "re-run").await?;
    match store.run_holder(run).await? {
        Some(holder) if !has_ended(&row) => Err(Refusal::Driven { run: row.id, state: row.state, holder }),
        _ => Ok(()),
    }
}

fn has_ended(row: &RunRow) -> bool {
    matches!(row.state.as_str(), "completed" | "failed" | "cancelled")
}

/// A run that is not one of a sub-flow.
async fn own(store: &dyn Store, run: &str, verb: &'static str) -> Result<RunRow, Refusal> {
    let row = store.run_row(run).await?;
    match row.id.split_once('.') {
        Some((above, _)) => Err(Refusal::SubFlow { above: above.to_owned(), run: row.id, verb }),
        None => Ok(row),
    }
}

/// A run of a person's that has not ended.
async fn live(store: &dyn Store, run: &str, verb: &'static str) -> Result<RunRow, Refusal> {
    let row = own(store, run, verb).await?;
    if has_ended(&row) { Err(Refusal::Ended { run: row.id, state: row.state }) } else { Ok(row) }
}
