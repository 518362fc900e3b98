//! The contract between the engine and a task crate.
//!
//! A task crate sees this crate and nothing else of the engine: no scheduler, no store, no flow text.
//! A task is a struct whose fields are its parameters, whose doc comments are its documentation and whose
//! JSON Schema is its validation. The engine erases its types once ([`TaskDef::of`]) and works on the erased form.
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use swath_task::{Context, NoInputs, Purity, Task, TaskDef, TaskError};
//!
//! /// Adds two numbers.
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Add {
//!     /// First summand.
//!     a: i64,
//!     /// Second summand.
//!     b: i64,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Sum {
//!     /// `a + b`.
//!     sum: i64,
//! }
//!
//! impl Task for Add {
//!     const NAME: &'static str = "example.add";
//!     const VERSION: u32 = 1;
//!     const PURITY: Purity = Purity::Pure;
//!     type Inputs = NoInputs;
//!     type Outputs = Sum;
//!     async fn run(&self, _: NoInputs, _: &Context) -> Result<Sum, TaskError> {
//!         Ok(Sum { sum: self.a + self.b })
//!     }
//! }
//!
//! pub const TASKS: &[TaskDef] = &[TaskDef::of::<Add>()];
//! ```

mod artifact;
mod bytes;
mod context;
mod definition;
mod fault;
pub mod files;
pub mod local;
mod location;
mod needs;
mod port;

pub use artifact::{Artifact, ArtifactFile, ArtifactRecord, Digest, DigestError, Kind};
pub use bytes::{Bytes, BytesError};
pub use context::{Context, Draft, Host, Staged, panic_fault};
pub use definition::{BindResult, ErasedTask, NoInputs, Purity, Running, Task, TaskDef};
pub use fault::{Fault, FaultClass, Problem, TaskError};
pub use location::{LocalPath, Location, PATH_MARK, PERIOD_MARK};
pub use needs::Needs;
pub use port::{KIND_MARK, Port, PortType, Ports};
