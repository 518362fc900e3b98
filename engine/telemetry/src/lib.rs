//! Tracing set-up and per-attempt logs.
