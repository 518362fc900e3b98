//! `run.command`: any program as a step, typed by declared inputs and outputs.
//!
//! Invariants:
//! 1. No shell: arguments reach the program as they are written, placeholders filled in.
//! 2. The program sees a declared environment and three open files, nothing inherited by accident.
//! 3. When the step ends, by itself or because it was told to or dropped, no process of its group is left.
//!    When this process ends, however it ends, the program itself ends too, unless it changes its user (setuid).
//! 4. What the program says is kept within bounds, and no secret given to it is repeated in logs or faults.

mod child;
mod command;
mod ending;
mod output;
mod ports;
mod spawner;
mod template;

pub use command::{Argument, Given, Made, Reuse, RunCommand};
pub use ports::OutputSpec;

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<RunCommand>()];
