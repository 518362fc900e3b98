//! The life of a run: what may happen next, what happened, what to do about it.
//!
//! Pure: no I/O, no async, no clock, no randomness. Time is an argument, in milliseconds. The host feeds [`Input`]s to
//! [`Machine::offer`], appends the returned [`Event`]s durably, and only then acts on them; after a restart it folds the
//! journal with [`Machine::restore`], which refuses a journal no run could have written, and offers
//! [`Input::Recovered`]. A sub-flow is a step like any other here: the host
//! drives it as a run of its own.
//!
//! ```text
//! step:      Waiting -> (Evaluating) -> Open -> Succeeded | Failed | Cancelled
//!            Waiting -> Skipped | UpstreamFailed | Cancelled
//! instance:  Ready -> Running -> Succeeded | Failed | Cancelled
//!            Running -> Backoff -> Ready          Ready -> Succeeded (reused)
//!            Running -> Ready (its process shut down in good order)
//! run:       Pending -> Running -> Completed | Failed      Running -> Cancelling -> Cancelled
//!            Running <-> Paused -> Cancelling | Completed | Failed (by what still ran)
//!            Failed | Cancelled -> Running (a new generation)
//! ```
//!
//! # Invariants
//!
//! Numbered as [`Machine::check_invariants`] reports them; the simulation asserts them after every event.
//!
//! - I1 Only the edges drawn above happen: [`Machine::follow`] refuses every other event.
//! - I2 Final is final within a generation: an input for a final instance yields no event.
//! - I3 `restore(events)` equals the state that made them.
//! - I5 At most one live attempt an instance; the epoch of attempts strictly rises; an answer with an old epoch yields
//!   no event and is counted in [`Machine::refused`].
//! - I7 A step is open only when all it reads has succeeded, and never before what it comes `after` is final.
//! - I8 A run that has ended has no live instance.
//! - I9 A live run has something to wait for: a ready or running instance, a due timer, an evaluation, or the end of a
//!   pause.
//! - I11 Attempts never pass their limit; losses of the worker are counted apart and have their own limit.
//! - I13 A cancelled run ends by its deadline.
//! - I20 A stored error is at most 64 KiB.

mod check;
mod decide;
mod event;
mod evolve;
mod graph;
mod legal;
mod machine;
mod ready;

#[cfg(test)]
mod exhaustive;

pub use event::{Event, EventDecodeError, Failure, Fault, Input, SkipReason};
pub use graph::{Backoff, FaultClass, Graph, OnFailure, Retry, StepSpec, Tolerance};
pub use legal::IllegalEvent;
pub use machine::{InstanceState, Machine, RunState, StepState, Tally};
