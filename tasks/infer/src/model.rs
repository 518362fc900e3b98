//! Model folders: the manifest and the files it names, read and checked before anything is loaded.
//!
//! Invariants:
//! 1. The bytes of a network that are checked (digest, no external data) are the bytes that are loaded here: it is read once.
//! 2. The files lie inside of the folder, links followed.
//! 3. After loading, every number of the manifest has been checked against the others.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use swath_kinds::ModelManifest;
use swath_onnxruntime::{Refusal, inspect};
use swath_task::{Digest, Fault};

/// Largest network file: protocol buffers end at 2 GiB.
const LARGEST_NETWORK: u64 = 2 << 30;
/// Largest manifest.
const LARGEST_MANIFEST: u64 = 1 << 20;

/// A model folder whose manifest passed every check. The files that it names are looked at by those who run them.
pub(crate) struct Model {
    /// Where its manifest lies.
    pub folder: PathBuf,
    /// The manifest.
    pub manifest: ModelManifest,
}

impl Model {
    /// Reads and checks the manifest of a model folder, and that the network's path stays in it.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let manifest = read_manifest(folder)?;
        inside(folder, "file", &manifest.file)?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// Where the network lies, for messages.
    pub fn network_place(&self) -> String {
        self.folder.join(&self.manifest.file).display().to_string()
    }

    /// Checks the digest of the network if it lies there: a client of a model server may do without. It is not held in memory.
    pub fn check_network_if_there(&self) -> Result<(), Fault> {
        let path = inside(&self.folder, "file", &self.manifest.file)?;
        let unreadable = |error: std::io::Error| network_unreadable(&path, &error.to_string());
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.map_err(unreadable)?,
        };
        let (digest, _) = Digest::of_reader(file).map_err(unreadable)?;
        check_digest("network", &path, digest, &self.manifest.digest)
    }

    /// Reads and checks the network file.
    pub fn network(&self) -> Result<Vec<u8>, Fault> {
        let path = inside(&self.folder, "file", &self.manifest.file)?;
        let network = read_limited(&path, LARGEST_NETWORK).map_err(|reason| network_unreadable(&path, &reason))?;
        // The kind of damage says more than a digest that differs, so the file is looked into first.
        inspect(&network).map_err(|refusal| refused(&path, &refusal))?;
        check_digest("network", &path, Digest::of(&network), &self.manifest.digest)?;
        Ok(network)
    }

    /// Reads and checks the weights that the network was made from, and what they are the weights of. `M127` when the
    /// manifest names none.
    pub fn weights(&self) -> Result<(PathBuf, &serde_json::Value), Fault> {
        let manifest = &self.manifest;
        let checkpoint = manifest.checkpoint.as_ref().ok_or_else(|| {
            Fault::new("M127", format!("the model `{}` tells of no weights beside its network", manifest.name))
                .help("export it with `onnx.export`, which keeps them, or take `backend: ort`")
        })?;
        let path = inside(&self.folder, "checkpoint.file", &checkpoint.file)?;
        let digest = File::open(&path).and_then(Digest::of_reader).map_err(|error| {
            Fault::new("M127", format!("cannot read the weights `{}`: {error}", path.display()))
                .help("the manifest's `checkpoint.file` names them, relative to the manifest")
        })?;
        check_digest("weights", &path, digest.0, &checkpoint.digest)?;
        Ok((path, &checkpoint.network))
    }
}

fn network_unreadable(path: &Path, reason: &str) -> Fault {
    Fault::new("M101", format!("cannot read the network `{}`: {reason}", path.display()))
        .help("the manifest's `file` names the network, relative to the manifest: `1/model.onnx`")
}

fn check_digest(what: &str, path: &Path, digest: Digest, wanted: &Digest) -> Result<(), Fault> {
    if digest == *wanted {
        return Ok(());
    }
    let message = format!(
        "the {what} `{}` is not what the manifest tells of: its digest is `{digest}`, not `{wanted}`",
        path.display()
    );
    Err(Fault::new("M103", message)
        .help("restore the file, or export the model again so that it and the manifest match"))
}

fn refused(path: &Path, refusal: &Refusal) -> Fault {
    let message = format!("the network `{}` is refused: {refusal}", path.display());
    match refusal {
        Refusal::External { .. } | Refusal::Compiled { .. } => Fault::new("M105", message).help(
            "export the network as one file that holds its weights (`onnx.save(..., save_as_external_data=False)`)",
        ),
        _ => Fault::new("M104", message).help("export or copy the network again: it must be one whole `.onnx` file"),
    }
}

/// Reads `manifest.json` of a model folder and checks that it makes sense. `M101` when there is none, `M102` when it
/// is wrong, with the place in it.
pub fn read_manifest(folder: &Path) -> Result<ModelManifest, Fault> {
    let path = folder.join("manifest.json");
    let text = read_limited(&path, LARGEST_MANIFEST).map_err(|reason| {
        Fault::new("M101", format!("`{}` is not a model folder: `manifest.json`: {reason}", folder.display()))
            .help("a model folder holds `manifest.json` and `1/model.onnx`; see docs/model-folder.md")
    })?;
    let manifest: ModelManifest = serde_json::from_slice(&text).map_err(|error| wrong(&path, &error.to_string()))?;
    manifest.check().map_err(|contradiction| wrong(&path, &contradiction.to_string()))?;
    Ok(manifest)
}

fn wrong(path: &Path, reason: &str) -> Fault {
    Fault::new("M102", format!("the manifest `{}` is wrong: {reason}", path.display()))
        .help("docs/model-folder.md tells every field")
}

fn read_limited(path: &Path, largest: u64) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !size.is_file() {
        return Err("it is not a file".to_owned());
    }
    if size.len() > largest {
        return Err(format!("it has {} bytes, more than {largest}", size.len()));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// The path of a file that the manifest names; it must lie in the folder, also after links are followed.
fn inside(folder: &Path, field: &str, file: &str) -> Result<PathBuf, Fault> {
    let relative = Path::new(file);
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let wrong_file = |why: &str| wrong(&folder.join("manifest.json"), &format!("`{field}` is `{file}`, which {why}"));
    if file.is_empty() || !inside {
        return Err(wrong_file("is not a path below the model folder"));
    }
    let path = folder.join(relative);
    if let (Ok(real), Ok(root)) = (path.canonicalize(), folder.canonicalize())
        && !real.starts_with(root)
    {
        return Err(wrong_file(&format!("leads to `{}`, out of the model folder", real.display())));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest() -> Value {
        json!({
            "name": "water", "version": 1, "about": "Water on reflectance", "file": "1/model.onnx",
            "digest": Digest::of(b"").to_string(),
            "bands": [{ "name": "B03" }, { "name": "B08" }],
            "normalisation": { "method": "standard", "mean": [0.1, 0.2], "std": [0.1, 0.1], "fill": 0.0 },
            "input": { "name": "input", "channels": 2 }, "output": { "name": "output", "channels": 1 },
            "activation": "logits", "tile": { "size": 256, "multiple_of": 32 }, "classes": ["water"], "gsd": 10.0
        })
    }

    fn fault_of(edit: impl FnOnce(&mut Value)) -> Fault {
        let folder = tempfile::tempdir().unwrap();
        let mut value = manifest();
        edit(&mut value);
        std::fs::write(folder.path().join("manifest.json"), value.to_string()).unwrap();
        Model::open(folder.path()).and_then(|model| model.network()).err().unwrap()
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused_with_its_place() {
        type Edit = fn(&mut Value);
        let cases: &[(Edit, &str)] = &[
            (|m| m["bands"] = json!([]), "`bands` is empty"),
            (|m| m["bands"][1]["name"] = json!("B03"), "`B03` twice"),
            (|m| m["bands"][1]["name"] = json!(""), "`bands[1]` has no name"),
            (|m| m["input"]["channels"] = json!(3), "`input.channels` is 3"),
            (|m| m["classes"] = json!(["a", "b"]), "`output.channels` is 1"),
            (|m| m["classes"] = json!([]), "`classes` is empty"),
            (|m| m["normalisation"]["std"] = json!([1.0]), "`normalisation.std` has 1 numbers for 2 bands"),
            (|m| m["normalisation"]["std"][1] = json!(0.0), "`normalisation.std[1]` is 0"),
            (|m| m["normalisation"]["mean"][0] = json!(1e300), "`normalisation.mean[0]` is not a finite"),
            (
                |m| m["normalisation"] = json!({ "method": "stretch", "low": [0, 1], "high": [1, 1], "fill": 0 }),
                "`normalisation.high[1]`",
            ),
            (|m| m["normalisation"]["fill"] = json!(1e300), "`normalisation.fill`"),
            (|m| m["normalisation"]["method"] = json!("guess"), "guess"),
            (|m| m["tile"]["size"] = json!(0), "`tile.size` is 0"),
            (|m| m["tile"]["size"] = json!(100_000), "`tile.size` is 100000"),
            (|m| m["tile"]["size"] = json!(250), "no multiple of"),
            (|m| m["gsd"] = json!(-10.0), "`gsd` is -10"),
            (|m| m["file"] = json!("../secret.onnx"), "not a path below"),
            (|m| m["file"] = json!("/etc/passwd"), "not a path below"),
            (|m| m["activation"] = json!("maybe"), "maybe"),
            (|m| m["colour"] = json!("red"), "colour"),
            (|m| m["digest"] = json!("md5:12"), "not a digest"),
            (|m| drop(m.as_object_mut().unwrap().remove("activation")), "activation"),
        ];
        for (edit, word) in cases {
            let fault = fault_of(*edit);
            assert!(fault.code == "M102" && fault.message.contains(word), "{word}: {fault}");
            assert!(fault.message.contains("manifest.json"), "{fault}");
        }
    }

    #[test]
    fn a_missing_manifest_or_network_is_told_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let fault = Model::open(folder.path()).err().unwrap();
        assert!(fault.code == "M101" && fault.message.contains("manifest.json"), "{fault}");
        let fault = fault_of(|_| {});
        assert!(fault.code == "M101" && fault.message.contains("1/model.onnx"), "{fault}");
        let fault = Model::open(Path::new("/nonexistent/model")).err().unwrap();
        assert_eq!(fault.code, "M101");
    }

    #[test]
    fn weights_are_those_of_the_manifest_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let weights_of = |edit: &dyn Fn(&mut Value)| {
            let mut value = manifest();
            edit(&mut value);
            std::fs::write(folder.path().join("manifest.json"), value.to_string()).unwrap();
            Model::open(folder.path()).unwrap().weights().map(|(path, network)| (path, network.clone()))
        };
        let named = |file: &str, content: &[u8]| {
            let (file, digest) = (file.to_owned(), Digest::of(content).to_string());
            move |m: &mut Value| m["checkpoint"] = json!({ "file": file, "digest": digest, "network": { "width": 8 } })
        };
        std::fs::write(folder.path().join("w"), b"weights").unwrap();
        let (path, network) = weights_of(&named("w", b"weights")).unwrap();
        assert_eq!((path, network), (folder.path().join("w"), json!({ "width": 8 })));
        for (edit, code, told) in [
            (Box::new(|_: &mut Value| {}) as Box<dyn Fn(&mut Value)>, "M127", "tells of no weights"),
            (Box::new(named("gone", b"weights")), "M127", "gone"),
            (Box::new(named("w", b"others")), "M103", "the weights `"),
            (Box::new(named("../w", b"weights")), "M102", "`checkpoint.file` is `../w`"),
        ] {
            let fault = weights_of(&*edit).unwrap_err();
            assert!(fault.code == code && fault.message.contains(told), "{fault}");
        }
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::create_dir(folder.path().join("1")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("1/model.onnx")).unwrap();
        std::fs::write(folder.path().join("manifest.json"), manifest().to_string()).unwrap();
        let fault = Model::open(folder.path()).err().unwrap();
        let target = outside.path().canonicalize().unwrap().display().to_string();
        assert!(fault.code == "M102" && fault.message.contains(&target), "{fault}");
    }
}
