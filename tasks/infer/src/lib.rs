//! `infer.segment`: networks over rasters of any size.
//!
//! Modules in reading order: where tiles lie and how they count (`tiling`), how much is held at once (`plan`), from
//! pixels to tiles (`prepare`) and from tiles to probabilities (`stitch`), all side by side (`pipeline`); the model
//! folder (`model`); what computes (`backend`): ONNX Runtime (`session`), a model server (`triton`), burn (`weights`), as
//! parameters say (`serving`); and the task.

mod tiling;

mod plan;
mod prepare;
mod stitch;

mod pipeline;

mod model;

mod backend;
mod serving;
mod session;
mod triton;
mod weights;

mod segment;
mod write;

pub use model::read_manifest;
pub use segment::{Auto, Batch, Segment, SegmentInputs, SegmentOutputs, Values};
pub use serving::{BackendChoice, DeviceChoice, Triton};
pub use swath_onnxruntime::{Device, OLDEST_MINOR, locate_onnx_runtime, onnx_runtime_version};
pub use tiling::{Blend, Edges};
pub use triton::model_server;

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Segment>()];
