//! `infer.segment`: ONNX models over rasters of any size.
//!
//! Modules in reading order: where tiles lie and how they count (`tiling`), how much is held at once (`plan`), from
//! pixels to tiles (`prepare`) and from tiles to probabilities (`stitch`), all side by side (`pipeline`); the model
//! folder (`model`), the runtime (`session`), and the task.

mod tiling;

mod plan;
mod prepare;
mod stitch;

mod pipeline;

mod model;

mod session;

mod segment;
mod write;

pub use model::read_manifest;
pub use segment::{Auto, BackendChoice, Batch, Segment, SegmentInputs, SegmentOutputs, Values};
pub use swath_onnxruntime::{OLDEST_MINOR, locate_onnx_runtime, onnx_runtime_version};
pub use tiling::{Blend, Edges};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Segment>()];
