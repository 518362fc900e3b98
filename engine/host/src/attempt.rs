//! One attempt of one step: the task's context, its timeout, its end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use swath_task::{ArtifactRecord, Context, ErasedTask, Host, Staged, TaskError};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::observe::{AttemptId, Update};

/// How long an attempt that was told to stop may take before its future is dropped.
const GRACE: Duration = Duration::from_secs(5);

/// What an attempt needs, besides the task.
pub(crate) struct Attempt {
    pub id: AttemptId,
    pub run: String,
    pub inputs: Value,
    pub cpus: usize,
    pub gpus: Vec<u32>,
    pub timeout: Option<Duration>,
    pub cancel: CancellationToken,
}

/// How it ended.
pub(crate) struct AttemptEnd {
    pub result: Result<Value, AttemptError>,
    pub metrics: Vec<(&'static str, f64)>,
    /// Instances that ran and that were reused below a sub-flow; `None` for a task.
    pub below: Option<(u64, u64)>,
}

/// Why it did not succeed.
pub(crate) enum AttemptError {
    Task(TaskError),
    /// After this long.
    TimedOut(Duration),
}

impl std::fmt::Display for AttemptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task(error) => write!(f, "{error}"),
            Self::TimedOut(limit) => write!(f, "it ran longer than its timeout of {limit:?}"),
        }
    }
}

/// Runs a task to its end. Never panics, never hangs past its timeout or its cancellation by more than the grace.
pub(crate) async fn run(engine: &Arc<Engine>, task: Arc<dyn ErasedTask>, attempt: Attempt) -> AttemptEnd {
    let host = Arc::new(AttemptHost {
        run: attempt.run.clone(),
        id: attempt.id.clone(),
        scratch: OnceLock::new(),
        engine: engine.clone(),
        metrics: Mutex::default(),
    });
    let key = format!("{}/{}/{}", attempt.run, attempt.id.step, attempt.id.instance);
    let stop = attempt.cancel.child_token();
    let context = Context::new(host.clone(), stop.clone(), attempt.cpus, key).with_gpus(attempt.gpus);
    let work = task.run(attempt.inputs, context);
    tokio::pin!(work);
    let timeout = async {
        match attempt.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = &mut work => result.map_err(AttemptError::Task),
        () = timeout => {
            stop.cancel();
            // Give it the chance to clean up; what it returns now is too late to count.
            let _ = tokio::time::timeout(GRACE, &mut work).await;
            Err(AttemptError::TimedOut(attempt.timeout.unwrap_or_default()))
        }
        () = attempt.cancel.cancelled() => match tokio::time::timeout(GRACE, &mut work).await {
            // It finished all the same: its work is not thrown away.
            Ok(Ok(outputs)) => Ok(outputs),
            _ => Err(AttemptError::Task(TaskError::Cancelled)),
        },
    };
    if let Some(Ok(scratch)) = host.scratch.get()
        && let Err(error) = engine.home.discard_scratch(scratch)
    {
        tracing::debug!(%error, scratch = %scratch.display(), "the scratch folder stays until the run ends");
    }
    let metrics = std::mem::take(&mut *host.metrics.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    AttemptEnd { result, metrics, below: None }
}

/// The engine's side of a [`Context`].
struct AttemptHost {
    run: String,
    id: AttemptId,
    /// Many tasks need none, and a folder made and removed costs as much as the rest of a short attempt.
    scratch: OnceLock<Result<PathBuf, swath_store::Error>>,
    engine: Arc<Engine>,
    metrics: Mutex<Vec<(&'static str, f64)>>,
}

#[async_trait]
impl Host for AttemptHost {
    fn scratch(&self) -> Result<&Path, TaskError> {
        let AttemptId { step, instance, attempt } = &self.id;
        // The run's own folder tells sub-flows apart.
        let step = step.rsplit('/').next().unwrap_or(step);
        let made = self.scratch.get_or_init(|| self.engine.home.scratch(&self.run, step, instance, *attempt));
        made.as_deref().map_err(swath_store::Error::task_error)
    }

    async fn locate(&self, artifact: &ArtifactRecord) -> Result<PathBuf, TaskError> {
        Ok(self.engine.artifacts.locate(artifact).await?)
    }

    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        Ok(self.engine.artifacts.commit(&staged.path, &staged.name, staged.kind).await?)
    }

    fn progress(&self, done: u64, total: u64, unit: &'static str) {
        self.engine.observer.update(&self.run, &Update::Progress { at: self.id.clone(), done, total, unit });
    }

    fn metric(&self, name: &'static str, value: f64) {
        self.metrics.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((name, value));
    }

    fn secret(&self, name: &str) -> Option<String> {
        crate::lock(&self.engine.secrets).get(name).cloned()
    }
}
