//! ONNX Runtime as task crates use it: `infer.*` to run networks, `onnx.export` to judge those it writes.
//!
//! Modules in reading order: a look into a network file before anything loads it (`onnx`), where ONNX Runtime lies on this
//! machine (`library`), what it computes on (`device`), and sessions (`session`). Knows no manifests, rasters or tasks.

mod onnx;

mod device;
mod library;
mod session;

pub use device::{Device, DeviceError};
pub use library::{OLDEST_MINOR, locate_onnx_runtime, onnx_runtime_version};
pub use onnx::{Refusal, inspect};
pub use session::{open, open_on};
