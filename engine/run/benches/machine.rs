//! What the machine alone costs: time per event and memory per instance, for the shapes that stress it.
//!
//! `cargo bench -p swath-run`. Each shape is run to its end, then its journal is folded again as after a restart. Times
//! are of one thread; memory is the growth of the resident set while every instance is ready, journal not counted.

use std::time::Instant;

use swath_run::{Event, Graph, Input, Machine, RunState, StepSpec};

fn graph(steps: usize, reads: impl Fn(u32) -> Vec<u32>) -> Graph {
    let step = |index: usize| StepSpec {
        id: format!("step{index}"),
        reads: reads(index as u32),
        evaluated: steps == 1,
        ..StepSpec::default()
    };
    Graph { steps: (0..steps).map(step).collect() }
}

/// Resident set of this process, bytes; 0 where the system does not tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

/// Drives a run with `slots` attempts at a time; returns the journal.
fn drive(machine: &mut Machine, instances: u32, slots: usize) -> Vec<Event> {
    let mut journal = machine.offer(Input::Begin, 0);
    if machine.evaluations().next().is_some() {
        journal.extend(machine.offer(Input::Evaluated { step: 0, outcome: Ok(Some(instances)) }, 0));
    }
    while !machine.state().has_ended() {
        for _ in 0..slots {
            let Some((step, index)) = machine.ready().next() else { break };
            journal.extend(machine.offer(Input::Claim { step, index }, 0));
        }
        let live: Vec<_> = machine.running().map(|(step, index, _, epoch, _)| (step, index, epoch)).collect();
        for (step, index, epoch) in live {
            journal.extend(machine.offer(Input::Finished { step, index, epoch, outcome: Ok(()) }, 0));
        }
    }
    journal
}

fn measure(name: &str, graph: Graph, instances: u32, slots: usize) {
    let before = resident();
    let mut machine = Machine::new(graph.clone());
    let opened = machine.offer(Input::Begin, 0);
    if machine.evaluations().next().is_some() {
        machine.offer(Input::Evaluated { step: 0, outcome: Ok(Some(instances)) }, 0);
    }
    let all_ready = resident().saturating_sub(before);
    drop((machine, opened));
    let mut machine = Machine::new(graph.clone());
    let started = Instant::now();
    let journal = drive(&mut machine, instances, slots);
    let ran = started.elapsed();
    assert_eq!(machine.state(), RunState::Completed);
    let again = Instant::now();
    let restored = Machine::restore(graph, &journal).expect("its own journal");
    let folded = again.elapsed();
    assert!(restored == machine);
    let bytes: usize = journal.iter().map(|event| event.encode().len()).sum();
    println!(
        "{name:<28} {:>9} events  {:>6.0} ns an event  {:>6.0} ns an instance  fold {:>6.0} ns an event  \
         {:>6.1} bytes an instance when ready  {:>5.1} bytes of journal an event",
        journal.len(),
        ran.as_nanos() as f64 / journal.len() as f64,
        ran.as_nanos() as f64 / f64::from(instances),
        folded.as_nanos() as f64 / journal.len() as f64,
        all_ready as f64 / f64::from(instances),
        bytes as f64 / journal.len() as f64,
    );
}

fn main() {
    // First, while the heap is small: what it takes can then be seen.
    measure("one step, 1,000,000 instances", graph(1, |_| vec![]), 1_000_000, 64);
    measure("chain of 10,000 steps", graph(10_000, |step| step.checked_sub(1).into_iter().collect()), 10_000, 8);
    measure("fan-out of 10,000 steps", graph(10_000, |step| if step == 0 { vec![] } else { vec![0] }), 10_000, 64);
}
