//! The store as one server sees it: the model, behind a connection on which all goes wrong that can.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use swath_store::{
    Append, Broken, CacheEntry, CacheFilter, CacheRow, Collected, DeploymentRow, Deployments, Error, FireChange,
    FireFilter, FireRow, Follows, Lineage, LogBatch, LogFilter, Looked, Metric, NewFire, NewRun, NewToken, NewVersion,
    Retention, RunFilter, RunLease, RunRow, Store, StoredEvent, StoredLogLine, StoredResult, StoredRun, Telling, Terms,
    TokenRow, Tokens, Version, Vocabulary, Wish, Worker, WorkerRow, Workers, fire_state,
};
use swath_task::Digest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::model::{Model, Proof};
use crate::world::{BEGIN, World};

/// How often whoever drives runs shows that it lives, and hears what is asked of them.
const LOOK: Duration = Duration::from_millis(400);

/// How long one that was trapped is suspended.
const TRAPPED: Duration = Duration::from_secs(8);

/// The connection of one process.
pub struct Connection {
    own: Weak<Self>,
    world: Arc<Mutex<World>>,
    /// Of the process: no two share one.
    pub owner: u64,
    /// What people call the process.
    pub name: &'static str,
    gate: Mutex<Gate>,
    opened: Notify,
    terms: Arc<Terms>,
    /// The leases it has, and when they were last renewed.
    held: Arc<Mutex<BTreeMap<String, (u64, Instant)>>>,
    /// The leases it has dropped.
    dropped: Arc<Mutex<Vec<(String, u64)>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The process is suspended.
    Stopped,
    /// The database cannot be reached.
    Cut,
    /// The process is dead.
    Dead,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// It is refused, and nothing happened.
    Refused,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done, sent again because the answer was lost, and done once more.
    Twice,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    pub fn new(world: Arc<Mutex<World>>, owner: u64, name: &'static str) -> Arc<Self> {
        let (terms, held, dropped) = Default::default();
        let (gate, opened) = (Mutex::new(Gate::Open), Notify::new());
        Arc::new_cyclic(|own| Self { own: own.clone(), world, owner, name, gate, opened, terms, held, dropped })
    }

    pub fn gate(&self) -> Gate {
        *lock(&self.gate)
    }

    pub fn set(&self, gate: Gate) {
        *lock(&self.gate) = gate;
        self.opened.notify_waiters();
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Waits while the process is suspended, for ever once it is dead: nothing that it would have done comes about.
    async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if matches!(self.gate(), Gate::Open | Gate::Cut) {
                return;
            }
            opened.await;
        }
    }

    /// Takes its time, which decides who comes first.
    async fn dawdle(&self) {
        let (turns, millis) = {
            let world = &mut *self.world();
            let slow = world.malice > 0.0 && world.rng.random_bool(0.03);
            (world.rng.random_range(0..3), if slow { world.rng.random_range(1..3_000) } else { 0 })
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
    }

    fn unreachable(&self) -> Error {
        Error::Unreachable { place: PathBuf::from("model"), reason: "the simulation says so".to_owned() }
    }

    async fn call<T: Send>(
        &self,
        may: &[Fate],
        mut work: impl FnMut(&mut World) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        self.pass().await;
        self.dawdle().await;
        self.pass().await;
        let answer = {
            let world = &mut *self.world();
            let fate = match self.gate() {
                Gate::Cut => Fate::Refused,
                _ if world.malice > 0.0 && world.rng.random_bool(world.malice) => {
                    may[world.rng.random_range(0..may.len())]
                }
                _ => Fate::Good,
            };
            let answer = match fate {
                Fate::Refused => Err(self.unreachable()),
                Fate::Good => work(world),
                Fate::Lost => work(world).and_then(|answer| {
                    world.note(format_args!("{} does not hear the answer", self.name));
                    drop(answer);
                    Err(self.unreachable())
                }),
                Fate::Twice => work(world).and_then(|_| work(world)),
            };
            self.give_back(world);
            answer
        };
        self.dawdle().await;
        self.pass().await;
        answer
    }

    async fn read<T: Send>(&self, mut work: impl FnMut(&mut Model) -> Result<T, Error> + Send) -> Result<T, Error> {
        self.call(&[Fate::Good, Fate::Good, Fate::Refused], move |world| work(&mut world.model)).await
    }

    async fn write<T: Send>(&self, work: impl FnMut(&mut World) -> Result<T, Error> + Send) -> Result<T, Error> {
        self.call(&[Fate::Refused, Fate::Lost], work).await
    }

    /// A write of statements that may be carried out again.
    async fn alter<T: Send>(&self, work: impl FnMut(&mut World) -> Result<T, Error> + Send) -> Result<T, Error> {
        self.call(&[Fate::Refused, Fate::Lost, Fate::Twice], work).await
    }

    /// Shows that the process lives, gives up what it could not show it for, and hears what is asked of its runs.
    pub async fn keep(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            self.pass().await;
            self.give_back(&mut self.world());
            if lock(&self.held).is_empty() {
                continue;
            }
            if self.gate() == Gate::Open {
                let world = &mut *self.world();
                let now = world.millis();
                let mut lost = Vec::new();
                for (run, (epoch, renewed)) in lock(&self.held).iter_mut() {
                    match world.model.renew(run, self.owner, *epoch, now) {
                        true => *renewed = Instant::now(),
                        false => lost.push(run.clone()),
                    }
                }
                lost.iter().for_each(|run| self.lose(world, run));
                // It takes no time to read.
                let now = std::time::Instant::now() + Duration::from_secs(1);
                self.terms.tell_read(now, &world.model.wishes());
            }
            let world = &mut *self.world();
            if let Proof::Clock(lease) = world.model.proof {
                let over = |renewed: &Instant| renewed.elapsed() > Duration::from_millis(lease);
                let over: Vec<String> =
                    lock(&self.held).iter().filter(|(_, (_, at))| over(at)).map(|(run, _)| run.clone()).collect();
                over.iter().for_each(|run| self.lose(world, run));
            }
        }
    }

    fn lose(&self, world: &mut World, run: &str) {
        let Some((epoch, _)) = lock(&self.held).remove(run) else { return };
        world.note(format_args!("{} has lost lease {epoch} of {run}", self.name));
        world.audit.saw("lost leases");
        self.terms.live().iter().filter(|term| term.run() == run && term.epoch() == epoch).for_each(|term| term.lose());
    }

    /// Gives back what was dropped; a process that is suspended or dead does nothing.
    fn give_back(&self, world: &mut World) {
        if !matches!(self.gate(), Gate::Open | Gate::Cut) {
            return;
        }
        for (run, epoch) in std::mem::take(&mut *lock(&self.dropped)) {
            let ours = lock(&self.held).get(&run).is_some_and(|(held, _)| *held == epoch);
            if ours {
                lock(&self.held).remove(&run);
                world.note(format_args!("{} gives back lease {epoch} of {run}", self.name));
                world.model.give_back(&run, self.owner, epoch);
            }
        }
    }

    fn take(&self, world: &mut World, run: &str) -> Result<RunLease, Error> {
        let now = world.millis();
        let holder = world.model.holder(run, now);
        let epoch = world.model.lease(run, self.owner, now)?;
        world.note(format_args!("{} has lease {epoch} of {run}", self.name));
        let verdict = world.audit.leased(run, epoch, self.owner, holder);
        world.judge(verdict);
        lock(&self.held).insert(run.to_owned(), (epoch, Instant::now()));
        if world.traps && epoch > 1 && self.gate() == Gate::Open {
            // Who has taken a run over is suspended before it writes: who had it may come back first.
            world.note(format_args!("{} is trapped", self.name));
            self.set(Gate::Stopped);
            let own = self.own.clone();
            tokio::spawn(async move {
                sleep(TRAPPED).await;
                own.upgrade().filter(|own| own.gate() == Gate::Stopped).inspect(|own| own.set(Gate::Open));
            });
        }
        let (id, own) = (run.to_owned(), self.own.clone());
        Ok(self.terms.begin(run, epoch, move || {
            let Some(own) = own.upgrade() else { return };
            lock(&own.dropped).push((id, epoch));
            // In the middle of a call that gives it back when it is done.
            if let Ok(mut world) = own.world.try_lock() {
                own.give_back(&mut world);
            }
        }))
    }
}

#[async_trait]
impl Store for Connection {
    fn place(&self) -> String {
        "model".to_owned()
    }

    async fn create_run(&self, run: NewRun) -> Result<(), Error> {
        let created = |world: &mut World| {
            world.model.create_run(run.clone())?;
            world.note(format_args!("{} pins {}", self.name, run.id));
            let verdict = world.audit.created(&run);
            world.judge(verdict);
            Ok(())
        };
        self.alter(created).await
    }

    async fn append(&self, append: Append) -> Result<u64, Error> {
        let appended = |world: &mut World| {
            // The clock of the machine that simulates has no say.
            let append = Append { at: BEGIN + world.millis() as i64, ..append.clone() };
            let seq = match world.model.append(&append) {
                Ok(seq) => seq,
                Err(error) => {
                    world.note(format_args!("{} is refused: {error}", self.name));
                    world.audit.saw(if matches!(error, Error::LeaseLost { .. }) { "fenced" } else { "refused" });
                    return Err(error);
                }
            };
            let kinds: Vec<&str> = append.events.iter().map(|event| event.payload.as_str()).collect();
            let told = kinds.iter().map(|payload| without_times(payload)).collect::<Vec<_>>().join(" ");
            world.note(format_args!("{} writes {} up to {seq}: {told}", self.name, append.run));
            let run = &world.model.runs[&append.run];
            let verdict = world.audit.appended(&append, seq, &run.row.state, run.results.len());
            world.judge(verdict);
            Ok(seq)
        };
        self.write(appended).await
    }

    async fn lease_run(&self, run: &str) -> Result<RunLease, Error> {
        self.write(|world| self.take(world, run)).await
    }

    async fn holders(&self, runs: &[String]) -> Result<HashMap<String, String>, Error> {
        let held = |world: &mut World| {
            let now = world.millis();
            let holder = |run: &String| Some((run.clone(), format!("process {}", world.model.holder(run, now)?)));
            Ok(runs.iter().filter_map(holder).collect())
        };
        self.call(&[Fate::Good, Fate::Refused], held).await
    }

    async fn ask_to_cancel(&self, run: &str) -> Result<(), Error> {
        let asked = |world: &mut World| {
            world.note(format_args!("{} asks {run} to end", self.name));
            world.model.claims.entry(run.to_owned()).or_default().cancel = true;
            Ok(())
        };
        self.alter(asked).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: true, pause: None });
        Ok(())
    }

    async fn ask_to_pause(&self, run: &str, pause: bool) -> Result<(), Error> {
        let asked = |world: &mut World| {
            world.note(format_args!("{} asks {run} to pause: {pause}", self.name));
            world.model.claims.entry(run.to_owned()).or_default().pause = Some(pause);
            Ok(())
        };
        self.alter(asked).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: false, pause: Some(pause) });
        Ok(())
    }

    async fn mark_served(&self, run: &str, request: &str) -> Result<(), Error> {
        let marked = |world: &mut World| {
            world.model.claims.entry(run.to_owned()).or_default().served = Some(request.to_owned());
            Ok(())
        };
        self.alter(marked).await
    }

    async fn served_by(&self, run: &str) -> Result<Option<String>, Error> {
        self.read(|model| Ok(model.claims.get(run).and_then(|claim| claim.served.clone()))).await
    }

    async fn refused(&self, run: &str) -> Result<u64, Error> {
        self.read(|model| Ok(model.claims.get(run).map_or(0, |claim| claim.refused))).await
    }

    async fn load_events(&self, run: &str, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        let page = |model: &mut Model| {
            let events = &model.run(run)?.events;
            Ok(events.iter().filter(|event| event.seq > after).take(limit as usize).cloned().collect())
        };
        self.read(page).await
    }

    async fn get_run(&self, run: &str) -> Result<StoredRun, Error> {
        let stored = |model: &mut Model| {
            let run = model.run(run)?;
            let new = run.new.clone();
            let (text, text_digest) = (new.text, new.text_digest);
            Ok(StoredRun {
                row: run.row.clone(),
                text: text.to_string(),
                text_digest,
                params: new.params,
                plan: new.plan.to_string(),
            })
        };
        self.read(stored).await
    }

    async fn run_row(&self, run: &str) -> Result<RunRow, Error> {
        self.read(|model| Ok(model.run(run)?.row.clone())).await
    }

    async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
        self.read(|model| Ok(model.list_runs(filter))).await
    }

    async fn results(&self, run: &str, step: Option<&str>) -> Result<Vec<StoredResult>, Error> {
        let stored = |model: &mut Model| {
            let results = model.run(run)?.results.values();
            Ok(results.filter(|one| step.is_none_or(|step| one.step == step)).cloned().collect())
        };
        self.read(stored).await
    }

    async fn close(&self) {}

    // Nothing here keeps what can be reused, tells figures, writes logs, collects or names where outputs go.

    async fn cache_get(&self, _: &Digest, _: i64) -> Result<Option<CacheEntry>, Error> {
        unreachable!("steps of a simulation are effects")
    }
    async fn cache_touch(&self, _: &Digest, _: i64) -> Result<(), Error> {
        unreachable!("steps of a simulation are effects")
    }
    async fn cache_forget(&self, _: &Digest) -> Result<(), Error> {
        unreachable!("steps of a simulation are effects")
    }
    async fn cache_list(&self, _: &CacheFilter) -> Result<Vec<CacheRow>, Error> {
        unreachable!("steps of a simulation are effects")
    }
    async fn key_history(&self, _: &str, _: &str, _: &str, _: u32) -> Result<Vec<StoredResult>, Error> {
        unreachable!("steps of a simulation are effects")
    }
    async fn lineage(&self, _: &Digest) -> Result<Vec<Lineage>, Error> {
        unreachable!("steps of a simulation make no artifacts")
    }
    async fn referenced(&self) -> Result<HashSet<Digest>, Error> {
        unreachable!("steps of a simulation make no artifacts")
    }
    async fn metrics(&self, _: &str) -> Result<Vec<Metric>, Error> {
        unreachable!("steps of a simulation tell no figures")
    }
    async fn append_logs(&self, _: LogBatch) -> Result<(), Error> {
        unreachable!("a simulation keeps no logs")
    }
    async fn read_logs(&self, _: &str, _: &LogFilter) -> Result<Vec<StoredLogLine>, Error> {
        unreachable!("a simulation keeps no logs")
    }
    async fn keep_outputs(&self, _: &str, _: &Path) -> Result<(), Error> {
        unreachable!("a simulation puts outputs nowhere")
    }
    async fn outputs_of(&self, _: &str) -> Result<Option<PathBuf>, Error> {
        unreachable!("a simulation puts outputs nowhere")
    }
    async fn audit(&self, _: &Vocabulary) -> Result<Vec<Broken>, Error> {
        unreachable!("the auditor looks at every write")
    }
    async fn collect(&self, _: &Retention) -> Result<Collected, Error> {
        unreachable!("a simulation is too short to collect")
    }
}

#[async_trait]
impl Deployments for Connection {
    async fn deploy(&self, version: NewVersion) -> Result<DeploymentRow, Error> {
        let deployed = |world: &mut World| {
            let row = world.model.deploy(version.clone())?;
            world.note(format_args!("{} deploys {} as version {}", self.name, row.name, row.version));
            Ok(row)
        };
        self.alter(deployed).await
    }

    async fn deployments(&self) -> Result<Vec<DeploymentRow>, Error> {
        self.read(|model| Ok(model.deployments.values().map(|one| one.row.clone()).collect())).await
    }

    async fn deployment(&self, name: &str) -> Result<DeploymentRow, Error> {
        self.read(|model| Ok(model.deployment(name)?.row.clone())).await
    }

    async fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        self.read(|model| model.versions(name)).await
    }

    async fn content(&self, name: &str, version: u32) -> Result<Option<String>, Error> {
        self.read(|model| Ok(model.content(name, version))).await
    }

    async fn set_paused(&self, name: &str, paused: bool, now: i64) -> Result<DeploymentRow, Error> {
        let set = |world: &mut World| {
            world.note(format_args!("{} pauses {name}: {paused}", self.name));
            world.model.set_paused(name, paused, now)
        };
        self.alter(set).await
    }

    async fn delete_deployment(&self, name: &str) -> Result<(), Error> {
        let deleted = |world: &mut World| {
            world.note(format_args!("{} deletes {name}", self.name));
            world.model.delete_deployment(name)
        };
        self.write(deleted).await
    }

    async fn add_fires(&self, name: &str, fires: Vec<NewFire>, looked: Option<Looked>) -> Result<usize, Error> {
        let added = |world: &mut World| {
            let mut count = 0;
            for fire in &fires {
                count += usize::from(world.insert_fire(self.name, name, fire, looked));
            }
            if let Some(looked) = looked {
                world.model.handled(name, looked);
            }
            Ok(count)
        };
        self.alter(added).await
    }

    async fn fires(&self, filter: &FireFilter) -> Result<Vec<FireRow>, Error> {
        self.read(|model| Ok(model.fires(filter))).await
    }

    async fn change_fire(&self, fire: i64, from: &str, change: FireChange) -> Result<bool, Error> {
        let changed = |world: &mut World| {
            let before = world.model.fires.get(&fire).map(|fire| fire.row.clone());
            let changed = world.model.change_fire(fire, from, &change);
            if let Some(before) = before.filter(|_| changed) {
                let run = change.run.as_deref().unwrap_or("none");
                world.note(format_args!(
                    "{} takes {} of {} from {} to {}, run {run}",
                    self.name, before.key, before.deployment, before.state, change.state
                ));
                let verdict = world.audit.changed(&world.model, &before);
                world.judge(verdict);
                if change.state == fire_state::STARTED {
                    world.audit.saw("started");
                }
            }
            Ok(changed)
        };
        self.alter(changed).await
    }

    async fn settle(&self, fire: i64, follows: Follows) -> Result<(), Error> {
        let settled = |world: &mut World| {
            for id in world.model.settle(fire, &follows) {
                let verdict = world.audit.fired(&world.model, id);
                world.judge(verdict);
            }
            world.note(format_args!("{} settles {fire} as {:?}", self.name, follows.ended));
            Ok(())
        };
        self.alter(settled).await
    }

    async fn unsettle(&self, run: &str) -> Result<(), Error> {
        let unsettled = |world: &mut World| {
            world.model.unsettle(run);
            Ok(())
        };
        self.alter(unsettled).await
    }

    async fn tellings(&self, _: i64, _: u32) -> Result<Vec<Telling>, Error> {
        Ok(Vec::new())
    }

    async fn told(&self, _: i64, _: i64, _: Option<String>, _: Option<i64>) -> Result<(), Error> {
        unreachable!("no deployment here has hooks")
    }
}

/// Who else lives decides nothing.
#[async_trait]
impl Workers for Connection {
    async fn announce(&self, _: Worker) -> Result<(), Error> {
        Ok(())
    }

    async fn retire(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn workers(&self, _: i64) -> Result<Vec<WorkerRow>, Error> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Tokens for Connection {
    async fn add_token(&self, _: NewToken) -> Result<bool, Error> {
        unreachable!("nobody asks a simulated server from outside")
    }
    async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        unreachable!("nobody asks a simulated server from outside")
    }
    async fn token(&self, _: &str) -> Result<Option<TokenRow>, Error> {
        unreachable!("nobody asks a simulated server from outside")
    }
    async fn revoke_token(&self, _: &str, _: i64) -> Result<bool, Error> {
        unreachable!("nobody asks a simulated server from outside")
    }
}

/// An event without what a clock showed.
fn without_times(payload: &str) -> String {
    let mut event: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    let fields =
        event.as_object_mut().into_iter().flat_map(|event| event.values_mut()).filter_map(|one| one.as_object_mut());
    fields.for_each(|fields| fields.retain(|name, _| !["at", "until", "deadline", "fault"].contains(&name.as_str())));
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, _| !["at", "until", "deadline", "fault"].contains(&name.as_str()));
    }
    event.to_string()
}
