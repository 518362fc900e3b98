//! The command as a whole: what it promises, through crashes, interruptions and to the truth on the ground.

mod common;

mod access;
mod bad_inputs;
mod commands;
mod control;
mod crash;
mod deployments;
mod flow_tests;
mod metrics;
mod postgis;
mod reference;
mod serve;
mod shared_store;
mod traces;
mod truth;
