//! The life of a run: decide, evolve, command; pure.
