//! Artifact kinds shared by task crates, and the file formats behind the small ones.
//!
//! A kind is a name an edge of a flow is checked by. Kinds whose content is JSON have their types here, so that the
//! task that writes and the task that reads cannot drift apart. No task code, no GDAL, no network.

mod area;
mod consistent;
mod detections;
mod distance;
mod given;
mod model;
mod scenes;
mod sites;
mod stretch;

pub use area::{Area, AreaError, BoundingBox};
pub use consistent::{Contradiction, LARGEST_TILE};
pub use detections::{Detection, DetectionProperties, PropertyType, ScoreBreakdown};
pub use distance::{Distance, DistanceError};
pub use model::{
    BandInput, CHECKPOINT_FORMAT, CheckpointManifest, ModelManifest, Normalisation, OutputActivation, TensorSpec,
    TileSpec, Training, WeightsFile,
};
pub use scenes::{Scene, SceneAsset, Scenes, Signing};
pub use sites::{KnownSite, KnownSites};
pub use stretch::{BandStretch, Stretch};

use swath_task::Kind;

macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $name:ident = $text:literal;)+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Kind for $name {
            const NAME: &'static str = $text;
            const ABOUT: &'static str = concat!($($about),+);
        }
    )+
    /// Every kind known here: name and one sentence.
    pub const KINDS: &[(&str, &str)] = &[$(($text, concat!($($about),+))),+];
    };
}

kinds! {
    #[doc = "Any artifact"]
    Any = "artifact.any";
    #[doc = "A plain file of any content"]
    File = "artifact.file";
    #[doc = "A plain folder of any content"]
    Folder = "artifact.folder";
    #[doc = "The scenes a search found: a JSON file, see [`Scenes`]"]
    SceneList = "stac.scenes";
    #[doc = "A STAC item: GeoJSON that tells where and when a raster is, and what it was made from"]
    StacItem = "stac.item";
    #[doc = "A Cloud-Optimized GeoTIFF with band names, scale, offset and no-data"]
    Cog = "raster.cog";
    #[doc = "The known sites of a raster and the pixels around each: a JSON file, see [`KnownSites`]"]
    SiteList = "labels.sites";
    #[doc = "Per-band percentile stretch, shared by training and inference: a JSON file, see [`Stretch`]"]
    StretchFile = "raster.stretch";
    #[doc = "A folder of equally sized GeoTIFF chips and their index"]
    Chips = "raster.chips";
    #[doc = "A chip set: a folder of chips with their labels in safetensors files and a manifest, see `swath-datasets`"]
    ChipSetFolder = "dataset.chips";
    #[doc = "A dataset: which chips of which chip sets train, validate and test a network, see `swath-datasets`"]
    DatasetFile = "dataset.split";
    #[doc = "A trained network: `checkpoint.json` and its weights, see [`CheckpointManifest`]"]
    Checkpoint = "model.checkpoint";
    #[doc = "A model folder: `manifest.json` and the network, see [`ModelManifest`]"]
    Model = "model.folder";
    #[doc = "Detected objects: GeoJSON (RFC 7946, EPSG:4326) with a stable id and a score each"]
    Detections = "vector.detections";
    #[doc = "A GeoPackage"]
    GeoPackage = "vector.geopackage";
    #[doc = "A PNG picture"]
    Picture = "image.png";
}
