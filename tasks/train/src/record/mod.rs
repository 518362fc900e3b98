//! What outlives an epoch, an attempt, and the training.

mod checkpoint;
mod keep;

pub(crate) use checkpoint::{Finished, write};
pub(crate) use keep::{Keep, Kept};

use serde::{Deserialize, Serialize};
use swath_task::Digest;

use crate::engine::{Rate, Scale};
use crate::metrics::Scores;
use crate::settings::{Monitor, Settings};

/// How many of the best epochs' weights are kept.
const BEST: usize = 3;

/// Where a training is, besides weights and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Epochs done.
    pub epoch: u32,
    /// Steps of the optimiser done.
    pub step: u64,
    pub rate: Rate,
    pub scale: Scale,
    /// The score that tells which epoch is best.
    pub monitor: Monitor,
    /// Epochs since the best one.
    pub stale: u32,
    /// The best epochs, best first.
    pub best: Vec<Best>,
    pub history: Vec<Epoch>,
}

/// An epoch among the best, whose weights are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub epoch: u32,
    pub score: f64,
    pub digest: Digest,
}

/// What is told of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Epoch {
    /// From 1.
    pub epoch: u32,
    /// Of its last step.
    pub learning_rate: f64,
    /// Mean over what takes part in its batches, as they were when they were learnt from.
    pub train_loss: f64,
    pub validation: Scores,
}

impl Progress {
    pub fn new(settings: &Settings, scaled: bool) -> Self {
        Self {
            epoch: 0,
            step: 0,
            rate: Rate::new(settings.optimiser.learning_rate),
            scale: Scale::new(scaled),
            monitor: settings.monitor,
            stale: 0,
            best: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Whether a score is better than another. Of equal ones the earlier is better.
    pub fn is_better(&self, score: f64, than: f64) -> bool {
        if self.monitor == Monitor::Loss { score < than } else { score > than }
    }

    pub fn is_among_best(&self, score: f64) -> bool {
        self.best.len() < BEST || self.best.last().is_some_and(|last| self.is_better(score, last.score))
    }

    pub fn insert_best(&mut self, best: Best) {
        let place = self.best.iter().position(|other| self.is_better(best.score, other.score));
        self.best.insert(place.unwrap_or(self.best.len()), best);
        self.best.truncate(BEST);
    }
}
