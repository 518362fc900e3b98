//! Python as an independent judge of pixels and files.

use std::ffi::OsStr;
use std::path::Path;

use swath_testkit::python;

/// Runs a script of this folder and returns what it printed; fails with its error when it fails.
pub fn run_file(script: &str, arguments: &[&OsStr]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    python::run(&python::interpreter(), std::iter::once(script.as_os_str()).chain(arguments.iter().copied()))
}
