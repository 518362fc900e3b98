//! The event loop: drives runs over a store, one process for each run, any number of runs in a process.
//!
//! [`Engine`] holds what all runs share: store, artifacts, slots. [`Engine::drive`] takes a run from where its journal
//! ends to where it ends. The loop acts only on what is durable: inputs -> events -> one append -> starts.
//! What may happen next is decided by `swath-run`; what a step needs of the flow comes from a [`Program`].

pub mod again;
pub mod ask;
mod attempt;
mod drive;
mod faked;
mod files;
mod flights;
mod idle;
pub mod launch;
mod observe;
mod outputs;
mod planned;
mod program;
mod reuse;
mod slots;
pub mod standing;
mod sub_flow;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use swath_store::{Artifacts, Home, SqliteStore, Store};
use swath_task::Needs;
use tokio_util::sync::CancellationToken;

pub use drive::{DriveError, Ending, FailedStep, OUTPUTS, SCHEDULING_PROBLEM};
pub use faked::{Fake, Faked};
pub use idle::graph_of;
pub use observe::{AttemptId, Ended, Observer, Unobserved, Update};
pub use planned::PlannedFlow;
pub use program::{Action, Bound, CachePolicy, Items, Outputs, Program};
pub use slots::{Beyond, Capacity, Held, Missing, Slots};

/// What all runs of a process share.
pub struct Engine {
    pub(crate) store: Arc<SqliteStore>,
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
    pub(crate) files: Arc<files::FileDigests>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) secrets: Mutex<BTreeMap<String, String>>,
    pub(crate) stop: CancellationToken,
    pub(crate) span: AttemptSpan,
}

/// Makes the `tracing` span of an attempt from run, step, instance and attempt.
pub type AttemptSpan = fn(&str, &str, &str, u32) -> tracing::Span;

impl Engine {
    /// An engine over a store in `home`. `stop` ends every drive soon, cleanly, and leaves the runs resumable.
    pub fn new(
        store: Arc<SqliteStore>,
        artifacts: Arc<Artifacts>,
        capacity: Capacity,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
        span: AttemptSpan,
    ) -> Self {
        let home = Home::new(store.home());
        Self {
            store,
            artifacts,
            home,
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
        }
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Takes `needs` if they are free. `Err` names what is missing.
    pub(crate) fn take_slots(self: &Arc<Self>, needs: &Needs) -> Result<Holding, Missing> {
        lock(&self.slots).take(needs).map(|held| Holding { engine: self.clone(), held: Some(held) })
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

/// Milliseconds since 1970 UTC by a clock that only this process winds: waits and deadlines go on as they were when
/// somebody sets the clock of the machine.
pub(crate) fn steady() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (start, at) = START.get_or_init(|| (Instant::now(), now()));
    at + u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - at)
}

/// Milliseconds since 1970 UTC, for what people read.
pub(crate) fn now() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
