//! The scenes a search found, as `stac.search` writes and raster tasks read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Content of a [`crate::SceneList`] artifact: scenes sorted by time, each a (tile, datatake) once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scenes {
    /// How hrefs become readable. They are stored unsigned: a signature is a secret and expires.
    pub signing: Signing,
    /// The scenes, oldest first.
    pub scenes: Vec<Scene>,
}

/// How hrefs are made readable at the moment of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signing {
    /// They are readable as they are.
    #[default]
    None,
    /// A SAS token per storage account and container from a token endpoint of Planetary Computer's form.
    PlanetaryComputer {
        /// Base address of the token endpoint.
        endpoint: String,
    },
    /// What the binary registered under this name (`swath_access::register_signing`).
    Custom(String),
}

/// One scene: a STAC item, reduced to what reading pixels needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Item id.
    pub id: String,
    /// Collection id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Acquisition time, RFC 3339 UTC (`datetime`, else `start_datetime`).
    pub datetime: String,
    /// Footprint, GeoJSON geometry in degrees; absent when the item has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<serde_json::Value>,
    /// Box of the footprint in degrees: west, south, east, north.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bbox: Option<[f64; 4]>,
    /// Cloud cover in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_cover: Option<f64>,
    /// Sentinel-2 processing baseline (`05.10`), which decides the radiometric offset where no `raster:offset` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing_baseline: Option<String>,
    /// The catalogue says that the offset has been applied to the pixels already (`earthsearch:boa_offset_applied`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offset_applied: bool,
    /// Grid tile (`33UUU`), for telling twins of one acquisition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile: Option<String>,
    /// Address of the item itself, for lineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
    /// Assets by key, band rasters among them.
    pub assets: BTreeMap<String, SceneAsset>,
}

/// One file of a scene.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SceneAsset {
    /// Absolute path or address, unsigned.
    pub href: String,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Common band names (`red`, `nir`), one a band of the file; empty when not told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bands: Vec<String>,
    /// `raster:scale`: value = DN * scale + offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// `raster:offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// No-data value in DN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodata: Option<f64>,
    /// `proj:code`, `EPSG:32633`; absent: the file tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crs: Option<String>,
    /// `proj:transform`, six numbers in rasterio's order; absent: the file tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<[f64; 6]>,
    /// `proj:shape`: rows, columns; absent: the file tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<[u64; 2]>,
    /// Size in bytes of a local file when the search saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When a local file was last changed, as the search saw it, nanoseconds since 1970: a changed file is another scene.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<u64>,
}
