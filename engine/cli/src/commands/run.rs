//! `swath run`: plan, pin, drive, and say where the results are.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use swath_host::{
    Asked, Capacity, Ending, Engine, FailedStep, FlowText, Isolated, Isolation, OUTPUTS, PlannedFlow, launch, preflight,
};
use swath_plan::{Catalogue, Plan};
use swath_run::RunState;
use swath_store::{Access, Artifacts, Home, RunFilter, RunLease, RunRow, Store};
use tokio_util::sync::CancellationToken;

use crate::arguments::{self, Global, Isolate, Run, Slots};
use crate::attempt_logs::{self, AttemptLogs};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::{flows, progress, style};

pub(crate) fn run(global: &Global, command: Run, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let now = Timestamp::now();
    let flow = flows::open(&command.flow.flow)?;
    let mut asked = flows::asked(&command.flow.params)?;
    asked.fire =
        command.interval.as_deref().map(|text| launch::interval(text, now)).transpose().map_err(Failure::Usage)?;
    let given = Given { flow, asked, catalogue };
    let plan = match given.plan(now) {
        Err(Failure::Flow(problems)) if global.json => return super::validate::refuse(&given.flow.name, &problems),
        planned => planned?,
    };
    if let Some(server) = command.server {
        return super::remote::run(global, &server, &given.flow, &command.flow.params, command.interval);
    }
    super::block_on(async move {
        let session =
            Session::open(global, &command.slots, isolation(global, &command.isolate, Isolated::None)).await?;
        let unfinished = session.unfinished(&given, &plan.name).await?;
        let (resumed, plan) = match unfinished {
            Some((row, pinned)) if command.resume => (Some(row.id), pinned),
            Some((row, _)) if !global.quiet && session.is_worth_a_note(&row).await? => {
                tell!("note: run {} of this flow did not finish; `swath resume {}` goes on with it", row.id, row.id);
                (None, plan)
            }
            unfinished => {
                if command.resume && unfinished.is_none() && !global.quiet {
                    tell!("note: no run of this flow, planned as it is now, is unfinished: this is a new run");
                }
                (None, plan)
            }
        };
        let outputs = Outputs::choose(session.store.as_ref(), resumed.as_deref(), command.out, &plan).await?;
        outputs.try_writing(&plan)?;
        preflight::check(&plan, &given.catalogue)?;
        let secrets = launch::secrets(&plan)?;
        let lease = match resumed {
            Some(id) => session.take_up(&id).await?,
            None => {
                let lease = launch::lease_new(session.store.as_ref(), &plan.name, now).await?;
                let text = given.flow.source().text();
                launch::pin(session.store.as_ref(), &lease, &plan, text, now).await?;
                lease
            }
        };
        let end = Finish { outputs, explain: command.explain };
        session.drive(global, Ready { lease, plan, secrets }, given.catalogue, end).await
    })
}

/// A flow as it was given on the command line.
struct Given {
    flow: FlowText,
    asked: Asked,
    catalogue: Arc<Catalogue>,
}

impl Given {
    /// What it comes to at a moment: relative periods count from it. Runs remember the moment to the millisecond.
    fn plan(&self, now: Timestamp) -> Result<Plan, Failure> {
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        self.flow.plan(&self.asked, &self.catalogue, now).map_err(Failure::Flow)
    }
}

/// A run that this process may drive.
pub(crate) struct Ready {
    pub lease: RunLease,
    pub plan: Plan,
    /// Values of its secrets.
    pub secrets: BTreeMap<String, String>,
}

/// What happens when the run has ended.
pub(crate) struct Finish {
    pub outputs: Outputs,
    pub explain: bool,
}

/// An open store and the engine over it.
pub(crate) struct Session {
    pub store: Arc<dyn Store>,
    pub home: Home,
    pub artifacts: Arc<Artifacts>,
    pub capacity: Capacity,
    pub isolation: Isolation,
}

/// How steps run in processes of their own, which are this program again. `otherwise` holds where the user does not say.
pub(crate) fn isolation(global: &Global, isolate: &Isolate, otherwise: Isolated) -> Isolation {
    let which = match isolate.isolate {
        None => otherwise,
        Some(arguments::Isolated::None) => Isolated::None,
        Some(arguments::Isolated::Native) => Isolated::Native,
        Some(arguments::Isolated::All) => Isolated::All,
    };
    // They log as this process does.
    let told = std::iter::repeat_n("--verbose".into(), global.verbose.into());
    let arguments = std::iter::once("attempt-worker".into()).chain(told).collect();
    Isolation {
        heartbeat: isolate.heartbeat,
        trace: swath_telemetry::carrier,
        spans: swath_telemetry::take_span,
        ..Isolation::new(which, arguments)
    }
}

impl Session {
    pub async fn open(global: &Global, slots: &Slots, isolation: Isolation) -> Result<Self, Failure> {
        let store = global.address().open(Access::Write).await?;
        let artifacts = Arc::new(Artifacts::local(&global.home)?);
        let mut capacity = Capacity::of_this_machine();
        capacity.cpu = slots.cpus.unwrap_or(capacity.cpu);
        capacity.memory = slots.memory.unwrap_or(capacity.memory);
        capacity.gpu = slots.gpus.unwrap_or(capacity.gpu);
        capacity.limits = slots.limits.iter().cloned().collect();
        Ok(Self { store, home: global.address().home(), artifacts, capacity, isolation })
    }

    /// The newest run of the flow that was cut off and was planned as what is given would have been planned then, sub-flows
    /// and versions of tasks included; with the plan it is pinned to.
    async fn unfinished(&self, given: &Given, flow: &str) -> Result<Option<(RunRow, Plan)>, Failure> {
        let states = ["pending", "running", "paused", "cancelling", "failed", "cancelled"].map(str::to_owned).to_vec();
        let filter = RunFilter {
            states,
            flow: Some(flow.to_owned()),
            without_sub_flows: true,
            limit: Some(20),
            ..RunFilter::default()
        };
        for row in self.store.list_runs(&filter).await? {
            if self.store.run_holder(&row.id).await?.is_some() {
                continue;
            }
            let created = Timestamp::from_millisecond(row.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
            let Ok(plan) = given.plan(created) else { continue };
            if self.store.get_run(&row.id).await?.plan == launch::pinned(&plan)? {
                return Ok(Some((row, plan)));
            }
        }
        Ok(None)
    }

    /// Takes a run up that goes on from here, paused or not.
    pub async fn take_up(&self, run: &str) -> Result<RunLease, Failure> {
        let lease = self.store.lease_run(run).await?;
        self.store.ask_to_pause(run, false).await?;
        Ok(lease)
    }

    /// Whether a person may have forgotten this run: it was cut off, and no run of the flow has completed since. One
    /// that failed, was cancelled or paused has said so, and how to go on with it.
    async fn is_worth_a_note(&self, row: &RunRow) -> Result<bool, Failure> {
        let states = vec![RunState::Completed.name().to_owned()];
        let filter = RunFilter {
            states,
            flow: Some(row.flow.clone()),
            without_sub_flows: true,
            limit: Some(1),
            ..RunFilter::default()
        };
        let completed = self.store.list_runs(&filter).await?;
        let since = |later: &RunRow| later.created_at > row.created_at;
        let told = [RunState::Failed, RunState::Cancelled, RunState::Paused].map(RunState::name);
        Ok(!told.contains(&row.state.as_str()) && !completed.iter().any(since))
    }

    /// Drives a run to its end, or until the user interrupts.
    pub async fn drive(
        self,
        global: &Global,
        ready: Ready,
        catalogue: Arc<Catalogue>,
        finish: Finish,
    ) -> Result<ExitCode, Failure> {
        let Ready { lease, plan, secrets } = ready;
        let id = lease.run().to_owned();
        let id = id.as_str();
        finish.outputs.keep(self.store.as_ref(), id).await?;
        let created = self.store.get_run(id).await?.row.created_at;
        let created = Timestamp::from_millisecond(created).unwrap_or_else(|_| Timestamp::now());
        let stop = CancellationToken::new();
        tokio::spawn(interrupts(stop.clone(), global.quiet));
        let exporting = attempt_logs::exporting(false);
        let logs = AttemptLogs::start(self.store.clone(), global.verbose, &exporting);
        let mut observers = exporting.observers();
        observers.push(progress::observer(global.quiet || global.json));
        let engine = Engine::new(
            self.store.clone(),
            self.home.clone(),
            self.artifacts.clone(),
            self.capacity.clone(),
            Arc::new(observers),
            stop.clone(),
            swath_telemetry::attempt_span,
        );
        let engine = engine.isolating(self.isolation.clone()).with_drive_span(swath_telemetry::drive_span);
        let engine = Arc::new(engine);
        engine.learn_secrets(secrets);
        if let Some(metrics) = exporting.metrics() {
            metrics.watch_slots(attempt_logs::slots(&engine));
        }
        if let Some(caller) = super::traceparent() {
            engine.asked(id, caller);
        }
        let program = Arc::new(PlannedFlow::new(plan, catalogue, created));
        let started = std::time::Instant::now();
        let ending = engine.drive(&lease, program).await;
        logs.finish().await;
        let ending = ending?;
        drop(lease);
        let interrupted = !ending.state.has_ended();
        let (mut places, mut unpublished) = (BTreeMap::new(), None);
        if let Some(outputs) = &ending.outputs {
            unpublished = finish.outputs.publish(id, &self.artifacts, outputs, &mut places).await.err();
        }
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reasons =
            if finish.explain { Some(super::explain::reasons(self.store.as_ref(), id, None).await?) } else { None };
        if global.json {
            let failures: Vec<_> = ending
                .failures
                .iter()
                .map(|failed| json!({ "step": failed.step, "instance": failed.instance, "fault": failed.fault }))
                .collect();
            let mut document = json!({
                "run": id, "state": if interrupted { "interrupted" } else { ending.state.name() }, "took_ms": took,
                "ran": ending.ran, "reused": ending.reused, "outputs": ending.outputs, "files": places, "failures": failures,
                "unpublished": unpublished,
            });
            if let Some(reasons) = &reasons {
                document["explanation"] = json!(reasons);
            }
            super::print_json(&document)?;
        } else if global.quiet {
            failures(id, &ending);
        } else {
            summary(id, &ending, &places, took);
        }
        if let Some(fault) = unpublished.as_ref().filter(|_| !global.json) {
            style::say(&Failure::Fault(fault.clone()).render(style::colour()));
        }
        if let Some(reasons) = reasons.filter(|_| !global.json) {
            super::print(&super::explain::text(&reasons))?;
        }
        attempt_logs::sent(exporting).await;
        self.store.close().await;
        Ok(match ending.state {
            RunState::Completed if ending.outputs.is_some() && unpublished.is_none() => ExitCode::SUCCESS,
            _ if interrupted => ExitCode::from(130),
            _ => ExitCode::from(1),
        })
    }
}

/// The first interrupt stops in good order, the second at once.
async fn interrupts(stop: CancellationToken, quiet: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if first && !quiet {
            tell!("stopping; once more to stop at once");
        }
        stop.cancel();
    }
    std::process::exit(130);
}

fn summary(id: &str, ending: &Ending, places: &BTreeMap<String, String>, took: u64) {
    let colour = style::colour();
    let state = match ending.state {
        RunState::Completed if ending.failures.is_empty() => style::good("completed", colour),
        RunState::Completed => style::warn("completed, with steps that failed and were to be gone on without,", colour),
        RunState::Failed => style::error("failed", colour),
        RunState::Cancelled => style::warn("cancelled", colour),
        _ => style::warn("interrupted", colour),
    };
    tell!();
    tell!(
        "{} {state} in {}: {} ran, {} reused",
        style::bold(id, colour),
        style::duration(took),
        ending.ran,
        ending.reused
    );
    if let Some(Value::Object(outputs)) = &ending.outputs {
        for (name, value) in outputs {
            match (places.get(name), value) {
                (Some(place), _) => tell!("  {name:16} {place}"),
                (None, Value::Object(_) | Value::Array(_)) => {
                    let below = format!("{name}/");
                    let mut below = places.iter().filter(|(place, _)| place.starts_with(&below)).peekable();
                    if below.peek().is_none() {
                        tell!("  {name:16} {value}");
                    }
                    for (name, place) in below {
                        tell!("  {name:16} {place}");
                    }
                }
                (None, value) => {
                    tell!("  {name:16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                }
            }
        }
    }
    failures(id, ending);
    match ending.state {
        RunState::Completed => {}
        RunState::Failed if ending.failures.iter().any(|failed| failed.step == OUTPUTS) => {
            tell!("every step is done: correct `outputs` in the flow, and run it again");
        }
        RunState::Failed => tell!("`swath logs {id}` shows the logs, `swath resume {id}` tries what failed again"),
        _ => tell!("`swath resume {id}` goes on with it"),
    }
}

fn failures(id: &str, ending: &Ending) {
    let colour = style::colour();
    for FailedStep { step, instance, fault, .. } in ending.failures.iter().take(10) {
        let at = if instance.is_empty() { step.clone() } else { format!("{step}[{instance}]") };
        tell!("{}: {at}: {}", style::error(&format!("error[{}]", fault.code), colour), fault.message);
        if let Some(help) = &fault.help {
            tell!("  = help: {help}");
        }
    }
    if ending.failures.len() > 10 {
        tell!("and {} more failures; `swath show {id}` lists them", ending.failures.len() - 10);
    }
}
