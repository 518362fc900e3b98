//! `sample.catalogue`: synthetic Sentinel-2-like catalogues with a known truth.
//!
//! A sample is made for tests and benchmarks: as large as one likes, the same for the same seed, with everything that
//! makes compositing hard (clouds, shadows, orbits that end within the scene, processing baselines with and without offset,
//! two UTM zones) and with the answer beside it. It does not try to look like any real place, and no model should be
//! trained on it.
//!
//! Invariants:
//! 1. All pixels follow from the parameters: not from threads, time or machine (but for the last digits of projected places).
//! 2. What the scene classification calls clear (4, 5, 6) is the truth in every band, plus noise of at most 0.0015.
//! 3. The folder appears whole or not at all.

mod catalogue;
mod documents;
mod faults;
mod noise;
mod scenes;
mod weather;
mod world;

use swath_task::TaskDef;

pub use catalogue::{Catalogue, Inputs, Outputs};

/// The tasks of this family.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Catalogue>()];
