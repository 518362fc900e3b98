//! Seeded simulation: random graphs in a hostile world. After every event the numbered invariants hold; after every
//! crash the journal gives back the state; when the faults stop, the run ends with nothing alive.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use swath_run::{
    Backoff, Event, Failure, Fault, FaultClass, Graph, Input, InstanceState, Machine, OnFailure, Retry, RunState,
    StepSpec, StepState,
};

fn fault() -> Fault {
    Fault::new("T100", "it broke", None)
}

fn random_graph(rng: &mut SmallRng) -> Graph {
    let count = rng.random_range(1..9);
    let steps = (0..count).map(|index: u32| {
        let mut pick = |most: u32| -> Vec<u32> {
            let wanted = if index == 0 { 0 } else { rng.random_range(0..=most.min(index)) };
            (0..wanted).map(|_| rng.random_range(0..index)).collect()
        };
        let (reads, after) = (pick(2), pick(1));
        let classes = [FaultClass::Transient, FaultClass::Timeout, FaultClass::Permanent];
        StepSpec {
            id: format!("step{index}"),
            reads,
            after,
            evaluated: rng.random_bool(0.4),
            retry: Retry {
                times: rng.random_range(0..3),
                wait: rng.random_range(0..500),
                backoff: if rng.random() { Backoff::Fixed } else { Backoff::Exponential },
                max_wait: 10_000,
                jitter: rng.random_range(0.0..1.0),
                on: classes.into_iter().filter(|_| rng.random_bool(0.6)).collect(),
                losses: rng.random_range(0..3),
            },
            on_failure: if rng.random_bool(0.3) { OnFailure::Continue } else { OnFailure::Stop },
        }
    });
    Graph { steps: steps.collect() }
}

/// One run in one world. Returns what it ended as, and how many events that took.
struct World {
    rng: SmallRng,
    machine: Machine,
    journal: Vec<Event>,
    now: u64,
    /// How likely the world misbehaves; 0 once the faults have stopped.
    malice: f64,
    /// Every instance that has succeeded, and the epochs handed out: neither may happen twice.
    succeeded: std::collections::BTreeSet<(u32, u32)>,
    epochs: Vec<u64>,
    /// Attempts of the world's workers; those of dead hosts answer too late.
    workers: Vec<(u32, u32, u64)>,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let machine = Machine::new(random_graph(&mut rng));
        let malice = [0.0, 0.1, 0.4][rng.random_range(0..3)];
        let (succeeded, epochs) = Default::default();
        Self { rng, machine, journal: Vec::new(), now: 1_000, malice, succeeded, epochs, workers: Vec::new(), seed }
    }

    fn offer(&mut self, input: Input) {
        let events = self.machine.offer(input, self.now);
        for event in &events {
            match event {
                Event::Started { s, i, epoch, .. } => {
                    assert!(!self.succeeded.contains(&(*s, *i)), "I7: {s}/{i} started after it succeeded");
                    assert!(self.epochs.last().is_none_or(|last| epoch > last), "I5: epoch {epoch} does not rise");
                    self.epochs.push(*epoch);
                }
                Event::Succeeded { s, i, .. } => {
                    assert!(self.succeeded.insert((*s, *i)), "I6: {s}/{i} succeeded twice");
                }
                _ => {}
            }
        }
        self.journal.extend(events);
        let broken = self.machine.check_invariants();
        assert!(broken.is_empty(), "seed {}: {broken:?}\n{:#?}", self.seed, self.journal);
    }

    fn crash(&mut self) {
        let text: Vec<String> = self.journal.iter().map(Event::encode).collect();
        let events: Vec<Event> = text.iter().map(|line| Event::decode(line).unwrap()).collect();
        let replayed = Machine::replay(self.machine.graph().clone(), &events);
        assert_eq!(replayed, self.machine, "I3: seed {}", self.seed);
        self.machine = replayed;
        self.offer(Input::Recovered);
    }

    fn act(&mut self) {
        let bad = self.malice > 0.0 && self.rng.random_bool(self.malice);
        if bad {
            return self.misbehave();
        }
        let evaluation = self.machine.evaluations().next();
        let ready: Vec<(u32, u32)> = self.machine.ready().collect();
        match self.rng.random_range(0..4) {
            0 if evaluation.is_some() => {
                let outcome = match self.rng.random_range(0..10) {
                    0 => Err(fault()),
                    1 => Ok(None),
                    n => Ok(Some(n - 2)),
                };
                self.offer(Input::Evaluated { step: evaluation.unwrap(), outcome });
            }
            1 if !ready.is_empty() => {
                let (step, index) = ready[self.rng.random_range(0..ready.len())];
                match self.rng.random_range(0..12) {
                    0 => self.offer(Input::Reused { step, index }),
                    1 if self.malice > 0.0 => self.offer(Input::Refused { step, index, fault: fault() }),
                    _ => {
                        self.offer(Input::Claim { step, index });
                        if let Some((.., epoch, _)) = self.machine.running().find(|r| (r.0, r.1) == (step, index)) {
                            self.workers.push((step, index, epoch));
                        }
                    }
                }
            }
            2 if !self.workers.is_empty() => {
                let at = self.rng.random_range(0..self.workers.len());
                let (step, index, epoch) = self.workers.swap_remove(at);
                let classes =
                    [FaultClass::Transient, FaultClass::Permanent, FaultClass::Timeout, FaultClass::Cancelled];
                let class = classes[self.rng.random_range(0..4)];
                let outcome = match self.rng.random_bool(if self.malice > 0.0 { 0.4 } else { 0.0 }) {
                    true => Err(Failure { class, retry_after: self.rng.random_range(0..50), fault: fault() }),
                    false => Ok(()),
                };
                self.offer(Input::Finished { step, index, epoch, outcome });
            }
            _ => {
                self.now = self.machine.next_due().map_or(self.now + 10, |due| due.max(self.now));
                self.offer(Input::TimerDue);
            }
        }
    }

    fn misbehave(&mut self) {
        let steps = self.machine.graph().steps.len() as u32;
        let (step, index) = (self.rng.random_range(0..steps), self.rng.random_range(0..4));
        match self.rng.random_range(0..10) {
            0 => self.crash(),
            1 if self.rng.random_bool(0.05) => {
                let deadline = self.now + self.rng.random_range(0..200);
                self.offer(Input::Cancel { deadline });
            }
            2 => self.now = self.now.saturating_sub(self.rng.random_range(0..3_600)),
            3 => self.now += self.rng.random_range(0..3_600),
            4 => self.offer(Input::Claim { step, index }),
            5 => self.offer(Input::Evaluated { step, outcome: Ok(Some(2)) }),
            6 => self.offer(Input::Begin),
            7 if !self.workers.is_empty() => {
                let at = self.rng.random_range(0..self.workers.len());
                let (step, index, epoch) = self.workers.swap_remove(at);
                self.offer(Input::Stopped { step, index, epoch });
            }
            // A late or repeated answer from a worker that may have lost its lease long ago.
            _ if !self.epochs.is_empty() => {
                let epoch = self.epochs[self.rng.random_range(0..self.epochs.len())];
                let live = self.machine.running().any(|r| (r.0, r.1, r.3) == (step, index, epoch));
                let before = self.journal.len();
                if !live {
                    self.offer(Input::Finished { step, index, epoch, outcome: Ok(()) });
                    assert_eq!(self.journal.len(), before, "I5: an old epoch was heard, seed {}", self.seed);
                }
            }
            _ => self.offer(Input::TimerDue),
        }
    }

    fn run(&mut self) -> RunState {
        self.offer(Input::Begin);
        let mut actions = 0;
        while !self.machine.state().has_ended() {
            actions += 1;
            if actions == 150 {
                self.malice = 0.0;
                self.crash();
                // Workers of the dead host never answer; those of this one are live.
                self.workers.clear();
            }
            assert!(actions < 20_000, "I9: seed {} does not end: {:#?}", self.seed, self.journal);
            self.act();
        }
        self.crash();
        self.machine.state()
    }
}

#[test]
fn a_hundred_thousand_runs_in_a_hostile_world_keep_every_invariant() {
    let mut ends = std::collections::BTreeMap::<&str, u32>::new();
    let mut reopened = 0;
    for seed in 0..100_000 {
        let mut world = World::new(seed);
        let state = world.run();
        *ends.entry(state.name()).or_default() += 1;
        // Final is final.
        let before = world.machine.clone();
        for input in [Input::Begin, Input::TimerDue, Input::Recovered, Input::Cancel { deadline: 0 }] {
            world.offer(input);
        }
        assert_eq!(before, world.machine, "I2: seed {seed}");
        // A new generation of a failed or cancelled run ends too, and repeats nothing that had succeeded.
        if state != RunState::Completed && seed % 4 == 0 {
            reopened += 1;
            world.malice = 0.0;
            world.workers.clear();
            world.offer(Input::Reopen);
            let again = world.run();
            assert!(again.has_ended() && world.machine.generation() == 2);
        }
    }
    // The world is varied enough to have shown every end.
    for name in ["completed", "failed", "cancelled"] {
        assert!(ends.get(name).copied().unwrap_or(0) > 500, "{ends:?}");
    }
    assert!(reopened > 1_000);
}

fn chain(specs: &[(&[u32], &[u32])]) -> Graph {
    let steps = specs.iter().enumerate().map(|(index, (reads, after))| StepSpec {
        id: format!("s{index}"),
        reads: reads.to_vec(),
        after: after.to_vec(),
        ..StepSpec::default()
    });
    Graph { steps: steps.collect() }
}

fn start(machine: &mut Machine, step: u32, index: u32) -> u64 {
    machine.offer(Input::Claim { step, index }, 0);
    machine.running().find(|r| (r.0, r.1) == (step, index)).expect("started").3
}

fn end(machine: &mut Machine, step: u32, index: u32, class: Option<FaultClass>) -> Vec<Event> {
    let epoch = start(machine, step, index);
    let outcome = class.map_or(Ok(()), |class| Err(Failure { class, retry_after: 0, fault: fault() }));
    machine.offer(Input::Finished { step, index, epoch, outcome }, 0)
}

#[test]
fn one_answer_brings_all_that_follows_from_it() {
    let mut machine = Machine::new(chain(&[(&[], &[]), (&[0], &[]), (&[1], &[]), (&[], &[0])]));
    machine.offer(Input::Begin, 0);
    assert_eq!(machine.ready().collect::<Vec<_>>(), [(0, 0)]);
    end(&mut machine, 0, 0, None);
    assert_eq!(machine.ready().collect::<Vec<_>>(), [(1, 0), (3, 0)]);
    let events = end(&mut machine, 1, 0, Some(FaultClass::Permanent));
    let kinds: Vec<&str> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, ["failed", "dropped", "upstream_failed", "ended"]);
    assert_eq!(machine.state(), RunState::Failed);
    assert_eq!(machine.step(2), StepState::UpstreamFailed(1));
    machine.offer(Input::Reopen, 0);
    assert_eq!(machine.step(0), StepState::Succeeded);
    for step in [1, 3, 2] {
        end(&mut machine, step, 0, None);
    }
    assert_eq!(machine.state(), RunState::Completed);
}

#[test]
fn continue_on_failure_completes_and_readers_never_run() {
    let mut graph = chain(&[(&[], &[]), (&[0], &[]), (&[], &[0]), (&[], &[])]);
    graph.steps[0].on_failure = OnFailure::Continue;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    end(&mut machine, 0, 0, Some(FaultClass::Permanent));
    assert_eq!(machine.step(1), StepState::UpstreamFailed(0));
    end(&mut machine, 2, 0, None);
    end(&mut machine, 3, 0, None);
    assert_eq!(machine.state(), RunState::Completed);
}

#[test]
fn an_answer_with_an_old_epoch_is_refused_and_counted() {
    let mut graph = chain(&[(&[], &[])]);
    graph.steps[0].retry.losses = 5;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    let old = start(&mut machine, 0, 0);
    machine.offer(Input::Recovered, 0);
    machine.offer(Input::TimerDue, 0);
    let new = start(&mut machine, 0, 0);
    assert!(new > old);
    assert!(machine.offer(Input::Finished { step: 0, index: 0, epoch: old, outcome: Ok(()) }, 0).is_empty());
    assert_eq!((machine.refused(), machine.instance(0, 0)), (1, Some(InstanceState::Running)));
    machine.offer(Input::Finished { step: 0, index: 0, epoch: new, outcome: Ok(()) }, 0);
    assert_eq!(machine.state(), RunState::Completed);
}

#[test]
fn a_step_that_kills_its_process_fails_after_its_losses() {
    let mut machine = Machine::new(chain(&[(&[], &[])]));
    machine.offer(Input::Begin, 0);
    for loss in 0..4 {
        assert_eq!(machine.state(), RunState::Running, "after {loss} losses");
        start(&mut machine, 0, 0);
        machine.offer(Input::Recovered, 0);
        machine.offer(Input::TimerDue, 0);
    }
    assert_eq!(machine.state(), RunState::Failed);
}

#[test]
fn cancelling_ends_by_its_deadline_whatever_the_workers_do() {
    let mut graph = chain(&[(&[], &[]), (&[], &[]), (&[0], &[])]);
    graph.steps[1].evaluated = true;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    start(&mut machine, 0, 0);
    machine.offer(Input::Cancel { deadline: 500 }, 100);
    assert_eq!((machine.state(), machine.next_due()), (RunState::Cancelling, Some(500)));
    assert!(machine.offer(Input::TimerDue, 499).is_empty());
    machine.offer(Input::TimerDue, 500);
    assert_eq!(machine.state(), RunState::Cancelled);
}

#[test]
fn a_million_instances_take_a_byte_each() {
    let mut graph = chain(&[(&[], &[])]);
    graph.steps[0].evaluated = true;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    machine.offer(Input::Evaluated { step: 0, outcome: Ok(Some(1_000_000)) }, 0);
    assert_eq!(size_of::<InstanceState>(), 1);
    for index in 0..1_000_000 {
        let epoch = start(&mut machine, 0, index);
        machine.offer(Input::Finished { step: 0, index, epoch, outcome: Ok(()) }, 0);
    }
    assert_eq!((machine.state(), machine.tally(0).succeeded), (RunState::Completed, 1_000_000));
}

#[test]
fn stored_errors_are_bounded() {
    let fault = Fault::new("E".repeat(1_000), "ä".repeat(1 << 20), Some("x".repeat(1 << 20)));
    let event = Event::Failed { s: 0, i: 0, epoch: 0, class: FaultClass::Permanent, fault };
    assert!(event.encode().len() < 64 << 10);
}
