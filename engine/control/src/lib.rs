//! The gRPC control plane: the services of package `swath.v1` over a store and an engine.
//!
//! Invariants:
//! 1. A run that was started is durable before the answer goes out; the same idempotency key never starts two.
//! 2. The server drives a run only with its lease: what another process drives can be looked at and cancelled.
//! 3. When it is told to stop it starts no more runs, lets those that are live end within the grace, and leaves the rest
//!    resumable; the next server on the store goes on with them.
//! 4. A watcher sees every event of a journal once, in order, from whichever number it asks for.

mod artifacts;
mod connections;
mod convert;
mod deployments;
mod door;
mod fleet;
mod flows;
mod places;
mod runs;
mod server;
mod system;
mod tasks;
mod tls;
mod watch;
mod web;
mod workers;

/// Messages and services, generated from `proto/`.
#[expect(clippy::allow_attributes, unused_qualifications, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("swath.v1");

    /// The descriptors of all of them, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swath.bin"));
}

pub use connections::Limits;
pub use convert::{millis, steps, with_causes};
pub use deployments::{Backfilled, DeployError, Deployable, DeploymentService, Registry, Scheduler};
pub use door::{Scope, new_token};
pub use fleet::Fleet;
pub use server::{Rules, ServeError, listen, serve};
pub use tls::Tls;
pub use watch::Changes;
pub use web::{Origin, OriginError};
pub use workers::workers;
