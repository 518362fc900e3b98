//! The command as a whole: what it promises, through crashes, interruptions and to the truth on the ground.

mod common;

mod access;
mod artifacts;
mod bad_inputs;
mod commands;
mod connections;
mod control;
mod crash;
mod crowd;
mod deployments;
mod disk;
mod environment;
mod faults;
mod flow_tests;
mod held_out;
mod metrics;
mod outputs;
mod places;
mod postgis;
mod reference;
mod serve;
mod shared_store;
mod traces;
mod tracking;
mod truth;
mod web;
mod webhooks;
mod workers;
