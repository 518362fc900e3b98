//! The store from outside, in one binary: it is linked once.

mod artifacts;
#[macro_use]
mod conformance;
mod crash;
mod deployments;
mod opening;
mod postgres;
mod sharing;
mod support;
mod workers;
