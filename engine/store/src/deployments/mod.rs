//! What must outlive a crash of flows that go by themselves: deployments with their versions, the occasions on which
//! they run, and what hooks are told.

mod tables;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use swath_task::Digest;

use crate::error::Error;

pub(crate) use tables::{Given, OLD_FIRES, Statement, Tables, statement};

/// How long whoever takes a telling has it for himself, milliseconds.
pub const TAKEN_FOR: i64 = 60_000;

/// Deployments, their fires and their tellings.
///
/// # Contract
/// - A version never changes; deploying the content of the newest version again makes no new one.
/// - I12: a deployment has one fire of each key; whoever adds it again adds nothing.
/// - A fire goes from state to state by compare-and-set: of two servers one starts its run, and together they start no more
///   than may be live at once.
/// - What follows from the end of a run (fires of other deployments, tellings) is stored in the transaction that notes
///   that end as settled.
#[async_trait]
pub trait Deployments: Send + Sync + 'static {
    /// Deploys a version. Fires of a schedule that is new and were due before `now` are left out.
    async fn deploy(&self, version: NewVersion) -> Result<DeploymentRow, Error>;

    /// All deployments by name.
    async fn deployments(&self) -> Result<Vec<DeploymentRow>, Error>;

    /// A deployment.
    ///
    /// # Errors
    /// [`Error::NoDeployment`].
    async fn deployment(&self, name: &str) -> Result<DeploymentRow, Error>;

    /// The versions of a deployment, newest first, without what they run: that may be long.
    async fn versions(&self, name: &str) -> Result<Vec<Version>, Error>;

    /// What a version of a deployment runs; `None`: there is no such version.
    async fn content(&self, name: &str, version: u32) -> Result<Option<String>, Error>;

    /// Pauses a deployment or lets it go on; what was due meanwhile is left out.
    async fn set_paused(&self, name: &str, paused: bool, now: i64) -> Result<DeploymentRow, Error>;

    /// Removes a deployment with its versions and fires. Its runs stay.
    async fn delete_deployment(&self, name: &str) -> Result<(), Error>;

    /// Adds fires to a deployment that is not paused, and notes how far its schedule was looked at, in one transaction.
    /// Returns how many of the fires are new: none, where what was looked at is not the newest version.
    async fn add_fires(&self, name: &str, fires: Vec<NewFire>, looked: Option<Looked>) -> Result<usize, Error>;

    /// Fires, the newest first.
    async fn fires(&self, filter: &FireFilter) -> Result<Vec<FireRow>, Error>;

    /// Takes a fire from a state to another. `false`: it was not in that state, is to be [`fire_state::REFUSED`] and has a run,
    /// or as many others are live as may be.
    async fn change_fire(&self, fire: i64, from: &str, change: FireChange) -> Result<bool, Error>;

    /// Notes that the end of a fire was acted on, with what follows from it.
    async fn settle(&self, fire: i64, follows: Follows) -> Result<(), Error>;

    /// Notes that the run of a fire goes on again: its next end is acted on too.
    async fn unsettle(&self, run: &str) -> Result<(), Error>;

    /// Takes tellings that are due, the oldest first: nobody else gets them for [`TAKEN_FOR`].
    async fn tellings(&self, now: i64, limit: u32) -> Result<Vec<Telling>, Error>;

    /// Notes how a telling went. `next_at`: it is tried again then.
    async fn told(&self, telling: i64, at: i64, error: Option<String>, next_at: Option<i64>) -> Result<(), Error>;
}

/// A version to deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVersion {
    /// Name of the deployment.
    pub name: String,
    /// Name of the flow.
    pub flow: String,
    /// Where the flow was read.
    pub source: String,
    /// How it goes, opaque to the store.
    pub spec: String,
    /// What it runs, opaque to the store: the flow's text, those of its sub-flows, its parameters.
    pub content: String,
    /// Whether a new deployment begins paused.
    pub paused: bool,
    /// Whether its schedule is another than before: what is due by the old one is left out.
    pub rescheduled: bool,
    /// When it is deployed.
    pub now: i64,
}

impl NewVersion {
    /// What tells its content from another's.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::json!([self.flow, self.spec, self.content]).to_string().as_bytes())
    }
}

/// A deployment as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRow {
    /// Its name.
    pub name: String,
    /// Number of its newest version, from 1.
    pub version: u32,
    /// Name of the flow of that version.
    pub flow: String,
    /// How that version goes.
    pub spec: String,
    /// Whether it is paused.
    pub paused: bool,
    /// Up to when its schedule was looked at.
    pub handled: i64,
    /// When it was first deployed.
    pub created_at: i64,
    /// When it was last deployed, paused or let go on.
    pub updated_at: i64,
}

/// A version of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub version: u32,
    /// [`NewVersion::digest`], in hexadecimal digits.
    pub digest: String,
    /// When it was deployed.
    pub created_at: i64,
    /// Name of the flow.
    pub flow: String,
    /// Where the flow was read.
    pub source: String,
}

/// States of a fire.
pub mod fire_state {
    /// Its time has come or will come.
    pub const DUE: &str = "due";
    /// It waits until other runs of its deployment have ended.
    pub const WAITING: &str = "waiting";
    /// Its run is there, or is about to be.
    pub const STARTED: &str = "started";
    /// It was left out by a policy.
    pub const SKIPPED: &str = "skipped";
    /// Its run could not be started.
    pub const REFUSED: &str = "refused";
}

/// An occasion on which a deployment is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFire {
    /// What tells it from the others of its deployment.
    pub key: String,
    /// `schedule`, `backfill`, `trigger`, `webhook` or `by_hand`.
    pub cause: String,
    /// The interval that its run covers begins here; `None`: as far back as the schedule's last fire.
    pub since: Option<i64>,
    /// The interval that its run covers ends here.
    pub at: i64,
    /// Not before.
    pub due: i64,
    /// Parameters that differ from those of the deployment, a JSON object.
    pub params: String,
    /// When it was made.
    pub created_at: i64,
}

/// A schedule that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Up to when.
    pub up_to: i64,
    /// The version of the deployment that it is of.
    pub version: u32,
    /// When that deployment came to be: there may be another one of its name by now.
    pub created_at: i64,
}

/// A fire as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireRow {
    /// Its number in the store: rises.
    pub id: i64,
    /// Name of its deployment.
    pub deployment: String,
    /// When that came to be.
    pub deployed_at: i64,
    /// See [`NewFire::key`].
    pub key: String,
    /// See [`NewFire::cause`].
    pub cause: String,
    /// See [`NewFire::since`].
    pub since: Option<i64>,
    /// See [`NewFire::at`].
    pub at: i64,
    /// See [`NewFire::due`].
    pub due: i64,
    /// See [`NewFire::params`].
    pub params: String,
    /// One of [`fire_state`].
    pub state: String,
    /// Id of its run.
    pub run: Option<String>,
    /// State of its run, once that is there.
    pub run_state: Option<String>,
    /// Why it stands as it does, for people.
    pub note: String,
    /// Whether its end was acted on.
    pub settled: bool,
    /// When it was made.
    pub created_at: i64,
}

/// Which fires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FireFilter {
    /// Only of this deployment.
    pub deployment: Option<String>,
    /// Only those whose end was not acted on yet.
    pub open: bool,
    /// Only that of this run.
    pub run: Option<String>,
    /// Only that of this key.
    pub key: Option<String>,
    /// Only those made before this one.
    pub before: Option<i64>,
    /// At most so many; all when `None`.
    pub limit: Option<u32>,
}

/// What becomes of a fire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FireChange {
    /// Its new state.
    pub state: &'static str,
    /// Its run, where it gets one.
    pub run: Option<String>,
    /// Why.
    pub note: String,
    /// The interval that its run covers begins here; `None` leaves it as it is.
    pub since: Option<i64>,
    /// Only while fewer fires of its deployment than these are [`fire_state::STARTED`] with runs that have not ended.
    pub most: Option<u32>,
}

/// What follows from the end of a fire's run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follows {
    /// Fires by deployment. Those of deployments that are paused or gone are left out.
    pub fires: Vec<(String, NewFire)>,
    /// What hooks are told.
    pub tellings: Vec<NewTelling>,
    /// The state of the run whose end was acted on: nothing more follows from this fire, unless the run goes on again
    /// meanwhile. `None`: only `fires` and `tellings` are stored.
    pub ended: Option<String>,
}

/// Something a hook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTelling {
    /// Which hook of the deployment.
    pub hook: u32,
    /// What happened.
    pub happening: &'static str,
    /// The message, a JSON object.
    pub message: String,
    /// When it is told.
    pub at: i64,
}

/// Something a hook is to be told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// Its number in the store.
    pub id: i64,
    /// Name of the deployment.
    pub deployment: String,
    /// Which hook of it.
    pub hook: u32,
    /// What happened.
    pub happening: String,
    /// The message.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}
