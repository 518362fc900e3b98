//! The manifests of checkpoint folders and model folders: all that must be known to feed a network the right numbers.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use swath_task::Fault;

/// Content of `manifest.json` in a model folder of Triton's layout (`NAME/manifest.json`, `NAME/1/model.onnx`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// Model name, as the folder is called.
    pub name: String,
    /// Version, as the sub-folder is called.
    pub version: u32,
    /// One sentence: what it finds and on what.
    pub about: String,
    /// What kind of network it is (`U-Net`), for catalogues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Network file relative to the manifest, `1/model.onnx`.
    pub file: String,
    /// Digest of the network file, `blake3:...`; a file that differs is refused.
    pub digest: swath_task::Digest,
    /// The bands it was trained on, in order.
    pub bands: Vec<BandInput>,
    /// How band values become network input.
    pub normalisation: Normalisation,
    /// Input tensor.
    pub input: TensorSpec,
    /// Output tensor.
    pub output: TensorSpec,
    /// What the output numbers are; never guessed.
    pub activation: OutputActivation,
    /// Tile the network takes.
    pub tile: TileSpec,
    /// Names of the output channels, `["water"]` for a binary model.
    pub classes: Vec<String>,
    /// Ground sampling distance it was trained at, metres a pixel.
    pub gsd: f64,
    /// Version of ONNX's operators that the network file is written in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opset: Option<u32>,
    /// The weights that the network file was made from, for those who run them without ONNX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<WeightsFile>,
    /// How it was trained, and how well it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
}

/// A network's weights and what they are the weights of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsFile {
    /// The file, safetensors, relative to the manifest.
    pub file: String,
    /// Digest of the file, `blake3:...`; a file that differs is refused.
    pub digest: swath_task::Digest,
    /// Architecture and size, as `network` of a training step has it (`swath_nets::Network`).
    pub network: serde_json::Value,
}

/// What is known of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Digest of the dataset file.
    pub dataset: swath_task::Digest,
    /// What all random choices were drawn from.
    pub seed: u64,
    /// Epochs trained.
    pub epochs: u32,
    /// The epoch whose weights these are, from 1.
    pub epoch: u32,
    /// The parameters of the training step.
    pub settings: serde_json::Value,
    /// The run in the tracking server or folder, `https://mlflow.example/#/experiments/1/runs/...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Scores on the chips that told when to stop.
    pub validation: BTreeMap<String, f64>,
    /// Scores on the chips that were looked at once, after training.
    pub test: BTreeMap<String, f64>,
}

/// What the format is called in [`CheckpointManifest::format`].
pub const CHECKPOINT_FORMAT: &str = "swath.checkpoint/1";

/// Content of `checkpoint.json` in a checkpoint folder: a trained network as training leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// [`CHECKPOINT_FORMAT`].
    pub format: String,
    /// The weights, beside this file.
    pub weights: WeightsFile,
    /// The bands it was trained on, in order.
    pub bands: Vec<BandInput>,
    /// How band values become network input.
    pub normalisation: Normalisation,
    /// What the output numbers are.
    pub activation: OutputActivation,
    /// Names of the output channels.
    pub classes: Vec<String>,
    /// Rows and columns of the chips it was trained on.
    pub tile: u32,
    /// Ground sampling distance of the chips, metres a pixel.
    pub gsd: f64,
    /// How it was trained, and how well it did.
    pub training: Training,
}

impl CheckpointManifest {
    /// The manifest in a checkpoint folder. `M130` when there is none, `M131` when it is not one; the weights beside it
    /// are not looked at.
    pub fn of_folder(folder: &Path) -> Result<Self, Fault> {
        let path = folder.join("checkpoint.json");
        let text = std::fs::read(&path).map_err(|error| {
            Fault::new("M130", format!("`{}` is not a checkpoint folder: `checkpoint.json`: {error}", folder.display()))
                .help("a checkpoint folder comes from `train.segmentation` or `train.classification`; see docs/training.md")
        })?;
        let wrong = |reason: String| {
            Fault::new("M131", format!("the manifest `{}` is wrong: {reason}", path.display()))
                .help("docs/training.md tells every field; a checkpoint is written whole by a training step")
        };
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != CHECKPOINT_FORMAT {
            return Err(wrong(format!(
                "its format is `{}`, this program reads `{CHECKPOINT_FORMAT}`",
                manifest.format
            )));
        }
        Ok(manifest)
    }
}

impl ModelManifest {
    /// The manifest in a model folder. `M101` when there is none, `M102` when it is not one; the numbers in it and the
    /// network beside it are not looked at.
    pub fn of_folder(folder: &Path) -> Result<Self, Fault> {
        let path = folder.join("manifest.json");
        let text = std::fs::read(&path).map_err(|error| {
            Fault::new("M101", format!("`{}` is not a model folder: `manifest.json`: {error}", folder.display()))
                .help("a model folder holds `manifest.json` and `1/model.onnx`; see docs/model-folder.md")
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Fault::new("M102", format!("the manifest `{}` is wrong: {error}", path.display()))
                .help("docs/model-folder.md tells every field")
        })
    }
}

/// One band of the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandInput {
    /// Band name as rasters carry it, `B08` or `NDWI`.
    pub name: String,
}

/// How band values (after the raster's scale and offset) become network input. No-data becomes `fill` afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "method", deny_unknown_fields)]
pub enum Normalisation {
    /// As they are: the raster was normalised by a step before.
    None {
        /// Value of no-data pixels.
        fill: f32,
    },
    /// `(x - mean) / std` per band.
    Standard {
        /// One a band.
        mean: Vec<f32>,
        /// One a band, above 0.
        std: Vec<f32>,
        /// Value of no-data pixels.
        fill: f32,
    },
    /// `clamp((x - low) / (high - low), 0, 1)` per band.
    Stretch {
        /// One a band.
        low: Vec<f32>,
        /// One a band, above `low`.
        high: Vec<f32>,
        /// Value of no-data pixels.
        fill: f32,
    },
}

/// A tensor by name; layout is `[batch, channel, row, column]`, 32-bit floats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Tensor name in the network.
    pub name: String,
    /// Channels.
    pub channels: u32,
}

/// What the numbers of the output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputActivation {
    /// Logits of independent classes: sigmoid makes them probabilities.
    Logits,
    /// Logits of classes of which each pixel or image has one: softmax over the channels makes them probabilities.
    ClassLogits,
    /// Probabilities from 0 to 1 already.
    Probability,
}

/// Tile size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileSpec {
    /// Rows and columns, pixels.
    pub size: u32,
    /// Size must be a multiple of this when another tile is asked for; 0: only `size` works.
    pub multiple_of: u32,
}
