//! Scheduler, leases and journals together, in worlds that follow from a seed: the real scheduler, fleet and event loop of up to
//! three servers, over a store in memory that keeps the contract of the real ones.
//!
//! Servers are killed, also between a commit and its answer, suspended past their leases, cut off and told to stop; clocks are
//! set; calls of the store are refused, lose their answers or are done twice; deployments are paused, changed and deleted while
//! they fire, runs are cancelled, paused and resumed. Then misfortune is over, and everything must end. The rules are checked at
//! each write.
//!
//! A failure names its seed. `SWATH_SIM_SEED=123 cargo test -p swath-control --test simulation` lives through that world again
//! and prints what happens; `SWATH_SIM_SEEDS=10000` says through how many (`make simulate`).

mod agrees;
mod audit;
mod model;
mod store;
mod work;
mod world;

use std::collections::BTreeMap;

use crate::model::Mutant;
use crate::world::{Outcome, live};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Lives through worlds on all cores.
fn live_all(seeds: std::ops::Range<u64>, mutant: Option<Mutant>, each: impl Fn(u64, Outcome) -> bool + Sync) {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if !each(seed, live(seed, mutant, false)) {
                        return;
                    }
                }
            });
        }
    });
}

fn told(seed: u64, broken: &str, trace: &[String]) -> String {
    let again = format!("SWATH_SIM_SEED={seed} cargo test -p swath-control --test simulation worlds -- --nocapture");
    format!("seed {seed}: {broken}\n{}\nseed {seed}: {broken}\nagain: {again}", trace.join("\n"))
}

#[test]
fn worlds_full_of_misfortune_keep_every_promise() {
    if let Some(seed) = number("SWATH_SIM_SEED") {
        let outcome = live(seed, None, true);
        assert!(outcome.broken.is_none(), "seed {seed}: {:?}", outcome.broken);
        return;
    }
    let seeds = number("SWATH_SIM_SEEDS").unwrap_or(100);
    let seen = std::sync::Mutex::new(BTreeMap::new());
    let worst = std::sync::Mutex::new(None);
    live_all(0..seeds, None, |seed, outcome| {
        let good = outcome.broken.is_none();
        if let Some(broken) = outcome.broken {
            worst.lock().unwrap().get_or_insert_with(|| told(seed, &broken, &outcome.trace));
        }
        let mut seen = seen.lock().unwrap();
        outcome.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count);
        good
    });
    if let Some(worst) = worst.into_inner().unwrap() {
        panic!("{worst}");
    }
    let seen = seen.into_inner().unwrap();
    println!("{seeds} worlds: {seen:?}");
    // They are varied enough to show every end, and what leases are for.
    for what in [
        "completed",
        "failed",
        "cancelled",
        "reopened",
        "fired",
        "triggered",
        "skipped",
        "lost leases",
        "fenced",
        "started ahead",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "no world has shown `{what}`: {seen:?}");
    }
}

#[test]
fn a_world_is_the_same_whenever_it_is_lived_through() {
    for seed in 0..20 {
        let (once, again) = (live(seed, None, false), live(seed, None, false));
        let differs = once.trace.iter().zip(&again.trace).find(|(one, other)| one != other);
        assert_eq!(once.digest, again.digest, "seed {seed}: {differs:#?}");
    }
}

#[test]
fn a_store_that_breaks_a_rule_is_found_out() {
    // Some are found in a few worlds, and some in a few hundred.
    let few = [Mutant::Fence, Mutant::Lease, Mutant::Key, Mutant::State, Mutant::Results];
    let mut mutants = few.map(|mutant| (mutant, 300)).to_vec();
    if let Some(seeds) = number("SWATH_SIM_SEEDS") {
        mutants.extend([Mutant::Newest, Mutant::Room, Mutant::Numbers].map(|mutant| (mutant, seeds)));
    }
    for (mutant, seeds) in mutants {
        let found = std::sync::Mutex::new(None);
        live_all(0..seeds, Some(mutant), |seed, outcome| {
            if let Some(broken) = outcome.broken {
                found.lock().unwrap().get_or_insert((seed, broken));
            }
            found.lock().unwrap().is_none()
        });
        let found = found.into_inner().unwrap();
        let (seed, broken) = found.unwrap_or_else(|| panic!("{mutant:?} is not found out"));
        println!("{mutant:?}: seed {seed}, {broken}");
    }
}
