//! `infer.segment` and `infer.classify` end to end, in this process and over a real Triton Inference Server.

mod classify;
mod refused;
mod relay;
mod segment;
mod servers;
mod serving;
mod support;
mod tls;
mod traces;
