//! Raster tasks: composite, indices, normalise, chips, preview.
//!
//! Each task is a file of its own; what they share (finding bands, reading far files, grids that do not match) is
//! beside them. Pixels are read and written through `swath-geo`; no GDAL, no HTTP here.

mod bands;
mod composite;
mod faults;
mod fit;
mod reader;

pub use composite::{AssetMask, BandResampling, COUNT_BAND, Composite, Mask, Method, Missing, NamedMask};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Composite>()];
