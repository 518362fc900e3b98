//! What a network learns from: labels, chips and datasets.
//!
//! `labels.sites`, `labels.vector` and `labels.raster` lay what is known onto the grid of a raster; `dataset.chips` cuts raster and label
//! into a chip set; `dataset.split` says which chips train, validate and test; `dataset.save` and `dataset.open` keep
//! all of it in a folder. The files are those of `swath-datasets`,
//! which training reads without this crate. No network is trained here.

mod chips;
mod map;
mod saved;
mod sites;
mod split;
mod vector;

mod classes;
mod faults;
mod outline;
mod places;
mod tiles;
mod zones;

pub use chips::CutChips;
pub use classes::{Class, Name};
pub use map::LabelRaster;
pub use saved::{OpenDataset, SaveDataset};
pub use sites::{LabelSites, Unknown};
pub use split::{Hardness, Negatives, Shares, SplitDataset};
pub use vector::{LabelVector, Others};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[
    TaskDef::of::<LabelSites>(),
    TaskDef::of::<LabelVector>(),
    TaskDef::of::<LabelRaster>(),
    TaskDef::of::<CutChips>(),
    TaskDef::of::<SplitDataset>(),
    TaskDef::of::<SaveDataset>(),
    TaskDef::of::<OpenDataset>(),
];
