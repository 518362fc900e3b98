//! The learning rate over the epochs.

use serde::{Deserialize, Serialize};

use crate::settings::{self, Monitor, Schedule};

/// How much better, as a share, a score must be for a plateau to end: PyTorch's default.
const THRESHOLD: f64 = 1e-4;
/// A rate that would change by less stays: PyTorch's default.
const SMALLEST: f64 = 1e-8;

/// Where the schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    now: f64,
    best: Option<f64>,
    bad: u32,
}

/// How long the training is, in steps of the optimiser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub steps_an_epoch: u64,
    pub epochs: u32,
}

impl Rate {
    pub fn new(learning_rate: f64) -> Self {
        Self { now: learning_rate, best: None, bad: 0 }
    }

    /// The rate of a step, counted from 0.
    pub fn at(&self, schedule: &Schedule, step: u64, length: Length) -> f64 {
        let Schedule::Cosine { warm_up, least } = *schedule else { return self.now };
        let warm_up = warm_up.unwrap_or_else(|| settings::warm_up(length.epochs)).min(length.epochs);
        let rise = u64::from(warm_up) * length.steps_an_epoch;
        if step < rise {
            return self.now * (step + 1) as f64 / rise as f64;
        }
        let fall = u64::from(length.epochs) * length.steps_an_epoch - rise;
        let share = (step - rise) as f64 / fall.max(1) as f64;
        least + (self.now - least) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
    }

    /// Hears the score of an epoch.
    pub fn hear(&mut self, schedule: &Schedule, monitor: Monitor, score: f64) {
        let Schedule::Plateau { patience, factor, least } = *schedule else { return };
        let better = self.best.is_none_or(|best| match monitor {
            Monitor::Loss => score < best * (1.0 - THRESHOLD),
            _ => score > best * (1.0 + THRESHOLD),
        });
        if better {
            (self.best, self.bad) = (Some(score), 0);
        } else {
            self.bad += 1;
        }
        if self.bad > patience {
            let lower = (self.now * factor).max(least);
            if self.now - lower > SMALLEST {
                self.now = lower;
            }
            self.bad = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_training_has_its_whole_rate_and_falls() {
        let schedule = Schedule::Cosine { warm_up: None, least: 0.0 };
        let length = Length { steps_an_epoch: 2, epochs: 3 };
        let rates: Vec<f64> = (0..6).map(|step| Rate::new(1.0).at(&schedule, step, length)).collect();
        assert_eq!(rates[..3], [0.5, 1.0, 1.0]);
        assert!(rates[3] > rates[4] && rates[4] > rates[5] && rates[5] < 0.2, "{rates:?}");
    }
}
