//! The task `onnx.export`.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::DatasetManifest;
use swath_kinds::{
    Checkpoint, DatasetFile, LARGEST_TILE, Model as ModelFolder, ModelManifest, TensorSpec, TileSpec, WeightsFile,
};
use swath_nets::Output;
use swath_task::{Artifact, Bytes, Context, Digest, Fault, Needs, Problem, Purity, Task, TaskError};

use crate::agree::{Agreement, BATCHES, Pair};
use crate::card::{Card, architecture};
use crate::checkpoint::{SMALLEST_TILE, Trained};
use crate::convert::{self, INPUT, OPSET, OUTPUT, convert};
use crate::folder::{self, Draft, NETWORK, WEIGHTS};
use crate::repository::unwritten;
use crate::rules;

/// Writes a trained network as ONNX, in a model folder that `infer.segment` and Triton read.
///
/// The network takes any number of images at once, of one size. Before anything is written, it is held against ONNX's rules,
/// loaded into ONNX Runtime, and run there on up to 32 images at once: its output must be that of the network that was
/// trained, within 1e-5 of the largest logit. The folder holds the network (`1/model.onnx`), its weights
/// (`1/weights.safetensors`), `manifest.json`, Triton's `config.pbtxt` and a model card (`card.md`).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// What the model is called: a folder name of letters, digits, `_`, `-` and `.`.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// One sentence: what it finds, and on what.
    #[schemars(length(min = 1))]
    pub about: String,
    /// Rows and columns of the images that the network takes, pixels. Default: as in training.
    #[serde(default)]
    #[schemars(range(min = 32, max = 8192))]
    pub tile: Option<u32>,
    /// Most images that Triton gathers for the network at once.
    #[serde(default = "most")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_batch: u32,
    /// Under which terms the model may be used; for the card.
    #[serde(default)]
    pub licence: Option<String>,
    /// What it learned from, a sentence each: imagery, labels, whose they are, what was left out; for the card.
    #[serde(default)]
    pub data: Vec<String>,
    /// What the model cannot do, a sentence each; for the card.
    #[serde(default)]
    pub limits: Vec<String>,
    /// The command that makes it again; for the card.
    #[serde(default)]
    pub again: Option<String>,
}

fn most() -> u32 {
    32
}

/// What `onnx.export` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportInputs {
    /// The trained network.
    pub checkpoint: Artifact<Checkpoint>,
    /// The dataset that it was trained on, whose size the card then tells.
    #[serde(default)]
    pub dataset: Option<Artifact<DatasetFile>>,
}

/// What `onnx.export` makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExportOutputs {
    /// The model folder.
    pub model: Artifact<ModelFolder>,
    /// Numbers in the network that training changed.
    pub parameters: u64,
    /// The largest difference between the exported network's logits and the trained one's.
    pub difference: f64,
}

impl Task for Export {
    const NAME: &'static str = "onnx.export";
    const VERSION: u32 = 3;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = ExportInputs;
    type Outputs = ExportOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if !folder::is_name(&self.name) {
            let message = format!("`{}` cannot be the name of a model folder", self.name);
            problems.push(Problem::new("/name", message).help(folder::NAME_RULE));
        }
        if self.about.trim().is_empty() {
            problems.push(Problem::new("/about", "`about` is empty").help("tell what the model finds, and on what"));
        }
        if let Some(tile) = self.tile
            && !(SMALLEST_TILE..=LARGEST_TILE).contains(&tile)
        {
            let message = format!("`tile` is {tile}, which is not from {SMALLEST_TILE} to {LARGEST_TILE}");
            problems.push(Problem::new("/tile", message));
        }
        if !(1..=1024).contains(&self.max_batch) {
            let message = format!("`max_batch` is {}, which is not from 1 to 1024", self.max_batch);
            problems.push(Problem::new("/max_batch", message));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(Bytes::mib(4096))
    }

    async fn run(&self, inputs: ExportInputs, ctx: &Context) -> Result<ExportOutputs, TaskError> {
        let checkpoint = ctx.locate(&inputs.checkpoint).await?;
        let dataset = match &inputs.dataset {
            Some(artifact) => Some(ctx.locate(artifact).await?),
            None => None,
        };
        let draft = ctx.draft::<ModelFolder>(&self.name)?;
        let (settings, path) = (self.clone(), draft.path().to_owned());
        let work = move |ctx: &Context| settings.export(&checkpoint, dataset.as_deref(), &path, ctx);
        let (parameters, agreement) = ctx.blocking(work).await?;
        let model = draft.commit().await?;
        Ok(ExportOutputs { model, parameters: parameters as u64, difference: agreement.difference })
    }
}

impl Export {
    fn export(
        &self,
        checkpoint: &Path,
        dataset: Option<&Path>,
        folder: &Path,
        ctx: &Context,
    ) -> Result<(usize, Agreement), TaskError> {
        let trained = Trained::open(checkpoint)?;
        let dataset = dataset.map(|path| read_dataset(path, &trained)).transpose()?;
        let tile = self.tile.unwrap_or(trained.manifest.tile);
        if tile < SMALLEST_TILE {
            let message =
                format!("the network was trained on chips of {tile} px, and takes no image under {SMALLEST_TILE} px");
            return Err(Fault::new("M131", message).help("set `tile` to a size that it takes").permanent());
        }
        ctx.check_cancelled()?;
        let (channels, classes) = (trained.network.in_channels(), trained.network.classes());
        let model = convert(&trained.model, channels, tile as usize)?;
        check(&model, &trained, channels, classes)?;
        let network = convert::bytes(&model)?;
        drop(model);
        ctx.check_cancelled()?;
        let side = tile as usize;
        let image = [channels, side, side];
        let pair =
            Pair { network: &trained.model, exported: &network, image, normalisation: &trained.manifest.normalisation };
        let agreement = pair.agree(&BATCHES, ctx)?;
        tracing::info!(?agreement, bytes = network.len(), "the exported network agrees with the trained one");
        ctx.metric("bytes", network.len() as f64);
        ctx.metric("difference", agreement.difference);

        let manifest = self.manifest(&trained, Digest::of(&network), tile);
        let parameters = trained.model.parameters();
        let card = Card {
            manifest: &manifest,
            network: &trained.network,
            parameters,
            training: &trained.manifest.training,
            dataset: dataset.as_ref(),
            agreement,
            data: &self.data,
            limits: &self.limits,
            again: told(self.again.as_deref()),
            licence: told(self.licence.as_deref()),
        };
        let sides = match trained.network.output() {
            Output::Pixels => [tile, tile],
            Output::Image => [1, 1],
        };
        let draft = Draft {
            folder,
            manifest: &manifest,
            network: &network,
            weights: &trained.weights,
            config: folder::config(&manifest, sides, self.max_batch),
            card: card.text(),
        };
        draft.write().map_err(unwritten)?;
        Ok((parameters, agreement))
    }

    fn manifest(&self, trained: &Trained, digest: Digest, tile: u32) -> ModelManifest {
        let told = &trained.manifest;
        let channels = |count: usize| u32::try_from(count).expect("networks have up to 1024 channels");
        ModelManifest {
            name: self.name.clone(),
            version: 1,
            about: self.about.trim().to_owned(),
            architecture: Some(architecture(&trained.network)),
            file: format!("1/{NETWORK}"),
            digest,
            bands: told.bands.clone(),
            normalisation: told.normalisation.clone(),
            input: TensorSpec { name: INPUT.to_owned(), channels: channels(trained.network.in_channels()) },
            output: TensorSpec { name: OUTPUT.to_owned(), channels: channels(trained.network.classes()) },
            activation: told.activation,
            tile: TileSpec { size: tile, multiple_of: 0 },
            classes: told.classes.clone(),
            gsd: told.gsd,
            opset: Some(OPSET),
            checkpoint: Some(WeightsFile { file: format!("1/{WEIGHTS}"), ..told.weights.clone() }),
            training: Some(told.training.clone()),
        }
    }
}

/// Holds an exported network against the rules, and its weights against being numbers at all.
fn check(model: &onnx_ir::ModelProto, trained: &Trained, channels: usize, classes: usize) -> Result<(), Fault> {
    let broken = rules::not_finite(model);
    if !broken.is_empty() {
        let named: Vec<String> = broken.iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "the weights `{}` hold numbers that are not finite, in {} of their tensors: {}",
            trained.weights.display(),
            named.len(),
            named.join(", ")
        );
        return Err(Fault::new("M142", message)
            .help("the training diverged: take an earlier checkpoint, or train with a smaller learning rate"));
    }
    rules::check(model, channels, classes).map_err(|broken| {
        Fault::new("M144", format!("the exported network breaks a rule of ONNX: {broken}"))
            .help("this is a fault of Swath: please report it with the `network` of the training step")
    })
}

/// The manifest of the dataset, which must be the one that the network was trained on.
fn read_dataset(path: &Path, trained: &Trained) -> Result<DatasetManifest, Fault> {
    let unreadable = |reason: String| {
        Fault::new("L132", format!("the manifest `{}` is wrong: {reason}", path.display()))
            .help("docs/datasets.md tells every field")
    };
    let text = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let (digest, told) = (Digest::of(&text), trained.manifest.training.dataset);
    if digest != told {
        let message =
            format!("the network was trained on the dataset `{told}`, and `{}` is `{digest}`", path.display());
        return Err(Fault::new("M146", message).help("connect the dataset that went into the training step, or none"));
    }
    serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))
}

/// What is said, if anything is: a flow whose parameter is not given says a blank.
fn told(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}
