//! The runs that this process drives.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use swath_host::{Engine, PlannedFlow, launch};
use swath_plan::{Catalogue, Plan};
use swath_store::{Error, Home, RunFilter, RunLease, RunRow, SqliteStore, Store, StoredRun};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::{not_now, refused, wrong};
use crate::flows::{Text, refuse};
use crate::watch::Changes;

/// How long a second request of one key waits for the first to have pinned its run.
const PINNING: Duration = Duration::from_secs(5);

/// The runs of one engine in this process. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    store: Arc<SqliteStore>,
    home: Home,
    catalogue: Arc<Catalogue>,
    changes: Arc<Changes>,
    /// Ends every drive soon and leaves its run resumable.
    stop: CancellationToken,
    draining: AtomicBool,
    live: Mutex<HashSet<String>>,
    drives: TaskTracker,
}

impl Fleet {
    /// No runs yet. `stop` is the token that the engine was made with, `changes` its observer.
    pub fn new(
        engine: Arc<Engine>,
        store: Arc<SqliteStore>,
        catalogue: Arc<Catalogue>,
        changes: Arc<Changes>,
        stop: CancellationToken,
    ) -> Self {
        let home = Home::new(store.home());
        Self(Arc::new(Shared {
            engine,
            store,
            home,
            catalogue,
            changes,
            stop,
            draining: AtomicBool::new(false),
            live: Mutex::default(),
            drives: TaskTracker::new(),
        }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<SqliteStore> {
        &self.0.store
    }

    /// The tasks that flows may name.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.0.catalogue
    }

    /// What happens in the runs.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// How many runs are driven now.
    pub fn live(&self) -> usize {
        self.lock().len()
    }

    /// Whether no more runs are started.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admits(&self) -> Result<(), Status> {
        match self.is_draining() {
            true => Err(Status::unavailable("the server is about to stop: it starts no more runs")),
            false => Ok(()),
        }
    }

    /// Plans a flow and starts a run of it; with the key of an earlier call it is that call's run, and `false`.
    pub async fn start(&self, text: Text, key: &str) -> Result<(RunRow, bool), Status> {
        self.admits()?;
        let now = Timestamp::now();
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let catalogue = self.0.catalogue.clone();
        let planned = tokio::task::spawn_blocking(move || text.plan(&catalogue, now)).await;
        let planned = planned.map_err(|error| Status::internal(error.to_string()))?;
        let (plan, source) = planned.map_err(|problems| refuse(&problems))?;
        let secrets = launch::secrets(&plan).map_err(|missing| not_now("SECRET_MISSING", missing.to_string()))?;
        let id = launch::run_id(&plan.name, now, Some(key).filter(|key| !key.is_empty()));
        if !key.is_empty()
            && let Some(stored) = self.known(&id).await?
        {
            return same(stored, &plan).map(|row| (row, false));
        }
        let lease = match launch::pin(&self.0.store, &id, &plan, source.text(), now).await {
            Ok(lease) => lease,
            // Another request of the same key was faster.
            Err(Error::RunHeld { .. } | Error::RunExists(_)) if !key.is_empty() => {
                let known = tokio::time::timeout(PINNING, self.appears(&id)).await;
                let stored = known.map_err(|_| Status::aborted("another request of this key is under way"))??;
                return same(stored, &plan).map(|row| (row, false));
            }
            Err(error) => return Err(refused(error)),
        };
        self.0.home.mark_served(&id).map_err(refused)?;
        self.0.engine.learn_secrets(secrets);
        let row = self.0.store.get_run(&id).await.map_err(refused)?.row;
        self.drive(lease, plan, now);
        Ok((row, true))
    }

    async fn known(&self, id: &str) -> Result<Option<StoredRun>, Status> {
        match self.0.store.get_run(id).await {
            Ok(stored) => Ok(Some(stored)),
            Err(Error::NoRun(_)) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    async fn appears(&self, id: &str) -> Result<StoredRun, Status> {
        loop {
            if let Some(stored) = self.known(id).await? {
                return Ok(stored);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Goes on with a run from where its journal ends.
    pub async fn resume(&self, id: &str) -> Result<RunRow, Status> {
        self.admits()?;
        let stored = self.0.store.get_run(id).await.map_err(refused)?;
        if stored.row.state == "completed" {
            return Err(not_now("RUN_COMPLETED", format!("run `{id}` has completed: nothing is left to do")));
        }
        if stored.plan.is_empty() {
            return Err(not_now(
                "RUN_OF_SUB_FLOW",
                format!("`{id}` is the run of a sub-flow: resume the run above it"),
            ));
        }
        let plan: Plan = serde_json::from_str(&stored.plan).map_err(|error| {
            let why = format!("run `{id}` was planned by another version of swath ({error}): start a new run");
            not_now("PLAN_OF_ANOTHER_VERSION", why)
        })?;
        let secrets = launch::secrets(&plan).map_err(|missing| not_now("SECRET_MISSING", missing.to_string()))?;
        let lease = self.0.store.lease_run(id).map_err(refused)?;
        self.0.home.mark_served(id).map_err(refused)?;
        self.0.engine.learn_secrets(secrets);
        let created = Timestamp::from_millisecond(stored.row.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
        self.drive(lease, plan, created);
        Ok(stored.row)
    }

    /// Asks whoever drives a run to end it soon. One that nobody drives is taken up to be ended.
    pub async fn cancel(&self, id: &str) -> Result<RunRow, Status> {
        let row = self.0.store.get_run(id).await.map_err(refused)?.row;
        if !matches!(row.state.as_str(), "pending" | "running" | "cancelling") {
            return Ok(row);
        }
        if self.0.store.run_holder(id).map_err(refused)?.is_none() {
            match self.resume(id).await {
                Err(status) if status.code() != Code::FailedPrecondition => return Err(status),
                _ => {}
            }
        }
        self.0.home.ask_to_cancel(id).map_err(refused)?;
        self.0.store.get_run(id).await.map_err(refused).map(|stored| stored.row)
    }

    /// Goes on with the runs that an earlier server left. Returns how many.
    pub async fn adopt(&self) -> Result<usize, Error> {
        let states = ["pending", "running", "cancelling"].map(str::to_owned).to_vec();
        let rows = self.0.store.list_runs(&RunFilter { states, ..RunFilter::default() }).await?;
        let mut adopted = 0;
        for row in rows.iter().rev().filter(|row| self.0.home.is_served(&row.id)) {
            match self.resume(&row.id).await {
                Ok(_) => adopted += 1,
                Err(status) => tracing::warn!("run `{}` is not gone on with: {}", row.id, status.message()),
            }
        }
        Ok(adopted)
    }

    /// Starts no more runs, waits until those that are live have ended or `grace` is over, and then stops the rest: they
    /// can be resumed.
    pub async fn drain(&self, grace: Duration) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drives.close();
        if tokio::time::timeout(grace, self.0.drives.wait()).await.is_err() {
            self.0.stop.cancel();
            self.0.drives.wait().await;
        }
        self.0.stop.cancel();
    }

    fn drive(&self, lease: RunLease, plan: Plan, created: Timestamp) {
        let fleet = self.clone();
        let id = lease.run().to_owned();
        self.lock().insert(id.clone());
        self.0.drives.spawn(async move {
            let program = Arc::new(PlannedFlow::new(plan, fleet.0.catalogue.clone(), created));
            match fleet.0.engine.drive(&id, program).await {
                Ok(ending) => tracing::info!(run = %id, state = ending.state.name(), "run ended"),
                Err(error) => tracing::error!(run = %id, "the run cannot be driven on: {error}"),
            }
            drop(lease);
            fleet.lock().remove(&id);
            fleet.0.changes.happened();
        });
    }
}

/// The run of an earlier request of the same key, if that was the same request.
fn same(stored: StoredRun, plan: &Plan) -> Result<RunRow, Status> {
    let params = serde_json::Value::Object(plan.params.clone()).to_string();
    if stored.text_digest == plan.text_digest && stored.params == params {
        return Ok(stored.row);
    }
    let why = format!("the key has started run `{}`, of another flow or other parameters", stored.row.id);
    let details = ErrorDetails::with_bad_request_violation("idempotency_key", why.clone());
    Err(Status::with_error_details(Code::AlreadyExists, why, details))
}

/// The id in a request.
pub fn id_of(field: &str, id: String) -> Result<String, Status> {
    if id.is_empty() { Err(wrong(field, "the id of a run is needed")) } else { Ok(id) }
}
