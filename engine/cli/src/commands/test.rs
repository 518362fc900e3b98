//! `swath test`: runs the tests beside flows, each on the real engine with a store of its own that nobody keeps.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use swath_flow::Diagnostic;
use swath_host::{
    Asked, Capacity, Ending, Engine, Fake, Faked, FlowText, Isolated, Isolation, OUTPUTS, PlannedFlow, Program,
    Unobserved, launch,
};
use swath_plan::{Catalogue, Given, Output, Plan, PlannedStep};
use swath_run::{Event, Machine, StepState};
use swath_store::{Access, Artifacts, Home, SqliteStore, Store};
use swath_task::{Fault, PortType, TaskError};
use tokio_util::sync::CancellationToken;

use super::run::isolation;
use crate::arguments::{Global, Isolate, Test as Arguments};
use crate::failure::Failure;
use crate::test_file::{self, ExpectedStep, FakedStep, Test, TestFile, difference, lists_of_instance};
use crate::{flows, style};

/// A test that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What came of a test.
struct Outcome {
    file: String,
    test: String,
    took: u64,
    /// What was not as expected; empty when it passed.
    wrong: Vec<String>,
}

pub(crate) fn run(global: &Global, command: Arguments, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let isolate = Isolate { isolate: None, heartbeat: Isolation::HEARTBEAT };
    let isolation = isolation(global, &isolate, Isolated::None);
    let mut outcomes = Vec::new();
    for path in &command.flows {
        let path = test_file::beside(path);
        let bytes = launch::read_text(&path).map_err(|error| Failure::io("read", &path, &error))?;
        let file = test_file::read(&path, &bytes).map_err(Failure::Flow)?;
        let flow = flows::open(&file.flow)?;
        for (name, test) in &file.tests {
            if command.only.as_ref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let started = Instant::now();
            let wrong = super::block_on(one(&path, &file, &flow, name, test, &catalogue, &isolation))?;
            let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let outcome = Outcome { file: path.display().to_string(), test: name.clone(), took, wrong };
            if !global.json {
                tell_outcome(global, &outcome);
            }
            outcomes.push(outcome);
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).count();
    if global.json {
        let told = |one: &Outcome| json!({ "file": one.file, "test": one.test, "passed": one.wrong.is_empty(), "took_ms": one.took, "wrong": one.wrong });
        super::print_json(&outcomes.iter().map(told).collect::<Vec<_>>())?;
    } else if !global.quiet {
        tell!("{} passed, {failed} failed", outcomes.len() - failed);
    }
    if outcomes.is_empty() {
        return Err(Failure::Usage("no test has this name".to_owned()));
    }
    Ok(if failed > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn tell_outcome(global: &Global, outcome: &Outcome) {
    let colour = style::colour();
    let Outcome { file, test, took, wrong } = outcome;
    if wrong.is_empty() {
        if !global.quiet {
            tell!("{}  {file}: {test} ({})", style::good("ok", colour), style::duration(*took));
        }
        return;
    }
    tell!("{}  {file}: {test}", style::error("failed", colour));
    for wrong in wrong {
        tell!("    {wrong}");
    }
}

/// Runs a test. What is not as expected is in the result; what is wrong with the test is an error.
async fn one(
    path: &Path,
    file: &TestFile,
    flow: &FlowText,
    name: &str,
    test: &Test,
    catalogue: &Arc<Catalogue>,
    isolation: &Isolation,
) -> Result<Vec<String>, Failure> {
    let now = Timestamp::now();
    let params: Vec<(String, Given)> =
        test.params.iter().map(|(name, value)| (name.clone(), Given::Value(value.clone()))).collect();
    let asked = Asked { params, ..flows::asked(&[])? };
    let plan = flow.plan(&asked, catalogue, now).map_err(Failure::Flow)?;
    let problems = file.check(name, test, &plan);
    if !problems.is_empty() {
        return Err(Failure::Flow(problems));
    }
    let home = tempfile::tempdir().map_err(|error| Failure::io("make", Path::new("a temporary folder"), &error))?;
    let store = Arc::new(SqliteStore::open(home.path(), Access::Write).await?);
    let artifacts = Arc::new(Artifacts::local(home.path())?);
    let folder = path.parent().unwrap_or(Path::new(""));
    let maker = Maker { artifacts: artifacts.clone(), folder: folder.to_owned(), scratch: home.path().join("made") };
    let mut fakes = HashMap::new();
    for (at, step) in plan.steps.iter().enumerate() {
        if let Some(fake) = test.fake.get(&step.id) {
            fakes.insert(at, maker.fake(step, fake).await?);
        }
    }
    let lease = store.lease_run("test").await?;
    launch::pin(store.as_ref(), &lease, &plan, flow.source().text(), now).await?;
    let (stop, span) = (CancellationToken::new(), |_: &str, _: &str, _: &str, _: u32| tracing::Span::none());
    let capacity = Capacity::of_this_machine();
    let engine = Engine::new(
        store.clone(),
        Home::new(home.path()),
        artifacts,
        capacity,
        Arc::new(Unobserved),
        stop.clone(),
        span,
    );
    let engine = Arc::new(engine.isolating(isolation.clone()));
    let program = Arc::new(Faked::new(PlannedFlow::new(plan.clone(), catalogue.clone(), now), fakes));
    let graph = program.graph();
    let drive = tokio::time::timeout(PATIENCE, engine.drive(&lease, program)).await;
    let Ok(ending) = drive else {
        stop.cancel();
        return Ok(vec![format!("it has not ended in {} s", PATIENCE.as_secs())]);
    };
    let ending = ending?;
    let mut events = Vec::new();
    for stored in store.load_events("test", 0, u32::MAX).await? {
        events.push(Event::decode(&stored.payload).map_err(|error| Failure::Usage(error.to_string()))?);
    }
    let machine = Machine::restore(graph, &events).map_err(|error| Failure::Usage(error.to_string()))?;
    store.close().await;
    Ok(judge(test, &plan, &ending, &machine, &events))
}

/// Everything that is not as expected.
fn judge(test: &Test, plan: &Plan, ending: &Ending, machine: &Machine, events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = test.expect.run.as_deref().unwrap_or("completed");
    if ending.state.name() != expected {
        let why = ending.failures.first();
        let why = why.map(|one| format!(": {}: {} [{}]", one.step, one.fault.message, one.fault.code));
        wrong.push(format!("the run is {}, expected {expected}{}", ending.state.name(), why.unwrap_or_default()));
    }
    for (id, expected) in &test.expect.steps {
        let Some(s) = plan.steps.iter().position(|step| step.id == *id).map(|at| at as u32) else { continue };
        let state = state_of(machine.step(s));
        if let Some(expected) = expected.state().filter(|expected| *expected != state) {
            let fault = ending.failures.iter().find(|failed| failed.step == *id);
            let why = fault.map(|one| format!(": {} [{}]", one.fault.message, one.fault.code)).unwrap_or_default();
            wrong.push(format!("step `{id}` is {state}, expected {expected}{why}"));
        }
        let ExpectedStep::More(more) = expected else { continue };
        let codes: Vec<&str> =
            ending.failures.iter().filter(|one| one.step == *id).map(|one| one.fault.code.as_str()).collect();
        if let Some(code) = more.code.as_deref().filter(|code| !codes.contains(code)) {
            let found = if codes.is_empty() { "nothing".to_owned() } else { codes.join(", ") };
            wrong.push(format!("step `{id}` fails with {found}, expected {code}"));
        }
        let total = machine.tally(s).total;
        if let Some(expected) = more.instances.filter(|expected| *expected != total) {
            wrong.push(format!("step `{id}` has {total} instances, expected {expected}"));
        }
        let begun = events.iter().filter(|event| matches!(event, Event::Started { s: of, .. } if *of == s)).count();
        if let Some(expected) = more.attempts.filter(|expected| *expected != begun) {
            wrong.push(format!("step `{id}` had {begun} attempts, expected {expected}"));
        }
    }
    if let Some(failed) = ending.failures.iter().find(|failed| failed.step == OUTPUTS) {
        wrong.push(format!("the outputs cannot be computed: {}", failed.fault.message));
    }
    for (name, expected) in &test.expect.outputs {
        let found = ending.outputs.as_ref().and_then(|outputs| outputs.get(name)).unwrap_or(&Value::Null);
        wrong.extend(difference(&format!("output `{name}`"), found, expected));
    }
    wrong
}

fn state_of(state: StepState) -> &'static str {
    match state {
        StepState::Waiting | StepState::Open => "not ended",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Skipped(_) => "skipped",
        StepState::UpstreamFailed(_) => "not run",
        StepState::Cancelled => "cancelled",
    }
}

/// Makes what faked steps yield.
struct Maker {
    artifacts: Arc<Artifacts>,
    /// The folder of the test file.
    folder: PathBuf,
    scratch: PathBuf,
}

impl Maker {
    async fn fake(&self, step: &PlannedStep, faked: &FakedStep) -> Result<Fake, Failure> {
        let mut instances = BTreeMap::new();
        for (index, faked) in &faked.instances {
            instances.insert(*index, Box::pin(self.fake(step, faked)).await?);
        }
        let mut outputs = Map::new();
        // One that always fails yields nothing.
        let silent = faked.fault.as_ref().is_some_and(|fault| fault.times == u32::MAX);
        for output in step.outputs.iter().filter(|_| !silent) {
            let lists = lists_of_instance(step, output.lists);
            let value = self.output(step, output, lists, faked.outputs.get(&output.name)).await?;
            outputs.insert(output.name.clone(), value);
        }
        let fails = faked.fault.as_ref().map(|fault| {
            let told = Fault { code: fault.code.clone().into(), message: fault.message.clone(), help: None };
            let error: TaskError = if fault.transient { told.transient(None) } else { told.permanent() };
            (error, fault.times)
        });
        Ok(Fake { outputs: Value::Object(outputs), fails, instances })
    }

    /// An output: a value as it is given, an artifact made of a file or a text; an empty one when nothing is given.
    async fn output(
        &self,
        step: &PlannedStep,
        output: &Output,
        lists: u8,
        given: Option<&Value>,
    ) -> Result<Value, Failure> {
        let (kind, given) = match (&output.of, given) {
            (PortType::Value(_), Some(given)) => return Ok(given.clone()),
            (PortType::Value(_), None) => return Ok(Value::Null),
            (PortType::Artifact(_), None) if lists > 0 => return Ok(json!([])),
            (PortType::Artifact(kind), given) => (kind, given),
        };
        if let (1.., Some(Value::Array(items))) = (lists, given) {
            let mut made = Vec::new();
            for item in items {
                made.push(Box::pin(self.output(step, output, lists - 1, Some(item))).await?);
            }
            return Ok(Value::Array(made));
        }
        let (text, from) = match given {
            None => (String::new(), None),
            Some(Value::String(path)) => (String::new(), Some(self.folder.join(path))),
            Some(Value::Object(map)) if map.len() == 1 && map.get("text").is_some_and(Value::is_string) => {
                (map["text"].as_str().unwrap_or_default().to_owned(), None)
            }
            Some(other) => {
                let message = format!(
                    "output `{}` of the faked step `{}` is an artifact: give the path of a file or `{{ text: ... }}`, not `{other}`",
                    output.name, step.id
                );
                return Err(Failure::Flow(vec![Diagnostic::nowhere("X111", message)]));
            }
        };
        std::fs::create_dir_all(&self.scratch).map_err(|error| Failure::io("make", &self.scratch, &error))?;
        let name =
            from.as_ref().and_then(|from| from.file_name()).map_or(output.name.clone().into(), ToOwned::to_owned);
        let staged = self.scratch.join(&name);
        let written = match &from {
            // The artifact takes the file: the fixture stays where it is.
            Some(from) => std::fs::copy(from, &staged).map(drop),
            None => std::fs::write(&staged, text),
        };
        written.map_err(|error| Failure::io("read", from.as_ref().unwrap_or(&staged), &error))?;
        let record = self.artifacts.commit(&staged, &name.to_string_lossy(), kind).await?;
        serde_json::to_value(record).map_err(|error| Failure::Usage(error.to_string()))
    }
}
