//! Fixtures shared by tests.

pub mod http;
