//! Flows that go by themselves: how they are deployed, when they run, and who is told.
//!
//! Invariants:
//! 1. Everything that is decided is durable before it is acted on: a fire is stored, then its run is started, under an id
//!    that follows from the fire. A server that dies between the two starts that run, and no other, when it comes again.
//! 2. I12: a deployment runs once for an instant of its schedule, however often the clock is set, the schedule edited, or
//!    the time covered by a backfill.
//! 3. The intervals of the runs of a schedule meet: what a run that was left out would have covered, the next covers too.
//! 4. A version never changes, and a run is pinned to what it was planned from: deploying changes no run that is live.

mod content;
mod hooks;
mod launches;
mod registry;
mod scheduler;
mod secrets;
mod service;
mod signature;
mod webhook;

pub use registry::{Backfilled, DeployError, Deployable, Registry};
pub use scheduler::Scheduler;
pub use service::DeploymentService;
pub(crate) use webhook::{Webhooks, receive};
