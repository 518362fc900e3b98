//! Searches, run as the engine runs them: on files, on misbehaving servers, on recorded answers of a real one.

mod common;
mod http;
mod local;
mod recorded;
