//! A trained network, read from the folder that training leaves, all of it checked before anything is made of it.

use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;
use swath_kinds::{CheckpointManifest, WeightsFile};
use swath_nets::{Error, Model, Network};
use swath_task::{Digest, Fault};

/// Networks halve an image five times, and must have something left of it.
pub(crate) const SMALLEST_TILE: u32 = 32;

/// A checkpoint whose manifest and weights agree.
pub(crate) struct Trained {
    /// The manifest.
    pub manifest: CheckpointManifest,
    /// What it is a network of.
    pub network: Network,
    /// The network.
    pub model: Model,
    /// Where its weights lie.
    pub weights: PathBuf,
}

impl Trained {
    /// Reads a checkpoint folder. `M130` and `M131` when its manifest is missing or wrong, `M140` when the weights are not
    /// the ones it tells of, `M141` when they are no weights of its network.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let manifest = CheckpointManifest::of_folder(folder)?;
        let network = network(&manifest).map_err(|reason| {
            let path = folder.join("checkpoint.json");
            Fault::new("M131", format!("the manifest `{}` is wrong: {reason}", path.display()))
                .help("docs/training.md tells every field; a checkpoint is written whole by a training step")
        })?;
        let weights = weights(folder, &manifest.weights)?;
        let init = network.init(&Device::flex());
        let model = init.and_then(|model| model.load(&weights)).map_err(|error| unfit(&error))?;
        Ok(Self { manifest, network, model, weights })
    }
}

fn network(manifest: &CheckpointManifest) -> Result<Network, String> {
    manifest.check().map_err(|contradiction| contradiction.to_string())?;
    let network = Network::deserialize(&manifest.weights.network);
    let network = network.map_err(|error| format!("`weights.network` is no network: {error}"))?;
    network.check().map_err(|error| error.to_string())?;
    let differs = |what: &str, count: usize, field: &str, named: usize| {
        Err(format!("its network has {count} {what} channels, but `{field}` names {named}"))
    };
    let (bands, classes) = (manifest.bands.len(), manifest.classes.len());
    if network.in_channels() != bands {
        return differs("input", network.in_channels(), "bands", bands);
    }
    if network.classes() != classes {
        return differs("output", network.classes(), "classes", classes);
    }
    Ok(network)
}

/// The path of the weights, which must be the bytes that the manifest tells of.
fn weights(folder: &Path, told: &WeightsFile) -> Result<PathBuf, Fault> {
    let path = folder.join(&told.file);
    let other = |reason: String| {
        Fault::new("M140", format!("the weights `{}` cannot be used: {reason}", path.display()))
            .help("restore the file beside its manifest; a checkpoint is written whole by a training step")
    };
    if Path::new(&told.file).file_name() != Some(told.file.as_ref()) {
        return Err(other(format!("the manifest names them `{}`, which is no file name", told.file)));
    }
    let digest = File::open(&path).and_then(Digest::of_reader);
    let (digest, _) = digest.map_err(|error| other(error.to_string()))?;
    if digest != told.digest {
        return Err(other(format!("their digest is `{digest}`, the manifest tells of `{}`", told.digest)));
    }
    Ok(path)
}

fn unfit(error: &Error) -> Fault {
    let code = if matches!(error, Error::Read { .. }) { "M140" } else { "M141" };
    Fault::new(code, error.to_string())
        .help("`weights.network` in `checkpoint.json` must be the network that these weights were trained in")
}
