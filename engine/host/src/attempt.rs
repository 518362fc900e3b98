//! One attempt of one step: the task's context, its timeout, its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, FutureExt};
use serde_json::Value;
use swath_task::{ArtifactRecord, Context, ErasedTask, Fault, Host, Staged, TaskError};
use tokio_util::sync::CancellationToken;

use crate::isolate::{self, Apart};
use crate::observe::{AttemptId, AttemptState, Figures, Update};
use crate::{Engine, TRACE};

/// Progress that a trace shows: each time this share of the work is done, and never more often than that.
const SHARES: u64 = 10;

/// How long an attempt that was told to stop may take before its future is dropped, and its own process killed.
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
    /// Where it runs in a process of its own.
    pub apart: Option<Apart>,
}

/// How it ended.
pub(crate) struct AttemptEnd {
    pub result: Result<Value, AttemptError>,
    pub figures: Figures,
    /// Instances that ran and that were reused below a sub-flow; `None` for a task.
    pub below: Option<(u64, u64)>,
    /// What it may have left for attempts after it.
    pub kept: Option<PathBuf>,
}

/// Why it did not succeed.
pub(crate) enum AttemptError {
    Task(TaskError),
    /// After this long.
    TimedOut(Duration),
    /// The process that ran it died, or was killed for its silence.
    Lost(Fault),
}

impl AttemptEnd {
    pub fn state(&self) -> AttemptState {
        match &self.result {
            Ok(_) => AttemptState::Succeeded,
            Err(AttemptError::TimedOut(_)) => AttemptState::TimedOut,
            Err(AttemptError::Task(TaskError::Cancelled)) => AttemptState::Cancelled,
            Err(AttemptError::Task(_) | AttemptError::Lost(_)) => AttemptState::Failed,
        }
    }
}

impl std::fmt::Display for AttemptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task(error) => write!(f, "{error}"),
            Self::Lost(fault) => write!(f, "{fault}"),
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
        keep: OnceLock::new(),
        engine: engine.clone(),
        figures: Mutex::default(),
        span: tracing::Span::current(),
        shown: AtomicU64::new(0),
    });
    let stop = attempt.cancel.child_token();
    let work = match (attempt.apart, &engine.isolation) {
        (Some(apart), Some(isolation)) => {
            let (inputs, cpus) = (attempt.inputs, attempt.cpus);
            let work = isolate::run(host.clone(), isolation, apart, task, inputs, cpus, stop.clone());
            // Boxed, so that the many short attempts of this process do not carry its room.
            Either::Left(Box::pin(work))
        }
        _ => {
            let context = Context::new(host.clone(), stop.clone(), attempt.cpus, host.idempotency_key());
            let context = context.with_gpus(attempt.gpus);
            Either::Right(task.run(attempt.inputs, context).map(|result| result.map_err(AttemptError::Task)))
        }
    };
    let timeout = async {
        match attempt.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = {
        // Dropped here: a process of its own is killed before its scratch folder is taken away.
        tokio::pin!(work);
        tokio::select! {
            // What is done counts, even if it is told to stop in the same moment.
            biased;
            result = &mut work => result,
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
        }
    };
    if let Some(Ok(scratch)) = host.scratch.get()
        && let Err(error) = engine.home.discard_scratch(scratch)
    {
        tracing::debug!(%error, scratch = %scratch.display(), "the scratch folder stays until the run ends");
    }
    let figures = std::mem::take(&mut *crate::lock(&host.figures));
    let kept = host.keep.get().and_then(|kept| kept.as_ref().ok()).cloned();
    AttemptEnd { result, figures, below: None, kept }
}

/// The engine's side of a [`Context`].
pub(crate) struct AttemptHost {
    pub run: String,
    pub id: AttemptId,
    /// Many tasks need none, and a folder made and removed costs as much as the rest of a short attempt.
    scratch: OnceLock<Result<PathBuf, swath_store::Error>>,
    /// See [`Context::keep`]; the folder itself is made by whoever asks for it.
    keep: OnceLock<Result<PathBuf, swath_store::Error>>,
    pub engine: Arc<Engine>,
    figures: Mutex<Figures>,
    /// The attempt's, from whichever thread something is told.
    span: tracing::Span,
    /// How many shares of the work the trace has been told of.
    shown: AtomicU64,
}

impl AttemptHost {
    /// See [`Context::idempotency_key`].
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}/{}", self.run, self.id.step, self.id.instance)
    }

    /// Where what outlives the attempt lies.
    pub fn kept(&self) -> Result<&Path, TaskError> {
        let AttemptId { step, instance, .. } = &self.id;
        let step = step.rsplit('/').next().unwrap_or(step);
        let kept = self.keep.get_or_init(|| self.engine.home.keep(&self.run, step, instance));
        kept.as_deref().map_err(swath_store::Error::task_error)
    }

    /// The names of all secrets, and the secrets that these parameters name.
    pub fn secrets_in(&self, params: &Value) -> (Vec<String>, BTreeMap<String, String>) {
        let secrets = crate::lock(&self.engine.secrets);
        let named = secrets.iter().filter(|(name, _)| names(params, name));
        (secrets.keys().cloned().collect(), named.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// How far the work is.
    pub fn told_progress(&self, done: u64, total: u64, unit: Cow<'static, str>) {
        self.trace_progress(done, total, &unit);
        self.engine.observer.update(&self.run, &Update::Progress { at: self.id.clone(), done, total, unit });
    }

    /// A figure of the step.
    pub fn told_metric(&self, name: Cow<'static, str>, value: f64) {
        crate::lock(&self.figures).told.push((name, value));
    }

    /// A task may tell its progress thousands of times: a trace takes few of them.
    fn trace_progress(&self, done: u64, total: u64, unit: &str) {
        let share = match total {
            // It is not known how much there is: at every doubling.
            0 => u64::from(done.checked_ilog2().map_or(0, |power| power + 1)),
            total => done.min(total).saturating_mul(SHARES) / total,
        };
        if self.shown.fetch_max(share, Ordering::Relaxed) < share {
            tracing::debug!(target: TRACE, parent: &self.span, done = done as i64, total = total as i64, unit, "progress");
        }
    }
}

/// Whether a text of these parameters is, or holds, this name.
fn names(params: &Value, name: &str) -> bool {
    match params {
        Value::String(text) => text.contains(name),
        Value::Array(items) => items.iter().any(|item| names(item, name)),
        Value::Object(fields) => fields.iter().any(|(key, value)| key == name || names(value, name)),
        _ => false,
    }
}

/// Makes the folder of [`Context::keep`].
pub(crate) fn make_keep(folder: &Path) -> Result<(), TaskError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        Fault::new("E201", format!("cannot create the folder `{}`: {error}", folder.display()))
            .help("free disk space or set `--home` to a disk that has some")
            .transient(None)
    })
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

    fn keep(&self) -> Result<&Path, TaskError> {
        let kept = self.kept()?;
        make_keep(kept)?;
        Ok(kept)
    }

    async fn locate(&self, artifact: &ArtifactRecord) -> Result<PathBuf, TaskError> {
        let path = self.engine.artifacts.locate(artifact).await?;
        crate::lock(&self.figures).bytes_read += artifact.size;
        Ok(path)
    }

    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        let record = self.engine.artifacts.commit(&staged.path, &staged.name, staged.kind).await?;
        crate::lock(&self.figures).bytes_written += record.size;
        Ok(record)
    }

    fn progress(&self, done: u64, total: u64, unit: &'static str) {
        self.told_progress(done, total, unit.into());
    }

    fn metric(&self, name: &'static str, value: f64) {
        self.told_metric(name.into(), value);
    }

    fn secret(&self, name: &str) -> Option<String> {
        crate::lock(&self.engine.secrets).get(name).cloned()
    }
}
