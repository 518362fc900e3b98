//! What a flow is given must be there before anything runs: hours of work must not end at a misspelt model.

use std::path::Path;

use serde_json::Value;
use swath_flow::ParameterType;
use swath_plan::{Action, Plan};

use crate::failure::Failure;

/// Looks for the model folders and area files among the parameters of a plan and of its sub-flows.
pub(crate) fn check(plan: &Plan) -> Result<(), Failure> {
    let mut missing = Vec::new();
    gather(plan, "", &mut missing);
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(Failure::Usage(format!("{}; nothing has run", missing.join("; ")))) }
}

fn gather(plan: &Plan, above: &str, missing: &mut Vec<String>) {
    for spec in &plan.parameters {
        let Some(path) = plan.params.get(&spec.name).and_then(Value::as_str).map(Path::new) else { continue };
        let (there, what) = match spec.of {
            ParameterType::Model => {
                (path.join("manifest.json").is_file(), "no model folder: it has no `manifest.json`")
            }
            ParameterType::Aoi => (path.is_file(), "no file"),
            _ => continue,
        };
        if !there {
            missing.push(format!("the parameter `{above}{}` is `{}`, which is {what}", spec.name, path.display()));
        }
    }
    for step in &plan.steps {
        if let Action::Flow(below) = &step.action {
            gather(below, &format!("{above}{}.", step.id), missing);
        }
    }
}
