//! The event loop: drives runs over a store, one process for each run, any number of runs in a process.
//!
//! [`Engine`] holds what all runs share: store, artifacts, slots. [`Engine::drive`] takes a run from where its journal
//! ends to where it ends. What can be seen from outside follows from what is durable: inputs -> events -> one append ->
//! starts. Pure steps alone may start while that append is under way.
//! What may happen next is decided by `swath-run`; what a step needs of the flow comes from a [`Program`].

pub mod again;
pub mod ask;
mod attempt;
mod check;
mod drive;
mod faked;
mod files;
mod flights;
mod idle;
mod isolate;
pub mod launch;
mod observe;
mod outputs;
mod planned;
pub mod preflight;
mod program;
mod reuse;
mod secrets;
mod slots;
pub mod standing;
pub mod steps;
mod sub_flow;
mod text;
pub mod worker;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use swath_store::{Artifacts, Home, Store};
use swath_task::Needs;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use check::{check_run, check_store, vocabulary};
pub use drive::{DriveError, Ending, FailedStep, OUTPUTS, SCHEDULING_PROBLEM};
pub use faked::{Fake, Faked};
pub use idle::graph_of;
pub use isolate::{Isolated, Isolation};
pub use observe::{AttemptId, AttemptState, Ended, FLOW, Figures, Observer, Unobserved, Update};
pub use planned::PlannedFlow;
pub use program::{Action, Bound, CachePolicy, Items, Outputs, Program};
pub use reuse::artifacts_in;
pub use secrets::{NoSecret, secret};
pub use slots::{Beyond, Capacity, Held, Missing, SlotUse, Slots};
pub use text::{Asked, Files, FlowText};

/// How long an attempt may be passed by others that need less, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all runs of a process share.
pub struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) home: Home,
    pub(crate) slots: Mutex<Slots>,
    pub(crate) freed: tokio::sync::Notify,
    /// What is being computed, by cache key.
    pub(crate) flights: Mutex<flights::Flights>,
    /// What steps that are ready lack to start, by run and step.
    pub(crate) missing: Mutex<HashMap<(String, u32), Missing>>,
    /// How many steps of one run may run another flow at a time. Each level of flows has its own, so that those above
    /// never keep those below from starting.
    pub(crate) most_sub_flows: usize,
    /// How long attempts that need less may pass one that waits for slots.
    pub(crate) patience: Duration,
    pub(crate) files: Arc<files::FileDigests>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) secrets: Mutex<BTreeMap<String, String>>,
    pub(crate) stop: CancellationToken,
    pub(crate) span: AttemptSpan,
    /// How attempts run in processes of their own; `None`: they cannot.
    pub(crate) isolation: Option<Isolation>,
    pub(crate) workers: Arc<isolate::Pool>,
    pub(crate) drive_span: DriveSpan,
    /// A moment, and what the steady clock showed then.
    wound: (Instant, u64),
}

/// Makes the `tracing` span of an attempt from run, step, instance and attempt. Of an instance whose earlier result is
/// taken the attempt is 0. What is known later is recorded, where the span has a field for it: `swath.task`,
/// `swath.step.state`, `swath.reused_from`, `error.type`, `otel.status_code`, `otel.status_description`.
pub type AttemptSpan = fn(&str, &str, &str, u32) -> tracing::Span;

/// Makes the span of the time in which this process drives a run, from its id. `swath.run.state`, `swath.run.ran`,
/// `swath.run.reused`, `otel.status_code` and `otel.status_description` are recorded at its end.
pub type DriveSpan = fn(&str) -> tracing::Span;

/// The target of events that belong to the trace of an attempt and are no lines of its log.
pub(crate) const TRACE: &str = "swath::trace";

impl Engine {
    /// An engine over a store whose artifacts and scratch are in `home`. `stop` ends every drive soon, cleanly, and leaves
    /// the runs resumable.
    pub fn new(
        store: Arc<dyn Store>,
        home: Home,
        artifacts: Arc<Artifacts>,
        capacity: Capacity,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
        span: AttemptSpan,
    ) -> Self {
        Self {
            store,
            artifacts,
            home,
            workers: isolate::Pool::new(0),
            isolation: None,
            patience: PATIENCE,
            most_sub_flows: (4.0 * capacity.cpu).max(16.0) as usize,
            slots: Mutex::new(Slots::new(capacity)),
            freed: tokio::sync::Notify::new(),
            missing: Mutex::default(),
            flights: Mutex::default(),
            files: Arc::default(),
            observer,
            secrets: Mutex::default(),
            stop,
            span,
            drive_span: |_| tracing::Span::none(),
            wound: (Instant::now(), now()),
        }
    }

    /// The engine, able to run attempts in processes of their own.
    #[must_use]
    pub fn isolating(self, isolation: Isolation) -> Self {
        Self { workers: isolate::Pool::new(isolation.idle), isolation: Some(isolation), ..self }
    }

    /// The engine, in which attempts that need less pass one that waits for slots for so long and no longer (30 s unless told).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Drives each run inside a span.
    #[must_use]
    pub fn with_drive_span(self, drive_span: DriveSpan) -> Self {
        Self { drive_span, ..self }
    }

    /// The engine with its clock set, in milliseconds since 1970 UTC: from here on only the engine winds it.
    #[must_use]
    pub fn wound_to(self, at: u64) -> Self {
        Self { wound: (Instant::now(), at), ..self }
    }

    /// Milliseconds since 1970 UTC by a clock that only this engine winds: waits and deadlines go on as they were when
    /// somebody sets the clock of the machine.
    pub(crate) fn steady(&self) -> u64 {
        let (since, at) = self.wound;
        at.saturating_add(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Tells the observers of a run that is about to be driven on whose behalf that is: a W3C `traceparent`.
    pub fn asked(&self, run: &str, traceparent: String) {
        self.observer.update(run, &Update::Asked { traceparent });
    }

    /// Tells the observers that a schedule has started a run of `flow`, so long after that was due.
    pub fn due(&self, run: &str, flow: &str, lag: Duration) {
        self.observer.update(run, &Update::Due { flow: flow.to_owned(), lag });
    }

    /// What there is for attempts, and how much of it they hold now.
    pub fn slots(&self) -> Vec<SlotUse> {
        lock(&self.slots).in_use()
    }

    /// Processes of their own that there are for attempts: those that run one, and those that wait for one.
    pub fn isolated(&self) -> u32 {
        self.workers.alive()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Takes `needs` if they are free, first with a `turn`. `Err` names what is missing.
    pub(crate) fn take_slots(self: &Arc<Self>, needs: &Needs, turn: Option<&Turn>) -> Result<Holding, Missing> {
        let mut slots = lock(&self.slots);
        let held = match turn {
            Some(turn) => slots.take_first(turn.ticket, needs),
            None => slots.take(needs),
        };
        held.map(|held| Holding { engine: self.clone(), held: Some(held) })
    }

    /// Puts an attempt that lacks something before all others, unless another one is.
    pub(crate) fn put_first(self: &Arc<Self>, lacks: &Missing) -> Option<Turn> {
        lock(&self.slots).put_first(lacks).map(|ticket| Turn { engine: self.clone(), ticket })
    }

    /// What the step at position `step` of a run lacks to start; `None` when it lacks nothing, or this engine does not
    /// drive the run.
    pub fn missing(&self, run: &str, step: u32) -> Option<Missing> {
        lock(&self.missing).get(&(run.to_owned(), step)).cloned()
    }

    /// Makes values of secrets known, by the environment variables they are in. Runs of one process share its environment.
    pub fn learn_secrets(&self, secrets: BTreeMap<String, String>) {
        lock(&self.secrets).extend(secrets);
    }

    /// The artifacts.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }
}

/// That nobody passes an attempt which has waited long, until dropped.
pub(crate) struct Turn {
    engine: Arc<Engine>,
    ticket: slots::Ticket,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.engine.slots).step_back(self.ticket);
        self.engine.freed.notify_waiters();
    }
}

/// Slots that an attempt holds. Given back when dropped, however the drive that took them ends.
pub(crate) struct Holding {
    engine: Arc<Engine>,
    held: Option<Held>,
}

impl Holding {
    /// Threads the attempt may keep busy.
    pub fn cpus(&self) -> usize {
        self.held.as_ref().map_or(1, |held| held.cpus)
    }

    /// GPUs the attempt may use, by index.
    pub fn gpus(&self) -> Vec<u32> {
        self.held.as_ref().map_or_else(Vec::new, Held::gpus)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            lock(&self.engine.slots).release(held);
            self.engine.freed.notify_waiters();
        }
    }
}

/// Does work that may take a while where it keeps no other task waiting. On a runtime of one thread it is done in place: there
/// everything happens in one order, which a simulation can repeat.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await,
    }
}

/// Milliseconds since 1970 UTC, for what people read.
pub(crate) fn now() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
