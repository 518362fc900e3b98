//! `train.segmentation` and `train.classification`: a dataset in, a checkpoint out.
//!
//! Rooms in reading order: what a flow may say (`settings`); batches from chip sets (`data`); what a network is judged by
//! (`metrics`); the loop over epochs with optimiser, schedule and precision (`engine`); what outlives an epoch, an attempt and
//! the training (`record`); pictures of it (`pictures`); whom it is told to (`tracking`); and the tasks (`tasks`).
//!
//! Knows files of chips and networks, no rasters and no GDAL. `docs/training.md` tells what every parameter, score and file means.
//!
//! Invariants:
//! 1. Every random choice follows from the seed and from what it is for (epoch, batch, chip), never from what was drawn before:
//!    a training that goes on after a kill chooses as if it had never been killed.
//! 2. What is kept between attempts is whole or not looked at: it is written beside, synced and renamed, and carries digests.
//! 3. Memory is the network, its optimiser and a bounded number of batches, whatever the size of the dataset.
//! 4. No number that is not finite reaches an artifact: a score that is not defined is absent, and told.

mod settings;

mod data;

mod metrics;

mod engine;

mod record;

mod pictures;

mod tracking;

mod faults;
mod random;
mod tasks;

pub use settings::{
    Augmentation, DeviceChoice, InitialWeights, Loss, Monitor, NetworkChoice, NormaliseBy, Optimiser, Precision,
    Schedule, Settings,
};
pub use tasks::{Classification, Inputs, Outputs, Segmentation};

use swath_task::TaskDef;

/// The tasks of this family.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Segmentation>(), TaskDef::of::<Classification>()];
