//! The tasks a flow may name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;
use swath_task::{Ports, TaskDef};

/// Tasks by name. What is dear to make (schemas, validators) is made once, when first asked for.
#[derive(Debug, Default)]
pub struct Catalogue {
    tasks: BTreeMap<&'static str, Known>,
}

/// A task of the catalogue.
#[derive(Debug)]
pub struct Known {
    /// Its definition.
    pub definition: TaskDef,
    schema: OnceLock<Value>,
    ports: OnceLock<Ports>,
    validator: OnceLock<Option<Validator>>,
}

impl Catalogue {
    /// A catalogue of several crates' tasks. Of two tasks of one name the first counts.
    pub fn new(lists: &[&[TaskDef]]) -> Self {
        let mut tasks = BTreeMap::new();
        for definition in lists.iter().flat_map(|list| list.iter()) {
            let known = Known {
                definition: *definition,
                schema: OnceLock::new(),
                ports: OnceLock::new(),
                validator: OnceLock::new(),
            };
            tasks.entry(definition.name).or_insert(known);
        }
        Self { tasks }
    }

    /// The task of a name.
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.tasks.get(name)
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.tasks.keys().copied().collect()
    }

    /// The tasks, sorted by name.
    pub fn tasks(&self) -> impl Iterator<Item = &Known> {
        self.tasks.values()
    }
}

impl Known {
    /// JSON Schema of its parameters.
    pub fn schema(&self) -> &Value {
        self.schema.get_or_init(|| self.definition.params_schema())
    }

    /// Its ports, before parameters are known.
    pub fn ports(&self) -> &Ports {
        self.ports.get_or_init(|| self.definition.ports())
    }

    /// `None` when the schema itself is broken: then the task's own check is all there is.
    pub(crate) fn validator(&self) -> Option<&Validator> {
        self.validator.get_or_init(|| jsonschema::validator_for(self.schema()).ok()).as_ref()
    }
}
