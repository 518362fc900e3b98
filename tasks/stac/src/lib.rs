//! `stac.search`: from a catalogue to the scenes of an area and a period.
//!
//! Invariants:
//! 1. Every item is looked at by the same filter, whether a server has filtered before or not.
//! 2. A search ends: pages that repeat, catalogues that contain themselves and servers that never finish are errors.
//! 3. The scene list has each (tile, datatake) once, hrefs absolute and unsigned, sorted by time, then id; equal
//!    catalogues give equal bytes.
//!
//! Documents are parsed into the `stac` crate's types. Where that crate is stricter than the catalogues in the world
//! (assets or links without `href`, no-data as text, unknown data types) the offending member is taken out before,
//! see [`item`](self); where it is more lenient (items without id or time) the check is here.

mod api;
mod catalogue;
mod collector;
mod document;
mod filter;
mod href;
mod item;
mod period;
mod search;
mod source;
mod twins;

pub use search::{Comparison, Found, Names, Search, SignWith, Sort};

use swath_task::TaskDef;

/// The tasks of this crate.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Search>()];
