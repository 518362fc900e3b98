//! The command as a whole: what it promises, through crashes, interruptions and to the truth on the ground.

mod common;

mod bad_inputs;
mod commands;
mod control;
mod crash;
mod flow_tests;
mod reference;
mod serve;
mod truth;
