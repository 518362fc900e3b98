//! The runs that this process drives.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use swath_host::again::{self, AgainError, Wish};
use swath_host::ask::{self, Refusal, Resume};
use swath_host::standing::{self, Standing};
use swath_host::{Engine, PlannedFlow, launch, preflight};
use swath_plan::{Catalogue, Plan, RerunProblem};
use swath_store::{Artifacts, Error, RunFilter, RunLease, RunRow, Store};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::{LIVE, declined, is_live, not_now, refused, wrong};
use crate::flows::{Text, refuse};
use crate::watch::Changes;

/// How often runs to go on with are looked for. One that stopped again waits twice as long each time, and never longer than
/// the other.
const ADOPTING: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a second request of one key waits for the first to have pinned its run.
const PINNING: Duration = Duration::from_secs(5);
/// Stands for the request, of a run that a deployment started.
const FIRED: &str = "fired";

/// The runs of one engine in this process. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    changes: Arc<Changes>,
    /// Ends every drive soon and leaves its run resumable.
    stop: CancellationToken,
    draining: AtomicBool,
    live: Mutex<HashSet<String>>,
    drives: TaskTracker,
    /// Told of the end of each drive.
    ended: Notify,
    /// How long each run that this process went on with of itself was left alone before, and until when it is.
    tried: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Fleet {
    /// No runs yet. `stop` is the token that the engine was made with, `changes` its observer.
    pub fn new(engine: Arc<Engine>, catalogue: Arc<Catalogue>, changes: Arc<Changes>, stop: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            store: engine.store().clone(),
            engine,
            catalogue,
            changes,
            stop,
            draining: AtomicBool::new(false),
            live: Mutex::default(),
            drives: TaskTracker::new(),
            ended: Notify::new(),
            tried: Mutex::default(),
        }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// What runs have made.
    pub fn artifacts(&self) -> &Artifacts {
        self.0.engine.artifacts()
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

    /// Plans a flow and starts a run of it; with the key of an earlier call it is that call's run, and `false`. `caller` is
    /// the `traceparent` of whoever asks, where that is traced.
    pub async fn start(&self, text: Text, key: &str, caller: Option<String>) -> Result<(RunRow, bool), Status> {
        self.admits()?;
        let request = text.digest();
        if !key.is_empty()
            && let Some(row) = self.started_by(&launch::keyed_id(key), &request).await?
        {
            return Ok((row, false));
        }
        let now = Timestamp::now();
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let catalogue = self.0.catalogue.clone();
        let planned = swath_host::aside(move || text.plan(&catalogue, now)).await;
        let planned = planned.map_err(|error| Status::internal(error.to_string()))?;
        let (plan, source) = planned.map_err(|problems| refuse(&problems))?;
        let id = if key.is_empty() { launch::run_id(&plan.name, now) } else { launch::keyed_id(key) };
        let keyed = !key.is_empty();
        let beginning = Beginning { id, plan, text: source.text().to_owned(), request, keyed, caller };
        self.begin(beginning, now).await
    }

    /// Starts the run of a fire under its id, unless that is there already. The id is the run's key: whoever asks again
    /// gets the same run.
    pub(crate) async fn start_as(&self, id: String, plan: Plan, text: String, now: Timestamp) -> Result<(), Status> {
        self.admits()?;
        let request = FIRED.to_owned();
        self.begin(Beginning { id, plan, text, request, keyed: true, caller: None }, now).await.map(drop)
    }

    /// Tells the observers how late the run of a schedule was started.
    pub(crate) fn tell_lag(&self, run: &str, flow: &str, lag: Duration) {
        self.0.engine.due(run, flow, lag);
    }

    /// The values of a plan's secrets, once what it reads is there. Either may take a while: a command may print a secret.
    async fn prepare(&self, plan: &Plan) -> Result<BTreeMap<String, String>, Status> {
        let (plan, catalogue) = (plan.clone(), self.0.catalogue.clone());
        let prepared = swath_host::aside(move || {
            preflight::check(&plan, &catalogue).map_err(|missing| not_now("FILE_MISSING", missing.to_string()))?;
            launch::secrets(&plan).map_err(|missing| not_now("SECRET_MISSING", missing.to_string()))
        });
        prepared.await.map_err(|error| Status::internal(error.to_string()))?
    }

    async fn begin(&self, beginning: Beginning, now: Timestamp) -> Result<(RunRow, bool), Status> {
        let Beginning { id, plan, text, request, keyed, caller } = beginning;
        let secrets = self.prepare(&plan).await?;
        // A client that goes away meanwhile must not leave a run that is pinned and driven by nobody.
        let fleet = self.clone();
        let started = tokio::spawn(async move {
            let lease = match fleet.0.store.lease_run(&id).await {
                Ok(lease) => lease,
                // Another request of the same key was faster.
                Err(Error::RunHeld { .. }) if keyed => {
                    let started = tokio::time::timeout(PINNING, fleet.appears(&id, &request)).await;
                    let row = started.map_err(|_| Status::aborted("another request of this key is under way"))??;
                    return Ok((row, false));
                }
                Err(error) => return Err(refused(error)),
            };
            if keyed && fleet.known(&id).await?.is_some() {
                drop(lease);
                let row = fleet.started_by(&id, &request).await?;
                return row.map(|row| (row, false)).ok_or_else(|| Status::aborted("the run of this key is gone"));
            }
            // Should this process end now, a mark without a run means nothing.
            fleet.0.store.mark_served(&id, &request).await.map_err(refused)?;
            launch::pin(fleet.0.store.as_ref(), &lease, &plan, &text, now).await.map_err(refused)?;
            let row = fleet.0.store.run_row(&id).await;
            fleet.0.engine.learn_secrets(secrets);
            if let Some(caller) = caller {
                fleet.0.engine.asked(&id, caller);
            }
            fleet.drive(lease, plan, now);
            row.map(|row| (row, true)).map_err(refused)
        });
        started.await.map_err(|error| Status::internal(error.to_string()))?
    }

    async fn known(&self, id: &str) -> Result<Option<RunRow>, Status> {
        match self.0.store.run_row(id).await {
            Ok(row) => Ok(Some(row)),
            Err(Error::NoRun(_)) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// The run that an earlier request of a key started, if that was the same request.
    async fn started_by(&self, id: &str, request: &str) -> Result<Option<RunRow>, Status> {
        let Some(row) = self.known(id).await? else { return Ok(None) };
        if self.0.store.served_by(id).await.map_err(refused)?.as_deref() != Some(request) {
            let why = format!("the key has started run `{id}`, by another request");
            let details = ErrorDetails::with_bad_request_violation("idempotency_key", why.clone());
            return Err(Status::with_error_details(Code::AlreadyExists, why, details));
        }
        // Its server was killed before it drove the run.
        if is_live(&row) && self.0.store.run_holder(id).await.map_err(refused)?.is_none() {
            return self.take_up(id, false).await.map(Some);
        }
        Ok(Some(row))
    }

    async fn appears(&self, id: &str, request: &str) -> Result<RunRow, Status> {
        loop {
            if let Some(row) = self.started_by(id, request).await? {
                return Ok(row);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Goes on with a run that was paused, cut off or cancelled, or that failed.
    pub async fn resume(&self, id: &str) -> Result<RunRow, Status> {
        self.admits()?;
        match ask::resume(self.0.store.as_ref(), id).await.map_err(declined)? {
            Resume::Asked => self.0.store.run_row(id).await.map_err(refused),
            Resume::Drive => {
                let before = self.take_up(id, true).await?;
                self.begun_again(before).await
            }
        }
    }

    /// Waits until a run that had ended, and is driven again, says so: who watches it from now on would see its end.
    async fn begun_again(&self, before: RunRow) -> Result<RunRow, Status> {
        let mut changes = self.0.changes.subscribe(&before.id);
        let deadline = Instant::now() + PINNING;
        loop {
            let row = self.0.store.run_row(&before.id).await.map_err(refused)?;
            if is_live(&before) || row.seq > before.seq || Instant::now() > deadline {
                return Ok(row);
            }
            // A change between the look and the wait is seen a moment later.
            let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
        }
    }

    /// Drives a run from where its journal ends. One that is paused stays so unless it is to `unpause`.
    async fn take_up(&self, id: &str, unpause: bool) -> Result<RunRow, Status> {
        let stored = self.0.store.get_run(id).await.map_err(refused)?;
        if stored.row.state == "completed" {
            return Err(declined(Refusal::Ended { run: id.to_owned(), state: stored.row.state }));
        }
        let plan: Plan = serde_json::from_str(&stored.plan).map_err(|error| {
            let why = format!("run `{id}` was planned by another version of swath ({error}): start a new run");
            not_now("PLAN_OF_ANOTHER_VERSION", why)
        })?;
        let secrets = launch::secrets(&plan).map_err(|missing| not_now("SECRET_MISSING", missing.to_string()))?;
        let lease = self.0.store.lease_run(id).await.map_err(refused)?;
        if self.0.store.served_by(id).await.map_err(refused)?.is_none() {
            self.0.store.mark_served(id, "").await.map_err(refused)?;
        }
        if unpause {
            self.0.store.ask_to_pause(id, false).await.map_err(refused)?;
        }
        // Its next end counts for those who wait for it.
        self.0.store.unsettle(id).await.map_err(refused)?;
        self.0.engine.learn_secrets(secrets);
        let created = Timestamp::from_millisecond(stored.row.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
        self.drive(lease, plan, created);
        Ok(stored.row)
    }

    /// Where a step of a run stands, and what it waits for.
    pub async fn standing(&self, id: &str, step: &str) -> Result<Standing, Status> {
        let missing = |at: u32| self.0.engine.missing(id, at);
        let all = standing::of_run(self.0.store.as_ref(), id, &missing).await.map_err(refused)?;
        let known: Vec<String> = all.iter().map(|one| one.step.clone()).collect();
        let found = all.into_iter().find(|one| one.step == step);
        found.ok_or_else(|| wrong("step", format!("run `{id}` has no step `{step}`; it has {}", known.join(", "))))
    }

    /// Starts a new run of what run `id` is pinned to, which takes results of that one over. `caller` as in [`Self::start`].
    pub async fn rerun(
        &self,
        id: &str,
        wish: Wish,
        params_folder: &str,
        caller: Option<String>,
    ) -> Result<RunRow, Status> {
        self.admits()?;
        let stored = self.0.store.run_row(id).await.map_err(refused)?;
        let folder = match (params_folder, Path::new(&stored.source).parent()) {
            ("", Some(folder)) => folder.to_owned(),
            (folder, _) if Path::new(folder).is_absolute() => folder.into(),
            _ => return Err(wrong("parameter_folder", "an absolute path is needed")),
        };
        let planned = again::plan(self.0.store.as_ref(), &self.0.catalogue, id, &wish, &folder).await;
        let (plan, stored) = planned.map_err(|error| match error {
            AgainError::Refused(refusal) => declined(refusal),
            AgainError::Flow(problems) => refuse(&problems),
            AgainError::Problem(problem @ RerunProblem::Step { .. }) => wrong("from", problem.to_string()),
            AgainError::Problem(problem) => not_now("RERUN_NOT_POSSIBLE", problem.to_string()),
        })?;
        let now = Timestamp::now();
        let (id, text, request) = (launch::run_id(&plan.name, now), stored.text, String::new());
        let beginning = Beginning { id, plan, text, request, keyed: false, caller };
        self.begin(beginning, now).await.map(|(row, _)| row)
    }

    /// Asks whoever drives a run to end it soon; one that nobody drives ends at once.
    pub async fn cancel(&self, id: &str) -> Result<RunRow, Status> {
        match ask::cancel(self.0.store.as_ref(), id).await {
            // What was asked for has come about.
            Ok(()) | Err(Refusal::Ended { .. }) => {}
            Err(refusal) => return Err(declined(refusal)),
        }
        self.0.changes.happened(id);
        self.0.store.run_row(id).await.map_err(refused)
    }

    /// Asks whoever drives a run to start nothing new in it; one that nobody drives is paused at once.
    pub async fn pause(&self, id: &str) -> Result<RunRow, Status> {
        ask::pause(self.0.store.as_ref(), id).await.map_err(declined)?;
        self.0.changes.happened(id);
        self.0.store.run_row(id).await.map_err(refused)
    }

    /// Goes on with the runs that other servers left, and with those that this one could not drive on. Returns how many.
    pub async fn adopt(&self) -> Result<usize, Error> {
        let states = LIVE.map(str::to_owned).to_vec();
        // A run of a sub-flow is gone on with by the run above it.
        let filter = RunFilter { states, served: true, without_sub_flows: true, ..RunFilter::default() };
        let rows = self.0.store.list_runs(&filter).await?;
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let driven = if ids.is_empty() { HashMap::new() } else { self.0.store.holders(&ids).await? };
        let live: HashSet<&str> = ids.iter().map(String::as_str).collect();
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| live.contains(id.as_str()));
        let mut adopted = 0;
        for row in rows.iter().rev() {
            if self.is_draining() || driven.contains_key(&row.id) {
                continue;
            }
            if self.waits(&row.id) {
                continue;
            }
            match self.take_up(&row.id, false).await {
                Ok(_) => adopted += 1,
                // Another server was faster.
                Err(status) if self.is_driven(&row.id).await => tracing::debug!("{}", status.message()),
                Err(status) => tracing::warn!("run `{}` is not gone on with: {}", row.id, status.message()),
            }
        }
        Ok(adopted)
    }

    /// Whether a run that stopped again and again is left alone now. If not, it will be for a while.
    fn waits(&self, id: &str) -> bool {
        let mut tried = self.0.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (wait, until) = tried.entry(id.to_owned()).or_insert((ADOPTING / 2, now));
        if now < *until {
            return true;
        }
        *wait = (*wait * 2).min(LONGEST_WAIT);
        *until = now + *wait;
        false
    }

    async fn is_driven(&self, id: &str) -> bool {
        matches!(self.0.store.run_holder(id).await, Ok(Some(_)))
    }

    /// Looks for runs to go on with, again and again, until the fleet drains.
    pub async fn keep_adopting(&self) {
        while !self.is_draining() {
            tokio::time::sleep(ADOPTING).await;
            if let Err(error) = self.adopt().await {
                tracing::warn!("the store could not be looked through for runs to go on with: {error}");
            }
        }
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

    /// Comes true when the drive of a run has ended since the last time.
    pub(crate) async fn ended(&self) {
        self.0.ended.notified().await;
    }

    /// Comes true when no run is driven any more, and none will be.
    pub async fn drained(&self) {
        self.0.stop.cancelled().await;
        self.0.drives.wait().await;
    }

    fn drive(&self, lease: RunLease, plan: Plan, created: Timestamp) {
        let fleet = self.clone();
        let id = lease.run().to_owned();
        self.lock().insert(id.clone());
        let listed = Listed(fleet.clone(), id.clone());
        self.0.drives.spawn(async move {
            let _listed = listed;
            let program = Arc::new(PlannedFlow::new(plan, fleet.0.catalogue.clone(), created));
            match fleet.0.engine.drive(&lease, program).await {
                Ok(ending) => tracing::info!(run = %id, state = ending.state.name(), "run ended"),
                Err(error) => tracing::error!(run = %id, "the run cannot be driven on: {error}"),
            }
            drop(lease);
        });
    }
}

/// What a run begins with.
struct Beginning {
    id: String,
    plan: Plan,
    /// The flow's text.
    text: String,
    /// What tells the request from others of its key.
    request: String,
    /// Whether the id follows from a key: the run may be there already.
    keyed: bool,
    /// The caller's place in its trace.
    caller: Option<String>,
}

/// Takes a run off the list of those that are live, however its drive ends.
struct Listed(Fleet, String);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
        self.0.0.changes.happened(&self.1);
        self.0.0.ended.notify_one();
    }
}

/// The id in a request.
pub fn id_of(field: &str, id: String) -> Result<String, Status> {
    match id.len() {
        0 => Err(wrong(field, "the id of a run is needed")),
        1..=512 => Ok(id),
        _ => Err(wrong(field, "it is too long for the id of a run")),
    }
}
