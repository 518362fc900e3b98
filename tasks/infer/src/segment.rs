//! The task `infer.segment`: a probability for each pixel.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::Cog;
use swath_task::{Artifact, Bytes, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::serving::{BackendChoice, DeviceChoice, Triton};
use crate::settings::{Batch, Inputs, Scheme, Settings, Values, default_memory};
use crate::tiling::{Blend, Edges};
use crate::work;

/// Runs a segmentation network over a raster of any size and writes a probability a pixel and class.
///
/// Tiles slide over the raster, overlap and are blended; every pixel is predicted, edges included. The model folder's
/// manifest says which bands the network takes, how they are normalised and what its output means; the raster is checked
/// against it. No-data pixels stay no-data. Reading, inference and writing run side by side in bounded memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Model folder (`manifest.json`, `1/model.onnx`). Leave it out when the model comes through the `model` input.
    #[serde(default)]
    pub model: Option<LocalPath>,
    /// Rows and columns of a tile, pixels. Default: what the manifest says.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8192))]
    pub tile: Option<u32>,
    /// Pixels that neighbouring tiles share; at most seven eighths of a tile.
    #[serde(default = "default_overlap")]
    pub overlap: u32,
    /// Tiles given to the network at once: a number, or `auto` (what the network was exported for, else what suits: 1 on
    /// CPUs and for servers that gather requests themselves).
    #[serde(default)]
    pub batch: Batch,
    /// How overlapping tiles become one value.
    #[serde(default)]
    pub blend: Blend,
    /// What happens at the right and lower edge. A raster smaller than a tile is reflected in any case.
    #[serde(default)]
    pub edges: Edges,
    /// Type of the written probabilities. Integers carry a scale, so that readers see 0 to 1.
    #[serde(default)]
    pub values: Values,
    /// Most memory for pixels on their way, reading and writing included; the network's own comes on top.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Threads of the network, where it runs in this process on the CPU. Default: as many cores as the step has.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u32>,
    /// What computes.
    #[serde(default)]
    pub backend: BackendChoice,
    /// On what: `auto` (the GPU that the step holds, else the CPU), `cpu`, `cuda:N`, or `tensorrt:N` of ONNX Runtime.
    #[serde(default)]
    pub device: DeviceChoice,
    /// The model server: `{ url: grpc://host:8001 }`, see `docs/serving.md`.
    #[serde(default)]
    pub triton: Triton,
    /// Accept a raster whose pixels differ by more than 10 % from the size the network was trained at.
    #[serde(default)]
    pub allow_gsd: bool,
}

fn default_overlap() -> u32 {
    64
}

/// What `infer.segment` makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SegmentOutputs {
    /// Probabilities on the raster's grid, a band a class.
    pub raster: Artifact<Cog>,
    /// Tiles the network ran on; those without any data are left out.
    pub tiles: u64,
}

impl Segment {
    fn settings(&self) -> Settings {
        Settings {
            task: Self::NAME,
            scheme: Scheme::Pixels { overlap: self.overlap, blend: self.blend },
            model: self.model.clone(),
            tile: self.tile,
            batch: self.batch,
            edges: self.edges,
            values: self.values,
            memory: self.memory,
            threads: self.threads,
            backend: self.backend,
            device: self.device,
            triton: self.triton.clone(),
            allow_gsd: self.allow_gsd,
        }
    }
}

impl Task for Segment {
    const NAME: &'static str = "infer.segment";
    const VERSION: u32 = 3;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = SegmentOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        self.settings().check()
    }

    fn needs(&self) -> Needs {
        self.settings().needs()
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.settings().reads()
    }

    fn variables(&self) -> Vec<&'static str> {
        self.settings().variables()
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<SegmentOutputs, TaskError> {
        let (raster, done) = work::run(self.settings(), inputs, ctx).await?;
        Ok(SegmentOutputs { raster, tiles: done.tiles })
    }
}
