//! Model folders in Triton's layout: what they are called, what Triton is told of them, and how one is written.

use std::fs;
use std::io::Error;
use std::path::{Path, PathBuf};

use serde::Serialize;
use swath_kinds::ModelManifest;

/// What the network is called in the folder of its version.
pub(crate) const NETWORK: &str = "model.onnx";
/// What its weights are called there.
pub(crate) const WEIGHTS: &str = "weights.safetensors";
/// What a manifest is called.
pub(crate) const MANIFEST: &str = "manifest.json";
/// What a card is called.
pub(crate) const CARD: &str = "card.md";
/// What Triton's configuration is called.
pub(crate) const CONFIG: &str = "config.pbtxt";
/// What MLflow's description of a version is called.
pub(crate) const MLMODEL: &str = "MLmodel";

/// Longest name: file systems end at 255 bytes.
const LONGEST: usize = 100;

/// Whether a folder may be called so on every system, and a model in every server.
pub(crate) fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    letters && first && name.len() <= LONGEST && !name.ends_with('.')
}

/// What [`is_name`] asks for, in words.
pub(crate) const NAME_RULE: &str = "a name has up to 100 letters, digits, `_`, `-` and `.`, begins with a letter, a digit or `_`, and ends with no `.`";

/// What Triton is told: `config.pbtxt`. `ends` are the sides of input and output without the batch.
pub(crate) fn config(manifest: &ModelManifest, [rows, columns]: [u32; 2], most: u32) -> String {
    let end = |name: &str, sides: [u32; 3]| {
        let [channels, rows, columns] = sides;
        format!("[ {{ name: \"{name}\" data_type: TYPE_FP32 dims: [ {channels}, {rows}, {columns} ] }} ]")
    };
    let size = manifest.tile.size;
    let input = end(&manifest.input.name, [manifest.input.channels, size, size]);
    let output = end(&manifest.output.name, [manifest.output.channels, rows, columns]);
    format!(
        "name: \"{}\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: {most}\ninput {input}\noutput {output}\n\
         dynamic_batching {{ }}\nparameters {{ key: \"digest\" value {{ string_value: \"{}\" }} }}\n{}\n",
        manifest.name,
        manifest.digest,
        policy(manifest.version)
    )
}

/// Says that Triton serves this version, and no other.
pub(crate) fn policy(version: u32) -> String {
    format!("version_policy: {{ specific: {{ versions: [ {version} ] }} }}")
}

/// A model folder that is made.
pub(crate) struct Draft<'a> {
    /// Where.
    pub folder: &'a Path,
    /// Its manifest; `file` and the checkpoint's lie in a folder named by the version.
    pub manifest: &'a ModelManifest,
    /// The network.
    pub network: &'a [u8],
    /// Where its weights lie now.
    pub weights: &'a Path,
    /// Content of `config.pbtxt`.
    pub config: String,
    /// Content of `card.md`.
    pub card: String,
}

impl Draft<'_> {
    /// Writes it.
    pub fn write(&self) -> Result<(), Unwritten> {
        let version = self.folder.join(self.manifest.version.to_string());
        at(&version, fs::create_dir_all(&version))?;
        let file = |path: PathBuf, content: &[u8]| at(&path, fs::write(&path, content));
        file(version.join(NETWORK), self.network)?;
        let weights = version.join(WEIGHTS);
        at(&weights, fs::copy(self.weights, &weights).map(drop))?;
        file(self.folder.join(CONFIG), self.config.as_bytes())?;
        file(self.folder.join(CARD), self.card.as_bytes())?;
        file(self.folder.join(MANIFEST), &json(self.manifest))
    }
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {source}", path.display())]
pub(crate) struct Unwritten {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: Error,
}

pub(crate) fn at<T>(path: &Path, result: Result<T, Error>) -> Result<T, Unwritten> {
    result.map_err(|source| Unwritten { path: path.to_owned(), source })
}

/// JSON as people read it, with a line end.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("manifests are JSON");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_on_every_system() {
        for name in ["pads", "water_unet", "_x", "0", "pads-2.1", &"a".repeat(100)] {
            assert!(is_name(name), "{name}");
        }
        for name in
            ["", ".", "..", "a/b", "../x", "a b", ".hidden", "-x", "x.", "wässer", "a\\b", "a\0", &"a".repeat(101)]
        {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
