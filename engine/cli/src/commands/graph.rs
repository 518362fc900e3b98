//! `swath graph`: the steps of a flow, drawn.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_plan::{Action, Catalogue, Plan};

use crate::arguments::{Global, Graph, GraphFormat};
use crate::failure::Failure;
use crate::flows;

pub(crate) fn run(global: &Global, command: Graph, catalogue: &Catalogue) -> Result<ExitCode, Failure> {
    let opened = flows::open(&command.flow.flow)?;
    let plan = match flows::sketch(&opened, &command.flow.params, catalogue) {
        Err(Failure::Flow(problems)) if global.json => return super::validate::refuse(&opened.name, &problems),
        planned => planned?,
    };
    if global.json {
        super::print_json(&document(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    super::print(&match command.format.unwrap_or(GraphFormat::Terminal) {
        GraphFormat::Terminal => swath_plan::terminal(&plan),
        GraphFormat::Mermaid => swath_plan::mermaid(&plan),
        GraphFormat::Dot => swath_plan::dot(&plan),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The steps in an order they can run in, each with the steps it reads and follows; of a sub-flow with its own.
fn document(plan: &Plan) -> Value {
    let ids = |steps: &[usize]| -> Vec<&str> { steps.iter().map(|step| plan.steps[*step].id.as_str()).collect() };
    let steps = plan.steps.iter().map(|step| {
        let (task, flow) = match &step.action {
            Action::Task { name, .. } => (Some(name), None),
            Action::Flow(inner) => (None, Some(document(inner))),
        };
        let outputs: Vec<&str> = step.outputs.iter().map(|output| output.name.as_str()).collect();
        json!({ "id": step.id, "task": task, "flow": flow, "reads": ids(&step.reads), "after": ids(&step.after),
            "each": step.each.is_some(), "when": step.when.is_some(), "outputs": outputs })
    });
    let outputs: Vec<&str> = plan.outputs.iter().map(|output| output.name.as_str()).collect();
    json!({ "name": plan.name, "steps": steps.collect::<Vec<_>>(), "outputs": outputs })
}
