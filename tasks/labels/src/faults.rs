//! Errors of the libraries below as faults of a step.

use swath_datasets::Error;
use swath_geo::GeoError;
use swath_task::{Fault, TaskError};

/// A fault with the geometry library's own code and help.
pub fn geo_fault(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}

/// A fault with the code and help of the files of a dataset.
pub fn set_fault(error: Error) -> TaskError {
    Fault::new(error.code(), error.to_string()).help(error.help()).permanent()
}

/// The fault of what cannot be helped by trying again.
pub fn fault(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> TaskError {
    Fault::new(code, message).help(help).permanent()
}
