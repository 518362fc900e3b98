//! What must hold after every write, whoever made it. The auditor keeps its own books: a store that breaks its rules does not
//! break them. The numbers are those of `swath-run`'s and of the store's invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use swath_host::launch::fired_id;
use swath_host::{PlannedFlow, Program};
use swath_plan::{Catalogue, Plan};
use swath_run::{Event, Machine, RunState};
use swath_schedule::{Concurrency, DeploymentSpec};
use swath_store::{Append, FireRow, NewRun, fire_state};

use crate::model::Model;

/// Causes of fires that a schedule made.
pub const SCHEDULED: [&str; 3] = ["schedule", "catch_up", "backfill"];

#[derive(Default)]
pub struct Auditor {
    runs: BTreeMap<String, Followed>,
    /// The newest lease of each run: its epoch and who has it.
    leases: BTreeMap<String, (u64, u64)>,
    keys: BTreeSet<(i64, String)>,
    instants: BTreeSet<(i64, i64)>,
    /// The fire that a run is of.
    of_runs: BTreeMap<String, i64>,
    pub seen: BTreeMap<&'static str, u64>,
}

/// A run, followed event by event.
struct Followed {
    machine: Machine,
    seq: u64,
    succeeded: BTreeSet<(u32, u32)>,
    /// How many attempts of an instance were written down, and how many began.
    written: BTreeMap<String, u32>,
    begun: BTreeMap<String, u32>,
    /// What begins an attempt's key: the step, by its number.
    lifted: Vec<bool>,
}

/// What is broken, in words.
pub type Verdict = Result<(), String>;

fn holds(is: bool, broken: impl FnOnce() -> String) -> Verdict {
    if is { Ok(()) } else { Err(broken()) }
}

impl Auditor {
    /// Counts something that the simulation is to have seen.
    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn created(&mut self, new: &NewRun) -> Verdict {
        if self.runs.contains_key(&new.id) {
            return Ok(());
        }
        let plan: Plan = serde_json::from_str(&new.plan).map_err(|error| format!("I18: {error}"))?;
        let flow = PlannedFlow::new(plan, Arc::new(Catalogue::default()), Timestamp::UNIX_EPOCH);
        let graph = flow.graph();
        let lifted = (0..graph.steps.len()).map(|step| flow.is_lifted(step)).collect();
        let (succeeded, written, begun) = Default::default();
        let followed = Followed { machine: Machine::new(graph), seq: 0, succeeded, written, begun, lifted };
        self.runs.insert(new.id.clone(), followed);
        Ok(())
    }

    /// An append was taken; `state` is what the row of its run says now.
    pub fn appended(&mut self, append: &Append, seq: u64, state: &str, results: usize) -> Verdict {
        let id = &append.run;
        let newest = self.leases.get(id).map_or(0, |(epoch, _)| *epoch);
        holds(append.epoch == newest, || {
            format!("I5: `{id}` is written by lease {}, {newest} is the newest", append.epoch)
        })?;
        let run = self.runs.get_mut(id).ok_or_else(|| format!("`{id}` was never pinned"))?;
        let follows = append.expected_seq == run.seq && seq == run.seq + append.events.len() as u64;
        holds(follows, || {
            format!("I3: `{id}` is at {}, and an append from {} to {seq} was taken", run.seq, append.expected_seq)
        })?;
        run.seq = seq;
        for event in &append.events {
            let event = Event::decode(&event.payload).map_err(|error| format!("I3: `{id}`: {error}"))?;
            let paused = run.machine.state() == RunState::Paused;
            run.machine.follow(&event).map_err(|illegal| format!("I1: `{id}`: {illegal}: {event:?}"))?;
            match event {
                Event::Started { s, i, .. } => {
                    holds(!paused, || format!("{s}/{i} of `{id}` started in a paused run"))?;
                    holds(!run.succeeded.contains(&(s, i)), || {
                        format!("I7: {s}/{i} of `{id}` started after it succeeded")
                    })?;
                    *run.written.entry(run.key(id, s, i)).or_default() += 1;
                }
                Event::Succeeded { s, i, .. } => {
                    holds(run.succeeded.insert((s, i)), || format!("I6: {s}/{i} of `{id}` succeeded twice"))?;
                }
                Event::Ended { state } => *self.seen.entry(state.name()).or_default() += 1,
                Event::Reopened => *self.seen.entry("reopened").or_default() += 1,
                _ => {}
            }
        }
        let mut broken = run.machine.check_invariants();
        // Who only follows a journal does not know which step waits to be evaluated; that all ends is seen in the end.
        broken.retain(|what| what != "I9: the run waits for nothing");
        holds(broken.is_empty(), || format!("`{id}`: {broken:?}"))?;
        let folded = run.machine.state().name();
        holds(state == folded, || format!("I3: the row of `{id}` says {state}, its journal {folded}"))?;
        let succeeded = run.succeeded.len();
        holds(results == succeeded, || {
            format!("I6: `{id}` has {results} results of {succeeded} instances that succeeded")
        })
    }

    /// A lease was taken. `holder` is who had the one before and would still have it, if it was neither given back nor ended.
    pub fn leased(&mut self, run: &str, epoch: u64, owner: u64, holder: Option<u64>) -> Verdict {
        let before = self.leases.insert(run.to_owned(), (epoch, owner));
        holds(holder.is_none(), || format!("I5: `{run}` is leased to {owner} while {holder:?} has it"))?;
        holds(before.is_none_or(|(last, _)| epoch > last), || format!("I5: epoch {epoch} of `{run}` does not rise"))
    }

    /// An attempt begins: only what is durable may. That of a pure task may begin once before it is, and is done again when its
    /// process dies before it was written.
    pub fn begins(&mut self, key: &str, pure: bool) -> Verdict {
        let run = key.split('/').next().unwrap_or_default();
        let run = self.runs.get_mut(run).ok_or_else(|| format!("an attempt of `{key}` began, and no run is pinned"))?;
        let begun = run.begun.entry(key.to_owned()).or_default();
        *begun += 1;
        let (begun, written) = (*begun, run.written.get(key).copied().unwrap_or_default());
        if begun > written {
            self.saw("started ahead");
        }
        holds(begun <= written + u32::from(pure), || {
            format!("{begun} attempts of `{key}` have begun, {written} are in the journal")
        })
    }

    pub fn fired(&mut self, model: &Model, id: i64) -> Verdict {
        let fire = &model.fires[&id];
        let (key, at) = (fire.row.key.clone(), fire.row.at);
        self.saw(if fire.row.cause == "trigger" { "triggered" } else { "fired" });
        holds(self.keys.insert((fire.deployment, key)), || format!("I12: two occasions are `{}`", fire.row.key))?;
        let is_scheduled = SCHEDULED.contains(&fire.row.cause.as_str());
        let due = !["schedule", "catch_up"].contains(&fire.row.cause.as_str()) || is_due(model, fire.deployment, at)?;
        holds(due, || format!("I12: `{}` has an occasion at {at}, when it is not due", fire.row.deployment))?;
        let new = !is_scheduled || self.instants.insert((fire.deployment, at));
        holds(new, || format!("I12: `{}` has two occasions at {at}", fire.row.deployment))
    }

    /// A fire went from one state to another.
    pub fn changed(&mut self, model: &Model, before: &FireRow) -> Verdict {
        let fire = &model.fires[&before.id];
        let edge = (before.state.as_str(), fire.row.state.as_str());
        use fire_state::{DUE, REFUSED, SKIPPED, STARTED, WAITING};
        let legal =
            matches!(edge, (DUE, WAITING | STARTED | SKIPPED) | (WAITING, STARTED | SKIPPED) | (STARTED, REFUSED));
        holds(legal, || format!("I12: the occasion {} of `{}` went from {edge:?}", before.key, before.deployment))?;
        if edge.1 == SKIPPED {
            self.saw("skipped");
        }
        let Some(run) = fire.row.run.as_ref().filter(|_| edge.1 == STARTED) else { return Ok(()) };
        let other = *self.of_runs.entry(run.clone()).or_insert(before.id);
        holds(other == before.id, || format!("I12: `{run}` is of two occasions"))?;
        let deployment = model.deployments.values().find(|one| one.number == fire.deployment);
        let Some(deployment) = deployment else { return Err("an occasion of no deployment has started".to_owned()) };
        let (name, at) = (&deployment.row.name, Timestamp::from_millisecond(fire.row.at).unwrap_or_default());
        let own = fired_id(name, deployment.row.created_at, &fire.row.key, at);
        holds(*run == own, || format!("the occasion {} of `{name}` has started `{run}`, not `{own}`", fire.row.key))?;
        let spec: DeploymentSpec = serde_json::from_str(&deployment.row.spec).map_err(|error| error.to_string())?;
        let live = self.live(model, fire.deployment);
        let most = spec.most_running();
        // Whoever goes on with a run that had ended asks for it himself.
        let kept = spec.while_running == Concurrency::Allow || live.len() <= most;
        holds(kept, || format!("`{name}` has {live:?} live, {most} may be"))
    }

    /// The fires of a deployment whose runs are live and were never taken up after their end.
    fn live(&self, model: &Model, deployment: i64) -> Vec<String> {
        let fires = model.fires.values().filter(|fire| fire.deployment == deployment);
        let started = fires.filter(|fire| fire.row.state == fire_state::STARTED);
        let runs = started.filter_map(|fire| fire.row.run.clone());
        let is_live = |run: &String| {
            self.runs.get(run).is_none_or(|run| !run.machine.state().has_ended() && run.machine.generation() == 1)
        };
        runs.filter(is_live).collect()
    }

    /// Nothing is left to do.
    pub fn ended(&self, model: &Model) -> Verdict {
        for (id, run) in &self.runs {
            holds(run.machine.state().has_ended(), || format!("I9: `{id}` is {:?}", run.machine.state()))?;
            let stored: Result<Vec<Event>, _> =
                model.runs[id].events.iter().map(|event| Event::decode(&event.payload)).collect();
            let events = stored.map_err(|error| format!("I3: `{id}`: {error}"))?;
            let restored = Machine::restore(run.machine.graph().clone(), &events);
            let same = restored.is_ok_and(|restored| restored == run.machine);
            holds(same, || format!("I3: the journal of `{id}` does not give its state"))?;
        }
        for fire in model.fires.values() {
            let told = || format!("the occasion {} of `{}`", fire.row.key, fire.row.deployment);
            holds(fire.row.settled, || format!("I9: {} is open", told()))?;
            let run = fire.row.run.as_ref().filter(|_| fire.row.state == fire_state::STARTED);
            holds(run.is_none_or(|run| model.runs.contains_key(run)), || format!("{} has started no run", told()))?;
        }
        Ok(())
    }
}

/// Whether a deployment is due at an instant, by its newest version.
fn is_due(model: &Model, deployment: i64, at: i64) -> Result<bool, String> {
    let deployment = model.deployments.values().find(|one| one.number == deployment);
    let spec = deployment.map(|one| one.row.spec.as_str()).ok_or("an occasion of no deployment")?;
    let spec: DeploymentSpec = serde_json::from_str(spec).map_err(|error| error.to_string())?;
    let schedule = spec.schedule.and_then(|schedule| schedule.compile().ok());
    let just_before = Timestamp::from_millisecond(at - 1).unwrap_or_default();
    Ok(schedule.and_then(|schedule| schedule.next(just_before)).is_some_and(|fire| fire.at.as_millisecond() == at))
}

impl Followed {
    /// How an attempt of an instance names it.
    fn key(&self, run: &str, s: u32, i: u32) -> String {
        let step = &self.machine.graph().steps[s as usize].id;
        let instance = if self.lifted[s as usize] { i.to_string() } else { String::new() };
        format!("{run}/{step}/{instance}")
    }
}
