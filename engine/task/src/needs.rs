//! What an attempt of a step holds while it runs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Slots one attempt takes: admission is by all of them at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Needs {
    /// CPU cores; `0` for work that only waits.
    pub cpu: f32,
    /// Peak memory. A task keeps its buffers below it.
    pub memory: Bytes,
    /// GPUs; a fraction shares one.
    pub gpu: f32,
    /// Named limits and how much of each, `{ planetary_computer: 1 }` for example.
    pub limits: BTreeMap<String, u32>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { cpu: 1.0, memory: Bytes(0), gpu: 0.0, limits: BTreeMap::new() }
    }
}

impl Needs {
    /// `cpu` cores and `memory`, nothing else.
    pub fn new(cpu: f32, memory: Bytes) -> Self {
        Self { cpu, memory, ..Self::default() }
    }

    /// Waits for others (network, a child): no core of its own.
    pub fn waiting() -> Self {
        Self::new(0.0, Bytes(0))
    }

    /// As many cores as the engine has, and `memory`.
    pub fn all_cores(memory: Bytes) -> Self {
        Self::new(Self::ALL_CORES, memory)
    }

    /// A `cpu` that no machine has: the engine grants what it has.
    pub const ALL_CORES: f32 = 1e6;
}
