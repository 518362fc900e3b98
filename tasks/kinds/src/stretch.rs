//! Percentile stretch: computed once over a whole composite, stored, and applied the same everywhere.

use serde::{Deserialize, Serialize};

/// Content of a [`crate::StretchFile`] artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Lower and upper percentile the limits were taken at, 2 and 98 by default.
    pub percentiles: [f64; 2],
    /// One entry a band, in band order.
    pub bands: Vec<BandStretch>,
}

/// Limits of one band: `y = clamp((x - low) / (high - low), 0, 1)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BandStretch {
    /// Band name.
    pub name: String,
    /// Value (in the raster's unit after scale and offset) that becomes 0.
    pub low: f64,
    /// Value that becomes 1.
    pub high: f64,
}
