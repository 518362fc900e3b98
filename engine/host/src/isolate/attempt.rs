//! The engine's side of an attempt in a process of its own.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use swath_task::{ArtifactRecord, Bytes, ErasedTask, Fault, Host, TaskError};
use tokio_util::sync::CancellationToken;

use super::process::Worker;
use super::wire::{Answer, FromWorker, Line, Question, Start, ToWorker};
use super::{Isolation, limit_of};
use crate::attempt::{AttemptError, AttemptHost};

/// How often memory and signs of life are looked at.
const WATCH: Duration = Duration::from_millis(50);

/// What runs, and in how much memory.
pub(crate) struct Apart {
    pub task: String,
    pub version: u32,
    pub needed: Bytes,
    /// The GPUs that it holds.
    pub gpus: Vec<u32>,
}

/// Runs a task in a worker. Dropped, it kills the worker.
pub(crate) async fn run(
    host: Arc<AttemptHost>,
    isolation: &Isolation,
    apart: Apart,
    task: Arc<dyn ErasedTask>,
    inputs: Value,
    cpus: usize,
    stop: CancellationToken,
) -> Result<Value, AttemptError> {
    let step = &host.id.step;
    let params = task.params();
    let (names, secrets) = host.secrets_in(&params);
    let mut worker = match host.engine.workers.take(&apart.task) {
        Some(worker) => worker,
        None => {
            let started = host.engine.workers.start(isolation, &names).await;
            started.map_err(|error| AttemptError::Task(not_started(step, &error)))?
        }
    };
    let start = Start {
        task: apart.task.clone(),
        version: apart.version,
        params,
        inputs,
        cpus,
        gpus: apart.gpus,
        scratch: host.scratch().map_err(AttemptError::Task)?.to_owned(),
        keep: host.kept().map_err(AttemptError::Task)?.to_owned(),
        secrets,
        idempotency_key: host.idempotency_key(),
        run: host.run.clone(),
        step: step.rsplit('/').next().unwrap_or(step).to_owned(),
        instance: host.id.instance.clone(),
        attempt: host.id.attempt,
        trace: (isolation.trace)(),
    };
    let told = worker.say(&ToWorker::Start(Box::new(start)));
    told.map_err(|error| AttemptError::Task(not_told(step, &error)))?;
    let watch = Watch { host: &host, limit: limit_of(apart.needed), needed: apart.needed, isolation };
    let result = watch.over(&mut worker, &stop).await;
    worker.memory.used();
    host.told_metric("peak_memory_mib".into(), worker.memory.peak().0 as f64 / f64::from(1 << 20));
    worker.out.finish();
    worker.err.finish();
    match result.is_ok() && !stop.is_cancelled() {
        true => host.engine.workers.put(&apart.task, worker),
        false => worker.end().await,
    }
    result
}

struct Watch<'a> {
    host: &'a Arc<AttemptHost>,
    isolation: &'a Isolation,
    needed: Bytes,
    limit: Option<Bytes>,
}

impl Watch<'_> {
    async fn over(&self, worker: &mut Worker, stop: &CancellationToken) -> Result<Value, AttemptError> {
        let mut ticks = tokio::time::interval(WATCH);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut silent, mut watched, mut cancelled) = (Duration::ZERO, Instant::now(), false);
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                message = worker.from.recv() => {
                    silent = Duration::ZERO;
                    match message {
                        Some(Ok(FromWorker::Alive)) => {}
                        Some(Ok(FromWorker::Progress { done, total, unit })) => {
                            self.host.told_progress(done, total, unit.into());
                        }
                        Some(Ok(FromWorker::Metric { name, value })) => self.host.told_metric(name.into(), value),
                        Some(Ok(FromWorker::Line(line))) => relay(&line),
                        Some(Ok(FromWorker::Span(span))) => (self.isolation.spans)(&span),
                        Some(Ok(FromWorker::Ask(id, question))) => answers.push(answer(self.host, id, question)),
                        Some(Ok(FromWorker::Ended(result))) => {
                            return result.map_err(|failure| AttemptError::Task(failure.into()));
                        }
                        Some(Err(_)) | None => return Err(self.died(worker).await),
                    }
                }
                Some((id, answer)) = answers.next(), if !answers.is_empty() => {
                    let told = worker.say(&ToWorker::Answer(id, answer));
                    told.map_err(|error| AttemptError::Task(not_told(&self.host.id.step, &error)))?;
                }
                () = stop.cancelled(), if !cancelled => {
                    cancelled = true;
                    // It is short; if it cannot be said, the grace ends.
                    let _ = worker.say(&ToWorker::Cancel);
                }
                () = worker.out.ready() => worker.out.drain(),
                () = worker.err.ready() => worker.err.drain(),
                _ = ticks.tick() => {
                    // Only time in which this process itself ran counts: one that was suspended has heard nobody.
                    silent += watched.elapsed().min(2 * WATCH);
                    watched = Instant::now();
                    if silent >= self.isolation.heartbeat {
                        return Err(self.silent());
                    }
                    let used = worker.memory.used();
                    if let Some(limit) = self.limit.filter(|limit| used > *limit) {
                        return Err(self.too_large(used, limit));
                    }
                }
            }
        }
    }

    async fn died(&self, worker: &mut Worker) -> AttemptError {
        let step = &self.host.id.step;
        let how = match worker.status().await {
            Ok(status) => words_of(status),
            Err(error) => format!("cannot be heard any more ({error})"),
        };
        worker.out.finish();
        let last = worker.err.finish().join("\n");
        let said = if last.is_empty() { String::new() } else { format!("; the last it said: {last}") };
        let fault = Fault::new("E330", format!("the process that ran `{step}` {how}{said}"));
        AttemptError::Lost(
            fault.help("`swath logs` shows what the step said; `swath explain E330` tells what such ends mean"),
        )
    }

    fn silent(&self) -> AttemptError {
        let (step, limit) = (&self.host.id.step, self.isolation.heartbeat);
        let message = format!("the process that ran `{step}` gave no sign of life for {limit:?}: it was killed");
        let help = "it was suspended, or its machine hung; `--heartbeat` sets how long to wait";
        AttemptError::Lost(Fault::new("E332", message).help(help))
    }

    fn too_large(&self, used: Bytes, limit: Bytes) -> AttemptError {
        let (step, needed) = (&self.host.id.step, self.needed);
        let message =
            format!("`{step}` used {used} of memory, its limit is {limit} (it needs {needed}): it was killed");
        let help = format!("raise it in the flow: `needs: {{ memory: {used} }}`");
        AttemptError::Task(Fault::new("E331", message).help(help).permanent())
    }
}

/// Does for a worker what the engine does for attempts of its own process.
async fn answer(host: &AttemptHost, id: u64, question: Question) -> (u64, Answer) {
    let answer = match question {
        Question::Locate(artifact) => host.locate(&artifact).await.map(Answer::Located),
        Question::Commit { path, name, kind } => commit(host, &path, &name, &kind).await.map(Answer::Committed),
    };
    (id, answer.unwrap_or_else(|error| Answer::Refused(error.into())))
}

async fn commit(
    host: &AttemptHost,
    path: &std::path::Path,
    name: &str,
    kind: &str,
) -> Result<ArtifactRecord, TaskError> {
    Ok(host.engine.artifacts.commit(path, name, kind).await?)
}

/// Tells a line of a worker inside the span of its attempt. `swath_telemetry::RELAYED` is the target by which telemetry
/// knows that the line has a target and fields of its own.
fn relay(line: &Line) {
    let Line { level, target, message, fields } = line;
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(target: "swath::relayed", from = target.as_str(), said = fields.as_str(), "{message}")
        };
    }
    match level.as_str() {
        "error" => tell!(error),
        "warn" => tell!(warn),
        "info" => tell!(info),
        "debug" => tell!(debug),
        _ => tell!(trace),
    }
}

fn not_told(step: &str, error: &io::Error) -> TaskError {
    let message = format!("what `{step}` reads cannot be handed to a process of its own: {error}");
    Fault::new("E335", message).help("hand over artifacts, or write `isolate: none`").permanent()
}

fn not_started(step: &str, error: &io::Error) -> TaskError {
    let message = format!("a process for `{step}` cannot be started: {error}");
    let help = "look at the limits of processes and open files of this user, and at the memory that is free";
    Fault::new("E333", message).help(help).transient(None)
}

/// How a process ended, in words.
fn words_of(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("ended with exit code {} in the middle of its work", status.code().unwrap_or(-1));
    };
    let (name, means) = match signal {
        libc::SIGSEGV => ("SIGSEGV", "a defect in native code: it used memory that is not its own"),
        libc::SIGBUS => ("SIGBUS", "a file it had mapped was cut short, or its disk is full"),
        libc::SIGABRT => ("SIGABRT", "native code gave up: a failed assertion, a damaged heap or no memory"),
        libc::SIGILL => ("SIGILL", "native code built for another processor, or a failed assertion"),
        libc::SIGFPE => ("SIGFPE", "an impossible calculation in native code"),
        libc::SIGKILL => ("SIGKILL", "somebody killed it, most likely the kernel because memory ran out"),
        libc::SIGTERM => ("SIGTERM", "somebody ended it"),
        libc::SIGXCPU => ("SIGXCPU", "its limit of processor time was reached"),
        libc::SIGSYS => ("SIGSYS", "a system call that is forbidden here"),
        other => return format!("was ended by signal {other}"),
    };
    format!("was ended by {name} ({means})")
}
