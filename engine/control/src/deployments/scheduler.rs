//! What makes deployments go: a loop that looks at the store, and acts on what it has made durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use swath_run::RunState;
use swath_schedule::{
    Admission, CatchUp, Concurrency, DeploymentSpec, Fire, Happening, RunEnding, Schedule, admit, missed,
};
use swath_store::{
    DeploymentRow, Error, FireChange, FireFilter, FireRow, Follows, Looked, NewFire, NewTelling, Store, fire_state,
};
use swath_task::Digest;
use tokio::sync::Notify;

use super::hooks::Hooks;
use super::launches::{Launch, Launches};
use super::registry::{Registry, scheduled_key, spec_of};
use crate::fleet::Fleet;

/// The store may be changed by others: it is looked at as often as this.
const LOOK: Duration = Duration::from_secs(1);
/// Longer than this without a look, and what was due meanwhile was missed.
const GAP: i64 = 60_000;
/// How long a fire that another server has taken is left to that, milliseconds.
const PATIENCE: i64 = 10_000;
/// Fires of one schedule that are made at once.
const MOST_FIRES: usize = 1000;
/// Longest outputs of a run that hooks are told, bytes of JSON.
const LONGEST_OUTPUTS: usize = 32 << 10;
/// How far back runs that were left out are looked for, to be covered by the next.
const MOST_LEFT_OUT: u32 = 1000;

/// Makes deployments go.
pub struct Scheduler {
    fleet: Fleet,
    registry: Registry,
    hooks: Hooks,
    launches: Launches,
    wake: Arc<Notify>,
    /// When each deployment was last looked at.
    looked: HashMap<String, i64>,
    compiled: HashMap<String, ((i64, u32), Arc<Compiled>)>,
    /// Fires that were told to be late.
    late: HashSet<i64>,
    /// Since when a fire was seen to be taken without a run: another server may be about to start that.
    taken: HashMap<i64, i64>,
    /// What was last wrong with each deployment: told once.
    wrong: HashMap<String, String>,
}

/// How a deployment goes, ready to be asked.
struct Compiled {
    spec: DeploymentSpec,
    schedule: Option<Schedule>,
    catch_up: CatchUp,
}

/// The open fires of a deployment, the oldest first.
type Open = BTreeMap<String, Vec<FireRow>>;

impl Scheduler {
    /// Over the store of `fleet`, whose runs it starts. A note on `wake` makes it look at once.
    pub fn new(fleet: Fleet, registry: Registry, wake: Arc<Notify>) -> Self {
        let hooks = Hooks::new(registry.store().clone());
        let launches = Launches::new(fleet.clone(), registry.clone(), wake.clone());
        Self {
            fleet,
            registry,
            hooks,
            launches,
            wake,
            looked: HashMap::new(),
            compiled: HashMap::new(),
            late: HashSet::new(),
            taken: HashMap::new(),
            wrong: HashMap::new(),
        }
    }

    /// Goes on until the fleet drains.
    pub async fn run(self) {
        self.run_by(Timestamp::now).await;
    }

    /// Goes on until the fleet drains, by this clock.
    pub async fn run_by(mut self, clock: impl Fn() -> Timestamp) {
        while !self.fleet.is_draining() {
            let now = clock();
            let next = match self.look(now).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!("deployments cannot be looked at: {error}");
                    None
                }
            };
            let until = next.map_or(LOOK, |next| Duration::try_from(next.duration_since(clock())).unwrap_or_default());
            tokio::select! {
                biased;
                () = tokio::time::sleep(until.min(LOOK)) => {}
                () = self.wake.notified() => {}
                () = self.fleet.ended() => {}
            }
        }
    }

    /// Does what is to be done at `now`. Returns when something is next due, as far as that is known.
    async fn look(&mut self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let rows = self.store().deployments().await?;
        let names: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        self.compiled.retain(|name, _| names.contains(name.as_str()));
        self.looked.retain(|name, _| names.contains(name.as_str()));
        self.wrong.retain(|name, _| names.contains(name.as_str()));
        let mut next = None;
        for row in &rows {
            // Also of one that is paused: its hooks may have to be told something.
            let due = match self.compiled(row) {
                Ok(_) if row.paused => Ok(None),
                Ok(_) => self.fire(row, now).await,
                Err(error) => Err(error),
            };
            next = [next, self.of_one(row, due)].into_iter().flatten().min();
        }
        // Asked before the fires are read: what one that is busy by now comes to is not in them.
        let busy = self.launches.busy();
        let mut open = Open::new();
        let filter = FireFilter { open: true, ..FireFilter::default() };
        for fire in self.store().fires(&filter).await?.into_iter().rev() {
            open.entry(fire.deployment.clone()).or_default().push(fire);
        }
        let ids: HashSet<i64> = open.values().flatten().map(|fire| fire.id).collect();
        self.late.retain(|id| ids.contains(id));
        self.taken.retain(|id, _| ids.contains(id));
        for row in &rows {
            let Some(fires) = open.get(&row.name) else { continue };
            let due = self.act(row, fires, &rows, busy.contains(&row.name), now).await;
            next = [next, self.of_one(row, due)].into_iter().flatten().min();
        }
        self.hooks.tell(now, |name, hook| self.compiled.get(name)?.1.spec.hooks.get(hook).cloned()).await?;
        Ok(next)
    }

    /// What came of one deployment: what is wrong with it must not keep the others.
    fn of_one(&mut self, row: &DeploymentRow, came: Result<Option<Timestamp>, Error>) -> Option<Timestamp> {
        match came {
            Ok(next) => next,
            Err(error) => {
                let told = error.to_string();
                if self.wrong.get(&row.name) != Some(&told) {
                    tracing::error!(deployment = row.name, "it cannot go: {told}");
                    self.wrong.insert(row.name.clone(), told);
                }
                None
            }
        }
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.registry.store()
    }

    fn compiled(&mut self, row: &DeploymentRow) -> Result<Arc<Compiled>, Error> {
        // One that was deleted and deployed anew counts its versions from 1 again.
        let version = (row.created_at, row.version);
        if let Some((known, compiled)) = self.compiled.get(&row.name)
            && *known == version
        {
            return Ok(compiled.clone());
        }
        let spec = spec_of(&row.spec)?;
        let schedule = spec.schedule.as_ref().map(|schedule| schedule.compile()).transpose();
        let schedule = schedule.map_err(|problems| Error::Record {
            what: format!("schedule of the deployment `{}`", row.name),
            reason: problems.into_iter().map(|problem| problem.message).collect(),
        })?;
        let catch_up = spec.schedule.as_ref().map(|schedule| schedule.catch_up).unwrap_or_default();
        let compiled = Arc::new(Compiled { spec, schedule, catch_up });
        self.compiled.insert(row.name.clone(), (version, compiled.clone()));
        Ok(compiled)
    }

    /// Stores the fires of a schedule whose time has come. Returns when it is next due.
    async fn fire(&mut self, row: &DeploymentRow, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let compiled = self.compiled(row)?;
        let last = self.looked.insert(row.name.clone(), now.as_millisecond());
        let Some(schedule) = &compiled.schedule else { return Ok(None) };
        let handled = instant(row.handled);
        let Some(first) = schedule.next(handled) else { return Ok(None) };
        if first.at > now {
            return Ok(Some(first.at));
        }
        // Nobody looked when these were due: the server was down, or the machine asleep.
        let late = last.is_none_or(|last| now.as_millisecond() - last > GAP)
            && first.at.as_millisecond() + GAP < now.as_millisecond();
        let (fires, cause): (Vec<Fire>, _) = match late {
            true => (missed(schedule, compiled.catch_up, handled, now).take(MOST_FIRES).collect(), "catch_up"),
            false => (schedule.fires(handled, now).take(MOST_FIRES).collect(), "schedule"),
        };
        let whole = fires.len() < MOST_FIRES;
        if !whole {
            // What is left was missed as well.
            self.looked.remove(&row.name);
        }
        let handled = match fires.last() {
            Some(last) if !whole => last.at,
            _ => now,
        };
        let seed = seed_of(&row.name);
        let new = fires.iter().map(|fire| NewFire {
            key: scheduled_key(fire),
            cause: cause.to_owned(),
            since: Some(fire.since.as_millisecond()),
            at: fire.at.as_millisecond(),
            due: schedule.starts(fire, seed).as_millisecond().max(fire.at.as_millisecond()),
            params: "{}".to_owned(),
            created_at: now.as_millisecond(),
        });
        let (version, created_at) = (row.version, row.created_at);
        let looked = Looked { up_to: handled.as_millisecond(), version, created_at };
        self.store().add_fires(&row.name, new.collect(), Some(looked)).await?;
        Ok(if whole { schedule.next(now).map(|fire| fire.at) } else { Some(now) })
    }

    /// Acts on the open fires of a deployment. Returns when one of them is next due.
    async fn act(
        &mut self,
        row: &DeploymentRow,
        fires: &[FireRow],
        all: &[DeploymentRow],
        is_busy: bool,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let compiled = self.compiled(row)?;
        let mut live = Vec::new();
        for fire in fires.iter().filter(|fire| fire.state == fire_state::STARTED) {
            match fire.run_state.as_deref().and_then(ending) {
                Some(ended) => self.settle(row, fire, ended, all, now).await?,
                None => live.push(fire.clone()),
            }
        }
        for fire in fires.iter().filter(|fire| fire.state == fire_state::REFUSED) {
            let tellings = tellings(&compiled.spec, fire, Happening::Failed, Value::Null, now);
            let ended = Some(String::new());
            self.store().settle(fire.id, Follows { tellings, ended, ..Follows::default() }).await?;
        }
        // What comes after a run that is being started is decided on when that is there, or found not to be possible.
        let next = match is_busy {
            true => None,
            false => self.decide(row, &compiled, fires, live, now).await?,
        };
        self.tell_late(&compiled.spec, fires, now).await?;
        Ok(next)
    }

    /// Decides what becomes of fires whose time has come, up to the first that is to run now. Returns when one is next due.
    async fn decide(
        &mut self,
        row: &DeploymentRow,
        compiled: &Compiled,
        fires: &[FireRow],
        live: Vec<FireRow>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        // Started, as far as the store goes, by a server that died before the run was pinned.
        for fire in live.iter().filter(|fire| fire.run_state.is_none()) {
            let seen = *self.taken.entry(fire.id).or_insert(now.as_millisecond());
            if now.as_millisecond() - seen >= PATIENCE {
                // It has that long again.
                self.taken.insert(fire.id, now.as_millisecond());
                return self.start(row, fire, None, now).await;
            }
        }
        let mut next = None;
        let mut waiting: Vec<&FireRow> = fires.iter().filter(|fire| fire.state == fire_state::WAITING).collect();
        let due: Vec<&FireRow> = fires.iter().filter(|fire| fire.state == fire_state::DUE).collect();
        let (most, limit) = (compiled.spec.most_running(), compiled.spec.max_running.max(1));
        for fire in due {
            if instant(fire.due) > now {
                next = [next, Some(instant(fire.due))].into_iter().flatten().min();
                continue;
            }
            // A deployment that was paused meanwhile keeps what was asked for.
            if row.paused {
                continue;
            }
            let patient = is_patient(fire);
            let limited = patient || compiled.spec.while_running != Concurrency::Allow;
            let admission = match patient {
                true if live.len() < most && waiting.is_empty() => Admission::Start,
                true => continue,
                false => admit(compiled.spec.while_running, live.len(), waiting.len(), most),
            };
            match admission {
                Admission::Start => return self.start(row, fire, limited.then_some(limit), now).await,
                Admission::Skip => {
                    let run = live.first().and_then(|fire| fire.run.clone()).unwrap_or_default();
                    let note = format!("`{run}` was still live");
                    let change = FireChange { state: fire_state::SKIPPED, note, ..FireChange::default() };
                    self.store().change_fire(fire.id, fire_state::DUE, change).await?;
                    tracing::info!(deployment = row.name, at = %instant(fire.at), "a run was left out: `{run}` is live");
                }
                Admission::Wait | Admission::CancelOthers => {
                    if admission == Admission::CancelOthers {
                        self.cancel_others(&live, &waiting).await?;
                        waiting.clear();
                    }
                    let run = live.first().and_then(|fire| fire.run.clone()).unwrap_or_default();
                    let note = format!("it waits until `{run}` has ended");
                    let change = FireChange { state: fire_state::WAITING, note, ..FireChange::default() };
                    self.store().change_fire(fire.id, fire_state::DUE, change).await?;
                    waiting.push(fire);
                }
            }
        }
        if !row.paused
            && let Some(first) = waiting.iter().find(|fire| fire.state == fire_state::WAITING)
            && live.len() < most
        {
            return self.start(row, first, Some(limit), now).await;
        }
        Ok(next)
    }

    async fn cancel_others(&self, live: &[FireRow], waiting: &[&FireRow]) -> Result<(), Error> {
        for run in live.iter().filter_map(|fire| fire.run.as_deref()) {
            if let Err(status) = self.fleet.cancel(run).await {
                tracing::warn!("run `{run}` is not cancelled for the one after it: {}", status.message());
            }
        }
        for other in waiting {
            let note = "a later one took its place".to_owned();
            let change = FireChange { state: fire_state::SKIPPED, note, ..FireChange::default() };
            self.store().change_fire(other.id, &other.state, change).await?;
        }
        Ok(())
    }

    /// Takes a fire while fewer than `most` runs are live, and begins to start its run: the deployment is looked at again when
    /// that is done. Where another server was faster, how many runs are live is not known: it is looked at again at once.
    async fn start(
        &self,
        row: &DeploymentRow,
        fire: &FireRow,
        most: Option<u32>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let covered = self.covered(row, fire).await?;
        let run = match &fire.run {
            Some(run) => run.clone(),
            None => {
                let run = swath_host::launch::fired_id(&row.name, fire.deployed_at, &fire.key, covered.at);
                let since = Some(covered.since.as_millisecond());
                let change = FireChange {
                    state: fire_state::STARTED,
                    run: Some(run.clone()),
                    since,
                    most,
                    ..FireChange::default()
                };
                if !self.store().change_fire(fire.id, &fire.state, change).await? {
                    return Ok(Some(now));
                }
                run
            }
        };
        self.launches.begin(row.clone(), Launch { fire: fire.clone(), run, covered, now });
        Ok(None)
    }

    /// What the run of a fire covers: with what those before it would have covered that were left out.
    async fn covered(&self, row: &DeploymentRow, fire: &FireRow) -> Result<Fire, Error> {
        let at = instant(fire.at);
        if let (Some(since), Some(_)) = (fire.since, &fire.run) {
            return Ok(Fire { at, since: instant(since) });
        }
        let of_schedule = |fire: &FireRow| ["schedule", "catch_up"].contains(&fire.cause.as_str());
        if let Some(own) = fire.since.filter(|_| !of_schedule(fire)) {
            return Ok(Fire { at, since: instant(own) });
        }
        let filter = FireFilter {
            deployment: Some(row.name.clone()),
            before: Some(fire.id),
            limit: Some(MOST_LEFT_OUT),
            ..FireFilter::default()
        };
        let before = self.store().fires(&filter).await?;
        let Some(own) = fire.since else {
            // No schedule says how far back: to where the one before it ended.
            let last = before.iter().filter(|other| other.run.is_some()).map(|other| other.at).max();
            return Ok(Fire { at, since: instant(last.unwrap_or(fire.deployed_at)).min(at) });
        };
        // Whoever cancels what runs for what comes later wants that to make up for it.
        let policy = self.compiled.get(&row.name).map(|(_, compiled)| compiled.spec.while_running);
        let gives_way = policy == Some(Concurrency::Cancel);
        let is_left_out = |other: &&FireRow| match other.state.as_str() {
            fire_state::SKIPPED | fire_state::REFUSED => true,
            _ => gives_way && other.run_state.as_deref() == Some(RunState::Cancelled.name()),
        };
        let left_out = before.iter().filter(|other| of_schedule(other)).take_while(is_left_out);
        let since = left_out.filter_map(|other| other.since).min();
        Ok(Fire { at, since: instant(since.map_or(own, |since| since.min(own))) })
    }

    /// Stores what follows from the end of a run: fires of the deployments that wait for it, and what hooks are told.
    async fn settle(
        &mut self,
        row: &DeploymentRow,
        fire: &FireRow,
        ended: RunEnding,
        all: &[DeploymentRow],
        now: Timestamp,
    ) -> Result<(), Error> {
        let run = fire.run.clone().unwrap_or_default();
        let stored = self.fleet.store().run_row(&run).await?;
        let summary = stored.summary.as_deref().map(swath_store::redact);
        let summary: Value = summary.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let outputs = summary.get("outputs").cloned().unwrap_or_default();
        let mut fires = Vec::new();
        for other in all.iter().filter(|other| !other.paused) {
            let compiled = self.compiled(other)?;
            let counts = compiled.spec.triggers.iter().any(|trigger| {
                trigger.after.as_deref() == Some(row.name.as_str())
                    && trigger.counts(ended.name())
                    && trigger.output.as_deref().is_none_or(|name| says_yes(outputs.get(name)))
            });
            if counts {
                let new = NewFire {
                    key: format!("after:{run}:{}", ended.name()),
                    cause: "trigger".to_owned(),
                    since: fire.since,
                    at: fire.at,
                    due: now.as_millisecond(),
                    params: "{}".to_owned(),
                    created_at: now.as_millisecond(),
                };
                fires.push((other.name.clone(), new));
            }
        }
        let happening = match ended {
            RunEnding::Completed => Happening::Completed,
            RunEnding::Failed => Happening::Failed,
            RunEnding::Cancelled => Happening::Cancelled,
        };
        let spec = &self.compiled(row)?.spec;
        let detail = json!({ "outputs": outputs, "error": stored.error, "flow": stored.flow });
        let tellings = tellings(spec, fire, happening, detail, now);
        self.store().settle(fire.id, Follows { fires, tellings, ended: Some(ended.name().to_owned()) }).await?;
        // Those that were waiting are looked at again without delay.
        self.wake.notify_one();
        Ok(())
    }

    async fn tell_late(&mut self, spec: &DeploymentSpec, fires: &[FireRow], now: Timestamp) -> Result<(), Error> {
        let Some(after) = spec.late_after() else { return Ok(()) };
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        for fire in fires {
            let over = fire.run_state.as_deref().and_then(ending).is_some() || fire.state == fire_state::REFUSED;
            // What waits for its turn is not late before that.
            let waits = is_patient(fire) && fire.state == fire_state::DUE;
            if over || waits || self.late.contains(&fire.id) || fire.due.saturating_add(after) > now.as_millisecond() {
                continue;
            }
            tracing::warn!(deployment = fire.deployment, run = fire.run, "a run is late");
            let tellings = tellings(spec, fire, Happening::Late, Value::Null, now);
            self.store().settle(fire.id, Follows { tellings, ..Follows::default() }).await?;
            self.late.insert(fire.id);
        }
        Ok(())
    }
}

/// What the hooks of a deployment are told of a fire.
fn tellings(
    spec: &DeploymentSpec,
    fire: &FireRow,
    happening: Happening,
    detail: Value,
    now: Timestamp,
) -> Vec<NewTelling> {
    let mut message = json!({
        "deployment": fire.deployment, "happening": happening.name(), "run": fire.run, "cause": fire.cause,
        "start": fire.since.map(|since| instant(since).to_string()), "end": instant(fire.at).to_string(),
        "note": fire.note, "at": now.to_string(),
    });
    if let (Value::Object(message), Value::Object(mut detail)) = (&mut message, detail) {
        if detail["outputs"].to_string().len() > LONGEST_OUTPUTS {
            detail["outputs"] = json!({ "left_out": "they are too long: ask for the run" });
        }
        message.extend(detail);
    }
    let wanted = spec.hooks.iter().enumerate().filter(|(_, hook)| hook.on.contains(&happening));
    wanted
        .map(|(at, _)| NewTelling {
            hook: at as u32,
            happening: happening.name(),
            message: message.to_string(),
            at: now.as_millisecond(),
        })
        .collect()
}

/// How a run of this state has ended; `None`: it has not.
fn ending(state: &str) -> Option<RunEnding> {
    [
        (RunState::Completed, RunEnding::Completed),
        (RunState::Failed, RunEnding::Failed),
        (RunState::Cancelled, RunEnding::Cancelled),
    ]
    .into_iter()
    .find(|(one, _)| one.name() == state)
    .map(|(_, ending)| ending)
}

/// Whether an output is there, and neither false, 0 nor empty.
fn says_yes(output: Option<&Value>) -> bool {
    match output {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(entries)) => !entries.is_empty(),
    }
}

/// What somebody asked for in one go: it waits its turn, whatever the policy says of the clock.
fn is_patient(fire: &FireRow) -> bool {
    ["backfill", "catch_up"].contains(&fire.cause.as_str())
}

fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Deployments of equal schedules start at different moments of their jitter.
fn seed_of(name: &str) -> u64 {
    u64::from_str_radix(&Digest::of(name.as_bytes()).hex()[..16], 16).unwrap_or_default()
}
