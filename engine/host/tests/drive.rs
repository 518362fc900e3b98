//! Whole drives over a real store: sub-flows and slots, panics, interruption, what may be reused.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use swath_host::{Capacity, Ending, Engine, Missing, PlannedFlow, Unobserved, ask, check_run};
use swath_plan::{Catalogue, PlanInput};
use swath_run::RunState;
use swath_store::{Access, Artifacts, Home, NewRun, SqliteStore, Store};
use swath_task::{Bytes, Context, Digest, Fault, LocalPath, Needs, NoInputs, Purity, Task, TaskDef, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support::Count;

/// Does as it is told.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Work {
    /// Memory it asks for.
    #[serde(default)]
    gibibytes: u64,
    /// GPUs it asks for.
    #[serde(default)]
    gpus: f32,
    /// How long it takes.
    #[serde(default)]
    millis: u64,
    /// Panics where the engine asks for its needs.
    #[serde(default)]
    panics: bool,
    /// Fails, as if a server were down, until this file exists, which it then makes.
    #[serde(default)]
    down_until: Option<LocalPath>,
    /// A file that its result depends on, and that it changes.
    #[serde(default)]
    changes: Option<LocalPath>,
    /// A file that its result depends on.
    #[serde(default)]
    reads: Option<LocalPath>,
}

#[derive(Serialize, JsonSchema)]
struct Worked {
    /// How many ran at the same time when it began.
    together: usize,
}

static RUNNING: AtomicUsize = AtomicUsize::new(0);

impl Task for Work {
    const NAME: &'static str = "toy.work";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    type Inputs = NoInputs;
    type Outputs = Worked;

    fn needs(&self) -> Needs {
        assert!(!self.panics, "a defect in a task");
        Needs { gpu: self.gpus, ..Needs::new(1.0, Bytes(self.gibibytes << 30)) }
    }

    fn variables(&self) -> Vec<&'static str> {
        vec!["PATH", "SWATH_TEST_NOBODY_SETS"]
    }

    fn reads(&self) -> Vec<PathBuf> {
        [&self.changes, &self.reads].into_iter().flatten().map(|path| path.0.clone()).collect()
    }

    async fn run(&self, _: NoInputs, _: &Context) -> Result<Worked, TaskError> {
        if let Some(path) = &self.down_until
            && !path.0.exists()
        {
            std::fs::write(&path.0, "up").unwrap();
            return Err(Fault::new("T100", "the server is down").transient(None));
        }
        if let Some(path) = &self.changes {
            std::fs::write(&path.0, "changed").unwrap();
        }
        let together = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(self.millis)).await;
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        Ok(Worked { together })
    }
}

/// Leaves a mark in a folder.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mark {
    folder: LocalPath,
    name: String,
    /// What must be in the folder before.
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    effect: bool,
}

#[derive(Serialize, JsonSchema)]
struct Marked {}

impl Task for Mark {
    const NAME: &'static str = "toy.mark";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    type Inputs = NoInputs;
    type Outputs = Marked;

    fn purity(&self) -> Purity {
        if self.effect { Purity::Effect } else { Purity::Pure }
    }

    async fn run(&self, _: NoInputs, context: &Context) -> Result<Marked, TaskError> {
        std::fs::write(self.folder.0.join(format!("{}_begun", self.name)), "").unwrap();
        while self.after.as_ref().is_some_and(|before| !self.folder.0.join(before).exists()) {
            if context.is_cancelled() {
                return Err(TaskError::Cancelled);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(self.folder.0.join(&self.name), "").unwrap();
        Ok(Marked {})
    }
}

/// Adds a line to what the step keeps, and fails until there are so many.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Persist {
    lines: usize,
}

impl Task for Persist {
    const NAME: &'static str = "toy.persist";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    type Inputs = NoInputs;
    type Outputs = Marked;

    async fn run(&self, _: NoInputs, context: &Context) -> Result<Marked, TaskError> {
        let path = context.keep()?.join("lines");
        let lines = std::fs::read_to_string(&path).unwrap_or_default() + "line\n";
        std::fs::write(&path, &lines).unwrap();
        if lines.lines().count() < self.lines {
            return Err(Fault::new("T100", "not yet").transient(None));
        }
        Ok(Marked {})
    }
}

const TASKS: &[TaskDef] =
    &[TaskDef::of::<Count>(), TaskDef::of::<Work>(), TaskDef::of::<Mark>(), TaskDef::of::<Persist>()];

/// A store in a folder of its own.
struct Bench {
    home: tempfile::TempDir,
    store: Arc<SqliteStore>,
    stop: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(home.path(), Access::Write).await.unwrap());
        Self { home, store, stop: CancellationToken::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// An engine with one core.
    fn engine(&self) -> Arc<Engine> {
        Arc::new(self.engine_of(1.0))
    }

    fn engine_of(&self, cpu: f32) -> Engine {
        let capacity = Capacity { cpu, memory: Bytes(1 << 30), gpu: 0.0, limits: BTreeMap::new() };
        let artifacts = Arc::new(Artifacts::local(self.home.path()).unwrap());
        let span = |_: &str, _: &str, _: &str, _: u32| tracing::Span::none();
        let observer = Arc::new(Unobserved);
        let home = Home::new(self.home.path());
        Engine::new(self.store.clone(), home, artifacts, capacity, observer, self.stop.clone(), span)
    }

    /// Drives run `id` of `text`, new or as its journal has it, in an engine of its own. `below` is the text of every
    /// sub-flow.
    async fn drive(&self, id: &str, text: &str, below: &str) -> Ending {
        self.drive_in(self.engine(), id, text, below).await
    }

    async fn drive_in(&self, engine: Arc<Engine>, id: &str, text: &str, below: &str) -> Ending {
        let catalogue = Arc::new(Catalogue::new(&[TASKS]));
        let reading = swath_flow::read("flow.yaml", text.as_bytes());
        assert!(reading.diagnostics.is_empty(), "{:?}", reading.diagnostics);
        let load = |_: &Path| Ok(below.as_bytes().to_vec());
        let input = PlanInput {
            fire: None,
            catalogue: &catalogue,
            params: &[],
            params_folder: self.home.path(),
            folder: self.home.path(),
            now: Timestamp::UNIX_EPOCH,
            load: &load,
        };
        let plan = swath_plan::plan(&reading.flow.unwrap(), input).unwrap();
        let run = NewRun {
            id: id.to_owned(),
            flow: plan.name.clone(),
            source: "flow.yaml".to_owned(),
            text: text.into(),
            text_digest: plan.text_digest,
            params: "{}".to_owned(),
            plan: serde_json::to_string(&plan).unwrap().into(),
            state: RunState::Pending.name().to_owned(),
            created_at: 0,
        };
        let lease = self.store.lease_run(id).await.unwrap();
        self.store.create_run(run).await.unwrap();
        let drive = engine.drive(&lease, Arc::new(PlannedFlow::new(plan, catalogue, Timestamp::UNIX_EPOCH)));
        let ending = tokio::time::timeout(Duration::from_secs(60), drive).await.expect("the drive hangs").unwrap();
        drop(lease);
        ending
    }
}

fn completed(ending: &Ending) -> bool {
    assert!(ending.failures.is_empty(), "{:?}", ending.failures);
    ending.state == RunState::Completed
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_flows_leave_the_slots_to_their_steps() {
    let bench = Bench::new().await;
    let below = "flow: below\nparams: { n: { type: integer } }\nsteps:\n  \
                 small: { task: toy.work }\n  \
                 huge: { task: toy.work, after: small, with: { gibibytes: 64 } }\n";
    let text = "flow: above\ndefaults: { needs: { cpu: 1 } }\nsteps:\n  count: { task: toy.count, with: { to: 40 } }\n  \
                areas: { each: count.values, flow: below.yaml, with: { n: \"${item}\" } }\n";
    let ending = bench.drive("wide", text, below).await;
    assert!(completed(&ending));
    // Equal steps of later sub-flows take the results of the first.
    assert_eq!(ending.ran + ending.reused, 81);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_where_the_engine_asks_a_task_something_fails_the_step_alone() {
    let bench = Bench::new().await;
    let panics = "  bad: { task: toy.work, with: { panics: true } }\n";
    let text = format!("flow: above\nsteps:\n  good: {{ task: toy.work, with: {{ millis: 1 }} }}\n{panics}");
    let ending = bench.drive("flat", &text, "").await;
    assert_eq!((ending.state, ending.ran), (RunState::Failed, 1));
    let failed = &ending.failures[0];
    assert_eq!((failed.step.as_str(), failed.fault.code.as_str()), ("bad", "E202"));
    let text = "flow: above\nsteps:\n  area: { flow: below.yaml }\n";
    let ending = bench.drive("deep", text, &format!("flow: below\nsteps:\n{panics}")).await;
    assert_eq!(ending.state, RunState::Failed);
    let fault = &ending.failures[0].fault;
    assert!(fault.code == "E314" && fault.message.starts_with("step `area/bad` failed with E202: "), "{fault:?}");
    assert!(fault.message.contains("a defect in a task"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_a_gpu_where_there_is_none_is_told_who_asked() {
    let bench = Bench::new().await;
    for (id, step, words) in [
        ("flow", "needs: { gpu: 1 }", "lower its `needs`"),
        ("parameter", "with: { gpus: 1 }", "a parameter asks for it"),
    ] {
        let text = format!("flow: above\nsteps:\n  work: {{ task: toy.work, {step} }}\n");
        let ending = bench.drive(id, &text, "").await;
        let fault = &ending.failures[0].fault;
        let help = fault.help.as_deref().unwrap();
        assert!(fault.code == "E312" && help.contains(words) && help.contains("--gpus 1"), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_outputs_cannot_be_computed_has_failed_and_keeps_why() {
    let bench = Bench::new().await;
    let text = "flow: above\nsteps:\n  count: { task: toy.count, with: { to: 0 } }\n\
                outputs: { first: \"${steps.count.values[0]}\" }\n";
    let ending = bench.drive("none", text, "").await;
    assert!(ending.outputs.is_none());
    assert_eq!((ending.state, ending.failures[0].step.as_str()), (RunState::Failed, "outputs"));
    let row = bench.store.get_run("none").await.unwrap().row;
    assert_eq!(row.state, "failed");
    assert!(row.error.is_some_and(|error| error.starts_with("outputs: ") && error.contains("[E318]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_stop_or_cancel_is_heard_while_short_steps_come_and_go() {
    let bench = Bench::new().await;
    let text = "flow: above\nsteps:\n  count: { task: toy.count, with: { to: 200000 } }\n  \
                each: { each: count.values, task: toy.work, needs: { cpu: 0 }, cache: off }\n";
    let store = bench.store.clone();
    let wish = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        store.ask_to_cancel("busy").await.unwrap();
    });
    let ending = bench.drive("busy", text, "").await;
    wish.await.unwrap();
    assert_eq!(ending.state, RunState::Cancelled, "{} ran", ending.ran);
    // A mark of before is not meant for who takes the run up again.
    bench.store.ask_to_cancel("busy").await.unwrap();
    let stop = bench.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        stop.cancel();
    });
    let ending = bench.drive("busy", text, "").await;
    assert_eq!(ending.state, RunState::Running, "{} ran", ending.ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_cancel_outlives_a_lease_that_is_given_back_without_a_drive() {
    let bench = Bench::new().await;
    let text = "flow: above\nsteps:\n  work: { task: toy.work }\n";
    bench.stop.cancel();
    assert_eq!(bench.drive("queued", text, "").await.state, RunState::Running, "cut off before it did anything");
    let lease = bench.store.lease_run("queued").await.unwrap();
    let store = bench.store.clone();
    let asked = tokio::spawn(async move { ask::cancel(store.as_ref(), "queued").await });
    lease.term().cancel_asked().await;
    assert!(!asked.is_finished(), "nobody has heard it");
    drop(lease);
    asked.await.unwrap().unwrap();
    assert_eq!(bench.store.run_row("queued").await.unwrap().state, "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_much_is_passed_by_what_needs_little_and_not_for_ever() {
    const SMALL: usize = 60;
    for (patience, is_last) in [(Duration::from_secs(3600), true), (Duration::from_millis(100), false)] {
        let bench = Bench::new().await;
        let text = format!(
            "flow: above\nsteps:\n  count: {{ task: toy.count, with: {{ to: {SMALL} }} }}\n  \
             busy: {{ task: toy.mark, after: count, needs: {{ cpu: 1 }}, with: {{ folder: ., name: done, after: go }} }}\n  \
             small: {{ each: count.values, task: toy.work, with: {{ millis: 10 }}, cache: off }}\n  \
             large: {{ task: toy.work, after: count, needs: {{ cpu: 2 }}, cache: off }}\n"
        );
        let engine = Arc::new(bench.engine_of(2.0).with_patience(patience));
        let starts = async || -> Vec<String> {
            let events = bench.store.load_events("crowd", 0, u32::MAX).await.unwrap_or_default();
            events.into_iter().filter(|event| event.kind == "started").filter_map(|event| event.step).collect()
        };
        // One core is held until all small ones have passed, or none passes any more.
        let watch = async {
            loop {
                let passed = starts().await.iter().filter(|step| *step == "small").count() == SMALL;
                let turn = (0..4).any(|step| engine.missing("crowd", step) == Some(Missing::Turn));
                assert!(!is_last || !turn, "nobody has waited for an hour");
                if passed || turn {
                    break std::fs::write(bench.path("go"), "").unwrap();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (ending, ()) = tokio::join!(bench.drive_in(engine.clone(), "crowd", &text, ""), watch);
        assert!(completed(&ending));
        let order = starts().await;
        assert_eq!(order.len(), SMALL + 3);
        assert_eq!(order.last().unwrap() == "large", is_last, "with a patience of {patience:?}: {order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_work_is_done_once_and_again_only_where_it_failed() {
    let bench = Bench::new().await;
    let engine = bench.engine();
    let free = "needs: { cpu: 0 }";
    let text = format!("flow: above\nsteps:\n  same: {{ task: toy.work, {free}, with: {{ millis: 400 }} }}\n");
    let (one, other) = tokio::join!(
        bench.drive_in(engine.clone(), "one", &text, ""),
        bench.drive_in(engine.clone(), "other", &text, "")
    );
    assert!(completed(&one) && completed(&other));
    assert_eq!((one.ran + other.ran, one.reused + other.reused), (1, 1));
    // What waits for equal work keeps nobody behind it: the other members run meanwhile.
    // The equal ones end when the last of the others has.
    let text = format!(
        "flow: above\nsteps:\n  many: {{ each: \"${{['a', 'a', 'a', 'b', 'c', 'a']}}\", task: toy.mark, {free}, \
         with: {{ folder: ., name: \"${{item}}\", after: \"${{item == 'a' ? 'c' : item + '_begun'}}\" }} }}\n"
    );
    let ending = tokio::time::timeout(Duration::from_secs(60), bench.drive_in(engine.clone(), "many", &text, "")).await;
    let ending = ending.expect("nobody waits for who waits");
    assert!(completed(&ending));
    assert_eq!((ending.ran, ending.reused), (3, 3));
    // The one that waited for what failed does it itself.
    let text = format!("flow: above\nsteps:\n  asks: {{ task: toy.work, {free}, with: {{ down_until: mark }} }}\n");
    let (one, other) = tokio::join!(
        bench.drive_in(engine.clone(), "first", &text, ""),
        bench.drive_in(engine.clone(), "second", &text, "")
    );
    let mut states = [one.state, other.state].map(RunState::name);
    states.sort_unstable();
    assert_eq!(states, ["completed", "failed"]);
    assert_eq!(one.ran + other.ran, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_made_while_what_it_reads_changed_is_not_reused() {
    let bench = Bench::new().await;
    std::fs::write(bench.path("data"), "before").unwrap();
    let flow =
        |parameter: &str| format!("flow: above\nsteps:\n  a: {{ task: toy.work, with: {{ {parameter}: data }} }}\n");
    assert!(completed(&bench.drive("first", &flow("changes"), "").await));
    std::fs::write(bench.path("data"), "before").unwrap();
    let again = bench.drive("second", &flow("changes"), "").await;
    assert_eq!((again.ran, again.reused), (1, 0), "the first saw `changed`, or may have");
    let read = bench.drive("third", &flow("reads"), "").await;
    assert_eq!((read.ran, read.reused), (1, 0));
    let read = bench.drive("fourth", &flow("reads"), "").await;
    assert_eq!((read.ran, read.reused), (0, 1), "nothing changed meanwhile");
    // Variables that decide the result are in its key, those that are set.
    let parts = bench.store.results("fourth", None).await.unwrap().remove(0).parts.unwrap();
    let path = Digest::of(std::env::var("PATH").unwrap().as_bytes());
    assert_eq!(parts.variables.into_iter().collect::<Vec<_>>(), [("PATH".to_owned(), path)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_flow_is_tried_again_when_that_may_help_its_steps() {
    let bench = Bench::new().await;
    let below = "flow: below\nsteps:\n  done: { task: toy.work, with: { millis: 1 } }\n  \
                 asks: { task: toy.work, after: done, with: { down_until: mark } }\n";
    let flow = |retry: &str| format!("flow: above\nsteps:\n  area: {{ flow: below.yaml{retry} }}\n");
    let ending = bench.drive("once", &flow(""), below).await;
    assert_eq!(ending.state, RunState::Failed);
    std::fs::remove_file(bench.path("mark")).unwrap();
    let ending = bench.drive("again", &flow(", retry: { times: 2, wait: 1ms }"), below).await;
    assert!(completed(&ending));
    assert_eq!(bench.store.results("again.area", Some("done")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_keeps_is_there_for_its_next_attempt_until_it_has_succeeded() {
    let bench = Bench::new().await;
    let flow = |lines: usize, times: usize| {
        format!(
            "flow: keep\nsteps:\n  a: {{ task: toy.persist, with: {{ lines: {lines} }}, cache: off, retry: {{ times: {times}, wait: 1ms }} }}\n  \
             b: {{ task: toy.persist, with: {{ lines: 1 }}, cache: off }}\n"
        )
    };
    let ending = bench.drive("well", &flow(3, 2), "").await;
    assert!(completed(&ending));
    assert!(!bench.path("keep/well").exists());
    let ending = bench.drive("ill", &flow(5, 1), "").await;
    assert_eq!(ending.state, RunState::Failed);
    let left = std::fs::read_to_string(bench.path("keep/ill/a/lines")).unwrap();
    assert_eq!(left.lines().count(), 2, "a run that failed may go on");
    assert!(!bench.path("keep/ill/b").exists(), "what has succeeded keeps nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_goes_on_with_what_it_had() {
    let bench = Bench::new().await;
    let text = "flow: above\nsteps:\n  count: { task: toy.count, with: { to: 30 } }\n  \
                each: { each: count.values, task: toy.work, with: { millis: 20 }, cache: off }\n";
    let stop = bench.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        stop.cancel();
    });
    let first = bench.drive("cut", text, "").await;
    assert_eq!(first.state, RunState::Running);
    let rest = Bench { stop: CancellationToken::new(), ..bench }.drive("cut", text, "").await;
    assert!(completed(&rest));
    assert_eq!(first.ran + rest.ran, 31, "no step ran twice: {} and {}", first.ran, rest.ran);
    assert_eq!(json!(rest.reused), json!(0));
}

/// Drives a run whose first step ends when nobody can write to the store, until `seen` is there; then what is there is told,
/// and the run goes on to its end.
async fn marks_while_nothing_can_be_written(bench: &Bench, id: &str, text: &str, seen: &str) -> Vec<String> {
    let marks = bench.path(id);
    let there = |name: &str| marks.join(name).exists();
    let watch = async {
        while !there("waited_begun") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let options = SqliteConnectOptions::new().filename(bench.path("swath.db"));
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        std::fs::write(marks.join("locked"), "").unwrap();
        let begun = Instant::now();
        while !there(seen) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no `{seen}`");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Whatever else would start has had the time to.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let names = ["pure", "pure_too", "effect"].into_iter().filter(|name| there(name)).map(str::to_owned).collect();
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        names
    };
    let (ending, names) = tokio::join!(bench.drive(id, text, ""), watch);
    assert!(completed(&ending) && there("effect"));
    let row = bench.store.run_row(id).await.unwrap();
    assert!(check_run(bench.store.as_ref(), &row).await.unwrap().is_empty());
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pure_steps_of_a_run_that_was_never_cut_off_start_before_their_claim_is_durable() {
    let bench = Bench::new().await;
    let text = |id: &str| {
        let folder = bench.path(id);
        std::fs::create_dir(&folder).unwrap();
        let step = |name: &str, more: &str| {
            let folder = folder.display();
            format!("task: toy.mark, cache: off, with: {{ folder: '{folder}', name: {name}{more} }}")
        };
        format!(
            "flow: ahead\nsteps:\n  waits: {{ {} }}\n  pure: {{ after: waits, {} }}\n  \
             pure_too: {{ after: pure, {} }}\n  effect: {{ after: pure_too, {} }}\n",
            step("waited", ", effect: true, after: locked"),
            step("pure", ""),
            step("pure_too", ""),
            step("effect", ", effect: true"),
        )
    };
    let fresh = text("fresh");
    let names = marks_while_nothing_can_be_written(&bench, "fresh", &fresh, "pure_too").await;
    assert_eq!(names, ["pure", "pure_too"]);

    let cut_off = text("cut_off");
    let (stop, begun) = (bench.stop.clone(), bench.path("cut_off").join("waited_begun"));
    tokio::spawn(async move {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    });
    assert_eq!(bench.drive("cut_off", &cut_off, "").await.state, RunState::Running);
    std::fs::remove_file(bench.path("cut_off").join("waited_begun")).unwrap();
    let bench = Bench { stop: CancellationToken::new(), ..bench };
    let names = marks_while_nothing_can_be_written(&bench, "cut_off", &cut_off, "waited").await;
    assert!(names.is_empty(), "{names:?}");
}
