//! The store from outside, in one binary: it is linked once.

mod artifacts;
mod conformance;
mod crash;
mod opening;
mod postgres;
mod sharing;
mod support;
