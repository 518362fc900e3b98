//! Flow text to a spanned flow, or every diagnostic at once.
//!
//! [`read`] takes the bytes of a file and yields a [`Flow`], in which every value knows its place, and every
//! [`Diagnostic`]. Pure: no I/O, no clock, no randomness. Whether tasks exist and edges fit is the planner's question.

mod diagnostic;
mod duration;
mod expression;
mod flow;
mod nearest;
mod parameter;
mod period;
mod read;
mod source;
mod work;
mod written;
mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Report, ReportLabel, render_all};
pub use duration::parse_duration;
pub use expression::{Expression, ExpressionError, FUNCTIONS, Reference, SCHEDULE, Scope, Yields, as_text};
pub use flow::{
    Action, Backoff, Cache, Edge, EdgeSource, FailureClass, Flow, Isolate, Needs, OnFailure, Retry, Step, Tolerance,
    read_edge,
};
pub use nearest::{did_you_mean, list, nearest};
pub use parameter::{Parameter, ParameterSpec, ParameterType, Refusal, Surroundings, TYPES, absolute, is_remote};
pub use period::resolve_period;
pub use read::{MAX_STEPS, Reading, read};
pub use source::{Source, Span, Spanned};
pub use written::{Part, Unwritten, Written, read_string};
pub use yaml::{Data, MAX_DEPTH, MAX_NODES, MAX_SCALAR, MAX_TEXT, Node, read_tree, to_json};
