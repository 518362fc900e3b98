//! What must outlive a crash: the journal of every run, results, the cache index, logs ([`Store`]), and artifacts
//! ([`Artifacts`]).
//!
//! The store knows nothing of the life of a run: an event is a kind and a payload, a state is a name. It promises:
//!
//! - I3 `(run, seq)` is unique and dense. I4 every transition is a compare-and-set, a repeated one returns the stored
//!   answer. I6 a result is set once, in the transaction that succeeds it.
//! - I5 one process drives a run, by a lease with an epoch that rises; what is written by an older one is refused
//!   ([`RunLease`]).
//! - I15 a visible artifact is whole, and its key never changes meaning.
//! - I19 no secret and I20 no endless text is stored ([`redact`]). I21 logs are ordered and their gaps are counted.
//! - I22 a cache key is made of content only ([`KeyParts`]). I23 collection removes nothing that is referenced.
//!
//! It deliberately does not decide, retry or schedule, and the database part has no clock: times are given by the caller.

mod address;
mod artifacts;
mod audit;
mod deployments;
mod disk;
mod error;
mod home;
mod key;
mod lease;
mod locks;
mod postgres;
mod read;
mod record;
mod redact;
mod rows;
mod sqlite;
mod store;
mod tokens;
mod workers;
mod writer;

pub use address::{Address, LEASE};
pub use artifacts::{Artifacts, Stored, Swept};
pub use deployments::{
    DeploymentRow, Deployments, FireChange, FireFilter, FireRow, Follows, Looked, NewFire, NewTelling, NewVersion,
    Telling, Version, fire_state,
};
pub use error::Error;
pub use home::Home;
pub use key::{Difference, KeyParts, canonical_json};
pub use lease::{RunLease, Term, Terms, Wish};
pub use locks::this_machine;
pub use postgres::PostgresStore;
pub use record::{
    Append, Broken, CacheEntry, CacheFilter, CacheRow, CacheTerms, Collected, Lineage, LogBatch, LogFilter, LogLine,
    Metric, NewEvent, NewResult, NewRun, Retention, RunCursor, RunFilter, RunRow, RunUpdate, StoredEvent,
    StoredLogLine, StoredResult, StoredRun, Vocabulary,
};
pub use redact::{LONGEST_TEXT, REDACTED, bounded, redact, storable};
pub use sqlite::SqliteStore;
pub use store::{Access, Store};
pub use tokens::{NewToken, TokenRow, Tokens};
pub use workers::{Worker, WorkerRow, Workers};
