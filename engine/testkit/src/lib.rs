//! Fixtures shared by tests.

pub mod http;
pub mod postgres;
pub mod triton;
