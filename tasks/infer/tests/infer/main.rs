//! `infer.segment` end to end, in this process and over a real Triton Inference Server.

mod segment;
mod serving;
mod support;
mod traces;
