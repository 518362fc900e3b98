//! A flow some steps of which are faked: they yield what they are told, or fail as they are told, and run nothing. All else
//! is as in a real run, but that waits between attempts are skipped.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use swath_plan::Isolate;
use swath_run::{Fault, Graph};
use swath_task::{Context, ErasedTask, Needs, Ports, Purity, Running, TaskError};

use crate::planned::PlannedFlow;
use crate::program::{Action, Bound, CachePolicy, Items, Outputs, Program};

/// What a faked step does.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// Its outputs, an object by port: of one instance.
    pub outputs: Value,
    /// How it fails, and how many attempts of an instance do.
    pub fails: Option<(TaskError, u32)>,
    /// Instances of a lifted step that do something else, by index.
    pub instances: BTreeMap<u64, Self>,
}

/// A flow with faked steps.
pub struct Faked {
    flow: PlannedFlow,
    fakes: HashMap<usize, Fake>,
    /// Attempts that have been bound, by step and instance.
    attempts: Mutex<HashMap<(usize, u64), u32>>,
}

impl Faked {
    /// `flow` with these steps faked, by position.
    pub fn new(flow: PlannedFlow, fakes: HashMap<usize, Fake>) -> Self {
        Self { flow, fakes, attempts: Mutex::default() }
    }
}

impl Program for Faked {
    fn name(&self) -> &str {
        self.flow.name()
    }

    fn graph(&self) -> Graph {
        let mut graph = self.flow.graph();
        graph.steps.iter_mut().for_each(|step| step.retry.wait = 0);
        graph
    }

    fn is_lifted(&self, step: usize) -> bool {
        self.flow.is_lifted(step)
    }

    fn task(&self, step: usize) -> &str {
        self.flow.task(step)
    }

    fn ports(&self, step: usize) -> Vec<String> {
        self.flow.ports(step)
    }

    fn evaluate(&self, step: usize, done: &dyn Outputs) -> Result<Option<Items>, Fault> {
        self.flow.evaluate(step, done)
    }

    fn bind(&self, step: usize, item: Option<(&Value, u64)>, done: &dyn Outputs) -> Result<Bound, Fault> {
        // Parameters are computed and checked as ever.
        let bound = self.flow.bind(step, item, done)?;
        let Some(fake) = self.fakes.get(&step) else { return Ok(bound) };
        let index = item.map_or(0, |(_, index)| index);
        let fake = fake.instances.get(&index).unwrap_or(fake);
        let mut attempts = crate::lock(&self.attempts);
        let attempt = attempts.entry((step, index)).or_insert(0);
        *attempt += 1;
        let answer = match &fake.fails {
            Some((error, times)) if *attempt <= *times => Err(error.clone()),
            _ => Ok(fake.outputs.clone()),
        };
        let action = Action::Task { name: "faked".to_owned(), version: 0, task: Arc::new(Answer(answer)) };
        Ok(Bound { action, needs: Needs::waiting(), cache: CachePolicy::Off, isolate: Some(Isolate::None), ..bound })
    }

    fn outputs(&self, done: &dyn Outputs) -> Result<Value, Fault> {
        self.flow.outputs(done)
    }
}

/// A task that answers as it was told.
struct Answer(Result<Value, TaskError>);

impl ErasedTask for Answer {
    fn params(&self) -> Value {
        json!({})
    }

    fn needs(&self) -> Needs {
        Needs::waiting()
    }

    fn purity(&self) -> Purity {
        Purity::Effect
    }

    fn reads(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn variables(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn stands(&self, _: &Value) -> bool {
        false
    }

    fn ports(&self) -> Ports {
        Ports::default()
    }

    fn own_ports(&self) -> Option<Ports> {
        None
    }

    fn run(self: Arc<Self>, _: Value, _: Context) -> Running {
        Box::pin(async move { self.0.clone() })
    }
}
