//! What a run that is taken up again needs besides its journal.

use std::collections::HashMap;

use serde_json::Value;
use swath_run::StepState;

use super::{DriveError, Driver};
use crate::program::Items;

impl Driver {
    /// Brings back what the journal does not hold: outputs of steps, and the lists of lifted ones.
    pub(super) async fn restore(&mut self) -> Result<(), DriveError> {
        if self.seq == 0 {
            return Ok(());
        }
        let steps = self.machine.graph().steps.len();
        let ids: HashMap<String, usize> = (0..steps).map(|s| (self.machine.graph().steps[s].id.clone(), s)).collect();
        for s in 0..steps {
            if self.program.is_lifted(s) {
                self.outputs.open(s, self.machine.tally(s as u32).total as usize);
            }
        }
        for result in self.engine.store.results(&self.run, None).await? {
            let Some(&s) = ids.get(&result.step) else { continue };
            self.note_whether_taken_over(s as u32, result.reused_from.as_deref());
            let index = result.instance.parse().unwrap_or(0);
            let outputs: Value = serde_json::from_str(&result.outputs).map_err(|error| swath_store::Error::Record {
                what: format!("result of step `{}` of run `{}`", result.step, self.run),
                reason: error.to_string(),
            })?;
            self.outputs.put(s, self.program.is_lifted(s), index, outputs);
        }
        for s in 0..steps {
            if self.program.is_lifted(s) && self.machine.step(s as u32) == StepState::Succeeded {
                self.outputs.close(s, &self.program.ports(s));
            }
        }
        for s in 0..steps {
            let tally = self.machine.tally(s as u32);
            let unfinished = self.program.is_lifted(s) && tally.succeeded < tally.total;
            // A list that cannot be evaluated again fails its instances when they are prepared.
            if unfinished && let Ok(Some(Items::Each(items))) = self.program.evaluate(s, &self.outputs) {
                self.items.insert(s as u32, items);
            }
        }
        Ok(())
    }
}
