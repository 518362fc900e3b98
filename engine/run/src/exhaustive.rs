//! Every input in every state that can be reached, for every graph of two or three steps: what random runs may miss.

use std::collections::BTreeSet;

use crate::event::{Event, Failure, Fault, Input};
use crate::graph::{FaultClass, Graph, OnFailure, Retry, StepSpec, Tolerance};
use crate::machine::{InstanceState, Machine, RunState, Running};

/// Later than every wait, and the deadline of every cancellation, milliseconds.
const FAR: u64 = 1 << 40;

#[derive(Clone, Copy)]
enum Edge {
    None,
    Reads,
    After,
}

fn fault() -> Fault {
    Fault::new("T100", "it broke", None)
}

/// What the graphs of a round have.
#[derive(Clone, Copy)]
struct Round {
    steps: u32,
    /// Instances that the evaluated step gets; inputs speak of one more.
    instances: u32,
    /// Attempts after the first and losses allowed, of the first step.
    again: u32,
}

/// All ways to join the steps, times the ways in which one of them is evaluated and some stop the run when they fail.
fn graphs(round: Round) -> Vec<Graph> {
    let edges = [Edge::None, Edge::Reads, Edge::After];
    let mut graphs = Vec::new();
    for code in 0..if round.steps == 3 { 27_usize } else { 3 } {
        let joined = [edges[code % 3], edges[code / 3 % 3], edges[code / 9]];
        for evaluated in 0..round.steps {
            for (stops, tolerate) in [(0b000, 0), (0b001, 0), (0b111_u32, 0), (0b111, 1)] {
                if tolerate > 0 && round.instances == 1 {
                    continue;
                }
                let spec = |step: u32| {
                    let before: &[(u32, Edge)] = match step {
                        0 => &[],
                        1 => &[(0, joined[0])],
                        _ => &[(0, joined[1]), (1, joined[2])],
                    };
                    let by = |kind: fn(&Edge) -> bool| -> Vec<u32> {
                        before.iter().filter(|(_, edge)| kind(edge)).map(|(of, _)| *of).collect()
                    };
                    let again = if step == 0 { round.again } else { 0 };
                    StepSpec {
                        id: format!("s{step}"),
                        reads: by(|edge| matches!(edge, Edge::Reads)),
                        after: by(|edge| matches!(edge, Edge::After)),
                        evaluated: evaluated == step,
                        retry: Retry { times: again, wait: 10, losses: again, ..Retry::default() },
                        on_failure: match (stops >> step & 1, step) {
                            (1, _) => OnFailure::Stop,
                            (_, 0) => OnFailure::Collect,
                            _ => OnFailure::Continue,
                        },
                        tolerate: Tolerance::Count(if evaluated == step { tolerate } else { 0 }),
                    }
                };
                graphs.push(Graph { steps: (0..round.steps).map(spec).collect() });
            }
        }
    }
    graphs
}

/// All that tells two states apart, but for the values of epochs, times and attempt numbers.
fn key(machine: &Machine) -> String {
    let keys = (machine.running.keys().collect::<Vec<_>>(), machine.backoff.keys().collect::<Vec<_>>());
    let tries: Vec<_> = machine.tries.iter().map(|(at, tries)| (at, tries.attempts, tries.losses)).collect();
    let run = (machine.state, machine.generation, machine.failing, machine.live_steps);
    let queues = (machine.ready.heads().collect::<Vec<_>>(), &machine.evaluating);
    format!("{run:?} {:?} {keys:?} {tries:?} {queues:?}", machine.steps)
}

fn inputs(machine: &Machine, round: Round) -> Vec<Input> {
    let mut inputs = vec![Input::Begin, Input::TimerDue, Input::Recovered, Input::Cancel { deadline: FAR }];
    inputs.extend([Input::Pause, Input::Unpause]);
    if machine.generation == 1 {
        inputs.push(Input::Reopen);
    }
    for step in 0..round.steps {
        for outcome in [Ok(None), Ok(Some(0)), Ok(Some(round.instances)), Err(fault())] {
            inputs.push(Input::Evaluated { step, outcome });
        }
        for index in 0..=round.instances {
            inputs.push(Input::Claim { step, index });
            inputs.push(Input::Reused { step, index });
            inputs.push(Input::Refused { step, index, fault: fault() });
            for epoch in [0, machine.next_epoch] {
                inputs.push(Input::Stopped { step, index, epoch });
                inputs.push(Input::Finished { step, index, epoch, outcome: Ok(()) });
            }
        }
    }
    for (&(step, index), &Running { epoch, .. }) in &machine.running {
        inputs.push(Input::Stopped { step, index, epoch });
        let classes = [FaultClass::Transient, FaultClass::Permanent, FaultClass::Lost, FaultClass::Cancelled];
        let failed = |class| Err(Failure { class, retry_after: 0, fault: fault() });
        for outcome in classes.map(failed).into_iter().chain([Ok(())]) {
            inputs.push(Input::Finished { step, index, epoch, outcome });
        }
    }
    inputs
}

/// Whether the machine must have nothing to say to this input, by the state alone.
fn is_stale(machine: &Machine, input: &Input) -> bool {
    let ended = machine.state.has_ended();
    let at = |step: &u32, index: &u32| machine.instance(*step, *index);
    match input {
        Input::Begin => machine.state != RunState::Pending,
        Input::Reopen => !matches!(machine.state, RunState::Failed | RunState::Cancelled),
        Input::Pause => machine.state != RunState::Running,
        Input::Unpause => machine.state != RunState::Paused,
        Input::Claim { step, index } | Input::Reused { step, index } | Input::Refused { step, index, .. } => {
            ended || machine.state == RunState::Paused || at(step, index) != Some(InstanceState::Ready)
        }
        Input::Finished { step, index, epoch, .. } | Input::Stopped { step, index, epoch } => {
            ended || machine.running.get(&(*step, *index)).is_none_or(|running| running.epoch != *epoch)
        }
        Input::Evaluated { step, .. } => ended || !machine.evaluating.contains(step),
        Input::TimerDue => ended || machine.state == RunState::Paused,
        Input::Recovered | Input::Cancel { .. } => ended,
    }
}

/// A kind world: whatever the state, the run ends.
fn ends(mut machine: Machine) -> bool {
    for _ in 0..20 {
        if machine.state.has_ended() {
            return machine.check_invariants().is_empty();
        }
        machine.offer(Input::Begin, 0);
        machine.offer(Input::Unpause, 0);
        for step in machine.evaluations().collect::<Vec<_>>() {
            machine.offer(Input::Evaluated { step, outcome: Ok(Some(1)) }, 0);
        }
        for (step, index) in machine.ready().collect::<Vec<_>>() {
            machine.offer(Input::Claim { step, index }, 0);
        }
        for (step, index, _, epoch, _) in machine.running().collect::<Vec<_>>() {
            machine.offer(Input::Finished { step, index, epoch, outcome: Ok(()) }, 0);
        }
        machine.offer(Input::TimerDue, FAR);
    }
    false
}

/// Offers every input in every state; returns how many states there were.
fn explore(graph: Graph, round: Round) -> usize {
    let first = Machine::new(graph);
    let mut seen = BTreeSet::from([key(&first)]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        assert!(ends(state.clone()), "I9: {:#?} does not end", state);
        let mut next = state.clone();
        for input in inputs(&state, round) {
            let now = if input == Input::TimerDue { state.next_due().unwrap_or(FAR) } else { 0 };
            let events = next.offer(input.clone(), now);
            if is_stale(&state, &input) {
                assert!(events.is_empty(), "I2, I5: {input:?} made {events:?} in {state:#?}");
                assert!(state == next, "I2: {input:?} changed {state:#?}");
                continue;
            }
            let mut second = state.clone();
            for event in &events {
                second.follow(event).unwrap_or_else(|illegal| panic!("I1: {illegal}: {event:?} in {state:#?}"));
            }
            second.note_evaluations();
            assert_eq!(second, next, "I3: {input:?} in {state:#?}");
            let broken = next.check_invariants();
            assert!(broken.is_empty(), "{broken:?}: {input:?} made {events:?} in {state:#?}");
            let starts = |event: &&Event| matches!(event, Event::Started { .. });
            assert!(
                events.iter().filter(starts).count() <= 1 && (!state.dropping() || !events.iter().any(|e| starts(&e)))
            );
            assert!(
                state.state != RunState::Paused || !events.iter().any(|e| starts(&e)),
                "a paused run starts nothing"
            );
            let changed = std::mem::replace(&mut next, state.clone());
            if seen.insert(key(&changed)) {
                open.push(changed);
            }
        }
    }
    seen.len()
}

fn explore_all(round: Round) -> usize {
    let graphs = graphs(round);
    std::thread::scope(|scope| {
        let parts = graphs.chunks(graphs.len().div_ceil(4));
        let explore_part = |part: &[Graph]| part.iter().map(|graph| explore(graph.clone(), round)).sum::<usize>();
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || explore_part(part))).collect();
        workers.into_iter().map(|worker| worker.join().expect("every invariant holds")).sum()
    })
}

#[test]
fn every_input_in_every_state_of_every_graph_of_three_steps_keeps_every_invariant() {
    let states = explore_all(Round { steps: 3, instances: 1, again: 0 });
    assert!(states > 10_000, "only {states} states were reached");
}

#[test]
fn every_input_in_every_state_of_two_steps_lifted_and_tried_again_keeps_every_invariant() {
    let states = explore_all(Round { steps: 2, instances: 2, again: 1 });
    assert!(states > 10_000, "only {states} states were reached");
}
