//! What makes deployments go: a loop that looks at the store, and acts on what it has made durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use swath_run::RunState;
use swath_schedule::{Admission, CatchUp, DeploymentSpec, Fire, Happening, RunEnding, Schedule, admit, missed};
use swath_store::{
    DeploymentRow, Error, FireChange, FireFilter, FireRow, Follows, NewFire, NewTelling, Store, fire_state,
};
use swath_task::Digest;
use tokio::sync::Notify;

use super::hooks::Hooks;
use super::registry::{DeployError, Registry, read, scheduled_key, spec_of};
use crate::fleet::Fleet;

/// The store may be changed by others: it is looked at as often as this.
const LOOK: Duration = Duration::from_secs(1);
/// Longer than this without a look, and what was due meanwhile was missed.
const GAP: i64 = 60_000;
/// Fires of one schedule that are made at once.
const MOST_FIRES: usize = 1000;
/// How far back runs that were left out are looked for, to be covered by the next.
const MOST_LEFT_OUT: u32 = 1000;

/// Makes deployments go.
pub struct Scheduler {
    fleet: Fleet,
    registry: Registry,
    hooks: Hooks,
    wake: Arc<Notify>,
    /// When each deployment was last looked at.
    looked: HashMap<String, i64>,
    compiled: HashMap<String, (u32, Arc<Compiled>)>,
    /// Fires that were told to be late.
    late: HashSet<i64>,
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
        Self { fleet, registry, hooks, wake, looked: HashMap::new(), compiled: HashMap::new(), late: HashSet::new() }
    }

    /// Goes on until the fleet drains.
    pub async fn run(mut self) {
        while !self.fleet.is_draining() {
            let now = Timestamp::now();
            let next = match self.look(now).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!("deployments cannot be looked at: {error}");
                    None
                }
            };
            let until =
                next.map_or(LOOK, |next| Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default());
            tokio::select! {
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
        let mut next = None;
        for row in rows.iter().filter(|row| !row.paused) {
            let due = self.fire(row, now).await?;
            next = [next, due].into_iter().flatten().min();
        }
        let mut open = Open::new();
        let filter = FireFilter { open: true, ..FireFilter::default() };
        for fire in self.store().fires(&filter).await?.into_iter().rev() {
            open.entry(fire.deployment.clone()).or_default().push(fire);
        }
        self.late.retain(|id| open.values().flatten().any(|fire| fire.id == *id));
        for row in &rows {
            let Some(fires) = open.get(&row.name) else { continue };
            let due = self.act(row, fires, &rows, now).await?;
            next = [next, due].into_iter().flatten().min();
        }
        self.hooks.tell(now, |name, hook| self.compiled.get(name)?.1.spec.hooks.get(hook).cloned()).await?;
        Ok(next)
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.registry.store()
    }

    fn compiled(&mut self, row: &DeploymentRow) -> Result<Arc<Compiled>, Error> {
        if let Some((version, compiled)) = self.compiled.get(&row.name)
            && *version == row.version
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
        self.compiled.insert(row.name.clone(), (row.version, compiled.clone()));
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
        self.store().add_fires(&row.name, new.collect(), Some(handled.as_millisecond())).await?;
        Ok(if whole { schedule.next(now).map(|fire| fire.at) } else { Some(now) })
    }

    /// Acts on the open fires of a deployment. Returns when one of them is next due.
    async fn act(
        &mut self,
        row: &DeploymentRow,
        fires: &[FireRow],
        all: &[DeploymentRow],
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
            self.store().settle(fire.id, Follows { tellings, last: true, ..Follows::default() }).await?;
        }
        // Started, as far as the store goes, by a server that died before the run was pinned.
        for fire in live.iter().filter(|fire| fire.run_state.is_none()) {
            self.start(row, fire, now).await?;
        }
        let mut next = None;
        let mut waiting: Vec<&FireRow> = fires.iter().filter(|fire| fire.state == fire_state::WAITING).collect();
        let due: Vec<&FireRow> = fires.iter().filter(|fire| fire.state == fire_state::DUE).collect();
        for fire in due {
            if instant(fire.due) > now {
                next = [next, Some(instant(fire.due))].into_iter().flatten().min();
                continue;
            }
            // A deployment that was paused meanwhile keeps what was asked for.
            if row.paused {
                continue;
            }
            // What somebody asked for in one go waits its turn, whatever the policy says of the clock.
            let patient = ["backfill", "catch_up"].contains(&fire.cause.as_str());
            let most = compiled.spec.most_running();
            let admission = match patient {
                true if live.len() < most => Admission::Start,
                true => continue,
                false => admit(compiled.spec.while_running, live.len(), waiting.len(), most),
            };
            match admission {
                Admission::Start => {
                    if self.start(row, fire, now).await? {
                        live.push(fire.clone());
                    }
                }
                Admission::Skip => {
                    let run = live.first().and_then(|fire| fire.run.clone()).unwrap_or_default();
                    let note = format!("`{run}` was still live");
                    let change = FireChange { state: fire_state::SKIPPED, run: None, note, since: None };
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
                    let change = FireChange { state: fire_state::WAITING, run: None, note, since: None };
                    self.store().change_fire(fire.id, fire_state::DUE, change).await?;
                    waiting.push(fire);
                }
            }
        }
        if !row.paused
            && let Some(first) = waiting.iter().find(|fire| fire.state == fire_state::WAITING)
            && live.len() < compiled.spec.most_running()
        {
            self.start(row, first, now).await?;
        }
        self.tell_late(&compiled.spec, fires, now).await?;
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
            let change = FireChange { state: fire_state::SKIPPED, run: None, note, since: None };
            self.store().change_fire(other.id, &other.state, change).await?;
        }
        Ok(())
    }

    /// Starts the run of a fire. `false`: it has none, or another server was faster.
    async fn start(&self, row: &DeploymentRow, fire: &FireRow, now: Timestamp) -> Result<bool, Error> {
        let covered = self.covered(row, fire).await?;
        let run = match &fire.run {
            Some(run) => run.clone(),
            None => {
                let run = swath_host::launch::fired_id(&row.name, &fire.key, covered.at);
                let since = Some(covered.since.as_millisecond());
                let change =
                    FireChange { state: fire_state::STARTED, run: Some(run.clone()), note: String::new(), since };
                if !self.store().change_fire(fire.id, &fire.state, change).await? {
                    return Ok(false);
                }
                run
            }
        };
        let params: Map<String, Value> = read("parameters of a fire", &fire.params)?;
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let refused = match self.registry.plan(&row.name, params, covered, now).await {
            Ok((plan, text)) => match self.fleet.start_as(run.clone(), plan, text, now).await {
                Ok(()) => {
                    if fire.cause == "schedule" {
                        let lag = Duration::try_from(Timestamp::now().duration_since(instant(fire.due)));
                        self.fleet.tell_lag(&run, &row.flow, lag.unwrap_or_default());
                    }
                    return Ok(true);
                }
                // The store is busy, or the server about to stop: the next look tries again.
                Err(status) if is_passing(status.code()) => {
                    tracing::warn!("run `{run}` cannot be started now: {}", status.message());
                    return Ok(true);
                }
                Err(status) => status.message().to_owned(),
            },
            Err(DeployError::Store(error)) => return Err(error),
            Err(DeployError::Flow(problems)) => {
                let told: Vec<String> =
                    problems.iter().map(|problem| format!("[{}] {}", problem.code, problem.report().message)).collect();
                told.join("; ")
            }
            Err(error) => error.to_string(),
        };
        tracing::error!(deployment = row.name, "run `{run}` cannot be started: {refused}");
        let change = FireChange { state: fire_state::REFUSED, run: None, note: refused, since: None };
        self.store().change_fire(fire.id, fire_state::STARTED, change).await?;
        Ok(false)
    }

    /// What the run of a fire covers: with what those before it would have covered that were left out.
    async fn covered(&self, row: &DeploymentRow, fire: &FireRow) -> Result<Fire, Error> {
        let at = instant(fire.at);
        if let (Some(since), Some(_)) = (fire.since, &fire.run) {
            return Ok(Fire { at, since: instant(since) });
        }
        let filter =
            FireFilter { deployment: Some(row.name.clone()), limit: Some(MOST_LEFT_OUT), ..FireFilter::default() };
        let before = self.store().fires(&filter).await?;
        let before = before.iter().skip_while(|other| other.id != fire.id).skip(1);
        if fire.cause == "backfill" {
            return Ok(Fire { at, since: fire.since.map_or(at, instant) });
        }
        let Some(own) = fire.since else {
            // No schedule says how far back: to where the one before it ended.
            let last = before.filter(|other| other.run.is_some()).map(|other| other.at).max();
            return Ok(Fire { at, since: instant(last.unwrap_or(row.created_at)).min(at) });
        };
        let left_out = before
            .filter(|other| other.cause != "backfill")
            .take_while(|other| other.state == fire_state::SKIPPED)
            .filter_map(|other| other.since);
        Ok(Fire { at, since: instant(left_out.min().map_or(own, |since| since.min(own))) })
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
        self.store().settle(fire.id, Follows { fires, tellings, last: true }).await?;
        // Those that were waiting are looked at again without delay.
        self.wake.notify_one();
        Ok(())
    }

    async fn tell_late(&mut self, spec: &DeploymentSpec, fires: &[FireRow], now: Timestamp) -> Result<(), Error> {
        let Some(after) = spec.late_after() else { return Ok(()) };
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        for fire in fires {
            let over = fire.run_state.as_deref().and_then(ending).is_some() || fire.state == fire_state::REFUSED;
            if over || fire.due.saturating_add(after) > now.as_millisecond() || !self.late.insert(fire.id) {
                continue;
            }
            tracing::warn!(deployment = fire.deployment, run = fire.run, "a run is late");
            let tellings = tellings(spec, fire, Happening::Late, Value::Null, now);
            self.store().settle(fire.id, Follows { tellings, ..Follows::default() }).await?;
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
    if let (Value::Object(message), Value::Object(detail)) = (&mut message, detail) {
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

/// Whether trying again a moment later may help.
fn is_passing(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(code, Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::Internal)
}

fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Deployments of equal schedules start at different moments of their jitter.
fn seed_of(name: &str) -> u64 {
    u64::from_str_radix(&Digest::of(name.as_bytes()).hex()[..16], 16).unwrap_or_default()
}
