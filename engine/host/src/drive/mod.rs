//! Drives one run: inputs from the world, events into the journal, attempts out into the world.

mod hear;
mod record;
mod restore;
mod start;
mod taken_over;
mod trace;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use swath_run::{Event, Fault, FaultClass, Input, Machine, RunState};
use swath_store::{Append, NewEvent, RunLease, Term, redact};
use swath_task::TaskError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::attempt::{AttemptEnd, AttemptError};
use crate::flights::Flight;
use crate::observe::{AttemptId, Update};
use crate::outputs::StepOutputs;
use crate::program::{Bound, Program};
use crate::reuse::Reuse;
use crate::slots::Missing;
use crate::{Engine, Holding, Turn, lock};
use record::{Waiting, Writing};
use taken_over::Earlier;

/// How many answers are taken into one append.
const BATCH: usize = 512;
/// Bytes of outputs after which an append is long enough.
const LONG: usize = 16 << 20;
/// How long a cancelled run may take to end.
const CANCEL_GRACE: u64 = 15_000;
/// Page size when a journal is loaded.
const PAGE: u32 = 10_000;
/// Code of the fault of a step whose needs no slot of this machine can meet.
pub const SCHEDULING_PROBLEM: &str = "E312";

/// [`FailedStep::step`] when the outputs of the flow cannot be computed.
pub const OUTPUTS: &str = "outputs";

/// How a drive ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// State of the run; `Running` when the drive was interrupted and the run can be resumed, `Failed` also when every
    /// step is done and the outputs of the flow cannot be computed.
    pub state: RunState,
    /// Outputs of the flow, when it completed.
    pub outputs: Option<Value>,
    /// Instances that failed for good.
    pub failures: Vec<FailedStep>,
    /// Instances that ran in this drive.
    pub ran: u64,
    /// Instances whose earlier results were taken in this drive.
    pub reused: u64,
}

/// An instance that failed for good.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// Step path, or [`OUTPUTS`].
    pub step: String,
    /// Instance, empty when the step is not lifted.
    pub instance: String,
    /// Class of the fault.
    pub class: FaultClass,
    /// Why.
    pub fault: Fault,
}

/// A drive that could not go on. The run stays as its journal has it.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The store failed, or the lease of the run was lost ([`swath_store::Error::LeaseLost`]).
    #[error(transparent)]
    Store(#[from] swath_store::Error),
    /// The journal holds something that is no event.
    #[error("the journal of run `{run}` cannot be read: {source}")]
    Journal {
        /// The run.
        run: String,
        /// Why.
        source: swath_run::EventDecodeError,
    },
    /// The journal is not one of a run of this flow.
    #[error("the journal of run `{run}` cannot be read: {source}")]
    IllegalJournal {
        /// The run.
        run: String,
        /// Where and why.
        source: swath_run::IllegalEvent,
    },
}

/// What an attempt reports to its loop.
struct Report {
    step: u32,
    index: u32,
    epoch: u64,
    end: AttemptEnd,
    /// What it read changed meanwhile.
    stale: bool,
}

/// An instance bound and waiting for its slots.
struct Prepared {
    bound: Bound,
    reuse: Option<Reuse>,
    /// It has waited for equal work, whose result may be there now.
    waited: bool,
    /// Since when it lacks slots, by the steady clock.
    lacking: Option<u64>,
    /// It has lacked them for too long.
    turn: Option<Turn>,
    /// It runs in a process of its own.
    apart: bool,
}

/// An instance that may start once its claim is durable.
struct Claimed {
    step: u32,
    index: u32,
    prepared: Prepared,
    held: Holding,
    flight: Option<Flight>,
}

/// A live attempt.
struct Live {
    cancel: CancellationToken,
    reuse: Option<Reuse>,
    flight: Option<Flight>,
    at: AttemptId,
    /// Kept until the answer is heard: what becomes of the attempt is recorded there.
    span: Span,
    began: Instant,
    started: u64,
    is_flow: bool,
    _held: Holding,
}

impl Drop for Live {
    fn drop(&mut self) {
        // An attempt that nobody listens to any more has nothing to go on for.
        self.cancel.cancel();
    }
}

/// The run above that of a sub-flow.
pub(crate) struct Above {
    pub run: String,
    /// Whether it is paused: the run below pauses and goes on with it.
    pub paused: watch::Receiver<bool>,
}

struct Driver {
    engine: Arc<Engine>,
    program: Arc<dyn Program>,
    run: String,
    /// The lease by which it is driven.
    term: Term,
    /// Path of the steps above, `outer/`, for a sub-flow.
    prefix: String,
    /// The run above, for a sub-flow.
    above: Option<String>,
    machine: Machine,
    outputs: StepOutputs,
    /// Outputs of the flow, once every step is done.
    yielded: Option<Result<Value, Fault>>,
    items: HashMap<u32, Vec<Value>>,
    /// What a re-run takes over.
    earlier: Earlier,
    seq: u64,
    /// Attempts of it have been made before: it was cut off.
    resumed: bool,
    /// The next append, and what waits for it.
    append: Append,
    /// Bytes of the outputs in it.
    gathered: usize,
    waiting: Waiting,
    writing: Option<Writing>,
    prepared: HashMap<(u32, u32), Prepared>,
    /// What steps lack to start, as the engine has it.
    missing: HashMap<u32, Missing>,
    live: BTreeMap<(u32, u32), Live>,
    reports: mpsc::UnboundedReceiver<Report>,
    reporter: mpsc::UnboundedSender<Report>,
    failures: Vec<FailedStep>,
    /// When the instances of each step became ready, by the steady clock: at the start of this drive at the earliest.
    opened: Vec<u64>,
    /// When an instance that is tried again may start.
    again: HashMap<(u32, u32), u64>,
    /// Ready instances, as the observers were told last.
    queued: u64,
    /// Ends the drive soon and leaves the run resumable.
    stop: CancellationToken,
    /// Whether the run is paused, for the sub-flows below.
    paused: watch::Sender<bool>,
    /// Whether the run above is paused: a sub-flow pauses and goes on with it.
    paused_above: Option<watch::Receiver<bool>>,
    ran: u64,
    reused: u64,
    starved: bool,
    /// How far the clock of this engine is behind what the journal has seen: waits that are in there must not grow.
    ahead: u64,
}

impl Engine {
    /// Takes a run that is in the store from where its journal ends to where the run ends.
    ///
    /// # Errors
    /// [`DriveError`] when the store fails or the lease is lost: nothing that was not durable has been acted on.
    pub async fn drive(self: &Arc<Self>, lease: &RunLease, program: Arc<dyn Program>) -> Result<Ending, DriveError> {
        let (engine, term) = (self.clone(), lease.term().clone());
        // A task of its own, so that an attempt it starts can go on in the same thread: a hop between threads costs more
        // than a short step.
        let drive = tokio::spawn(async move {
            engine.drive_below(term, program, String::new(), None, engine.stop.child_token()).await
        });
        match drive.await {
            Ok(ending) => ending,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    pub(crate) async fn drive_below(
        self: &Arc<Self>,
        term: Term,
        program: Arc<dyn Program>,
        prefix: String,
        above: Option<Above>,
        stop: CancellationToken,
    ) -> Result<Ending, DriveError> {
        let run = term.run();
        let (run_above, paused_above) = above.map(|above| (above.run, above.paused)).unzip();
        let (mut events, mut newest) = (Vec::new(), 0);
        loop {
            let page = self.store.load_events(run, events.len() as u64, PAGE).await?;
            let last = page.len() < PAGE as usize;
            for stored in page {
                let event = Event::decode(&stored.payload);
                let event = event.map_err(|source| DriveError::Journal { run: run.to_owned(), source })?;
                let began = if let Event::Started { at, .. } = event { at } else { 0 };
                newest = newest.max(began).max(u64::try_from(stored.at).unwrap_or(0));
                events.push(event);
            }
            if last {
                break;
            }
        }
        // What attempts of a dead process left; one that has lost the run is refused whatever it still makes in there.
        self.discard_scratch(run);
        let graph = program.graph();
        let steps = graph.steps.len();
        let machine = Machine::restore(graph, &events)
            .map_err(|source| DriveError::IllegalJournal { run: run.to_owned(), source })?;
        let ahead = newest.saturating_sub(self.steady());
        let (reporter, reports) = mpsc::unbounded_channel();
        let mut driver = Driver {
            engine: self.clone(),
            program,
            run: run.to_owned(),
            term: term.clone(),
            prefix,
            above: run_above,
            machine,
            outputs: StepOutputs::new(steps),
            yielded: None,
            items: HashMap::new(),
            earlier: Earlier::default(),
            seq: events.len() as u64,
            resumed: events.iter().any(|event| matches!(event, Event::Started { .. })),
            append: Append::default(),
            gathered: 0,
            waiting: Waiting::default(),
            writing: None,
            prepared: HashMap::new(),
            missing: HashMap::new(),
            live: BTreeMap::new(),
            reports,
            reporter,
            failures: Vec::new(),
            opened: vec![self.steady() + ahead; steps],
            again: HashMap::new(),
            queued: 0,
            stop,
            paused: watch::Sender::new(false),
            paused_above,
            ran: 0,
            reused: 0,
            starved: false,
            ahead,
        };
        driver.restore().await?;
        let span = (self.drive_span)(run);
        let ending = tokio::select! {
            biased;
            // At once, also while the store is waited for.
            () = term.lost() => Err(term.loss().into()),
            ending = driver.turn().instrument(span.clone()) => ending,
        };
        if ending.is_err() {
            driver.abandon().await;
        }
        trace::end(&span, &ending);
        self.observer.update(run, &Update::Left);
        // Who has the run now may work in there.
        let refused = matches!(&ending, Err(DriveError::Store(swath_store::Error::LeaseLost { .. })));
        if !refused && !term.is_lost() {
            self.discard_scratch(run);
            // A run that failed, or was cut off, may go on: what its steps keep waits for that.
            if matches!(&ending, Ok(ending) if ending.state == RunState::Completed)
                && let Err(error) = self.home.discard_run_keep(run)
            {
                tracing::debug!(%error, "what the steps of run `{run}` keep stays until the next collection");
            }
        }
        ending
    }

    /// Takes a run's scratch away while none of its attempts is live.
    fn discard_scratch(&self, run: &str) {
        if let Err(error) = self.home.discard_run_scratch(run) {
            tracing::debug!(%error, "the scratch of run `{run}` stays until the next collection");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut all = lock(&self.engine.missing);
        self.missing.keys().for_each(|step| drop(all.remove(&(self.run.clone(), *step))));
    }
}

impl Driver {
    async fn turn(&mut self) -> Result<Ending, DriveError> {
        let (engine, stop, term) = (self.engine.clone(), self.stop.clone(), self.term.clone());
        let first = if self.seq == 0 { Input::Begin } else { Input::Recovered };
        self.waiting.updates.push(Update::RunStarted {
            run: self.run.clone(),
            flow: self.program.name().to_owned(),
            steps: self.machine.graph().steps.len(),
            above: self.above.clone(),
            resumed: self.resumed,
        });
        if self.machine.state() == RunState::Paused {
            self.waiting.updates.push(Update::Paused);
        }
        self.offer(first);
        if matches!(self.machine.state(), RunState::Failed | RunState::Cancelled) {
            self.offer(Input::Reopen);
        }
        let mut cancelling = false;
        // What was asked for since the lease was taken counts, too.
        let mut wishes = term.pause_asked();
        wishes.mark_changed();
        let mut above = self.paused_above.take();
        loop {
            // Slots that are given back from here on are heard of below.
            let freed = engine.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(above) = &above {
                self.pause(*above.borrow());
            }
            let more = self.advance().await?;
            self.start_ahead();
            self.record();
            if self.machine.state().has_ended() {
                self.settle().await?;
                return Ok(self.ending());
            }
            // What has gathered is enough: it goes into the journal first.
            let more = more && self.writing.is_none();
            let due = self.machine.next_due();
            let wait = due.map(|due| Duration::from_millis(due.saturating_sub(self.steady())));
            let starved = self.starved;
            tokio::select! {
                // Wishes to stop first: a fan-out of short steps always has a report to hear.
                biased;
                () = stop.cancelled() => return self.interrupt().await,
                () = term.cancel_asked(), if !cancelling => {
                    cancelling = true;
                    self.offer(Input::Cancel { deadline: self.steady() + CANCEL_GRACE });
                    self.live.values().for_each(|live| live.cancel.cancel());
                }
                Ok(()) = wishes.changed() => {
                    let wish = *wishes.borrow_and_update();
                    if let Some(pause) = wish {
                        self.pause(pause);
                    }
                }
                () = changed(&mut above) => {}
                answer = record::answer(&mut self.writing) => self.recorded(answer)?,
                Some(report) = self.reports.recv() => {
                    self.hear(report);
                    for _ in 1..BATCH {
                        let Ok(report) = self.reports.try_recv() else { break };
                        self.hear(report);
                    }
                }
                () = freed, if starved => {}
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {
                    self.offer(Input::TimerDue);
                }
                () = std::future::ready(()), if more => {}
            }
        }
    }

    /// The steady clock, which is never behind the journal.
    fn steady(&self) -> u64 {
        self.engine.steady().saturating_add(self.ahead)
    }

    /// Starts nothing new from here on, or goes on.
    fn pause(&mut self, pause: bool) {
        self.offer(if pause { Input::Pause } else { Input::Unpause });
    }

    /// Takes an input into the machine, and its events into the next append.
    fn offer(&mut self, input: Input) -> bool {
        let events = self.machine.offer(without_secrets(input), self.steady());
        let any = !events.is_empty();
        for event in events {
            self.note(&event);
            let step = event.step().map(|s| self.machine.graph().steps[s as usize].id.clone());
            self.append.events.push(NewEvent { kind: event.kind().to_owned(), step, payload: event.encode() });
        }
        any
    }

    fn path(&self, s: u32) -> String {
        format!("{}{}", self.prefix, self.machine.graph().steps[s as usize].id)
    }

    fn instance(&self, s: u32, i: u32) -> String {
        if self.program.is_lifted(s as usize) { i.to_string() } else { String::new() }
    }

    /// Live attempts that run another flow.
    fn sub_flows(&self) -> usize {
        let written = self.writing.iter().flat_map(|writing| &writing.waiting.claimed);
        let claimed = self.waiting.claimed.iter().chain(written).filter(|claimed| claimed.prepared.bound.is_flow());
        claimed.count() + self.live.values().filter(|live| live.is_flow).count()
    }

    /// Ends the attempts of a drive that cannot go on: their slots are free, and nobody writes any more, when it has ended.
    async fn abandon(&mut self) {
        self.waiting.claimed.clear();
        self.writing = None;
        self.live.values().for_each(|live| live.cancel.cancel());
        while !self.live.is_empty() {
            let Some(report) = self.reports.recv().await else { break };
            self.live.remove(&(report.step, report.index));
        }
    }

    /// Stops in good order: attempts are told to stop, what still finishes counts, the rest starts over when the run is
    /// resumed.
    async fn interrupt(&mut self) -> Result<Ending, DriveError> {
        self.live.values().for_each(|live| live.cancel.cancel());
        while !self.live.is_empty() {
            let Some(report) = self.reports.recv().await else { break };
            match &report.end.result {
                Err(AttemptError::Task(TaskError::Cancelled)) => {
                    let Report { step, index, epoch, .. } = report;
                    self.offer(Input::Stopped { step, index, epoch });
                    self.live.remove(&(step, index));
                }
                _ => self.hear(report),
            }
        }
        self.settle().await?;
        Ok(self.ending())
    }

    /// Computes the outputs of the flow when every step is done, before that is durable: without them the run has failed.
    fn compute_outputs(&mut self) {
        if self.machine.state() != RunState::Completed || self.yielded.is_some() {
            return;
        }
        let yielded = start::guarded(|| self.program.outputs(&self.outputs));
        if let Err(fault) = &yielded {
            let (step, class, fault) = (OUTPUTS.to_owned(), FaultClass::Permanent, fault.clone());
            self.failures.push(FailedStep { step, instance: String::new(), class, fault });
        }
        self.yielded = Some(yielded);
    }

    /// State of the run: that of its steps, unless they are done and the outputs of the flow cannot be computed.
    fn state(&self) -> RunState {
        match &self.yielded {
            Some(Err(_)) => RunState::Failed,
            _ => self.machine.state(),
        }
    }

    fn ending(&mut self) -> Ending {
        let state = self.state();
        let outputs = self.yielded.take().and_then(Result::ok);
        let failures = std::mem::take(&mut self.failures);
        Ending { state, outputs, failures, ran: self.ran, reused: self.reused }
    }
}

/// Comes true when the pause of the run above begins or ends.
async fn changed(above: &mut Option<watch::Receiver<bool>>) {
    let heard = match above {
        Some(paused) => paused.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        // Nobody is above, or no longer.
        std::future::pending::<()>().await;
    }
}

fn show(fault: &Fault) -> String {
    let help = fault.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{} [{}]{help}", fault.message, fault.code)
}

/// What a fault says is journaled and shown: without secrets (I19).
fn without_secrets(mut input: Input) -> Input {
    let fault = match &mut input {
        Input::Evaluated { outcome: Err(fault), .. } | Input::Refused { fault, .. } => fault,
        Input::Finished { outcome: Err(failure), .. } => &mut failure.fault,
        _ => return input,
    };
    let help = fault.help.as_deref().map(|help| redact(help).into_owned());
    *fault = Fault::new(fault.code.clone(), redact(&fault.message), help);
    input
}
