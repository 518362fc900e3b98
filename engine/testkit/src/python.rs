//! Python as a judge that knows nothing of the project: the environments that `make setup` makes in `.tools`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// With rasterio, numpy, onnx and what else most judges need: `SWATH_PYTHON`, else that of `.tools/py`.
///
/// # Panics
/// When it is not there.
pub fn interpreter() -> PathBuf {
    environment("SWATH_PYTHON", "py")
}

/// With PyTorch, torchvision and segmentation_models_pytorch: `SWATH_TORCH_PYTHON`, else that of `.tools/torch`.
///
/// # Panics
/// When it is not there.
pub fn torch() -> PathBuf {
    environment("SWATH_TORCH_PYTHON", "torch")
}

/// Runs an interpreter with these arguments, and gives what it printed, without space around it.
///
/// # Panics
/// When it fails, with all that it said.
pub fn run<A: AsRef<OsStr>>(python: &Path, arguments: impl IntoIterator<Item = A>) -> String {
    let output = Command::new(python).args(arguments).output().expect("Python starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}

pub(crate) fn environment(variable: &str, name: &str) -> PathBuf {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let path = given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools").join(name).join("bin/python"));
    assert!(path.exists(), "no Python at `{}`: run `make setup`", path.display());
    path
}
