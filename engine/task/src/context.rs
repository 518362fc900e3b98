//! What a running task may ask of the engine. Small on purpose; logging is `tracing`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{Artifact, ArtifactRecord, Fault, Kind, TaskError};

/// What an engine supplies to the tasks it runs.
///
/// # Contract
/// - [`Host::commit`] makes the staged file or folder visible whole or not at all, and durable before it returns.
/// - [`Host::locate`] returns a path whose content has the record's size and digest, or an error.
/// - `progress` and `metric` never block and never fail.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// A folder of this attempt's own, made when first asked for and removed when the attempt ends.
    fn scratch(&self) -> Result<&Path, TaskError>;
    /// A folder that all attempts of this step instance share: made when first asked for, there as long as the step has not
    /// succeeded.
    fn keep(&self) -> Result<&Path, TaskError>;
    /// A local, read-only path of an artifact.
    async fn locate(&self, artifact: &ArtifactRecord) -> Result<PathBuf, TaskError>;
    /// Stores what was staged as an artifact.
    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError>;
    /// How far the work is.
    fn progress(&self, done: u64, total: u64, unit: &'static str);
    /// A figure worth keeping with the step: `pixels`, `chips`, `cloud_share`.
    fn metric(&self, name: &'static str, value: f64);
    /// The value of a secret by the name the flow gave it.
    fn secret(&self, name: &str) -> Option<String>;
}

/// A finished file or folder in the scratch folder, on its way to becoming an artifact.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Where it lies now.
    pub path: PathBuf,
    /// Name a person will see.
    pub name: String,
    /// [`Kind::NAME`].
    pub kind: &'static str,
}

/// The world as one attempt of one step sees it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    host: Arc<dyn Host>,
    cancel: CancellationToken,
    cpus: usize,
    gpus: Arc<[u32]>,
    idempotency_key: Arc<str>,
}

impl Context {
    /// Made by the engine for each attempt. `cpus` is how many threads the attempt may keep busy (at least 1).
    /// `idempotency_key` is the same for every attempt of one step instance of one run.
    pub fn new(
        host: Arc<dyn Host>,
        cancel: CancellationToken,
        cpus: usize,
        idempotency_key: impl Into<Arc<str>>,
    ) -> Self {
        Self { host, cancel, cpus: cpus.max(1), gpus: Arc::new([]), idempotency_key: idempotency_key.into() }
    }

    /// The same for an attempt that holds these GPUs, or shares of them.
    pub fn with_gpus(self, gpus: impl Into<Arc<[u32]>>) -> Self {
        Self { gpus: gpus.into(), ..self }
    }

    /// A local, read-only path of an artifact, whole and verified.
    pub async fn locate<K: Kind>(&self, artifact: &Artifact<K>) -> Result<PathBuf, TaskError> {
        self.host.locate(artifact.record()).await
    }

    /// Starts an artifact: write to [`Draft::path`], then [`Draft::commit`]. Dropped, it leaves nothing.
    pub fn draft<K: Kind>(&self, name: &str) -> Result<Draft<K>, TaskError> {
        let scratch = self.host.scratch()?;
        let folder = tempfile::Builder::new().prefix("draft-").tempdir_in(scratch);
        let folder = folder.map_err(|error| {
            let message = format!("cannot create a scratch folder in `{}`: {error}", scratch.display());
            Fault::new("E201", message).help("free disk space or set `--home` to a disk that has some").transient(None)
        })?;
        Ok(Draft {
            path: folder.path().join(name),
            folder,
            name: name.to_owned(),
            context: self.clone(),
            kind: std::marker::PhantomData,
        })
    }

    /// A folder of this attempt's own for temporary files, made when first asked for, removed when the attempt ends.
    pub fn scratch(&self) -> Result<&Path, TaskError> {
        self.host.scratch()
    }

    /// A folder that outlives this attempt: what one attempt leaves in it the next one of the same step instance of the same
    /// run finds, also after a crash of the machine if it was synced. Gone once the step has succeeded. Two attempts are
    /// never live at once, but one may be killed at any moment: write so that what lies there is whole or not looked at.
    pub fn keep(&self) -> Result<&Path, TaskError> {
        self.host.keep()
    }

    /// How far the work is, in `unit`s (`tiles`, `scenes`, `items`).
    pub fn progress(&self, done: u64, total: u64, unit: &'static str) {
        self.host.progress(done, total, unit);
    }

    /// A figure worth keeping with the step.
    pub fn metric(&self, name: &'static str, value: f64) {
        self.host.metric(name, value);
    }

    /// The value of a secret by the name the flow gave it. It must not reach logs, errors or artifacts.
    pub fn secret(&self, name: &str) -> Option<String> {
        self.host.secret(name)
    }

    /// The same for every attempt of one step instance of one run: give it to services that deduplicate.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// How many threads this attempt may keep busy; at least 1.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// The GPUs that this attempt may use, by index from 0 among those that the process sees; none unless it needs some.
    pub fn gpus(&self) -> &[u32] {
        &self.gpus
    }

    /// Whether the attempt was told to stop. Long loops ask at least every second.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// `Err(Cancelled)` when the attempt was told to stop: `ctx.check_cancelled()?` in loops.
    pub fn check_cancelled(&self) -> Result<(), TaskError> {
        if self.is_cancelled() { Err(TaskError::Cancelled) } else { Ok(()) }
    }

    /// Resolves when the attempt is told to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Runs CPU work off the event loop. A panic in it becomes a permanent fault, never a dead engine.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, TaskError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, TaskError> + Send + 'static,
    {
        let context = self.clone();
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&context))).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(panic_fault(error.into_panic()).permanent()),
            Err(_) => Err(TaskError::Cancelled),
        }
    }
}

/// The fault of a task that panicked.
pub fn panic_fault(payload: Box<dyn std::any::Any + Send>) -> Fault {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
    Fault::new("E202", format!("the task panicked: {text}"))
        .help("this is a defect of the task: report it with the flow and its inputs")
}

/// An artifact being written.
pub struct Draft<K> {
    folder: tempfile::TempDir,
    path: PathBuf,
    name: String,
    context: Context,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Kind> Draft<K> {
    /// Where to write: a file, or a folder to create.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was written an artifact, whole and durable.
    pub async fn commit(self) -> Result<Artifact<K>, TaskError> {
        let staged = Staged { path: self.path.clone(), name: self.name.clone(), kind: K::NAME };
        let record = self.context.host.commit(staged).await?;
        drop(self.folder);
        Artifact::typed(record)
            .ok_or_else(|| Fault::new("E203", "the store returned an artifact of another kind").permanent())
    }
}
