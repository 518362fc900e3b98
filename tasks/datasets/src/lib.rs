//! Chip sets and datasets as files: what `dataset.chips` and `dataset.split` write and training reads.
//!
//! A chip set is a folder: `manifest.json` (a [`ChipManifest`]) and shards, `chips-00000.safetensors` and on, of which each
//! holds chips one after the other in two tensors of little-endian 32-bit floats: `image` `[chips, bands, rows, columns]` and
//! `label` `[chips, rows, columns]`. Nothing is compressed, so that a chip is one read at a known place, and numpy or PyTorch
//! can map a shard without copying it. A dataset is a JSON file (a [`DatasetManifest`]) that says which chips of which sets
//! train, validate and test; it holds no pixels. `docs/datasets.md` tells both formats field by field.
//!
//! No GDAL, no tasks: the crates that train link none of it.
//!
//! Invariants:
//! 1. A pixel is NaN in `label` when it takes no part: no label, or no data in one of the bands. In `image` NaN is no data.
//! 2. A chip is found by the manifest alone: shard, place in it, and what the shard's own header says agree, or the set is
//!    not opened.
//! 3. Memory is the manifest and the chips that the caller holds, whatever the size of the set.

mod counts;
mod dataset;
mod error;
mod set;
mod write;

pub use counts::LabelCounts;
pub use dataset::{BandStatistics, ChipRef, Dataset, DatasetManifest, Leakage, LeftOut, SetRef, Side, SideName, Sides};
pub use error::Error;
pub use set::{Chip, ChipManifest, ChipSet, ChipSite, LabelCount, Shard, Sources};
pub use write::{ChipWriter, Header, Measures, Place, SiteWindow};

/// What the formats are called in their manifests.
pub const CHIPS_FORMAT: &str = "swath.chips/1";
/// See [`CHIPS_FORMAT`].
pub const DATASET_FORMAT: &str = "swath.dataset/1";
/// The name of a chip set's manifest in its folder.
pub const MANIFEST: &str = "manifest.json";

/// A label above this belongs to a class or site; what lies between 0 and it, itself included, is ambiguous.
pub const POSITIVE_ABOVE: f32 = 0.5;
