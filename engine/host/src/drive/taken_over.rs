//! Results that a re-run takes over from the run it is of.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use swath_run::Input;
use swath_store::{CacheTerms, KeyParts};

use super::{DriveError, Driver};
use crate::reuse::artifacts_in;

/// What is known of the earlier run.
#[derive(Default)]
pub(super) struct Earlier {
    /// Results of a step that have not been taken yet, by instance.
    results: HashMap<u32, HashMap<String, Taken>>,
    /// Steps an instance of which was not taken over: what reads them or comes after them runs too.
    own: HashSet<u32>,
}

/// A result of the earlier run.
pub(super) struct Taken {
    run: String,
    outputs: Value,
    parts: Option<KeyParts>,
}

impl Driver {
    /// The result of an instance that is to be taken over. `None`: it is treated as in any run.
    pub(super) async fn taken_over(&mut self, step: u32, index: u32) -> Result<Option<Taken>, DriveError> {
        let Some(run) = self.program.taken_over(step as usize).map(str::to_owned) else { return Ok(None) };
        let spec = &self.machine.graph().steps[step as usize];
        if spec.reads.iter().chain(&spec.after).any(|before| self.earlier.own.contains(before)) {
            return Ok(None);
        }
        if !self.earlier.results.contains_key(&step) {
            let mut results = HashMap::new();
            for result in self.engine.store.results(&run, Some(&spec.id)).await? {
                let outputs = serde_json::from_str(&result.outputs).map_err(|error| swath_store::Error::Record {
                    what: format!("result of step `{}` of run `{run}`", result.step),
                    reason: error.to_string(),
                })?;
                results.insert(result.instance, Taken { run: run.clone(), outputs, parts: result.parts });
            }
            self.earlier.results.insert(step, results);
        }
        let instance = self.instance(step, index);
        let taken = self.earlier.results.get_mut(&step).and_then(|results| results.remove(&instance));
        let Some(taken) = taken else { return Ok(None) };
        for artifact in artifacts_in(&taken.outputs) {
            if !self.engine.artifacts.verify(&artifact).await {
                let step = self.path(step);
                tracing::warn!(%step, %run, "`{}` is damaged or gone: the step runs again", artifact.name);
                return Ok(None);
            }
        }
        Ok(Some(taken))
    }

    pub(super) fn take_over(&mut self, step: u32, index: u32, taken: Taken) -> bool {
        let taking = self.offer(Input::Reused { step, index });
        if taking {
            let Taken { run, outputs, parts } = taken;
            self.trace_reuse(step, index, &run);
            self.succeeded(step, index, 0, outputs, parts, CacheTerms::Off, Some(run), 0);
        }
        taking
    }

    /// Notes whether a result is the one to take over: what comes after another one runs too.
    pub(super) fn note_whether_taken_over(&mut self, step: u32, from: Option<&str>) {
        if self.program.taken_over(step as usize) != from {
            self.earlier.own.insert(step);
        }
    }
}
