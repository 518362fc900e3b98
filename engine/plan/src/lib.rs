//! A flow, a catalogue and parameters to a checked plan, or every diagnostic at once.
//!
//! [`plan`] resolves every name, fills in every known value, checks edges by artifact kind, parameters by the task's
//! schema and its own check, and expressions by reference and type. [`check`] does the same for a flow whose required
//! parameters have no value yet. Pure: files are read by the caller's `load`, the time is an argument.

mod absolute;
mod bind_params;
mod catalogue;
mod compile;
mod deployment;
mod draw;
mod items;
mod mistakes;
mod order;
mod parameters;
mod plan;
mod planner;
mod reference;
mod rerun;
mod schema;
mod steps;
mod sub_flow;
mod template;

pub use catalogue::{Catalogue, Known};
pub use deployment::deployment_of;
pub use draw::{dot, mermaid, terminal};
pub use plan::{
    Action, Backoff, Cache, Each, InputSource, Isolate, NeedsOverride, OnFailure, Output, OutputSource, Plan,
    PlannedInput, PlannedOutput, PlannedStep, Retry, Tolerance, borrowed,
};
pub use planner::{Given, PlanInput, check, plan, sketch};
pub use reference::reference_pages;
pub use rerun::{Again, Rerun, RerunProblem};
pub use schema::flow_schema;
pub use template::{Template, TextPart};
