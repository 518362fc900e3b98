//! Known sites on a raster: which pixels are positive because of which site.

use serde::{Deserialize, Serialize};

/// What `labels.sites` tells beside its mask, so that `dataset.chips` knows which sites a chip shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSites {
    /// The sites whose buffer holds a pixel of the raster.
    pub sites: Vec<KnownSite>,
}

/// A known site on a raster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSite {
    /// Its name and place: the same on every raster that shows it.
    pub id: String,
    /// Longitude of its centre in degrees, WGS 84.
    pub lon: f64,
    /// Latitude of its centre.
    pub lat: f64,
    /// Its buffer in metres.
    pub buffer_m: f64,
    /// Column, row, width and height of the box around the pixels in its buffer.
    pub window: [usize; 4],
}
