//! A world: servers on one store, a clock, people who ask for things, and misfortune. Everything in it follows from a seed.
//!
//! It is all in one thread, on tokio's clock that stands still while anything can go on and then jumps to what is next: an hour
//! passes in milliseconds. Who comes first is drawn at each call of the store.

use std::collections::VecDeque;
use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Map;
use swath_control::{Changes, Deployable, Fleet, Registry, Scheduler};
use swath_host::{Capacity, Engine, FlowText, ask};
use swath_plan::Catalogue;
use swath_schedule::DeploymentSpec;
use swath_store::{Artifacts, FireRow, Home, Looked, NewFire, fire_state};
use swath_task::{Bytes, TaskDef};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::audit::{Auditor, SCHEDULED, Verdict};
use crate::model::{Model, Mutant, Proof};
use crate::store::{Connection, Gate};
use crate::work::{WORLD, Work};

/// When every world begins, milliseconds since 1970: two minutes before the clocks of Berlin are set back.
pub const BEGIN: i64 = 1_761_440_280_000;
/// How long misfortune lasts, and schedules fire.
const STORM: u64 = 180_000;
/// By when all must have ended after that: a server may have begun by a clock that was an hour ahead.
const CALM: u64 = 3 * 3_600_000;
/// How long a lease holds without a sign of life.
const LEASE: u64 = 5_000;
/// Runs that a server drives at a time: others wait in line.
const PLACES: usize = 3;
/// Lines of the trace that are kept.
const KEPT: usize = 400;
/// The last of the kinds of things that happen.
const KINDS: u8 = 14;
const HOUR: i64 = 3_600_000;

const TASKS: &[TaskDef] = &[TaskDef::of::<Work>()];

/// What all worlds share: it never changes.
static CATALOGUE: LazyLock<Arc<Catalogue>> = LazyLock::new(|| Arc::new(Catalogue::new(&[TASKS])));
static HOME: LazyLock<(PathBuf, Arc<Artifacts>)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulation");
    std::fs::create_dir_all(&folder).expect("a folder");
    let artifacts = Arc::new(Artifacts::local(&folder).expect("a store of artifacts"));
    (folder, artifacts)
});

/// What servers share, and what is known of what they did.
pub struct World {
    pub model: Model,
    pub audit: Auditor,
    pub rng: SmallRng,
    /// How likely a call of the store goes wrong; 0 once misfortune is over.
    pub malice: f64,
    /// Whether who takes a run over is suspended at once.
    pub traps: bool,
    /// The first rule that was broken.
    pub broken: Option<String>,
    begun: Instant,
    digest: DefaultHasher,
    trace: VecDeque<String>,
    aloud: bool,
}

/// What became of a world.
pub struct Outcome {
    /// Of all that happened, in order.
    pub digest: u64,
    pub broken: Option<String>,
    /// What happened last.
    pub trace: Vec<String>,
    pub seen: std::collections::BTreeMap<&'static str, u64>,
}

impl World {
    /// Milliseconds since it began.
    pub fn millis(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    pub fn note(&mut self, what: Arguments<'_>) {
        let line = format!("{:>8} {what}", self.millis());
        line.hash(&mut self.digest);
        if self.aloud {
            eprintln!("{line}");
        }
        if self.trace.len() == KEPT {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub fn judge(&mut self, verdict: Verdict) {
        if let (Err(broken), None) = (verdict, &self.broken) {
            self.note(format_args!("BROKEN: {broken}"));
            self.broken = Some(broken);
        }
    }

    /// Adds a fire; `false`: it is there already, or its deployment is not to have any.
    pub fn insert_fire(&mut self, by: &str, name: &str, fire: &NewFire, looked: Option<Looked>) -> bool {
        let Some(id) = self.model.insert_fire(name, fire, looked) else { return false };
        self.note(format_args!("{by} adds {id} to {name}: {} {}, due {}", fire.cause, fire.key, fire.due - BEGIN));
        let verdict = self.audit.fired(&self.model, id);
        self.judge(verdict);
        true
    }
}

/// Lives through a world. `mutant`: its store breaks this rule. `aloud`: what happens is printed.
pub fn live(seed: u64, mutant: Option<Mutant>, aloud: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let world = runtime.block_on(async {
        let mut rng = SmallRng::seed_from_u64(seed);
        let proof = if rng.random() { Proof::Lock } else { Proof::Clock(LEASE) };
        let world = World {
            model: Model::new(proof, mutant),
            audit: Auditor::default(),
            malice: 0.0,
            traps: false,
            broken: None,
            begun: Instant::now(),
            digest: DefaultHasher::new(),
            trace: VecDeque::new(),
            aloud,
            rng,
        };
        let world = Arc::new(Mutex::new(world));
        WORLD.set(Some(world.clone()));
        let mut life = Life::new(world.clone());
        life.storm().await;
        life.calm().await;
        world
    });
    // With all that servers that were killed have left.
    drop(runtime);
    WORLD.set(None);
    let world = &mut *world.lock().unwrap_or_else(PoisonError::into_inner);
    let (digest, broken) = (world.digest.finish(), world.broken.take());
    Outcome { digest, broken, trace: world.trace.drain(..).collect(), seen: std::mem::take(&mut world.audit.seen) }
}

/// A process that serves.
struct Server {
    connection: Arc<Connection>,
    fleet: Fleet,
    registry: Registry,
    tasks: Vec<JoinHandle<()>>,
}

/// A place for a server, and how far its clock is off.
struct Machine {
    name: &'static str,
    server: Option<Server>,
    /// When the next server starts, or this one is let go on.
    until: u64,
    clock: Arc<AtomicI64>,
}

struct Life {
    world: Arc<Mutex<World>>,
    machines: Vec<Machine>,
    owners: u64,
    /// Of whoever uses the command line.
    registry: Registry,
    names: Vec<&'static str>,
    texts: Vec<String>,
    /// Deployments that nobody has paused, changed or deleted.
    untouched: Vec<bool>,
    keys: u64,
    /// What happens in this world.
    kinds: Vec<u8>,
}

impl Life {
    fn new(world: Arc<Mutex<World>>) -> Self {
        let person = Connection::new(world.clone(), 0, "person");
        let registry = Registry::new(person, CATALOGUE.clone());
        let rng = &mut world.lock().unwrap_or_else(PoisonError::into_inner).rng;
        let machines = ["anna", "bert", "cleo"].into_iter().take(rng.random_range(1..=3));
        let machine = |name| Machine { name, server: None, until: 0, clock: Arc::default() };
        let machines = machines.map(machine).collect();
        let names: Vec<&'static str> = ["first", "second", "third"].into_iter().take(rng.random_range(1..=3)).collect();
        let texts = (0..names.len()).map(|at| text(rng, names[at], at.checked_sub(1).map(|at| names[at]))).collect();
        let untouched = vec![true; names.len()];
        let mut kinds: Vec<u8> = (0..=KINDS).filter(|_| rng.random_bool(0.4)).collect();
        kinds.push(rng.random_range(0..=KINDS));
        Self { world: world.clone(), machines, owners: 0, registry, names, texts, untouched, keys: 0, kinds }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, below: usize) -> usize {
        self.world().rng.random_range(0..below)
    }

    /// What the clock of a person shows.
    fn now(&self) -> Timestamp {
        instant(BEGIN + self.world().millis() as i64)
    }

    async fn storm(&mut self) {
        for at in 0..self.names.len() {
            self.deploy(at).await.expect("a good flow");
        }
        for at in 0..self.machines.len() {
            self.start(at);
        }
        self.world().malice = [0.0, 0.01, 0.05][self.draw(3)];
        self.world().traps = self.draw(4) == 0;
        let rate = [2_000, 6_000, 20_000][self.draw(3)];
        while self.world().millis() < STORM && self.world().broken.is_none() {
            let wait = self.draw(rate) as u64;
            sleep(Duration::from_millis(wait)).await;
            self.mend();
            self.act();
        }
    }

    /// Misfortune is over, and everything ends.
    async fn calm(&mut self) {
        self.world().malice = 0.0;
        self.world().traps = false;
        self.world().note(format_args!("calm"));
        for machine in &mut self.machines {
            (machine.until, _) = (0, machine.clock.store(0, Ordering::Relaxed));
        }
        self.mend();
        let by = self.world().millis() + CALM;
        while self.world().broken.is_none() {
            sleep(Duration::from_secs(5)).await;
            self.mend();
            // Somebody may have asked for a pause only just now.
            for name in self.paused() {
                let _ = self.registry.store().set_paused(&name, false, self.now().as_millisecond()).await;
            }
            let paused = self.runs(&["paused"]);
            for run in paused {
                let Some(fleet) = self.fleet() else { break };
                let _ = fleet.resume(&run).await;
            }
            let world = &mut *self.world();
            match world.audit.ended(&world.model) {
                // Schedules go on until the storm would have been over.
                Ok(()) if world.millis() > STORM + 5_000 => break,
                Err(open) if world.millis() > by => world.judge(Err(format!("it does not end: {open}"))),
                _ => {}
            }
        }
        let world = &mut *self.world();
        for (name, _) in self.names.iter().zip(&self.untouched).filter(|(_, untouched)| **untouched) {
            let verdict = covers(&world.model, name);
            world.judge(verdict);
        }
    }

    fn fleet(&self) -> Option<Fleet> {
        self.machines.iter().find_map(|machine| Some(machine.server.as_ref()?.fleet.clone()))
    }

    /// Runs of the store in one of these states.
    fn runs(&self, states: &[&str]) -> Vec<String> {
        let world = self.world();
        let rows = world.model.runs.values().filter(|run| states.contains(&run.row.state.as_str()));
        rows.map(|run| run.row.id.clone()).collect()
    }

    /// Deployments that are paused.
    fn paused(&self) -> Vec<String> {
        let world = self.world();
        let rows = world.model.deployments.values().map(|one| &one.row);
        rows.filter(|row| row.paused).map(|row| row.name.clone()).collect()
    }

    fn start(&mut self, at: usize) {
        self.owners += 1;
        let machine = &mut self.machines[at];
        let connection = Connection::new(self.world.clone(), self.owners, machine.name);
        let (world, clock) = (self.world.clone(), machine.clock.clone());
        let clock = move || {
            let millis = world.lock().unwrap_or_else(PoisonError::into_inner).millis();
            BEGIN + millis as i64 + clock.load(Ordering::Relaxed)
        };
        let capacity = Capacity { cpu: 4.0, memory: Bytes(1 << 30), gpu: 0.0, limits: Default::default() };
        let (stop, changes) = (CancellationToken::new(), Arc::new(Changes::default()));
        let (folder, artifacts) = &*HOME;
        let engine = Engine::new(
            connection.clone(),
            Home::new(folder),
            artifacts.clone(),
            capacity,
            changes.clone(),
            stop.clone(),
            |_, _, _, _| tracing::Span::none(),
        );
        let engine = Arc::new(engine.wound_to(clock() as u64));
        let fleet = Fleet::new(engine, CATALOGUE.clone(), changes, stop, PLACES);
        let registry = Registry::new(connection.clone(), CATALOGUE.clone());
        let scheduler = Scheduler::new(fleet.clone(), registry.clone(), Arc::new(Notify::new()));
        let adopting = fleet.clone();
        let adopting = async move {
            // One that cannot look at once looks again.
            let _ = adopting.adopt().await;
            adopting.keep_adopting().await;
        };
        let tasks = vec![
            tokio::spawn(connection.clone().keep()),
            tokio::spawn(adopting),
            tokio::spawn(scheduler.run_by(move || instant(clock()))),
        ];
        machine.server = Some(Server { connection, fleet, registry, tasks });
        let (name, owner) = (machine.name, self.owners);
        self.world().note(format_args!("{name} starts as process {owner}"));
    }

    /// Brings back what has been away for long enough.
    fn mend(&mut self) {
        let now = self.world().millis();
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            if machine.until > now {
                continue;
            }
            match &machine.server {
                None => self.start(at),
                // Told to stop, and done with it.
                Some(server) if server.fleet.is_draining() && server.fleet.live() == 0 => self.kill(at, now),
                Some(server) if server.connection.gate() != Gate::Open => {
                    server.connection.set(Gate::Open);
                    self.world().note(format_args!("{} goes on", machine.name));
                }
                Some(_) => {}
            }
        }
    }

    /// Something happens.
    fn act(&mut self) {
        let at = self.draw(self.machines.len());
        let which = self.draw(self.names.len());
        let away = 1 + self.draw(20_000) as u64 + self.world().millis();
        // Each world has kinds of its own, so that what is rare is not hidden behind what is common.
        match self.kinds[self.draw(self.kinds.len())] {
            0 => self.kill(at, away),
            1 => self.away(at, Gate::Stopped, away),
            2 => self.away(at, Gate::Cut, away),
            3 => self.drain(at),
            4 => self.set_clocks(at),
            5 => self.ask(which, |registry, name, now| async move {
                let _ = registry.store().set_paused(name, true, now.as_millisecond()).await;
            }),
            6 => self.ask(which, |registry, name, now| async move {
                let _ = registry.store().set_paused(name, false, now.as_millisecond()).await;
            }),
            7 => self.redeploy(which),
            8 => self.replace(which),
            9 => self.ask(which, |registry, name, now| async move {
                let _ = registry.backfill(name, instant(BEGIN), now, false, now).await;
            }),
            10 => self.trigger(which),
            11 => self.of_run(|registry, run| async move {
                let _ = ask::cancel(registry.store().as_ref(), &run).await;
            }),
            12 => self.of_run(|registry, run| async move {
                let _ = ask::pause(registry.store().as_ref(), &run).await;
            }),
            13 => self.by_server(at, |fleet, run| async move {
                let _ = fleet.cancel(&run).await;
            }),
            _ => self.by_server(at, |fleet, run| async move {
                let _ = fleet.resume(&run).await;
            }),
        }
    }

    fn kill(&mut self, at: usize, until: u64) {
        let machine = &mut self.machines[at];
        let Some(server) = machine.server.take() else { return };
        server.connection.set(Gate::Dead);
        server.tasks.iter().for_each(JoinHandle::abort);
        machine.until = until;
        let world = &mut *self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.model.died(server.connection.owner);
        world.note(format_args!("{} is killed", machine.name));
    }

    fn away(&mut self, at: usize, gate: Gate, until: u64) {
        let machine = &mut self.machines[at];
        let Some(server) = machine.server.as_ref().filter(|server| server.connection.gate() == Gate::Open) else {
            return;
        };
        server.connection.set(gate);
        machine.until = until;
        let name = machine.name;
        self.world().note(format_args!("{name} is {gate:?}"));
    }

    /// A server is told to stop, and does so in good order.
    fn drain(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(server) = machine.server.as_ref().filter(|server| !server.fleet.is_draining()) else { return };
        let fleet = server.fleet.clone();
        // Another one comes when it is killed at the latest.
        tokio::spawn(async move { fleet.drain(Duration::from_secs(3)).await });
        let name = machine.name;
        self.world().note(format_args!("{name} is told to stop"));
    }

    fn set_clocks(&mut self, at: usize) {
        let off = [-HOUR, 0, HOUR][self.draw(3)];
        // Those who share a file share a clock.
        let alike = self.world().model.proof == Proof::Lock;
        let clocks = self.machines.iter().enumerate().filter(|(other, _)| alike || *other == at);
        clocks.for_each(|(_, machine)| machine.clock.store(off, Ordering::Relaxed));
        let name = if alike { "all" } else { self.machines[at].name };
        self.world().note(format_args!("the clock of {name} is {off} off"));
    }

    fn deployable(&self, at: usize) -> Deployable {
        let (text, name) = (&self.texts[at], self.names[at]);
        Deployable {
            source: format!("/flows/{name}.yaml"),
            flow: FlowText::new("flow.yaml", "/flows", text.clone().into_bytes()),
            params: Vec::new(),
            params_folder: "/flows".into(),
            name: Some(name.to_owned()),
            schedule: None,
            paused: false,
        }
    }

    async fn deploy(&self, at: usize) -> Result<(), String> {
        let deployed = self.registry.deploy(self.deployable(at), self.now()).await;
        deployed.map(drop).map_err(|error| format!("{error}: {error:?}"))
    }

    /// The same again, or with another schedule; also of one that was deleted.
    fn redeploy(&mut self, at: usize) {
        self.untouched[at] = false;
        if self.draw(2) == 0 {
            let every = self.draw(30) + 7;
            let text = &self.texts[at];
            let (before, after) = text.split_once("schedule: {").unwrap_or((text, ""));
            let end = after.find("end:").unwrap_or(0);
            self.texts[at] = format!("{before}schedule: {{ every: {every}s, {}", &after[end..]);
        }
        let (given, now, registry) = (self.deployable(at), self.now(), self.registry.clone());
        tokio::spawn(async move { registry.deploy(given, now).await.map(drop).map_err(drop) });
    }

    /// Deletes a deployment, and mostly deploys it anew.
    fn replace(&mut self, at: usize) {
        self.untouched[at] = false;
        let again = self.draw(4) > 0;
        let (given, now, registry, name) = (self.deployable(at), self.now(), self.registry.clone(), self.names[at]);
        tokio::spawn(async move {
            let _ = registry.store().delete_deployment(name).await;
            if again {
                let _ = registry.deploy(given, now).await;
            }
        });
    }

    fn ask<W>(&mut self, which: usize, what: impl FnOnce(Registry, &'static str, Timestamp) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.untouched[which] = false;
        tokio::spawn(what(self.registry.clone(), self.names[which], self.now()));
    }

    /// A request comes, and comes again, at any servers.
    fn trigger(&mut self, which: usize) {
        self.keys += 1;
        let (key, name, now) = (format!("key {}", self.keys), self.names[which], self.now());
        let registries: Vec<Registry> =
            self.machines.iter().filter_map(|machine| Some(machine.server.as_ref()?.registry.clone())).collect();
        for registry in registries.into_iter().take(2) {
            let key = Some(key.clone());
            tokio::spawn(async move {
                registry.trigger(name, "by_hand", Map::new(), key, now).await.map(drop).map_err(drop)
            });
        }
    }

    fn some_run(&self) -> Option<String> {
        let runs = self.runs(&["pending", "running", "paused", "cancelling", "failed", "cancelled"]);
        (!runs.is_empty()).then(|| runs[self.draw(runs.len())].clone())
    }

    fn of_run<W: Future<Output = ()> + Send + 'static>(&self, what: impl FnOnce(Registry, String) -> W) {
        if let Some(run) = self.some_run() {
            tokio::spawn(what(self.registry.clone(), run));
        }
    }

    fn by_server<W: Future<Output = ()> + Send + 'static>(&self, at: usize, what: impl FnOnce(Fleet, String) -> W) {
        if let (Some(run), Some(server)) = (self.some_run(), &self.machines[at].server) {
            tokio::spawn(what(server.fleet.clone(), run));
        }
    }
}

fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

/// A flow that is deployed: when it goes is drawn, and whether it comes after another.
fn text(rng: &mut SmallRng, name: &str, after: Option<&str>) -> String {
    let rule = match rng.random_range(0..3) {
        0 => "cron: \"*/20 * * * * *\", zone: Europe/Berlin".to_owned(),
        _ => format!("every: {}s", rng.random_range(7..40)),
    };
    let catch_up = ["none", "last", "all"][rng.random_range(0..3)];
    let jitter = ["", ", jitter: 5s"][rng.random_range(0..2)];
    let policy = ["skip", "queue", "allow", "cancel"][rng.random_range(0..4)];
    let most = rng.random_range(1..3);
    let end = instant(BEGIN + STORM as i64);
    let trigger = after.filter(|_| rng.random()).map(|after| format!("\n  triggers: [{{ after: {after} }}]"));
    let failing = ["stop", "continue", "collect"][rng.random_range(0..3)];
    format!(
        "flow: {name}
deployment:
  schedule: {{ {rule}, end: \"{end}\", catch_up: {catch_up}{jitter} }}
  while_running: {policy}
  max_running: {most}{}
steps:
  one: {{ task: sim.work, timeout: 20s, retry: {{ times: 1, wait: 3s }} }}
  two: {{ task: sim.work, with: {{ pure: true }}, cache: off, after: one, each: \"${{[1, 2]}}\", timeout: 20s, on_failure: {failing} }}
  three: {{ task: sim.work, after: two, timeout: 20s }}
",
        trigger.unwrap_or_default()
    )
}

/// Whether a deployment that nobody has touched ran for each instant of its schedule, or made up for it.
fn covers(model: &Model, name: &str) -> Verdict {
    let deployment = model.deployment(name).map_err(|error| error.to_string())?;
    let spec: DeploymentSpec = serde_json::from_str(&deployment.row.spec).map_err(|error| error.to_string())?;
    let Some(schedule) = spec.schedule.as_ref() else { return Ok(()) };
    let compiled = schedule.compile().map_err(|problems| format!("{problems:?}"))?;
    let scheduled = |fire: &&FireRow| fire.deployment == name && SCHEDULED.contains(&fire.cause.as_str());
    let mut fires: Vec<&FireRow> = model.fires.values().map(|fire| &fire.row).filter(scheduled).collect();
    fires.sort_by_key(|fire| fire.at);
    let end = instant(BEGIN + STORM as i64);
    let due: Vec<i64> =
        compiled.fires(instant(deployment.row.created_at), end).map(|fire| fire.at.as_millisecond()).collect();
    let made: Vec<i64> = fires.iter().map(|fire| fire.at).collect();
    if schedule.catch_up == swath_schedule::CatchUp::All && made != due {
        return Err(format!("I12: `{name}` was due at {due:?} and has occasions at {made:?}"));
    }
    if schedule.catch_up == swath_schedule::CatchUp::None {
        return Ok(());
    }
    // What was left out is covered by the next, so that intervals of runs meet.
    let mut covered: Option<i64> = None;
    for fire in fires.iter().filter(|fire| fire.state == fire_state::STARTED) {
        let since = fire.since.ok_or_else(|| format!("the occasion {} of `{name}` covers nothing", fire.key))?;
        if let Some(before) = covered.filter(|before| since > *before) {
            return Err(format!("`{name}`: nobody covers {before} to {since}"));
        }
        covered = Some(covered.map_or(fire.at, |before| before.max(fire.at)));
    }
    Ok(())
}
