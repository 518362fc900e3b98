//! The one explicit list of the built-in task crates.
