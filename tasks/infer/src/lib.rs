//! `infer.segment` and `infer.classify`: networks over rasters of any size, those that tell of each pixel and those that tell of
//! whole images.
//!
//! Modules in reading order: where tiles lie and how they count (`tiling`), how much is held at once (`plan`), from
//! pixels to tiles (`prepare`) and from tiles to probabilities (`stitch`), all side by side (`pipeline`); the model
//! folder (`model`); what computes (`backend`): ONNX Runtime (`session`), a model server (`triton`), burn (`weights`), as
//! parameters say (`serving`); what steps are asked for (`settings`), whether raster and model suit each other (`suit`), a step
//! from its parameters to the raster that it writes (`work`, `write`); and the tasks, which differ in their parameters alone.

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

mod settings;
mod suit;
mod work;
mod write;

mod classify;
mod segment;

pub use classify::{Classify, ClassifyOutputs};
pub use model::read_manifest;
pub use segment::{Segment, SegmentOutputs};
pub use serving::{BackendChoice, DeviceChoice, Triton};
pub use settings::{Auto, Batch, Inputs, Values};
pub use swath_onnxruntime::{Device, OLDEST_MINOR, locate_onnx_runtime, onnx_runtime_version};
pub use tiling::{Blend, Edges};
pub use triton::model_server;

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Segment>(), TaskDef::of::<Classify>()];
