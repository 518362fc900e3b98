//! Failures as faults of a step.

use std::path::Path;

use swath_geo::GeoError;
use swath_task::{Fault, TaskError};

pub(crate) fn geo_fault(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}

/// A file or folder that cannot be written.
pub(crate) fn write_fault(path: &Path, error: &std::io::Error) -> TaskError {
    Fault::new("R111", format!("`{}` cannot be written: {error}", path.display()))
        .help("free disk space, or choose a folder that may be written")
        .permanent()
}

/// A folder that holds something else.
pub(crate) fn taken(path: &Path, what: &str) -> TaskError {
    Fault::new("R130", format!("`{}` is not empty: {what}", path.display()))
        .help("choose another folder, or remove this one")
        .permanent()
}

pub(crate) fn cancelled() -> TaskError {
    TaskError::Cancelled
}
