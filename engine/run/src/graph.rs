//! The shape of a run: steps, what each waits for, and how failures are met.

use serde::{Deserialize, Serialize};

/// The steps of a run in topological order: a step reads and follows only steps before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The steps; a step is known by its position.
    pub steps: Vec<StepSpec>,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Id, for people.
    pub id: String,
    /// Steps whose outputs it reads: it runs only when all have succeeded.
    pub reads: Vec<u32>,
    /// Steps that must be final first, however they ended.
    pub after: Vec<u32>,
    /// It has a condition or a list to lift over, which the host evaluates when all it reads is there.
    pub evaluated: bool,
    /// When and how often to try again.
    pub retry: Retry,
    /// What a failure means for the rest of the run.
    pub on_failure: OnFailure,
    /// How many instances may fail without the step failing.
    #[serde(default)]
    pub tolerate: Tolerance,
}

/// How many instances of a lifted step may fail without the step failing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// So many.
    Count(u32),
    /// So many of a hundred, 0 to 100; rounded down.
    Percent(f64),
}

impl Default for Tolerance {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl Tolerance {
    /// How many of `total` instances may fail.
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (f64::from(total) * percent / 100.0).floor() as u32,
        }
    }
}

/// What a failure of a step means for the rest of the run. Steps that read it never run either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// What runs may finish, nothing new starts, the run fails.
    #[default]
    Stop,
    /// Independent steps go on, and the run fails in the end.
    Collect,
    /// Independent steps go on, and the run does not fail because of it.
    Continue,
}

/// When and how often an attempt is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts after the first.
    pub times: u32,
    /// Wait before the second attempt, milliseconds.
    pub wait: u64,
    /// How the wait grows.
    pub backoff: Backoff,
    /// Longest wait, milliseconds.
    pub max_wait: u64,
    /// Share of the wait that is drawn at random, 0 to 1.
    pub jitter: f64,
    /// Classes of failure that are tried again.
    pub on: Vec<FaultClass>,
    /// How often the worker may be lost while it runs this step: a step that kills its process must not do so for ever.
    pub losses: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            times: 0,
            wait: 1_000,
            backoff: Backoff::Exponential,
            max_wait: 3_600_000,
            jitter: 0.0,
            on: vec![FaultClass::Transient, FaultClass::Timeout],
            losses: 3,
        }
    }
}

impl Retry {
    /// Milliseconds to wait after failed attempt `attempt` (from 1). `seed` chooses the jitter; equal seeds, equal waits.
    /// `at_least` is what the world asked for (`Retry-After`) and is never shortened.
    pub fn wait_after(&self, attempt: u32, at_least: u64, seed: u64) -> u64 {
        let grown = match self.backoff {
            Backoff::Fixed => self.wait,
            Backoff::Exponential => self.wait.saturating_mul(1 << attempt.saturating_sub(1).min(40)),
        };
        let capped = grown.min(self.max_wait);
        let share = (mix(seed ^ u64::from(attempt)) >> 11) as f64 / (1u64 << 53) as f64;
        let jittered = capped as f64 * (1.0 - self.jitter.clamp(0.0, 1.0) * share);
        (jittered as u64).max(at_least)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): spreads a seed over all bits.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How the wait between attempts grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same each time.
    Fixed,
    /// Doubled each time.
    #[default]
    Exponential,
}

/// Classes of failure, as `retry: { on: [...] }` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// May pass by itself.
    Transient,
    /// Ran longer than its `timeout`.
    Timeout,
    /// The process that ran it died.
    Lost,
    /// Trying again with the same input gives the same failure.
    Permanent,
    /// Was told to stop.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_cap_and_jitter_only_shortens_them() {
        let retry = Retry { wait: 100, max_wait: 1_000, ..Retry::default() };
        assert_eq!([1, 2, 3, 4, 5, 99].map(|n| retry.wait_after(n, 0, 7)), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(retry.wait_after(1, 5_000, 7), 5_000, "Retry-After is never shortened");
        let jittered = Retry { jitter: 0.5, ..retry };
        let waits: Vec<u64> = (0..1_000).map(|seed| jittered.wait_after(2, 0, seed)).collect();
        assert!(waits.iter().all(|wait| (100..=200).contains(wait)));
        let mean = waits.iter().sum::<u64>() / 1_000;
        assert!((145..155).contains(&mean), "{mean}");
    }
}
