//! The contract of [`swath_store::Store`] and [`swath_store::Deployments`] in memory: what the databases promise, and nothing of how
//! they keep it. `agrees.rs` holds it against SQLite.

use std::collections::BTreeMap;

use swath_store::{
    Append, DeploymentRow, Error, FireChange, FireFilter, FireRow, Follows, Looked, NewFire, NewRun, NewVersion,
    RunFilter, RunRow, RunUpdate, StoredEvent, StoredResult, Version, Wish, fire_state, storable,
};

/// A rule that the model breaks on purpose, to see whether the simulation finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A write of an older lease is taken.
    Fence,
    /// A run is leased again while it is held.
    Lease,
    /// A deployment may have two occasions of one key.
    Key,
    /// An occasion changes its state whatever that was.
    State,
    /// An append is acknowledged, and its results are lost.
    Results,
    /// More runs of a deployment are started than may be live.
    Room,
    /// A schedule is taken for the deployment's that it has no longer.
    Newest,
    /// The number of an occasion that is gone is given again.
    Numbers,
}

/// What proves that the holder of a lease lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A lock that ends with its process, as on SQLite.
    Lock,
    /// Its clock: a lease holds for so many milliseconds, as on PostgreSQL.
    Clock(u64),
}

/// All that is stored.
pub struct Model {
    pub runs: BTreeMap<String, Run>,
    pub claims: BTreeMap<String, Claim>,
    pub deployments: BTreeMap<String, Deployment>,
    pub fires: BTreeMap<i64, Fire>,
    pub proof: Proof,
    pub mutant: Option<Mutant>,
    /// How many there ever were.
    runs_made: u64,
    deployments_made: i64,
    fires_made: i64,
}

pub struct Run {
    pub row: RunRow,
    pub new: NewRun,
    pub epoch: u64,
    pub events: Vec<StoredEvent>,
    pub results: BTreeMap<(String, String), StoredResult>,
    transitions: BTreeMap<String, u64>,
}

/// What is noted of who drives a run.
#[derive(Default)]
pub struct Claim {
    pub epoch: u64,
    /// Who has the lease, and until when without a sign of life.
    pub holder: Option<(u64, u64)>,
    pub cancel: bool,
    pub pause: Option<bool>,
    pub served: Option<String>,
    pub refused: u64,
}

pub struct Deployment {
    pub number: i64,
    pub row: DeploymentRow,
    /// With what each runs.
    pub versions: Vec<(Version, String)>,
}

impl Deployment {
    fn is_newest(&self, looked: Option<Looked>) -> bool {
        looked.is_none_or(|looked| (looked.version, looked.created_at) == (self.row.version, self.row.created_at))
    }
}

pub struct Fire {
    pub deployment: i64,
    pub row: FireRow,
}

impl Model {
    pub fn new(proof: Proof, mutant: Option<Mutant>) -> Self {
        let (runs, claims, deployments, fires) = Default::default();
        Self { runs, claims, deployments, fires, proof, mutant, runs_made: 0, deployments_made: 0, fires_made: 0 }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub fn create_run(&mut self, new: NewRun) -> Result<(), Error> {
        if let Some(run) = self.runs.get(&new.id) {
            let same = |one: &NewRun| (one.text_digest, one.params.clone(), one.plan.clone());
            return if same(&run.new) == same(&new) { Ok(()) } else { Err(Error::RunExists(new.id)) };
        }
        self.runs_made += 1;
        let row = RunRow {
            number: self.runs_made,
            id: new.id.clone(),
            flow: new.flow.clone(),
            source: new.source.clone(),
            state: new.state.clone(),
            seq: 0,
            created_at: new.created_at,
            started_at: None,
            ended_at: None,
            updated_at: new.created_at,
            error: None,
            summary: None,
        };
        let epoch = self.claims.get(&new.id).map_or(0, |claim| claim.epoch);
        let (events, results, transitions) = Default::default();
        self.runs.insert(new.id.clone(), Run { row, new, epoch, events, results, transitions });
        Ok(())
    }

    pub fn run(&self, run: &str) -> Result<&Run, Error> {
        self.runs.get(run).ok_or_else(|| Error::NoRun(run.to_owned()))
    }

    pub fn append(&mut self, append: &Append) -> Result<u64, Error> {
        let (fence, keeps) = (!self.is(Mutant::Fence), !self.is(Mutant::Results));
        let id = append.run.clone();
        let run = self.runs.get_mut(&id).ok_or_else(|| Error::NoRun(id.clone()))?;
        if let Some(seq) = append.transition.as_ref().and_then(|transition| run.transitions.get(transition)) {
            return Ok(*seq);
        }
        if fence && run.epoch != append.epoch {
            self.claims.entry(id.clone()).or_default().refused += 1;
            return Err(Error::LeaseLost { run: id, epoch: append.epoch });
        }
        if run.row.seq != append.expected_seq {
            return Err(Error::Conflict { run: id, expected: append.expected_seq, actual: run.row.seq });
        }
        let mut results = BTreeMap::new();
        for new in &append.results {
            let at = (new.step.clone(), new.instance.clone());
            let result = StoredResult {
                step: new.step.clone(),
                instance: new.instance.clone(),
                attempt: new.attempt,
                outputs: new.outputs.clone(),
                key: new.key.as_ref().map(|parts| parts.digest()),
                parts: new.key.clone(),
                reused_from: new.reused_from.clone(),
                at: append.at,
            };
            if run.results.contains_key(&at) || results.insert(at, result).is_some() {
                return Err(Error::ResultExists { run: id });
            }
        }
        if keeps {
            run.results.append(&mut results);
        }
        for event in &append.events {
            run.row.seq += 1;
            run.events.push(StoredEvent {
                seq: run.row.seq,
                kind: event.kind.clone(),
                step: event.step.clone(),
                payload: event.payload.clone(),
                at: append.at,
            });
        }
        if let (Some(transition), false) = (&append.transition, append.events.is_empty()) {
            run.transitions.insert(transition.clone(), run.row.seq);
        }
        run.row.updated_at = append.at;
        if let Some(update) = &append.update {
            change(&mut run.row, update);
        }
        Ok(run.row.seq)
    }

    /// Takes the right to drive a run; the answer is its epoch.
    pub fn lease(&mut self, id: &str, owner: u64, now: u64) -> Result<u64, Error> {
        let (proof, exclusive) = (self.proof, !self.is(Mutant::Lease));
        let claim = self.claims.entry(id.to_owned()).or_default();
        let holder = claim.holder.filter(|(_, until)| *until >= now);
        if let Some((holder, _)) = holder.filter(|_| exclusive) {
            return Err(Error::RunHeld { run: id.to_owned(), holder: format!("process {holder}") });
        }
        // By a clock, who did not give the lease back has died, maybe before he heard what was asked.
        if proof == Proof::Lock || claim.holder.is_none() {
            (claim.cancel, claim.pause) = (false, None);
        }
        claim.epoch += 1;
        let until = match proof {
            Proof::Lock => u64::MAX,
            Proof::Clock(length) => now + length,
        };
        claim.holder = Some((owner, until));
        let epoch = claim.epoch;
        if let Some(run) = self.runs.get_mut(id) {
            run.epoch = epoch;
        }
        Ok(epoch)
    }

    pub fn give_back(&mut self, id: &str, owner: u64, epoch: u64) {
        let claim = self.claims.entry(id.to_owned()).or_default();
        if claim.epoch == epoch && claim.holder.is_some_and(|(holder, _)| holder == owner) {
            claim.holder = None;
        }
    }

    /// Shows that the holder of a lease lives. `false`: another process has it.
    pub fn renew(&mut self, id: &str, owner: u64, epoch: u64, now: u64) -> bool {
        let proof = self.proof;
        let claim = self.claims.entry(id.to_owned()).or_default();
        let ours = claim.epoch == epoch && claim.holder.is_some_and(|(holder, _)| holder == owner);
        if let (true, Proof::Clock(length)) = (ours, proof) {
            claim.holder = Some((owner, now + length));
        }
        ours
    }

    /// A process has ended.
    pub fn died(&mut self, owner: u64) {
        if self.proof == Proof::Lock {
            let of_it = self.claims.values_mut().filter(|claim| claim.holder.is_some_and(|(one, _)| one == owner));
            of_it.for_each(|claim| claim.holder = None);
        }
    }

    pub fn holder(&self, id: &str, now: u64) -> Option<u64> {
        let (holder, until) = self.claims.get(id)?.holder?;
        (until >= now).then_some(holder)
    }

    pub fn wishes(&self) -> Vec<Wish> {
        let asked = self.claims.iter().filter(|(_, claim)| claim.cancel || claim.pause.is_some());
        asked.map(|(run, claim)| Wish { run: run.clone(), cancel: claim.cancel, pause: claim.pause }).collect()
    }

    pub fn list_runs(&self, filter: &RunFilter) -> Vec<RunRow> {
        let served = |row: &RunRow| self.claims.get(&row.id).is_some_and(|claim| claim.served.is_some());
        let after = |row: &RunRow| {
            filter.after.is_none_or(|after| (row.created_at, row.number) < (after.created_at, after.number))
        };
        let mut rows: Vec<RunRow> = (self.runs.values().map(|run| &run.row))
            .filter(|row| filter.states.is_empty() || filter.states.contains(&row.state))
            .filter(|row| filter.flow.as_ref().is_none_or(|flow| *flow == row.flow))
            .filter(|row| filter.source.as_ref().is_none_or(|source| *source == row.source))
            .filter(|row| !filter.without_sub_flows || !row.id.contains('.'))
            .filter(|row| (!filter.served || served(row)) && after(row))
            .cloned()
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.number)));
        rows.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        rows
    }

    pub fn deploy(&mut self, new: NewVersion) -> Result<DeploymentRow, Error> {
        let (name, digest) = (new.name.clone(), new.digest().hex());
        if !self.deployments.contains_key(&name) {
            self.deployments_made += 1;
            let number = self.deployments_made;
            let row = DeploymentRow {
                name: name.clone(),
                version: 0,
                flow: String::new(),
                spec: String::new(),
                paused: new.paused,
                handled: new.now,
                created_at: new.now,
                updated_at: new.now,
            };
            self.deployments.insert(name.clone(), Deployment { number, row, versions: Vec::new() });
        }
        let deployment = self.deployments.get_mut(&name).ok_or(Error::NoDeployment(name))?;
        if deployment.versions.last().is_none_or(|(newest, _)| newest.digest != digest) {
            let row = &mut deployment.row;
            row.version += 1;
            row.updated_at = new.now;
            row.handled = row.handled.max(if new.rescheduled { new.now } else { 0 });
            (row.flow, row.spec) = (new.flow.clone(), new.spec.clone());
            let (version, created_at) = (row.version, new.now);
            let version = Version { version, digest, created_at, flow: new.flow, source: new.source };
            deployment.versions.push((version, new.content));
        }
        Ok(deployment.row.clone())
    }

    pub fn deployment(&self, name: &str) -> Result<&Deployment, Error> {
        self.deployments.get(name).ok_or_else(|| Error::NoDeployment(name.to_owned()))
    }

    pub fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        Ok(self.deployment(name)?.versions.iter().rev().map(|(version, _)| version.clone()).collect())
    }

    pub fn content(&self, name: &str, wanted: u32) -> Option<String> {
        let versions = &self.deployments.get(name)?.versions;
        versions.iter().find(|(version, _)| version.version == wanted).map(|(_, content)| content.clone())
    }

    pub fn set_paused(&mut self, name: &str, paused: bool, now: i64) -> Result<DeploymentRow, Error> {
        if let Some(deployment) = self.deployments.get_mut(name).filter(|one| one.row.paused != paused) {
            let row = &mut deployment.row;
            (row.paused, row.updated_at, row.handled) = (paused, now, row.handled.max(now));
        }
        Ok(self.deployment(name)?.row.clone())
    }

    pub fn delete_deployment(&mut self, name: &str) -> Result<(), Error> {
        let gone = self.deployments.remove(name).ok_or_else(|| Error::NoDeployment(name.to_owned()))?;
        self.fires.retain(|_, fire| fire.deployment != gone.number);
        Ok(())
    }

    /// Adds a fire, unless there is one of its key. The answer is its number.
    pub fn insert_fire(&mut self, name: &str, new: &NewFire, looked: Option<Looked>) -> Option<i64> {
        let looked = looked.filter(|_| !self.is(Mutant::Newest));
        let of = self.deployments.get(name).filter(|one| !one.row.paused && one.is_newest(looked))?;
        let (deployment, deployed_at) = (of.number, of.row.created_at);
        let known = self.fires.values().any(|fire| fire.deployment == deployment && fire.row.key == new.key);
        // A number is used up even where it is not given.
        self.fires_made += 1;
        if known && !self.is(Mutant::Key) {
            return None;
        }
        let id = match self.mutant {
            Some(Mutant::Numbers) => self.fires.last_key_value().map_or(1, |(last, _)| last + 1),
            _ => self.fires_made,
        };
        let row = FireRow {
            id,
            deployment: name.to_owned(),
            deployed_at,
            key: new.key.clone(),
            cause: new.cause.clone(),
            since: new.since,
            at: new.at,
            due: new.due,
            params: new.params.clone(),
            state: fire_state::DUE.to_owned(),
            run: None,
            run_state: None,
            note: String::new(),
            settled: false,
            created_at: new.created_at,
        };
        self.fires.insert(id, Fire { deployment, row });
        Some(id)
    }

    pub fn handled(&mut self, name: &str, looked: Looked) {
        let which = Some(looked).filter(|_| !self.is(Mutant::Newest));
        let of = self.deployments.get_mut(name).filter(|one| !one.row.paused && one.is_newest(which));
        if let Some(one) = of {
            one.row.handled = one.row.handled.max(looked.up_to);
        }
    }

    pub fn fires(&self, filter: &FireFilter) -> Vec<FireRow> {
        let wanted = |wanted: &Option<String>, is: Option<&String>| wanted.as_ref().is_none_or(|one| Some(one) == is);
        let found = (self.fires.values().rev().map(|fire| &fire.row))
            .filter(|row| wanted(&filter.deployment, Some(&row.deployment)) && (!filter.open || !row.settled))
            .filter(|row| wanted(&filter.run, row.run.as_ref()) && wanted(&filter.key, Some(&row.key)))
            .filter(|row| filter.before.is_none_or(|before| row.id < before))
            .take(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        found.map(|row| FireRow { run_state: self.state_of(row), ..row.clone() }).collect()
    }

    fn state_of(&self, fire: &FireRow) -> Option<String> {
        Some(self.runs.get(fire.run.as_ref()?)?.row.state.clone())
    }

    /// How many fires of the deployment of this one have runs that have not ended, or are about to have them.
    fn live(&self, id: i64) -> usize {
        let Some(deployment) = self.fires.get(&id).map(|fire| fire.deployment) else { return 0 };
        let open = self.fires.values().filter(|fire| fire.deployment == deployment && !fire.row.settled);
        let started = open.filter(|fire| fire.row.state == fire_state::STARTED);
        let ended = |run: &String| self.runs.get(run).is_some_and(|run| run.row.ended_at.is_some());
        started.filter(|fire| !fire.row.run.as_ref().is_some_and(ended)).count()
    }

    pub fn change_fire(&mut self, id: i64, from: &str, change: &FireChange) -> bool {
        let any = self.is(Mutant::State);
        let has_room = self.is(Mutant::Room) || change.most.is_none_or(|most| self.live(id) < most as usize);
        let Some(fire) = self.fires.get_mut(&id).filter(|fire| has_room && (any || fire.row.state == from)) else {
            return false;
        };
        let has_run = fire.row.run.as_ref().is_some_and(|run| self.runs.contains_key(run));
        if change.state == fire_state::REFUSED && has_run {
            return false;
        }
        let row = &mut fire.row;
        row.state = change.state.to_owned();
        row.run = change.run.clone().or(row.run.take());
        row.note = storable(&change.note);
        row.since = change.since.or(row.since);
        row.settled |= change.state == fire_state::SKIPPED;
        true
    }

    /// The answer has the numbers of the fires that are new.
    pub fn settle(&mut self, id: i64, follows: &Follows) -> Vec<i64> {
        assert!(follows.tellings.is_empty(), "no deployment here has hooks");
        let new = follows.fires.iter().filter_map(|(name, fire)| self.insert_fire(name, fire, None)).collect();
        let state = self.fires.get(&id).and_then(|fire| self.state_of(&fire.row));
        if let (Some(ended), Some(fire)) = (&follows.ended, self.fires.get_mut(&id)) {
            fire.row.settled |= state.is_none_or(|state| state == *ended);
        }
        new
    }

    pub fn unsettle(&mut self, run: &str) {
        let of_run = self.fires.values_mut().filter(|fire| fire.row.run.as_deref() == Some(run));
        of_run.for_each(|fire| fire.row.settled = false);
    }
}

fn change(row: &mut RunRow, update: &RunUpdate) {
    if let Some(state) = &update.state {
        row.state.clone_from(state);
        (row.ended_at, row.error) = (update.ended_at, update.error.as_deref().map(storable));
    }
    row.started_at = row.started_at.or(update.started_at);
    row.summary = update.summary.clone().or(row.summary.take());
}
