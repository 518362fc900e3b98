//! Errors of the geometry library and of areas as faults of a step.

use swath_geo::GeoError;
use swath_kinds::AreaError;
use swath_task::{Fault, TaskError};

/// A fault with the library's own code and help.
pub fn geo_fault(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}

/// An area that cannot be read.
pub fn area_fault(error: AreaError) -> TaskError {
    Fault::new("R112", error.to_string()).help("give a box in degrees or a GeoJSON file of polygons").permanent()
}

/// A JSON artifact that does not have the form its kind promises.
pub fn content_fault(what: &str, error: impl std::fmt::Display) -> TaskError {
    Fault::new("R120", format!("{what} cannot be read: {error}"))
        .help("run the step that made it again; `swath show` names it")
        .permanent()
}

/// The same error, with the scene and band it befell.
pub fn told_of(error: TaskError, scene: &str, band: &str) -> TaskError {
    let place = |fault: Fault| Fault { message: format!("scene `{scene}`, {band}: {}", fault.message), ..fault };
    match error {
        TaskError::Transient { fault, retry_after } => TaskError::Transient { fault: place(fault), retry_after },
        TaskError::Permanent(fault) => TaskError::Permanent(place(fault)),
        TaskError::Cancelled => TaskError::Cancelled,
    }
}
