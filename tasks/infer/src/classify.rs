//! The task `infer.classify`: a probability for each tile.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::Cog;
use swath_task::{Artifact, Bytes, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::serving::{BackendChoice, DeviceChoice, Triton};
use crate::settings::{Batch, Inputs, Scheme, Settings, Values, default_memory};
use crate::tiling::Edges;
use crate::work;

/// Runs a classifier over a raster of any size and writes a probability a tile and class: a raster of one pixel a tile.
///
/// The raster is cut into tiles as `dataset.chips` cuts chips for the training, and each is shown to the network as it is. A
/// pixel of the result lies in the middle of its tile, and is as wide as tiles are apart. The last tile of a row or column
/// is shifted back to end at the edge; its pixel keeps its place in the grid. Bands, normalisation, no-data and what computes
/// are as in `infer.segment`. A tile of which too little has data is no-data.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Classify {
    /// Model folder (`manifest.json`, `1/model.onnx`). Leave it out when the model comes through the `model` input.
    #[serde(default)]
    pub model: Option<LocalPath>,
    /// Rows and columns of a tile, pixels. Default: what the manifest says.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8192))]
    pub tile: Option<u32>,
    /// Pixels from one tile to the next: as many as a tile has when absent, fewer for tiles that overlap, down to an eighth of a
    /// tile.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8192))]
    pub stride: Option<u32>,
    /// Tiles with a smaller share of pixels that have data in all bands are no-data, as are those without any.
    #[serde(default = "default_valid")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_valid: f64,
    /// Tiles given to the network at once: a number, or `auto` (what the network was exported for, else what suits: 1 on
    /// CPUs and for servers that gather requests themselves).
    #[serde(default)]
    pub batch: Batch,
    /// What the network is shown at the right and lower edge. A raster smaller than a tile is reflected in any case.
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

fn default_valid() -> f64 {
    0.5
}

/// What `infer.classify` makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClassifyOutputs {
    /// Probabilities, a pixel a tile and a band a class.
    pub raster: Artifact<Cog>,
    /// Tiles the network ran on; those with too little data are left out.
    pub tiles: u64,
}

impl Classify {
    fn settings(&self) -> Settings {
        Settings {
            task: Self::NAME,
            scheme: Scheme::Tiles { stride: self.stride, min_valid: self.min_valid },
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

impl Task for Classify {
    const NAME: &'static str = "infer.classify";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = ClassifyOutputs;

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

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<ClassifyOutputs, TaskError> {
        let (raster, done) = work::run(self.settings(), inputs, ctx).await?;
        Ok(ClassifyOutputs { raster, tiles: done.tiles })
    }
}
