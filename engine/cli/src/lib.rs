//! The swath command.
