//! `flows/valid` and `flows/invalid` over a catalogue of toy tasks, and texts too large or too odd to be stored, in one
//! binary: it is linked once. What the user sees of each stored flow is held in `engine/cli/tests/flows.rs`.

mod documents;
mod fixture;
mod mistakes;
mod planned;
mod support;
mod texts;
