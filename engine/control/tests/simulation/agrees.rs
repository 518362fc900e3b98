//! The model of the simulation answers as a real store does: the same questions in the same order, of both.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use swath_store::{
    Access, Append, Deployments, Error, FireChange, FireFilter, Follows, Looked, NewEvent, NewFire, NewResult, NewRun,
    NewVersion, RunFilter, RunLease, RunUpdate, SqliteStore, Store, fire_state,
};
use swath_task::Digest;

use crate::model::{Model, Proof};

/// Whoever asks the model.
const ASKER: u64 = 1;

/// Both of them, and what is drawn.
struct Pair {
    model: Model,
    store: SqliteStore,
    leases: BTreeMap<String, (RunLease, u64)>,
    rng: SmallRng,
}

/// An answer as both can give it: of errors the code, since only one of the two has files and processes.
fn told<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    answer.map_or_else(|error| error.code().to_owned(), |answer| format!("{answer:?}"))
}

impl Pair {
    fn draw(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    fn run(&mut self) -> String {
        format!("run-{}", self.draw(3))
    }

    fn name(&mut self) -> &'static str {
        ["scan", "other"][self.draw(2) as usize]
    }

    fn new_run(&mut self) -> NewRun {
        let at = self.draw(3) as i64;
        NewRun {
            id: self.run(),
            flow: "flow".to_owned(),
            source: format!("flow-{at}.yaml"),
            text: "flow: flow".into(),
            text_digest: Digest::of(b"flow: flow"),
            params: format!("{{\"n\":{}}}", self.draw(8) / 7),
            plan: "{}".into(),
            state: "pending".to_owned(),
            created_at: at,
        }
    }

    fn append(&mut self) -> Append {
        let run = self.run();
        let (seq, epoch) = self.model.runs.get(&run).map_or((0, 0), |run| (run.row.seq, run.epoch));
        let count = self.draw(3);
        let event = |n: u64| NewEvent { kind: "kind".to_owned(), step: None, payload: format!("{{\"n\":{n}}}") };
        let result = |step: u64| NewResult {
            step: format!("s{step}"),
            instance: String::new(),
            attempt: 1,
            outputs: "{}".to_owned(),
            artifacts: Vec::new(),
            key: None,
            cache: Default::default(),
            reused_from: None,
        };
        let state = ["running", "failed"][self.draw(2) as usize];
        let update = RunUpdate {
            state: (self.draw(2) == 0).then(|| state.to_owned()),
            started_at: (self.draw(2) == 0).then_some(7),
            ended_at: (state == "failed").then_some(9),
            error: (self.draw(3) == 0).then(|| "GET https://h/?sig=abc".to_owned()),
            summary: (self.draw(3) == 0).then(|| "{}".to_owned()),
        };
        Append {
            run,
            expected_seq: if self.draw(4) == 0 { self.draw(6) } else { seq },
            epoch: if self.draw(4) == 0 { self.draw(4) } else { epoch },
            transition: (self.draw(4) == 0 && count > 0).then(|| format!("t{}", self.draw(4))),
            at: self.draw(100) as i64,
            events: (0..count).map(event).collect(),
            results: (0..self.draw(2)).map(|_| result(self.draw(20))).collect(),
            metrics: Vec::new(),
            update: (self.draw(2) == 0).then_some(update),
        }
    }

    fn fire(&mut self) -> NewFire {
        let at = self.draw(6) as i64;
        NewFire {
            key: format!("at:{at}"),
            cause: "schedule".to_owned(),
            since: (self.draw(4) > 0).then_some(at - 1),
            at,
            due: at + 1,
            params: "{}".to_owned(),
            created_at: self.draw(50) as i64,
        }
    }

    fn filter(&mut self) -> FireFilter {
        FireFilter {
            deployment: (self.draw(2) == 0).then(|| self.name().to_owned()),
            open: self.draw(2) == 0,
            run: (self.draw(6) == 0).then(|| self.run()),
            key: (self.draw(6) == 0).then(|| format!("at:{}", self.draw(6))),
            before: (self.draw(3) == 0).then(|| self.draw(20) as i64),
            limit: (self.draw(3) == 0).then(|| self.draw(4) as u32),
        }
    }

    /// Asks both for one thing: what that was, and their answers.
    async fn ask(&mut self) -> (String, String, String) {
        let now = 100 + self.rng.random_range(0..100);
        match self.rng.random_range(0..20) {
            0 | 1 => {
                let new = self.new_run();
                (format!("{new:?}"), told(self.model.create_run(new.clone())), told(self.store.create_run(new).await))
            }
            2..6 => {
                let append = self.append();
                let expected = told(self.model.append(&append));
                (format!("{append:?}"), expected, told(self.store.append(append).await))
            }
            6 | 7 => {
                let run = self.run();
                let (expected, leased) = (self.model.lease(&run, ASKER, 0), self.store.lease_run(&run).await);
                let code = |error: &Error| error.code().to_owned();
                let answer = leased.as_ref().map_or_else(code, |lease| lease.epoch().to_string());
                let asked = format!("lease {run}");
                if let (Ok(lease), Ok(epoch)) = (leased, &expected) {
                    self.leases.insert(run, (lease, *epoch));
                }
                (asked, told(expected), answer)
            }
            8 => {
                let run = self.run();
                if let Some((_, epoch)) = self.leases.remove(&run) {
                    self.model.give_back(&run, ASKER, epoch);
                }
                let held = self.store.run_holder(&run).await.map(|holder| holder.is_some());
                (format!("give back {run}"), told(Ok(self.model.holder(&run, 0).is_some())), told(held))
            }
            9 => {
                let filter = RunFilter {
                    states: (0..self.draw(2)).map(|_| "failed".to_owned()).collect(),
                    source: (self.draw(2) == 0).then(|| "flow-1.yaml".to_owned()),
                    limit: (self.draw(2) == 0).then_some(1),
                    ..RunFilter::default()
                };
                let expected = told(Ok(self.model.list_runs(&filter)));
                (format!("{filter:?}"), expected, told(self.store.list_runs(&filter).await))
            }
            10 | 11 => {
                let new = NewVersion {
                    name: self.name().to_owned(),
                    flow: "flow".to_owned(),
                    source: "flow.yaml".to_owned(),
                    spec: "{}".to_owned(),
                    content: format!("content {}", self.draw(2)),
                    paused: self.draw(4) == 0,
                    rescheduled: self.draw(2) == 0,
                    now,
                };
                (format!("{new:?}"), told(self.model.deploy(new.clone())), told(self.store.deploy(new).await))
            }
            12 => {
                let (name, paused) = (self.name(), self.draw(2) == 0);
                let expected = told(self.model.set_paused(name, paused, now));
                (format!("pause {name}: {paused}"), expected, told(self.store.set_paused(name, paused, now).await))
            }
            13 => {
                let name = self.name();
                let expected = told(self.model.delete_deployment(name));
                (format!("delete {name}"), expected, told(self.store.delete_deployment(name).await))
            }
            14 | 15 => {
                let (name, fires) = (self.name(), (0..self.draw(3)).map(|_| self.fire()).collect::<Vec<_>>());
                let row =
                    self.model.deployment(name).map(|one| (one.row.version, one.row.created_at)).unwrap_or((1, 0));
                let version = row.0 + u32::from(self.draw(4) == 0);
                let looked = Looked { up_to: self.draw(300) as i64, version, created_at: row.1 };
                let looked = (self.draw(2) == 0).then_some(looked);
                let new = fires.iter().filter(|fire| self.model.insert_fire(name, fire, looked).is_some()).count();
                if let Some(looked) = looked {
                    self.model.handled(name, looked);
                }
                let asked = format!("add to {name}: {fires:?}, {looked:?}");
                (asked, told(Ok(new)), told(self.store.add_fires(name, fires, looked).await))
            }
            16 | 17 => {
                let states = [fire_state::DUE, fire_state::WAITING, fire_state::STARTED, fire_state::SKIPPED];
                let (id, from) = (self.draw(12) as i64, states[self.draw(3) as usize]);
                let change = FireChange {
                    state: [states[1], states[2], states[3], fire_state::REFUSED][self.draw(4) as usize],
                    run: (self.draw(2) == 0).then(|| self.run()),
                    note: "https://h/?sig=abc".to_owned(),
                    since: (self.draw(2) == 0).then_some(3),
                    most: (self.draw(2) == 0).then(|| 1 + self.draw(2) as u32),
                };
                let expected = told(Ok(self.model.change_fire(id, from, &change)));
                let asked = format!("{id} from {from}: {change:?}");
                (asked, expected, told(self.store.change_fire(id, from, change).await))
            }
            18 => {
                let (id, run) = (self.draw(12) as i64, self.run());
                let follows = Follows {
                    fires: vec![(self.name().to_owned(), self.fire())],
                    tellings: Vec::new(),
                    ended: (self.draw(4) > 0).then(|| "failed".to_owned()),
                };
                self.model.settle(id, &follows);
                if id % 3 == 0 {
                    self.model.unsettle(&run);
                    self.store.unsettle(&run).await.unwrap();
                }
                let asked = format!("settle {id}: {follows:?}");
                (asked, told(Ok(())), told(self.store.settle(id, follows).await))
            }
            _ => {
                let filter = self.filter();
                let expected = told(Ok(self.model.fires(&filter)));
                let store = &self.store;
                (format!("{filter:?}"), expected, told(store.fires(&filter).await))
            }
        }
    }

    /// All that is stored, as both tell it.
    async fn all(&self) -> (String, String) {
        let (mut expected, mut answer) = (String::new(), String::new());
        for run in ["run-0", "run-1", "run-2"] {
            let stored = self.model.run(run);
            expected += &told(stored.map(|run| run.row.clone()));
            expected += &told(self.model.run(run).map(|run| run.events.clone()));
            expected += &told(self.model.run(run).map(|run| run.results.values().cloned().collect::<Vec<_>>()));
            expected += &told(Ok(self.model.claims.get(run).map_or(0, |claim| claim.refused)));
            answer += &told(self.store.run_row(run).await);
            answer += &told(self.store.load_events(run, 0, u32::MAX).await);
            answer += &told(self.store.results(run, None).await);
            answer += &told(self.store.refused(run).await);
        }
        expected += &format!("{:?}", self.model.deployments.values().map(|one| &one.row).collect::<Vec<_>>());
        answer += &format!("{:?}", self.store.deployments().await.unwrap());
        for name in ["scan", "other"] {
            expected += &told(self.model.versions(name));
            answer += &told(self.store.versions(name).await);
        }
        expected += &told(Ok(self.model.fires(&FireFilter::default())));
        answer += &told(self.store.fires(&FireFilter::default()).await);
        (expected, answer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_answers_as_sqlite_does() {
    for seed in 0..12 {
        let home = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(home.path(), Access::Write).await.unwrap();
        let (model, rng) = (Model::new(Proof::Lock, None), SmallRng::seed_from_u64(seed));
        let mut pair = Pair { model, store, leases: BTreeMap::new(), rng };
        for at in 0..120 {
            let (asked, expected, answer) = pair.ask().await;
            assert_eq!(expected, answer, "seed {seed}, question {at}: {asked}");
            if at % 20 == 19 {
                let (expected, answer) = pair.all().await;
                assert_eq!(expected, answer, "seed {seed}, after question {at}: {asked}");
            }
        }
    }
}
