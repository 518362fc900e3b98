//! Raster tasks: composite, indices, normalise, chips, preview, item.
//!
//! Each task is a file of its own; what they share (finding bands, reading far files, grids that do not match) is
//! beside them. Pixels are read and written through `swath-geo`; no GDAL, no HTTP here.

mod bands;
mod chips;
mod composite;
mod expression;
mod faults;
mod fit;
mod indices;
mod item;
mod normalise;
mod preview;
mod reader;
mod sources;
mod values;

pub use chips::ChipRaster;
pub use composite::{AssetMask, BandResampling, COUNT_BAND, Composite, Mask, Method, Missing, NamedMask};

pub use indices::{CustomIndex, Index, Indices, KnownIndex};
pub use item::Item;
pub use normalise::Normalise;
pub use preview::Preview;

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[
    TaskDef::of::<Composite>(),
    TaskDef::of::<Indices>(),
    TaskDef::of::<Normalise>(),
    TaskDef::of::<ChipRaster>(),
    TaskDef::of::<Preview>(),
    TaskDef::of::<Item>(),
];
