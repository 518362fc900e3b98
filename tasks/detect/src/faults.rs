//! Errors of the geometry library as faults of a step.

use swath_geo::GeoError;
use swath_task::{Fault, TaskError};

/// A fault with the library's own code and help.
pub fn geo_fault(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}
