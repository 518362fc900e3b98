//! Reaching remote bytes: one configured HTTP client, failures sorted into those that may pass and those that will
//! not, and signatures for hrefs. Shared by task crates.
//!
//! Invariants:
//! 1. Every request ends: connecting, the first byte, silence in between and the whole are bounded by [`Limits`].
//! 2. No body grows past [`Limits::body`], counted after decompression.
//! 3. No message carries the query of an address, its user or its password ([`redact`]).
//! 4. Headers a caller adds (keys, tokens) never follow a redirect to another origin; those that only say what is asked
//!    for (`Range`, `Accept`, `If-...`) do.
//! 5. Bytes of a [`RemoteFile`] are those that were asked for, of one version of the file, or an error.
//!
//! It does not retry: the engine does, from what [`swath_task::TaskError`] says.

mod address;
mod body;
mod client;
mod custom;
mod failure;
mod ranges;
mod signer;
mod trace;
mod version;

pub use address::{is_signed, redact, same_origin, unsigned};
pub use body::Body;
pub use client::{Client, Limits, Request};
pub use custom::{SignHref, register_signing};
pub use failure::{MAXIMUM_RETRY_AFTER, retry_after};
pub use ranges::RemoteFile;
pub use signer::{PLANETARY_COMPUTER_TOKENS, Signer, signs_anew};
