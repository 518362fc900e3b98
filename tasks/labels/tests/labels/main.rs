//! The tasks of this crate against independent implementations, and with bad input.

mod dataset;
mod maps;
mod sites;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::Bench;
use swath_task::{ArtifactRecord, Task, TaskError};

impl Bench {
    pub fn write(&self, name: &str, content: &Value) -> PathBuf {
        std::fs::write(self.file(name), content.to_string()).unwrap();
        self.file(name)
    }

    /// Where an artifact among the outputs lies.
    pub fn path(&self, output: &Value) -> PathBuf {
        self.host.path(&serde_json::from_value::<ArtifactRecord>(output.clone()).unwrap())
    }
}

/// Code, message and help of a failure.
pub fn told(error: TaskError) -> (String, String, String) {
    match error {
        TaskError::Permanent(fault) => (fault.code.to_string(), fault.message, fault.help.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

/// What `check` says of parameters.
pub fn problems<T: Task>(params: Value) -> Vec<String> {
    let task: T = serde_json::from_value(params).unwrap();
    let problems = task.check().unwrap_err();
    problems.into_iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect()
}
