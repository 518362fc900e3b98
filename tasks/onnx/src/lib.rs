//! `onnx.export`, `model.publish` and `model.describe`: from a trained network to a model that servers and `infer.*` run.
//!
//! Modules in reading order. What training left (`checkpoint`); the network as ONNX (`convert`, by burn-onnx, with `gelu`
//! for the one operation it lacks); whether that is right: by ONNX's rules (`rules`) and by its numbers (`agree`); the model
//! folder around it (`folder`, with its `card`); the task `export`. Then the model repository with its versions
//! (`repository`, with Triton's configuration in `pbtxt` and MLflow's description in `mlmodel`), which score decides about
//! them (`score`), how they are registered in MLflow (`register`), and the task `publish`. Last, `describe` reads what all of
//! them wrote.
//!
//! Invariants:
//! 1. No model folder leaves `onnx.export` whose network breaks a rule of ONNX or computes anything else than the network
//!    that was trained.
//! 2. The same checkpoint and parameters make the same bytes.
//! 3. Whoever looks at a model repository, at any time, sees whole versions only, and a version never changes.

mod checkpoint;

mod convert;
mod gelu;

mod agree;
mod rules;

mod card;
mod folder;

mod export;

mod mlmodel;
mod pbtxt;
mod repository;

mod register;
mod score;

mod publish;

mod describe;

pub use describe::{Describe, DescribeInputs, DescribeOutputs};
pub use export::{Export, ExportInputs, ExportOutputs};
pub use publish::{Publish, PublishInputs, PublishOutputs};
pub use score::{Bound, Promote};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Export>(), TaskDef::of::<Publish>(), TaskDef::of::<Describe>()];
