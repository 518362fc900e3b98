//! What the tasks of this crate are asked for: the parameters that they share, and how they are checked.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::{Cog, Model as ModelFolder, ModelManifest, StretchFile};
use swath_nets::Output;
use swath_task::{Artifact, Bytes, Fault, LocalPath, Needs, Problem};

use crate::serving::{BackendChoice, DeviceChoice, Triton};
use crate::tiling::{Blend, Edges};
use crate::triton::URL_VARIABLE;

/// How many tiles the network is given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Batch {
    /// `auto`.
    Auto(Auto),
    /// This many.
    Count(#[schemars(range(min = 1, max = 1024))] u32),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// What suits the network and the machine.
    #[default]
    Auto,
}

impl Default for Batch {
    fn default() -> Self {
        Self::Auto(Auto::Auto)
    }
}

/// Type of the written probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// 0 to 1 as they are; no-data is NaN.
    #[default]
    Float32,
    /// 0 to 250 with scale 0.004; no-data is 255. A quarter of the size.
    Uint8,
    /// 0 to 50000 with scale 0.00002; no-data is 65535. Half of the size.
    Uint16,
}

pub(crate) fn default_memory() -> Bytes {
    Bytes::mib(512)
}

/// What a task of this crate reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The raster, its bands named as in the model's manifest.
    pub raster: Artifact<Cog>,
    /// The model, when a step before made it.
    #[serde(default)]
    pub model: Option<Artifact<ModelFolder>>,
    /// Percentile limits to use in place of those in the manifest, for networks trained on stretched composites.
    #[serde(default)]
    pub stretch: Option<Artifact<StretchFile>>,
}

/// What is told of the raster, and where tiles lie on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scheme {
    /// Each pixel, from tiles that share `overlap` pixels.
    Pixels {
        /// Pixels that neighbours share.
        overlap: u32,
        /// How they become one value.
        blend: Blend,
    },
    /// Each tile as a whole.
    Tiles {
        /// Pixels from one tile to the next; as many as a tile has where it is not told.
        stride: Option<u32>,
        /// Share of a tile's pixels that must have data.
        min_valid: f64,
    },
}

/// The parameters of a step, whichever task it is.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the task, for messages.
    pub task: &'static str,
    pub scheme: Scheme,
    pub model: Option<LocalPath>,
    pub tile: Option<u32>,
    pub batch: Batch,
    pub edges: Edges,
    pub values: Values,
    pub memory: Bytes,
    pub threads: Option<u32>,
    pub backend: BackendChoice,
    pub device: DeviceChoice,
    pub triton: Triton,
    pub allow_gsd: bool,
}

/// What a usual network takes on top of `memory`: weights and activations of one tile.
const NETWORK_MEMORY: u64 = 512 << 20;

/// What a client of a model server takes on top of `memory`.
const CLIENT_MEMORY: u64 = 128 << 20;

impl Settings {
    /// What types cannot say.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if let Some(tile) = self.tile {
            if !(1..=8192).contains(&tile) {
                problems.push(Problem::new("/tile", format!("`tile` is {tile}, which is not from 1 to 8192")));
            } else if let Err(reason) = self.scheme.overlap(tile) {
                problems.push(Problem::new(self.scheme.place(), reason).help(self.scheme.usual(tile)));
            }
        }
        match self.scheme {
            Scheme::Tiles { stride: Some(0), .. } if self.tile.is_none() => {
                problems.push(Problem::new("/stride", "`stride` is 0: tiles would never move on"));
            }
            Scheme::Tiles { min_valid, .. } if !(0.0..=1.0).contains(&min_valid) => {
                problems
                    .push(Problem::new("/min_valid", format!("`min_valid` is {min_valid}, not a share from 0 to 1")));
            }
            _ => {}
        }
        if let Batch::Count(count) = self.batch
            && !(1..=1024).contains(&count)
        {
            problems.push(Problem::new("/batch", format!("`batch` is {count}, which is not from 1 to 1024")));
        }
        if let Some(threads) = self.threads
            && !(1..=1024).contains(&threads)
        {
            problems.push(Problem::new("/threads", format!("`threads` is {threads}, which is not from 1 to 1024")));
        }
        if let (DeviceChoice::Named(device), BackendChoice::Triton) = (self.device, self.backend) {
            let message = format!("`device` is `{device}`, but it is a model server that computes");
            problems
                .push(Problem::new("/device", message).help("leave out `device`, or take `backend: ort` or `burn`"));
        }
        self.triton.problems(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What a step with these settings takes of the machine.
    pub fn needs(&self) -> Needs {
        let named = self.triton.url.is_some() && self.device == DeviceChoice::Auto;
        if self.backend == BackendChoice::Triton || (self.backend == BackendChoice::Auto && named) {
            // Another machine computes; tiles are cut and put together here.
            return Needs::new(1.0, Bytes(self.memory.0.saturating_add(CLIENT_MEMORY)));
        }
        let cpu = self.threads.map_or(Needs::ALL_CORES, |threads| threads as f32);
        Needs::new(cpu, Bytes(self.memory.0.saturating_add(NETWORK_MEMORY)))
    }

    /// What a step with these settings reads beside its inputs.
    pub fn reads(&self) -> Vec<PathBuf> {
        self.model.iter().map(|path| path.0.clone()).collect()
    }

    /// What of the environment decides what a step with these settings tells: which server computes. A server is taken at its word
    /// for what it runs, so that its results are reused for that server alone.
    pub fn variables(&self) -> Vec<&'static str> {
        let server = match self.backend {
            BackendChoice::Triton => true,
            BackendChoice::Auto => self.device == DeviceChoice::Auto,
            BackendChoice::Ort | BackendChoice::Burn => false,
        };
        if server && self.triton.url.is_none() { vec![URL_VARIABLE] } else { Vec::new() }
    }

    /// Rows and columns of a tile, and how many of them neighbours share, as the model allows.
    pub fn tiles(&self, manifest: &ModelManifest) -> Result<(u32, u32), Fault> {
        let wrong = |message: String, help: String| Err(Fault::new("M115", message).help(help));
        let (size, multiple) = (manifest.tile.size, manifest.tile.multiple_of);
        let tile = self.tile.unwrap_or(size);
        if tile != size && !tile.is_multiple_of(multiple) {
            let name = &manifest.name;
            return if multiple == 0 {
                wrong(
                    format!("the model `{name}` takes tiles of {size} px only, not {tile}"),
                    "leave out `tile`".to_owned(),
                )
            } else {
                wrong(
                    format!("the model `{name}` takes tiles whose size is a multiple of {multiple}, not {tile}"),
                    format!("set `tile: {}`, or leave it out for {size}", tile.div_ceil(multiple) * multiple),
                )
            };
        }
        match self.scheme.overlap(tile) {
            Ok(overlap) => Ok((tile, overlap)),
            Err(reason) => wrong(reason, self.scheme.usual(tile)),
        }
    }

    /// Tiles that the network is given at once.
    pub fn batch(&self, fixed: Option<usize>, usual: usize) -> Result<usize, Fault> {
        match (self.batch, fixed) {
            (Batch::Auto(_), fixed) => Ok(fixed.unwrap_or(usual)),
            (Batch::Count(count), Some(fixed)) if count as usize != fixed => {
                let message = format!("the network was exported for batches of {fixed} tiles, not {count}");
                Err(Fault::new("M115", message).help("leave out `batch`, or export the network with a free batch"))
            }
            (Batch::Count(count), _) => Ok(count as usize),
        }
    }

    /// What the written file says of how it was made.
    pub fn metadata(&self, manifest: &ModelManifest, tile: u32, overlap: u32) -> Vec<(String, String)> {
        let mut words = vec![
            ("SWATH_MODEL", manifest.name.clone()),
            ("SWATH_MODEL_VERSION", manifest.version.to_string()),
            ("SWATH_MODEL_DIGEST", manifest.digest.to_string()),
            ("SWATH_TILE", tile.to_string()),
        ];
        match self.scheme {
            Scheme::Pixels { overlap, blend } => {
                words.push(("SWATH_OVERLAP", overlap.to_string()));
                words.push(("SWATH_BLEND", blend.word().to_owned()));
            }
            Scheme::Tiles { min_valid, .. } => {
                words.push(("SWATH_STRIDE", (tile - overlap).to_string()));
                words.push(("SWATH_MIN_VALID", min_valid.to_string()));
            }
        }
        words.push(("SWATH_EDGES", self.edges.word().to_owned()));
        words.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Scheme {
    /// What a network must tell for it.
    pub fn output(self) -> Output {
        match self {
            Self::Pixels { .. } => Output::Pixels,
            Self::Tiles { .. } => Output::Image,
        }
    }

    /// The parameter that says how far tiles are apart.
    fn place(self) -> &'static str {
        match self {
            Self::Pixels { .. } => "/overlap",
            Self::Tiles { .. } => "/stride",
        }
    }

    /// What is usual for it.
    fn usual(self, tile: u32) -> String {
        match self {
            Self::Pixels { .. } => format!("set `overlap: {}`, a quarter of the tile", tile / 4),
            Self::Tiles { .. } => format!("leave out `stride` for {tile}: tiles side by side"),
        }
    }

    /// Pixels that neighbouring tiles share. A stride under an eighth of a tile shows each pixel to the network 64 times and more.
    fn overlap(self, tile: u32) -> Result<u32, String> {
        let most = tile - tile.div_ceil(8);
        match self {
            Self::Pixels { overlap, .. } if overlap > most => {
                Err(format!("`overlap` is {overlap}, and tiles of {tile} px may share at most {most}"))
            }
            Self::Pixels { overlap, .. } => Ok(overlap),
            Self::Tiles { stride, .. } => {
                let (stride, least) = (stride.unwrap_or(tile), tile - most);
                if (least..=tile).contains(&stride) {
                    Ok(tile - stride)
                } else {
                    Err(format!("`stride` is {stride}, and tiles of {tile} px lie from {least} to {tile} px apart"))
                }
            }
        }
    }
}
