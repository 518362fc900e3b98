//! `raster.composite`: from scenes to one cloud-free composite on one grid.
//!
//! The output is worked through in windows of its own tiles. For each window the masks of all scenes are read first;
//! then, band by band, only the scenes that have a clear pixel there are read, straight from the source, and reduced
//! over time. Bands and masks of coarser pixels are reduced at their own size and then repeated.
//!
//! Invariants:
//! 1. A pixel enters the median only when its scene's mask says clear, the scene covers it, and it is not no-data.
//!    Where the output is coarser than the scene this holds for each of the scene's own pixels (see `coarse`).
//! 2. Scenes on the output's grid contribute untouched pixels; others are warped, masks always by nearest neighbour.
//! 3. Bands are found by name in every scene; a scene that lacks one is an error (or left out, when asked), never
//!    a shift of bands.
//! 4. An acquisition that comes as several items (neighbouring tiles) counts once in each pixel.
//! 5. Memory follows from the number of scenes and `memory`, not from the size of the area.

mod coarse;
mod depth;
mod grid;
mod mask;
mod plan;
mod reduce;
mod sizes;
mod window;

pub(crate) use plan::Source;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::{Area, Cog, SceneList, Scenes};
use swath_task::{Artifact, Bytes, Context, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::faults::content_fault;

/// Reduces scenes to one cloud-free raster: the median (or mean) of the clear observations of each pixel.
///
/// Values are reflectance (or whatever `scale` and `offset` of the assets make of the pixels) as 32-bit floats, no-data
/// is NaN. A last band, `count`, tells how many clear observations each pixel had (the least of its bands). The grid follows from the area: the
/// grid of the scenes where they share one, else the UTM zone of the area's centre.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Composite {
    /// Bands of the result, in order: asset keys (`B04`) or common names (`red`).
    #[schemars(length(min = 1))]
    pub bands: Vec<String>,
    /// What tells clear pixels from clouds: `scl` (scene classification of Sentinel-2), `none`, or an asset with its
    /// clear values or its bits.
    #[serde(default)]
    pub mask: Mask,
    /// Values of the scene classification that are clear: vegetation 4, bare soil 5, water 6, unclassified 7.
    #[serde(default = "default_clear")]
    pub clear: Vec<u16>,
    /// Pixels nearer than this to a masked one are masked too, in metres.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2000.0))]
    pub cloud_dilation: f64,
    /// How observations become one value.
    #[serde(default)]
    pub method: Method,
    /// Area of interest; all of the scenes when absent.
    #[serde(default)]
    pub area: Option<Area>,
    /// Pixels outside of the area's polygons become no-data, those that an outline touches stay; otherwise the box around
    /// the polygons is filled.
    #[serde(default)]
    pub clip: bool,
    /// CRS of the result, `EPSG:32633` for example; chosen from scenes and area when absent.
    #[serde(default)]
    pub crs: Option<String>,
    /// Size of a pixel in units of the CRS; the finest of the bands when absent.
    #[serde(default)]
    pub resolution: Option<f64>,
    /// How pixels of scenes on other grids are resampled. Masks are always taken from the nearest pixel.
    #[serde(default)]
    pub resampling: BandResampling,
    /// What happens when a scene lacks a band or the mask.
    #[serde(default)]
    pub missing: Missing,
    /// Peak memory of the step.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
}

/// What tells clear pixels from clouds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Mask {
    /// By name.
    Named(NamedMask),
    /// By asset.
    Asset(AssetMask),
}

impl Default for Mask {
    fn default() -> Self {
        Self::Named(NamedMask::Scl)
    }
}

/// Masks known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedMask {
    /// The asset `SCL` (or `scl`), clear where its value is one of `clear`.
    Scl,
    /// No mask: every pixel that is not no-data counts.
    None,
}

/// A mask in an asset of one's own choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssetMask {
    /// Key of the asset.
    pub asset: String,
    /// Values that are clear. Give these or `cloudy_bits`.
    #[serde(default)]
    pub clear: Vec<u16>,
    /// Bits of which none may be set in a clear pixel (bit 0 is the lowest), for quality bands such as Landsat's.
    #[serde(default)]
    pub cloudy_bits: Vec<u8>,
}

/// How observations become one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The middle value; the mean of the two middle ones of an even number.
    #[default]
    Median,
    /// The arithmetic mean.
    Mean,
}

/// How pixels of other grids are resampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BandResampling {
    /// Linear between four pixels.
    #[default]
    Bilinear,
    /// The nearest pixel.
    Nearest,
}

/// What happens when a scene lacks a band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The step fails and names scene and band.
    #[default]
    Error,
    /// The whole scene is left out, with a warning.
    Skip,
}

fn default_clear() -> Vec<u16> {
    vec![4, 5, 6, 7]
}

fn default_memory() -> Bytes {
    Bytes::mib(256)
}

/// What a composite reads.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// The scenes, as `stac.search` found them.
    pub scenes: Artifact<SceneList>,
}

/// What a composite makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The composite: the bands in order, then `count`.
    pub raster: Artifact<Cog>,
    /// Scenes that touch the area.
    pub scenes_used: u64,
    /// Share of the pixels of the result that have a clear observation, 0 to 1.
    pub clear_share: f64,
}

/// The name of the band that counts observations.
pub const COUNT_BAND: &str = "count";

impl Task for Composite {
    const NAME: &'static str = "raster.composite";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |at: &str, message: String| problems.push(Problem::new(at, message));
        if self.bands.is_empty() {
            problem("/bands", "at least one band is needed".into());
        }
        for (index, band) in self.bands.iter().enumerate() {
            if self.bands[..index].contains(band) {
                problem(&format!("/bands/{index}"), format!("`{band}` is listed twice"));
            }
            if band.is_empty() || band == COUNT_BAND {
                problem(&format!("/bands/{index}"), format!("`{band}` cannot be the name of a band"));
            }
        }
        if self.mask == Mask::default() && self.clear.is_empty() {
            problem("/clear", "no class is clear, so every pixel would be masked".into());
        }
        if let Mask::Asset(mask) = &self.mask {
            if mask.clear.is_empty() == mask.cloudy_bits.is_empty() {
                problem("/mask", "give either `clear` (values) or `cloudy_bits`".into());
            }
            if mask.cloudy_bits.iter().any(|bit| *bit > 15) {
                problem("/mask/cloudy_bits", "bits go from 0 to 15".into());
            }
        }
        if !(0.0..=2000.0).contains(&self.cloud_dilation) {
            problem("/cloud_dilation", format!("{} m is not between 0 and 2000", self.cloud_dilation));
        }
        if self.resolution.is_some_and(|size| !(size.is_finite() && size > 0.0)) {
            problem("/resolution", "a pixel has a size above 0".into());
        }
        if self.memory < Bytes::mib(64) {
            problem("/memory", format!("{} is too little: 64 MiB are needed at least", self.memory));
        }
        if self.clip && self.area.is_none() {
            problem("/clip", "there is no `area` to clip to".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(self.memory)
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.area.iter().filter_map(Area::file).collect()
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let list = ctx.locate(&inputs.scenes).await?;
        let draft: Draft<Cog> = ctx.draft("composite.tif")?;
        let (task, path) = (self.clone(), draft.path().to_owned());
        let made = ctx
            .blocking(move |ctx| {
                let text =
                    std::fs::read_to_string(&list).map_err(|error| content_fault("the list of scenes", error))?;
                let scenes: Scenes =
                    serde_json::from_str(&text).map_err(|error| content_fault("the list of scenes", error))?;
                let plan = plan::Plan::new(&task, &scenes, ctx)?;
                window::run(&plan, &path, ctx)
            })
            .await?;
        ctx.metric("scenes", made.scenes as f64);
        ctx.metric("clear_share", made.clear_share);
        if made.clear_share == 0.0 {
            tracing::warn!(scenes = made.scenes, "no pixel of the composite is clear: all are masked or no-data");
        }
        let raster = draft.commit().await?;
        Ok(Outputs { raster, scenes_used: made.scenes, clear_share: made.clear_share })
    }
}
