//! Tasks that turn probabilities into detections.
//!
//! The way of a raster: `scan` reads strips on several threads and reduces them to `runs`; `trace` joins runs to
//! components and outlines them in one pass; `rings` makes valid polygons of the outlines; `candidates` places them
//! on the `globe`, measures and scores them; `merge` finds which are one object; `write` is GeoJSON. It does no
//! inference and stores nothing.

mod candidates;
mod faults;
mod globe;
mod merge;
mod polygons;
mod rings;
mod runs;
mod scan;
mod trace;
mod write;

pub use polygons::{BandChoice, Inputs, Merge, MergeMethod, Outputs, Polygons, Weights};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Polygons>()];
