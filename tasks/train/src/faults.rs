//! What can go wrong, as faults of a step.

use std::fmt::Display;
use std::path::Path;

use swath_task::{Fault, TaskError};

/// A file of a dataset that cannot be used.
pub(crate) fn of_dataset(error: &swath_datasets::Error) -> TaskError {
    Fault::new(error.code(), error.to_string()).help(error.help()).permanent()
}

/// The network does not suit the dataset.
pub(crate) fn unsuited(message: String, help: &str) -> TaskError {
    Fault::new("N101", message).help(help).permanent()
}

/// A file that cannot be written; the disk may have room again later.
pub(crate) fn unwritable(path: &Path, error: impl Display) -> TaskError {
    Fault::new("N108", format!("cannot write `{}`: {error}", path.display()))
        .help("free disk space or set `--home` to a disk that has some; a training goes on from its last epoch")
        .transient(None)
}

/// Weights that the training was to begin with.
pub(crate) fn of_weights(error: &swath_nets::Error) -> TaskError {
    Fault::new("N105", error.to_string())
        .help("give `weights` the path of weights of this network or of its encoder, `imagenet` or `none`")
        .permanent()
}
