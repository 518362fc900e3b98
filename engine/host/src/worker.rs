//! The other side of an attempt in a process of its own: a program that runs the attempts which an engine sends it.
//!
//! It knows the tasks and nothing else: no store, no flow, no run. What it needs of those it asks the engine for, over the
//! channel that is its standard input. It ends with that channel.
#![expect(unsafe_code, reason = "the standard output of native libraries is flushed by the C library")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Signal, getpgrp, kill_process_group, set_parent_process_death_signal, setsid};
use serde_json::Value;
use swath_plan::Catalogue;
use swath_task::{ArtifactRecord, Context, Fault, Host, Problem, Staged, TaskError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::attempt::make_keep;
pub use crate::isolate::wire::Line;
use crate::isolate::wire::{self, Answer, Failure, FromWorker, Question, Start, ToWorker};
use crate::lock;

/// How often a sign of life is given.
const BEAT: Duration = Duration::from_millis(250);

/// Makes the span of an attempt from run, step, instance, attempt, and what the engine told of the trace it belongs to.
pub type WorkerSpan = fn(&str, &str, &str, u32, &BTreeMap<String, String>) -> Span;

/// The channel to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Channel(Arc<Mutex<Speaking>>);

/// Who is spoken for: what comes late of an attempt that has ended is not said.
struct Speaking {
    stream: UnixStream,
    serial: u64,
}

impl Channel {
    /// Takes over the standard input, which the engine has made a channel, and ties this process to the engine's life.
    ///
    /// # Errors
    /// The standard input is no channel: this process was started by hand.
    pub fn inherit() -> io::Result<Self> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.local_addr()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A session of its own: signals of a terminal are the engine's, and all that is started here can be found.
        setsid()?;
        // When memory runs out the kernel shall take this process and not the engine. Where that is forbidden it may be either.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        Ok(Self(Arc::new(Mutex::new(Speaking { stream, serial: 0 }))))
    }

    /// Tells a line of the current attempt. Dropped when there is none.
    pub fn tell(&self, line: Line) {
        let serial = lock(&self.0).serial;
        let _ = self.say(serial, &FromWorker::Line(line));
    }

    /// Tells of a span of the current attempt that has ended. Dropped when there is none.
    pub fn tell_span(&self, span: String) {
        let serial = lock(&self.0).serial;
        let _ = self.say(serial, &FromWorker::Span(span));
    }

    /// Runs attempts until the engine has gone, then ends this process.
    ///
    /// # Errors
    /// The event loop cannot be started.
    pub fn serve(self, catalogue: Arc<Catalogue>, span: WorkerSpan) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (starter, mut starts) = mpsc::unbounded_channel();
        let current = Arc::new(Mutex::new(Current::default()));
        let listening = (lock(&self.0).stream.try_clone()?, current.clone());
        std::thread::Builder::new().name("swath-channel".to_owned()).spawn(move || {
            let (mut stream, current) = listening;
            while let Ok(message) = wire::read::<ToWorker>(&mut stream) {
                match message {
                    ToWorker::Start(start) => {
                        // Here, so that a wish to cancel that follows at once finds what it means.
                        let cancel = CancellationToken::new();
                        *lock(&current) = Current { cancel: cancel.clone(), ..Current::default() };
                        let _ = starter.send((start, cancel));
                    }
                    ToWorker::Answer(id, answer) => {
                        if let Some(asking) = lock(&current).asking.remove(&id) {
                            let _ = asking.send(answer);
                        }
                    }
                    ToWorker::Cancel => lock(&current).cancel.cancel(),
                }
            }
            // Nobody waits for what this process does any more. At once: native code may never come to an end.
            let _ = kill_process_group(getpgrp(), Signal::KILL);
        })?;
        runtime.block_on(async {
            // Whoever stops a server may tell all of its processes at once. What that means for this one the engine says.
            // Heard and not ignored: what is ignored stays so in programs that a step starts.
            let _heard = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
            for serial in 1.. {
                let Some((start, cancel)) = starts.recv().await else { break };
                lock(&self.0).serial = serial;
                let span = span(&start.run, &start.step, &start.instance, start.attempt, &start.trace);
                let beats = self.clone().beat(serial);
                let host = Asking { channel: self.clone(), serial, current: current.clone(), start };
                let result = host.attempt(&catalogue, cancel).instrument(span).await;
                flush();
                self.end(serial, result);
                drop(beats);
            }
        });
        Ok(())
    }

    /// Fails when the message cannot be sent, and when the engine has gone: the thread that listens ends this process then.
    fn say(&self, serial: u64, message: &FromWorker) -> io::Result<()> {
        let mut speaking = lock(&self.0);
        match serial > 0 && speaking.serial == serial {
            true => wire::write(&mut speaking.stream, message),
            false => Ok(()),
        }
    }

    fn end(&self, serial: u64, result: Result<Value, TaskError>) {
        let result = result.map_err(Failure::from);
        let mut speaking = lock(&self.0);
        speaking.serial = 0;
        let told = wire::write(&mut speaking.stream, &FromWorker::Ended(result));
        if let Err(error) = told {
            let message = format!("what attempt {serial} of this process made cannot be told: {error}");
            let fault = Fault::new("E335", message).help("let the step make an artifact of what is so large");
            let _ = wire::write(&mut speaking.stream, &FromWorker::Ended(Err(Failure::Permanent(fault))));
        }
    }

    /// Gives signs of life from a thread of its own until what is returned is dropped.
    fn beat(self, serial: u64) -> std::sync::mpsc::Sender<()> {
        let (beats, until) = std::sync::mpsc::channel::<()>();
        // Without it the engine takes this process for dead, which it then as good as is.
        let _ = std::thread::Builder::new().name("swath-heartbeat".to_owned()).spawn(move || {
            while until.recv_timeout(BEAT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = self.say(serial, &FromWorker::Alive);
            }
        });
        beats
    }
}

/// The attempt that runs.
#[derive(Default)]
struct Current {
    cancel: CancellationToken,
    asked: u64,
    asking: HashMap<u64, oneshot::Sender<Answer>>,
}

/// The engine as an attempt of this process sees it.
struct Asking {
    channel: Channel,
    serial: u64,
    current: Arc<Mutex<Current>>,
    start: Box<Start>,
}

impl Asking {
    async fn attempt(mut self, catalogue: &Catalogue, cancel: CancellationToken) -> Result<Value, TaskError> {
        let (name, version) = (&self.start.task, self.start.version);
        let known = catalogue.get(name).filter(|known| known.definition.version == version);
        let Some(known) = known else {
            let message = format!("the process of the step does not have task `{name}` in version {version}");
            return Err(Fault::new("E333", message).permanent());
        };
        let refused = |problems: Vec<Problem>| {
            let words: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            Fault::new("E320", format!("the parameters of `{name}` do not fit: {}", words.join("; ")))
        };
        let task = known.definition.bind(self.start.params.take()).map_err(refused)?;
        let inputs = self.start.inputs.take();
        let (cpus, key) = (self.start.cpus, self.start.idempotency_key.clone());
        let gpus = std::mem::take(&mut self.start.gpus);
        task.run(inputs, Context::new(Arc::new(self), cancel, cpus, key).with_gpus(gpus)).await
    }

    async fn ask(&self, question: Question) -> Result<Answer, TaskError> {
        let (id, answer) = {
            let mut current = lock(&self.current);
            current.asked += 1;
            let (id, (asking, answer)) = (current.asked, oneshot::channel());
            current.asking.insert(id, asking);
            (id, answer)
        };
        let told = self.channel.say(self.serial, &FromWorker::Ask(id, question));
        told.map_err(|error| Fault::new("E335", format!("the engine cannot be asked for an artifact: {error}")))?;
        match answer.await {
            Ok(Answer::Refused(failure)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            // Another attempt has begun.
            Err(_) => Err(TaskError::Cancelled),
        }
    }
}

#[async_trait]
impl Host for Asking {
    fn scratch(&self) -> Result<&Path, TaskError> {
        Ok(&self.start.scratch)
    }

    fn keep(&self) -> Result<&Path, TaskError> {
        make_keep(&self.start.keep)?;
        Ok(&self.start.keep)
    }

    async fn locate(&self, artifact: &ArtifactRecord) -> Result<PathBuf, TaskError> {
        match self.ask(Question::Locate(artifact.clone())).await? {
            Answer::Located(path) => Ok(path),
            _ => Err(misunderstood()),
        }
    }

    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        let Staged { path, name, kind } = staged;
        match self.ask(Question::Commit { path, name, kind: kind.to_owned() }).await? {
            Answer::Committed(record) => Ok(record),
            _ => Err(misunderstood()),
        }
    }

    fn progress(&self, done: u64, total: u64, unit: &'static str) {
        let _ = self.channel.say(self.serial, &FromWorker::Progress { done, total, unit: unit.to_owned() });
    }

    fn metric(&self, name: &'static str, value: f64) {
        let _ = self.channel.say(self.serial, &FromWorker::Metric { name: name.to_owned(), value });
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.start.secrets.get(name).cloned()
    }
}

fn misunderstood() -> TaskError {
    Fault::new("E333", "the engine answered another question than was asked").permanent()
}

/// Hands on what native libraries have printed, so that it belongs to the attempt that ends.
fn flush() {
    // What cannot be printed is nobody's loss but the log's.
    let _ = io::Write::flush(&mut io::stdout());
    // SAFETY: without a stream all are flushed, each under the C library's own lock.
    unsafe {
        libc::fflush(std::ptr::null_mut());
    }
}
