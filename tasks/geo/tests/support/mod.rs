//! Python as an independent judge of pixels and files.

use std::ffi::OsStr;
use std::path::Path;

use swath_testkit::python;

/// Runs a script with arguments and returns what it printed; fails with its error when it fails.
pub fn run_python(script: &str, arguments: &[&Path]) -> String {
    let script = [OsStr::new("-c"), OsStr::new(script)].into_iter();
    python::run(&python::interpreter(), script.chain(arguments.iter().map(|path| path.as_os_str())))
}
