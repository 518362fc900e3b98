//! Starting the runs of fires that were taken, beside each other: a deployment whose run takes long to plan, or waits for a
//! secret, keeps no other one.
//!
//! Of one deployment a single run is started at a time, so that its runs begin in the order of their fires.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use swath_schedule::Fire;
use swath_store::{DeploymentRow, Error, FireChange, FireRow, fire_state};
use tokio::sync::{Notify, Semaphore};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::registry::{DeployError, Registry, read};
use crate::fleet::Fleet;

/// Runs that are started at once: planning takes a core, waiting for a secret takes none.
const AT_ONCE: usize = 32;

/// A run to start.
pub struct Launch {
    /// The fire that was taken for it.
    pub fire: FireRow,
    /// Its id.
    pub run: String,
    /// What it covers.
    pub covered: Fire,
    /// When it was taken.
    pub now: Timestamp,
}

/// Starts runs.
pub struct Launches {
    fleet: Fleet,
    registry: Registry,
    /// Told of the end of each start.
    wake: Arc<Notify>,
    /// Deployments of which a run is being started.
    busy: Arc<Mutex<HashSet<String>>>,
    at_once: Arc<Semaphore>,
}

impl Launches {
    /// Starts runs of deployments of `registry` in `fleet`.
    pub fn new(fleet: Fleet, registry: Registry, wake: Arc<Notify>) -> Self {
        Self { fleet, registry, wake, busy: Arc::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Deployments of which a run is being started.
    pub fn busy(&self) -> HashSet<String> {
        lock(&self.busy).clone()
    }

    /// Begins to start a run of a deployment that is not busy.
    pub fn begin(&self, row: DeploymentRow, launch: Launch) {
        lock(&self.busy).insert(row.name.clone());
        let busy = Busy { busy: self.busy.clone(), name: row.name.clone(), wake: self.wake.clone() };
        let (fleet, registry, at_once) = (self.fleet.clone(), self.registry.clone(), self.at_once.clone());
        tokio::spawn(async move {
            let _busy = busy;
            // It is never closed.
            let _turn = at_once.acquire().await;
            if let Err(error) = start(&fleet, &registry, &row, &launch).await {
                tracing::error!(deployment = row.name, "run `{}` cannot be started now: {error}", launch.run);
            }
        });
    }
}

/// A deployment of which a run is being started, until this is dropped.
struct Busy {
    busy: Arc<Mutex<HashSet<String>>>,
    name: String,
    wake: Arc<Notify>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.busy).remove(&self.name);
        self.wake.notify_one();
    }
}

fn lock(busy: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a run, or notes why it cannot be. Where it is not known the fire stays as it is, and is looked at again.
async fn start(fleet: &Fleet, registry: &Registry, row: &DeploymentRow, launch: &Launch) -> Result<(), Error> {
    let Launch { fire, run, covered, now } = launch;
    let params: Map<String, Value> = read("parameters of a fire", &fire.params)?;
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(*now);
    let refused = match registry.plan(&row.name, params, *covered, now).await {
        Ok((plan, text)) => match fleet.start_as(run.clone(), plan, text, now).await {
            Ok(()) => {
                if fire.cause == "schedule" {
                    let due = Timestamp::from_millisecond(fire.due).unwrap_or(now);
                    let lag = Duration::try_from(Timestamp::now().duration_since(due));
                    fleet.tell_lag(run, &row.flow, lag.unwrap_or_default());
                }
                return Ok(());
            }
            // The store is busy, or the server about to stop.
            Err(status) if is_passing(&status) => {
                tracing::warn!("run `{run}` cannot be started now: {}", status.message());
                return Ok(());
            }
            Err(status) => status.message().to_owned(),
        },
        Err(DeployError::Store(error)) => return Err(error),
        Err(DeployError::Flow(problems)) => {
            let told: Vec<String> =
                problems.iter().map(|problem| format!("[{}] {}", problem.code, problem.report().message)).collect();
            told.join("; ")
        }
        Err(error) => error.to_string(),
    };
    tracing::error!(deployment = row.name, "run `{run}` cannot be started: {refused}");
    let change = FireChange { state: fire_state::REFUSED, note: refused, ..FireChange::default() };
    // Not where another server has started it meanwhile.
    registry.store().change_fire(fire.id, fire_state::STARTED, change).await.map(drop)
}

/// Whether trying again a moment later may help.
fn is_passing(status: &Status) -> bool {
    // Somebody else is about to start it, or to find out that it is there.
    let is_held = status.get_details_error_info().is_some_and(|info| info.reason == "E101");
    is_held || matches!(status.code(), Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::Internal)
}
