//! Fixtures shared by tests.

pub mod closed;
pub mod http;
pub mod mlflow;
pub mod postgres;
pub mod python;
pub mod triton;
