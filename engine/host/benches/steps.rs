//! How many steps that do nothing an engine takes a second, with every transition durable: a flow is planned from its
//! text and driven over a fresh store, as `swath run` does.
//!
//! ```text
//! cargo bench -p swath-host --bench steps -- [SHAPE [STEPS [FOLDER]]]
//! ```
//!
//! SHAPE is `chain` (each step reads the one before), `fan-out` (one step lifted over a list), `wide` (that many steps
//! that read the same one), `chain-kept` (a chain whose results also go into the cache), `chain-effects` (a chain of steps
//! that change the world: none starts before its claim is durable), `chain-isolated` (a tenth as many steps, each in a
//! process of its own that the one before has used) or `chain-isolated-cold` (each in a new process).
//! FOLDER decides which disk is measured; `SWATH_STORE` names a PostgreSQL database to be measured instead, or is
//! `private` for one that is started for it. One line of
//! JSON: what is timed goes from the creation of the run to its durable end; planning is apart.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use swath_host::worker::Channel;
use swath_host::{Capacity, Engine, Isolated, Isolation, PlannedFlow, Unobserved};
use swath_plan::{Catalogue, Plan, PlanInput};
use swath_run::RunState;
use swath_store::{Access, Address, Artifacts, Home, LEASE, NewRun};
use swath_task::{Context, Needs, Purity, Task, TaskDef, TaskError};
use swath_testkit::postgres::Postgres;
use tokio_util::sync::CancellationToken;

use crate::support::Count;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Gives what it is given.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pass {
    /// Makes this step's results differ in the cache from those of others.
    kept_as: Option<u32>,
    /// It is taken to change the world: it starts when its claim is durable, and not before.
    #[serde(default)]
    effect: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Taken {
    /// A number.
    value: serde_json::Value,
}

#[derive(Serialize, JsonSchema)]
struct Given {
    /// The same.
    value: serde_json::Value,
}

impl Task for Pass {
    const NAME: &'static str = "bench.pass";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    type Inputs = Taken;
    type Outputs = Given;

    fn needs(&self) -> Needs {
        Needs::waiting()
    }

    fn purity(&self) -> Purity {
        if self.effect { Purity::Effect } else { Purity::Pure }
    }

    async fn run(&self, inputs: Taken, _: &Context) -> Result<Given, TaskError> {
        Ok(Given { value: inputs.value })
    }
}

const TASKS: &[TaskDef] = &[TaskDef::of::<Count>(), TaskDef::of::<Pass>()];

const SHAPES: [&str; 7] =
    ["chain", "fan-out", "wide", "chain-kept", "chain-effects", "chain-isolated", "chain-isolated-cold"];

/// The argument with which this program is the process of a step.
const WORKER: &str = "worker";

fn main() -> Outcome<()> {
    if std::env::args().nth(1).is_some_and(|word| word == WORKER) {
        return Ok(
            Channel::inherit()?.serve(Arc::new(Catalogue::new(&[TASKS])), |_, _, _, _, _| tracing::Span::none())?
        );
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let steps = words.get(1).map_or(Ok(10_000), |word| word.parse())?;
    let base = words.get(2).map_or_else(std::env::temp_dir, Into::into);
    let shapes = words.first().map_or(SHAPES.to_vec(), |word| vec![word.as_str()]);
    for shape in shapes {
        // A process costs a thousand times what a step costs.
        let steps = if words.len() < 2 && shape.starts_with("chain-isolated") { steps / 10 } else { steps };
        let home = base.join(format!("swath-steps-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let measured = runtime.block_on(measure(shape, steps, &home));
        let removed = std::fs::remove_dir_all(&home);
        measured?;
        removed?;
    }
    Ok(())
}

fn flow(shape: &str, steps: u32) -> Outcome<String> {
    // Only what is lifted needs a long list: a chain passes on a short one, so that the engine is measured, not copying.
    let to = if shape == "fan-out" { steps } else { 1 };
    let mut text = format!("flow: bench\nsteps:\n  count: {{ task: toy.count, with: {{ to: {to} }} }}\n");
    match shape {
        "chain" | "chain-kept" | "chain-effects" | "chain-isolated" | "chain-isolated-cold" => {
            let mut from = "count.values".to_owned();
            for step in 0..steps {
                let more = match shape {
                    "chain" => "cache: off".to_owned(),
                    "chain-kept" => format!("with: {{ kept_as: {step} }}"),
                    "chain-effects" => "with: { effect: true }".to_owned(),
                    _ => "cache: off, isolate: process".to_owned(),
                };
                writeln!(text, "  s{step}: {{ task: bench.pass, in: {{ value: {from} }}, {more} }}")?;
                from = format!("s{step}.value");
            }
        }
        "fan-out" => {
            text.push_str("  all: { each: count.values, task: bench.pass, in: { value: item }, cache: off }\n")
        }
        "wide" => {
            for step in 0..steps {
                writeln!(text, "  s{step}: {{ task: bench.pass, in: {{ value: count.values }}, cache: off }}")?;
            }
        }
        other => return Err(format!("the shape is one of {SHAPES:?}, not `{other}`").into()),
    }
    Ok(text)
}

fn planned(text: &str, catalogue: &Catalogue) -> Outcome<Plan> {
    let reading = swath_flow::read("bench.yaml", text.as_bytes());
    let problem = reading.diagnostics.first().map(|problem| problem.message.clone());
    let flow = reading.flow.filter(|_| problem.is_none()).ok_or(problem.unwrap_or_default())?;
    let folder = std::env::current_dir()?;
    let load = |_: &Path| Err("there are no sub-flows".to_owned());
    let input = PlanInput {
        fire: None,
        catalogue,
        params: &[],
        params_folder: &folder,
        folder: &folder,
        now: Timestamp::now(),
        load: &load,
    };
    swath_plan::plan(&flow, input).map_err(|problems| format!("{:?}", problems.first()).into())
}

async fn measure(shape: &str, steps: u32, home: &Path) -> Outcome<()> {
    let text = flow(shape, steps)?;
    let catalogue = Arc::new(Catalogue::new(&[TASKS]));
    let planning = Instant::now();
    let plan = planned(&text, &catalogue)?;
    let planning = planning.elapsed().as_secs_f64();
    let mut private = None;
    let database = std::env::var("SWATH_STORE").ok().map(|named| match named.as_str() {
        "private" => private.insert(Postgres::start(true)).create_database(),
        _ => named,
    });
    let store = Address { home: home.to_owned(), database, lease: LEASE }.open(Access::Write).await?;
    let artifacts = Arc::new(Artifacts::local(home)?);
    let capacity = Capacity::of_this_machine();
    let stop = CancellationToken::new();
    let span = |_: &str, _: &str, _: &str, _: u32| tracing::Span::none();
    let isolation = Isolation::new(Isolated::None, vec![WORKER.into()]);
    let idle = if shape == "chain-isolated-cold" { 0 } else { isolation.idle };
    let engine = Engine::new(store.clone(), Home::new(home), artifacts, capacity, Arc::new(Unobserved), stop, span);
    let engine = engine.isolating(Isolation { idle, ..isolation });
    let started = Instant::now();
    store
        .create_run(NewRun {
            id: "bench".into(),
            flow: "bench".into(),
            source: "bench.yaml".into(),
            text_digest: plan.text_digest,
            params: "{}".into(),
            plan: serde_json::to_string(&plan)?.into(),
            text: text.into(),
            state: RunState::Pending.name().into(),
            created_at: 0,
        })
        .await?;
    let lease = store.lease_run("bench").await?;
    let program = Arc::new(PlannedFlow::new(plan, catalogue, Timestamp::now()));
    let ending = Arc::new(engine).drive(&lease, program).await?;
    let seconds = started.elapsed().as_secs_f64();
    let peak = peak_memory();
    drop(lease);
    if ending.state != RunState::Completed {
        return Err(format!("the run is {:?}: {:?}", ending.state, ending.failures.first()).into());
    }
    let recorded = store.results("bench", None).await?.len() as u64;
    if recorded != ending.ran || ending.ran < u64::from(steps) {
        return Err(format!("{} steps ran and {recorded} are recorded", ending.ran).into());
    }
    store.close().await;
    println!(
        "{}",
        json!({
            "bench": "steps", "shape": shape, "steps": ending.ran, "recorded": recorded, "seconds": round(seconds),
            "steps_per_second": (ending.ran as f64 / seconds).round(), "planning_seconds": round(planning),
            "peak_mib": peak
        })
    );
    Ok(())
}

fn round(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 1e4
}

/// Peak resident set of this process in MiB, where the system tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}
