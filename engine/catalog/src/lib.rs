//! The one explicit list of the built-in task crates.
//!
//! Registration is by name on purpose: link-time registration silently finds nothing when a binary never names the
//! crate. A binary with tasks of its own adds a line: `swath::main(&[swath::builtin(), &[my_tasks::TASKS]].concat())`.

pub mod doctor;

pub use swath_sample::Catalogue as Sample;
pub use swath_tracking as tracking;

use swath_task::TaskDef;

/// Every built-in task, one slice a family.
pub const BUILTIN: &[&[TaskDef]] = &[
    swath_stac::TASKS,
    swath_raster::TASKS,
    swath_labels::TASKS,
    swath_train::TASKS,
    swath_infer::TASKS,
    swath_onnx::TASKS,
    swath_detect::TASKS,
    swath_stores::TASKS,
    swath_process::TASKS,
    swath_sample::TASKS,
];
