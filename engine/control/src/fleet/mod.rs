//! The runs that this process drives.

mod turns;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use swath_host::again::{self, AgainError, Wish};
use swath_host::ask::{self, Refusal, Resume};
use swath_host::standing::{self, Standing, WaitKind};
use swath_host::{Engine, PlannedFlow, SlotUse, launch, preflight};
use swath_plan::{Catalogue, Plan, RerunProblem};
use swath_run::RunState;
use swath_store::{Artifacts, Error, FireFilter, RunLease, RunRow, Store, fire_state};
use swath_task::Digest;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::{declined, is_live, not_now, refused, wrong};
use crate::flows::{Text, refuse};
use crate::places::{Place, Places};
use crate::watch::Changes;

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
    places: Places,
    drives: TaskTracker,
    /// Told of the end of each drive.
    ended: Notify,
    /// How long each run that this process went on with of itself was left alone before, and until when it is.
    tried: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Fleet {
    /// No runs yet, and at most `most` at a time: others wait, first come first. `stop` is the token that the engine was
    /// made with, `changes` its observer.
    pub fn new(
        engine: Arc<Engine>,
        catalogue: Arc<Catalogue>,
        changes: Arc<Changes>,
        stop: CancellationToken,
        most: usize,
    ) -> Self {
        Self(Arc::new(Shared {
            store: engine.store().clone(),
            engine,
            catalogue,
            changes,
            stop,
            draining: AtomicBool::new(false),
            live: Mutex::default(),
            places: Places::new(most),
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

    /// How many runs wait for a place.
    pub fn waiting(&self) -> usize {
        self.0.places.waiting()
    }

    /// Ids of the runs that are driven now, in order.
    pub fn live_runs(&self) -> Vec<String> {
        let mut runs: Vec<String> = self.lock().iter().cloned().collect();
        runs.sort_unstable();
        runs
    }

    /// What there is for steps, and how much of it they hold.
    pub fn slots(&self) -> Vec<SlotUse> {
        self.0.engine.slots()
    }

    /// How many processes of their own there are for steps.
    pub fn isolated(&self) -> u32 {
        self.0.engine.isolated()
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
        if let Some(row) = self.of_key(key, &request).await? {
            return Ok((row, false));
        }
        let now = Timestamp::now();
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let catalogue = self.0.catalogue.clone();
        let planned = swath_host::aside(move || text.plan(&catalogue, now)).await;
        let planned = planned.map_err(|error| Status::internal(error.to_string()))?;
        let (plan, source) = planned.map_err(|problems| refuse(&problems))?;
        let beginning = Beginning { id: id_of_key(key), plan, text: source.text().to_owned(), request, caller };
        self.begin(beginning, now).await
    }

    /// Starts the run of a fire under its id, unless that is there already. The id is the run's key: whoever asks again
    /// gets the same run.
    pub(crate) async fn start_as(&self, id: String, plan: Plan, text: String, now: Timestamp) -> Result<(), Status> {
        self.admits()?;
        let request = FIRED.to_owned();
        self.begin(Beginning { id: Some(id), plan, text, request, caller: None }, now).await.map(drop)
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
        let Beginning { id, plan, text, request, caller } = beginning;
        let secrets = self.prepare(&plan).await?;
        // A client that goes away meanwhile must not leave a run that is pinned and driven by nobody.
        let fleet = self.clone();
        let started = tokio::spawn(async move {
            let lease = match id {
                None => launch::lease_new(fleet.0.store.as_ref(), &plan.name, now).await.map_err(refused)?,
                Some(id) => match fleet.0.store.lease_run(&id).await {
                    Ok(lease) => match fleet.known(&id).await? {
                        None => lease,
                        Some(_) => {
                            drop(lease);
                            let row = fleet.started_by(&id, &request).await?;
                            let gone = || Status::aborted("the run of this key is gone");
                            return row.map(|row| (row, false)).ok_or_else(gone);
                        }
                    },
                    // Another request of the same key was faster.
                    Err(Error::RunHeld { .. }) => {
                        let started = tokio::time::timeout(PINNING, fleet.appears(&id, &request)).await;
                        let row =
                            started.map_err(|_| Status::aborted("another request of this key is under way"))??;
                        return Ok((row, false));
                    }
                    Err(error) => return Err(refused(error)),
                },
            };
            let id = lease.run().to_owned();
            // Should this process end now, a mark without a run means nothing.
            fleet.0.store.mark_served(&id, &request).await.map_err(refused)?;
            launch::pin(fleet.0.store.as_ref(), &lease, &plan, &text, now).await.map_err(refused)?;
            let row = fleet.0.store.run_row(&id).await;
            if request == FIRED && fleet.is_given_up(&id).await.map_err(refused)? {
                drop(lease);
                ask::cancel(fleet.0.store.as_ref(), &id).await.map_err(declined)?;
                return Err(Status::failed_precondition("another server found that the run cannot be started"));
            }
            fleet.0.engine.learn_secrets(secrets);
            if let Some(caller) = caller {
                fleet.0.engine.asked(&id, caller);
            }
            match fleet.0.places.take() {
                Some(place) => fleet.drive(lease, plan, now, Some(place)),
                None => {
                    let term = lease.term().clone();
                    drop(lease);
                    fleet.honour(&term).await;
                    fleet.line_up(&id);
                }
            }
            row.map(|row| (row, true)).map_err(refused)
        });
        started.await.map_err(|error| Status::internal(error.to_string()))?
    }

    /// Whether another server gave the fire of a run up before the run was there: nobody looks at that fire any more.
    async fn is_given_up(&self, run: &str) -> Result<bool, Error> {
        let filter = FireFilter { run: Some(run.to_owned()), ..FireFilter::default() };
        Ok(self.0.store.fires(&filter).await?.iter().any(|fire| fire.state == fire_state::REFUSED))
    }

    async fn known(&self, id: &str) -> Result<Option<RunRow>, Status> {
        match self.0.store.run_row(id).await {
            Ok(row) => Ok(Some(row)),
            Err(Error::NoRun(_)) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// The run that an earlier request of this key started, if there is a key.
    async fn of_key(&self, key: &str, request: &str) -> Result<Option<RunRow>, Status> {
        match key {
            "" => Ok(None),
            key => self.started_by(&launch::keyed_id(key), request).await,
        }
    }

    /// The run of this id, if it was started by the same request.
    async fn started_by(&self, id: &str, request: &str) -> Result<Option<RunRow>, Status> {
        let Some(row) = self.known(id).await? else { return Ok(None) };
        if self.0.store.served_by(id).await.map_err(refused)?.as_deref() != Some(request) {
            let why = format!("the key has started run `{id}`, by another request");
            let details = ErrorDetails::with_bad_request_violation("idempotency_key", why.clone());
            return Err(Status::with_error_details(Code::AlreadyExists, why, details));
        }
        // It waits already, or its server was killed before it drove the run.
        if is_live(&row) && self.0.store.run_holder(id).await.map_err(refused)?.is_none() {
            self.line_up(id);
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
            // It goes on when it is its turn.
            Resume::Drive if self.0.places.is_waiting(id) => self.0.store.run_row(id).await.map_err(refused),
            Resume::Drive => {
                let before = self.take_up(id, true, self.0.places.take()).await?;
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

    /// Drives a run from where its journal ends: one that is live and not paused, unless somebody has `asked` to go on with it.
    /// What is asked for needs no place.
    async fn take_up(&self, id: &str, asked: bool, place: Option<Place>) -> Result<RunRow, Status> {
        let stored = self.0.store.get_run(id).await.map_err(refused)?;
        if stored.row.state == "completed" {
            return Err(declined(Refusal::Ended { run: id.to_owned(), state: stored.row.state }));
        }
        let plan: Plan = serde_json::from_str(&stored.plan).map_err(|error| {
            let why = format!("run `{id}` was planned by another version of swath ({error}): start a new run");
            not_now("PLAN_OF_ANOTHER_VERSION", why)
        })?;
        let (plan, secrets) = {
            let secrets = swath_host::aside(move || launch::secrets(&plan).map(|secrets| (plan, secrets)));
            let secrets = secrets.await.map_err(|error| Status::internal(error.to_string()))?;
            secrets.map_err(|missing| not_now("SECRET_MISSING", missing.to_string()))?
        };
        let lease = self.0.store.lease_run(id).await.map_err(refused)?;
        // It may have been cancelled or paused before the lease was taken.
        let row = self.0.store.run_row(id).await.map_err(refused)?;
        if !asked && !goes_on(&row) {
            return Err(Status::aborted(format!("it is {} by now", row.state)));
        }
        if self.0.store.served_by(id).await.map_err(refused)?.is_none() {
            self.0.store.mark_served(id, "").await.map_err(refused)?;
        }
        if asked {
            self.0.store.ask_to_pause(id, false).await.map_err(refused)?;
        }
        // Its next end counts for those who wait for it.
        self.0.store.unsettle(id).await.map_err(refused)?;
        self.0.engine.learn_secrets(secrets);
        let created = Timestamp::from_millisecond(stored.row.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
        self.drive(lease, plan, created, place);
        Ok(stored.row)
    }

    /// Where a step of a run stands, and what it waits for.
    pub async fn standing(&self, id: &str, step: &str) -> Result<Standing, Status> {
        let missing = |at: u32| self.0.engine.missing(id, at);
        let all = standing::of_run(self.0.store.as_ref(), id, &missing).await.map_err(refused)?;
        let known: Vec<String> = all.iter().map(|one| one.step.clone()).collect();
        let mut found = all.into_iter().find(|one| one.step == step);
        if let (Some(found), Some(before)) = (&mut found, self.0.places.before(id)) {
            for wait in found.waits_for.iter_mut().filter(|wait| wait.kind == WaitKind::Driver) {
                let most = self.0.places.most();
                wait.kind = WaitKind::Slot;
                wait.what =
                    format!("a place: the server drives {most} runs at a time, and {before} more are before this one");
            }
        }
        found.ok_or_else(|| wrong("step", format!("run `{id}` has no step `{step}`; it has {}", known.join(", "))))
    }

    /// Starts a new run of what run `id` is pinned to, which takes results of that one over. `key` and `caller` as in
    /// [`Self::start`].
    pub async fn rerun(
        &self,
        id: &str,
        wish: Wish,
        params_folder: &str,
        key: &str,
        caller: Option<String>,
    ) -> Result<(RunRow, bool), Status> {
        self.admits()?;
        let request = json!(["rerun", id, wish.from, wish.params, params_folder]);
        let request = Digest::of(request.to_string().as_bytes()).hex();
        if let Some(row) = self.of_key(key, &request).await? {
            return Ok((row, false));
        }
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
        self.begin(Beginning { id: id_of_key(key), plan, text: stored.text, request, caller }, now).await
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

    fn drive(&self, lease: RunLease, plan: Plan, created: Timestamp, place: Option<Place>) {
        let fleet = self.clone();
        let id = lease.run().to_owned();
        self.lock().insert(id.clone());
        let listed = Listed { fleet: fleet.clone(), id: id.clone(), place };
        self.0.drives.spawn(async move {
            let mut listed = listed;
            let program = Arc::new(PlannedFlow::new(plan, fleet.0.catalogue.clone(), created));
            let ended = {
                let drive = fleet.0.engine.drive(&lease, program);
                tokio::pin!(drive);
                tokio::select! {
                    biased;
                    ended = &mut drive => ended,
                    () = fleet.is_paused(lease.term()) => {
                        listed.give_place_back();
                        drive.await
                    }
                }
            };
            match ended {
                Ok(ending) => {
                    fleet.0.tried.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    tracing::info!(run = %id, state = ending.state.name(), "run ended");
                }
                Err(error) => tracing::error!(run = %id, "the run cannot be driven on: {error}"),
            }
            drop(lease);
        });
    }
}

/// What a run begins with.
struct Beginning {
    /// The id that follows from a key: the run may be there already. `None`: one that no run has.
    id: Option<String>,
    plan: Plan,
    /// The flow's text.
    text: String,
    /// What tells the request from others of its key.
    request: String,
    /// The caller's place in its trace.
    caller: Option<String>,
}

/// Takes a run off the list of those that are live, however its drive ends. Its place goes to the next.
struct Listed {
    fleet: Fleet,
    id: String,
    place: Option<Place>,
}

impl Listed {
    fn give_place_back(&mut self) {
        drop(self.place.take());
        self.fleet.fill();
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.fleet.lock().remove(&self.id);
        self.fleet.0.changes.happened(&self.id);
        self.fleet.0.ended.notify_one();
        self.give_place_back();
    }
}

/// The id that follows from a key, if there is one.
fn id_of_key(key: &str) -> Option<String> {
    (!key.is_empty()).then(|| launch::keyed_id(key))
}

/// Whether a run is to be driven on without anybody asking for it.
fn goes_on(row: &RunRow) -> bool {
    is_live(row) && row.state != RunState::Paused.name()
}

/// The id in a request.
pub fn id_of(field: &str, id: String) -> Result<String, Status> {
    match id.len() {
        0 => Err(wrong(field, "the id of a run is needed")),
        1..=512 => Ok(id),
        _ => Err(wrong(field, "it is too long for the id of a run")),
    }
}
