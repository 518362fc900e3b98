//! Outputs of the steps of a live run, as later steps read them.

use serde_json::{Map, Value};

use crate::program::Outputs;

/// Collects the outputs of instances, and gives those of whole steps.
#[derive(Default)]
pub(crate) struct StepOutputs {
    steps: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Of instances, while a lifted step is open.
    instances: Vec<Option<Value>>,
    /// Of the whole step.
    whole: Option<Value>,
}

impl StepOutputs {
    pub fn new(steps: usize) -> Self {
        Self { steps: (0..steps).map(|_| Slot::default()).collect() }
    }

    /// A lifted step has so many instances.
    pub fn open(&mut self, step: usize, count: usize) {
        self.steps[step].instances = vec![None; count];
    }

    /// An instance succeeded.
    pub fn put(&mut self, step: usize, lifted: bool, index: usize, outputs: Value) {
        let slot = &mut self.steps[step];
        if !lifted {
            slot.whole = Some(outputs);
        } else if let Some(place) = slot.instances.get_mut(index) {
            *place = Some(outputs);
        }
    }

    /// A lifted step succeeded: its outputs become lists, in the order of its instances, without those that failed and
    /// are tolerated. `ports` names the outputs, so that a step without instances has empty lists.
    pub fn close(&mut self, step: usize, ports: &[String]) {
        // Several of its instances may have ended at once.
        if self.steps[step].whole.is_some() {
            return;
        }
        let instances = std::mem::take(&mut self.steps[step].instances);
        let mut lists: Map<String, Value> = ports.iter().map(|port| (port.clone(), Value::Array(Vec::new()))).collect();
        for outputs in instances.into_iter().flatten() {
            let Value::Object(outputs) = outputs else { continue };
            for (port, value) in outputs {
                if let Some(list) = lists.entry(port).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
                    list.push(value);
                }
            }
        }
        self.steps[step].whole = Some(Value::Object(lists));
    }
}

impl Outputs for StepOutputs {
    fn of(&self, step: usize) -> Option<&Value> {
        self.steps.get(step)?.whole.as_ref()
    }
}
