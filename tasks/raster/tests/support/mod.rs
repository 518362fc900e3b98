//! Python as an independent judge of pixels and files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter that `make setup` installs, or `SWATH_PYTHON`.
fn python() -> PathBuf {
    let given = std::env::var_os("SWATH_PYTHON").map(PathBuf::from);
    let path = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/py/bin/python"));
    assert!(path.exists(), "no Python at `{}`: run `make setup`", path.display());
    path
}

/// Runs a script of this folder and returns what it printed; fails with its error when it fails.
pub fn run_file(script: &str, arguments: &[&OsStr]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = Command::new(python()).arg(script).args(arguments).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
