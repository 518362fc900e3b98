//! Seeded simulation: random graphs in a hostile world. After every event the numbered invariants hold; after every
//! crash the journal gives back the state; when the faults stop, the run ends with nothing alive.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use swath_run::{
    Backoff, Event, Failure, Fault, FaultClass, Graph, Input, InstanceState, Machine, OnFailure, Retry, RunState,
    SkipReason, StepSpec, StepState, Tolerance,
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
            on_failure: match rng.random_range(0..10) {
                0..2 => OnFailure::Continue,
                2 => OnFailure::Collect,
                _ => OnFailure::Stop,
            },
            tolerate: match rng.random_range(0..6) {
                0 => Tolerance::Count(1),
                1 => Tolerance::Percent(40.0),
                _ => Tolerance::default(),
            },
        }
    });
    Graph { steps: steps.collect() }
}

/// One run in one world. Returns what it ended as, and how many events that took.
struct World {
    rng: SmallRng,
    machine: Machine,
    /// Follows the machine event by event, and refuses what its state does not allow.
    follower: Machine,
    deadline: Option<u64>,
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
        let (follower, deadline) = (machine.clone(), None);
        Self {
            rng,
            machine,
            follower,
            deadline,
            journal: Vec::new(),
            now: 1_000,
            malice,
            succeeded,
            epochs,
            workers: Vec::new(),
            seed,
        }
    }

    fn offer(&mut self, input: Input) {
        let timer = input == Input::TimerDue;
        let events = self.machine.offer(input, self.now);
        for event in &events {
            if let Err(illegal) = self.follower.follow(event) {
                panic!("I1: seed {}: {illegal}: {event:?} after {:#?}", self.seed, self.journal);
            }
            match event {
                Event::CancelRequested { deadline } => self.deadline = Some(*deadline),
                Event::Reopened => self.deadline = None,
                Event::Started { s, i, epoch, .. } => {
                    assert!(self.follower.state() != RunState::Paused, "{s}/{i} started in a paused run");
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
        let late = timer && self.deadline.is_some_and(|deadline| deadline <= self.now);
        assert!(!late || self.machine.state().has_ended(), "I13: seed {} is late", self.seed);
        let broken = self.machine.check_invariants();
        assert!(broken.is_empty(), "seed {}: {broken:?}\n{:#?}", self.seed, self.journal);
    }

    fn crash(&mut self) {
        let text: Vec<String> = self.journal.iter().map(Event::encode).collect();
        let events: Vec<Event> = text.iter().map(|line| Event::decode(line).unwrap()).collect();
        let replayed = Machine::restore(self.machine.graph().clone(), &events).expect("its own journal");
        assert_eq!(replayed, self.machine, "I3: seed {}", self.seed);
        self.machine = replayed;
        self.offer(Input::Recovered);
    }

    fn act(&mut self) {
        let bad = self.malice > 0.0 && self.rng.random_bool(self.malice);
        if bad {
            return self.misbehave();
        }
        if self.machine.state() == RunState::Paused && self.rng.random_bool(0.2) {
            return self.offer(Input::Unpause);
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
            1 => self.offer(Input::Pause),
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

/// Ends by name, and how many runs were taken up again.
#[derive(Default)]
struct Seen {
    ends: std::collections::BTreeMap<&'static str, u32>,
    reopened: u32,
}

fn simulate(seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let mut world = World::new(seed);
        let state = world.run();
        *seen.ends.entry(state.name()).or_default() += 1;
        // Final is final.
        let before = world.machine.clone();
        let late = [Input::Begin, Input::TimerDue, Input::Recovered, Input::Cancel { deadline: 0 }];
        for input in late.into_iter().chain([Input::Pause, Input::Unpause]) {
            world.offer(input);
        }
        assert_eq!(before, world.machine, "I2: seed {seed}");
        // A new generation of a failed or cancelled run ends too, and repeats nothing that had succeeded.
        if state != RunState::Completed && seed % 4 == 0 {
            seen.reopened += 1;
            world.malice = [0.0, 0.2][world.rng.random_range(0..2)];
            world.workers.clear();
            world.offer(Input::Reopen);
            assert_eq!(world.machine.generation(), 2, "I2: seed {seed}");
            assert!(world.run().has_ended());
        }
    }
    seen
}

#[test]
fn a_hundred_thousand_runs_in_a_hostile_world_keep_every_invariant() {
    const RUNS: u64 = 100_000;
    const PARTS: u64 = 4;
    let parts: Vec<Seen> = std::thread::scope(|scope| {
        let share = RUNS / PARTS;
        let workers: Vec<_> = (0..PARTS).map(|p| scope.spawn(move || simulate(p * share..(p + 1) * share))).collect();
        workers.into_iter().map(|worker| worker.join().expect("every invariant holds")).collect()
    });
    // The world is varied enough to have shown every end.
    for name in ["completed", "failed", "cancelled"] {
        let count: u32 = parts.iter().filter_map(|seen| seen.ends.get(name)).sum();
        assert!(count > 500, "{count} runs ended {name}");
    }
    assert!(parts.iter().map(|seen| seen.reopened).sum::<u32>() > 1_000);
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
fn a_collected_failure_lets_the_rest_run_and_fails_the_run_in_the_end() {
    let mut graph = chain(&[(&[], &[]), (&[0], &[]), (&[], &[0])]);
    graph.steps[0].on_failure = OnFailure::Collect;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    end(&mut machine, 0, 0, Some(FaultClass::Permanent));
    assert_eq!((machine.step(1), machine.state()), (StepState::UpstreamFailed(0), RunState::Running));
    end(&mut machine, 2, 0, None);
    assert_eq!(machine.state(), RunState::Failed);
    machine.offer(Input::Reopen, 0);
    assert_eq!(machine.ready().collect::<Vec<_>>(), [(0, 0)]);
}

#[test]
fn a_step_that_tolerates_failures_fails_with_the_first_one_too_many() {
    let tolerances = [(Tolerance::Count(0), 0), (Tolerance::Count(2), 2), (Tolerance::Percent(34.0), 3)];
    for (tolerate, most) in tolerances.into_iter().chain([(Tolerance::Percent(100.0), 10)]) {
        let mut graph = chain(&[(&[], &[]), (&[0], &[])]);
        (graph.steps[0].evaluated, graph.steps[0].tolerate) = (true, tolerate);
        let mut machine = Machine::new(graph);
        machine.offer(Input::Begin, 0);
        machine.offer(Input::Evaluated { step: 0, outcome: Ok(Some(10)) }, 0);
        let mut tolerant = machine.clone();
        for index in 0..10 {
            let class = (index < most).then_some(FaultClass::Permanent);
            assert_eq!(tolerant.step(0), StepState::Open, "{tolerate:?} after {index}");
            end(&mut tolerant, 0, index, class);
        }
        assert_eq!((tolerant.step(0), tolerant.tally(0).failed), (StepState::Succeeded, most), "{tolerate:?}");
        if most < 10 {
            // One more, and nothing else of it starts.
            for index in 0..=most {
                assert_eq!(machine.state(), RunState::Running, "{tolerate:?} after {index}");
                end(&mut machine, 0, index, Some(FaultClass::Permanent));
            }
            assert_eq!((machine.step(0), machine.state()), (StepState::Failed, RunState::Failed), "{tolerate:?}");
        }
    }
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
fn a_paused_run_starts_nothing_lets_what_runs_end_and_holds_its_timers() {
    let mut graph = chain(&[(&[], &[]), (&[], &[]), (&[0], &[])]);
    graph.steps[1].retry = Retry { times: 1, wait: 100, ..Retry::default() };
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    let first = start(&mut machine, 0, 0);
    end(&mut machine, 1, 0, Some(FaultClass::Transient));
    machine.offer(Input::Pause, 0);
    assert_eq!((machine.state(), machine.next_due()), (RunState::Paused, None));
    // A restart keeps it paused, and what was lost waits too.
    machine.offer(Input::Recovered, 50);
    assert!(machine.offer(Input::TimerDue, 500).is_empty());
    assert!(machine.offer(Input::Finished { step: 0, index: 0, epoch: first, outcome: Ok(()) }, 500).is_empty());
    machine.offer(Input::Unpause, 500);
    assert_eq!(machine.offer(Input::TimerDue, 500).len(), 2);
    let second = start(&mut machine, 0, 0);
    machine.offer(Input::Pause, 500);
    // What runs ends as ever, and what follows from it is ready, but does not start.
    machine.offer(Input::Finished { step: 0, index: 0, epoch: second, outcome: Ok(()) }, 600);
    assert_eq!(machine.ready().collect::<Vec<_>>(), [(1, 0), (2, 0)]);
    assert!(machine.offer(Input::Claim { step: 2, index: 0 }, 600).is_empty());
    machine.offer(Input::Cancel { deadline: 700 }, 600);
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
fn no_two_attempts_of_an_instance_share_a_number() {
    let mut graph = chain(&[(&[], &[])]);
    graph.steps[0].retry = Retry { times: 1, wait: 0, ..Retry::default() };
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    let number = |machine: &Machine| machine.running().next().expect("running").2;
    let epoch = start(&mut machine, 0, 0);
    assert_eq!(number(&machine), 1);
    // Stopped in good order, then lost, then failed: four attempts, of which one counts against the limit of two.
    machine.offer(Input::Stopped { step: 0, index: 0, epoch }, 0);
    start(&mut machine, 0, 0);
    assert_eq!(number(&machine), 2);
    machine.offer(Input::Recovered, 0);
    machine.offer(Input::TimerDue, 0);
    end(&mut machine, 0, 0, Some(FaultClass::Transient));
    machine.offer(Input::TimerDue, 0);
    start(&mut machine, 0, 0);
    assert_eq!((number(&machine), machine.state()), (4, RunState::Running));
    let epoch = machine.running().next().expect("running").3;
    let failure = Failure { class: FaultClass::Transient, retry_after: 0, fault: fault() };
    machine.offer(Input::Finished { step: 0, index: 0, epoch, outcome: Err(failure) }, 0);
    assert_eq!(machine.state(), RunState::Failed);
    // The next generation counts on, and has its two attempts again.
    machine.offer(Input::Reopen, 0);
    end(&mut machine, 0, 0, Some(FaultClass::Transient));
    machine.offer(Input::TimerDue, 0);
    start(&mut machine, 0, 0);
    assert_eq!((number(&machine), machine.state()), (6, RunState::Running));
}

#[test]
fn what_reads_a_cancelled_step_is_cancelled_and_not_upstream_failed() {
    let mut machine = Machine::new(chain(&[(&[], &[]), (&[0], &[]), (&[1], &[])]));
    machine.offer(Input::Begin, 0);
    start(&mut machine, 0, 0);
    machine.offer(Input::Cancel { deadline: 10 }, 0);
    machine.offer(Input::TimerDue, 10);
    assert_eq!([0, 1, 2].map(|step| machine.step(step)), [StepState::Cancelled; 3]);
    assert_eq!(machine.state(), RunState::Cancelled);
}

#[test]
fn a_skip_reaches_readers_and_their_readers_but_not_what_only_comes_after() {
    let mut graph = chain(&[(&[], &[]), (&[0], &[]), (&[1], &[]), (&[], &[0])]);
    graph.steps[0].evaluated = true;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    machine.offer(Input::Evaluated { step: 0, outcome: Ok(None) }, 0);
    assert_eq!(machine.step(1), StepState::Skipped(SkipReason::Skipped(0)));
    assert_eq!(machine.step(2), StepState::Skipped(SkipReason::Skipped(1)));
    end(&mut machine, 3, 0, None);
    assert_eq!(machine.state(), RunState::Completed);
}

#[test]
fn a_step_lifted_over_an_empty_list_succeeds_at_once() {
    let mut graph = chain(&[(&[], &[]), (&[0], &[])]);
    graph.steps[0].evaluated = true;
    let mut machine = Machine::new(graph);
    machine.offer(Input::Begin, 0);
    machine.offer(Input::Evaluated { step: 0, outcome: Ok(Some(0)) }, 0);
    assert_eq!((machine.step(0), machine.tally(0).total), (StepState::Succeeded, 0));
    assert_eq!(machine.ready().collect::<Vec<_>>(), [(1, 0)]);
}

#[test]
fn a_journal_that_no_run_could_have_written_is_refused_with_its_place() {
    let graph = chain(&[(&[], &[]), (&[0], &[])]);
    let mut machine = Machine::new(graph.clone());
    let mut journal = machine.offer(Input::Begin, 0);
    journal.extend(machine.offer(Input::Claim { step: 0, index: 0 }, 0));
    let succeeded = Event::Succeeded { s: 0, i: 0, epoch: 1 };
    let refused = |event: &Event| {
        let events = journal.iter().chain([event]);
        Machine::restore(graph.clone(), events).expect_err("refused").to_string()
    };
    assert!(Machine::restore(graph.clone(), journal.iter().chain([&succeeded])).is_ok());
    let said = "event 3 of the journal, `succeeded`, cannot have happened: another attempt was running";
    assert_eq!(refused(&Event::Succeeded { s: 0, i: 0, epoch: 9 }), said);
    for (event, why) in [
        (Event::Begun, "the run had begun"),
        (Event::Opened { s: 7, n: 1 }, "the flow has no such step"),
        (Event::Opened { s: 1, n: 1 }, "the step waits for others"),
        (Event::Started { s: 0, i: 0, attempt: 2, epoch: 2, at: 0 }, "the instance was not ready"),
        (Event::Started { s: 0, i: u32::MAX, attempt: 1, epoch: 2, at: 0 }, "the instance was not ready"),
        (Event::Readied { s: 0, i: 0 }, "the instance was not waiting for another attempt"),
        (Event::Cancelled { s: 0, i: 0, epoch: 1 }, "nothing had stopped the run"),
        (Event::Dropped { s: 0 }, "nothing had stopped the run"),
        (Event::UpstreamFailed { s: 1, of: 0 }, "the step waits for others"),
        (Event::Ended { state: RunState::Completed }, "something of the run was alive"),
        (Event::Reopened, "the run had not failed or stopped"),
        (Event::Unpaused, "the run was not paused"),
    ] {
        assert!(refused(&event).ends_with(why), "{event:?}: {}", refused(&event));
    }
}

#[test]
fn a_damaged_journal_is_followed_or_refused_but_never_a_panic() {
    let mut followed = 0;
    for seed in 0..2_000 {
        let mut world = World::new(seed);
        world.run();
        let mut journal = world.journal.clone();
        let graph = random_graph(&mut SmallRng::seed_from_u64(seed + 1));
        followed += u32::from(Machine::restore(graph, &journal).is_ok());
        for _ in 0..20 {
            let (a, b) = (world.rng.random_range(0..journal.len()), world.rng.random_range(0..journal.len()));
            match world.rng.random_range(0..3) {
                0 => journal.swap(a, b),
                1 => journal[a] = journal[b].clone(),
                _ => journal.truncate(a.max(1)),
            }
            if let Ok(machine) = Machine::restore(world.machine.graph().clone(), &journal) {
                followed += 1;
                let broken = machine.check_invariants();
                // A journal cut between an event and what follows from it waits for the next offer.
                assert!(broken.iter().all(|b| b.starts_with("I9")), "seed {seed}: {broken:?}");
            }
        }
    }
    assert!(followed > 1_000, "{followed}");
}

#[test]
fn stored_errors_are_bounded() {
    let fault = Fault::new("E".repeat(1_000), "ä".repeat(1 << 20), Some("x".repeat(1 << 20)));
    let event = Event::Failed { s: 0, i: 0, epoch: 0, class: FaultClass::Permanent, fault };
    assert!(event.encode().len() < 64 << 10);
}
