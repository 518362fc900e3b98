//! What a flow reads must be there before anything runs: hours of work must not end at a misspelt model.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use swath_flow::{ParameterType, Scope};
use swath_plan::{Action, Catalogue, Plan, PlannedStep, borrowed};
use swath_task::Purity;

/// Looks for the model folders and area files among the parameters of a plan and of its sub-flows, and for what its steps
/// read, as far as no step before them could make it.
pub fn check(plan: &Plan, catalogue: &Catalogue) -> Result<(), MissingFiles> {
    let mut missing = Vec::new();
    gather(plan, "", catalogue, &mut missing);
    if missing.is_empty() {
        read_by_steps(plan, catalogue, &mut missing);
    }
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(MissingFiles(missing)) }
}

/// Files that are not there: a sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; nothing has run", .0.join("; "))]
pub struct MissingFiles(pub Vec<String>);

/// Files that steps read by parameters which are known now.
fn read_by_steps(plan: &Plan, catalogue: &Catalogue, missing: &mut Vec<String>) {
    for step in beginning_as_it_is(plan, catalogue) {
        let Action::Task { name, .. } = &step.action else { continue };
        let scope = Scope { params: borrowed(&plan.params), steps: HashMap::new(), item: None };
        let Ok(params) = step.bind_params(&scope) else { continue };
        let bound = catalogue.get(name).and_then(|known| known.definition.bind(params).ok());
        for path in bound.map(|task| task.reads()).unwrap_or_default() {
            if !path.exists() {
                missing.push(format!("the step `{}` reads `{}`, which is not there", step.id, path.display()));
            }
        }
    }
}

/// The steps that run in any case, and find the files as they are now: no step before them may make some.
fn beginning_as_it_is<'a>(plan: &'a Plan, catalogue: &Catalogue) -> impl Iterator<Item = &'a PlannedStep> {
    let changes: Vec<bool> = plan.steps.iter().map(|step| changes_the_world(step, catalogue)).collect();
    plan.steps.iter().enumerate().filter_map(move |(at, step)| {
        let sure = step.each.is_none() && step.when.is_none();
        (sure && !before(plan, at).iter().any(|earlier| changes[*earlier])).then_some(step)
    })
}

/// Whether what a step does may be a file that a later one reads.
fn changes_the_world(step: &PlannedStep, catalogue: &Catalogue) -> bool {
    match &step.action {
        Action::Flow(_) => true,
        // A command may write what it likes, whatever it says.
        Action::Task { name, .. } => catalogue.get(name).is_none_or(|known| {
            name == "run.command" || matches!(known.definition.purity, Purity::Effect | Purity::Lasting)
        }),
    }
}

/// The steps that have ended before a step begins.
fn before(plan: &Plan, step: usize) -> BTreeSet<usize> {
    let (mut todo, mut seen) = (vec![step], BTreeSet::new());
    while let Some(next) = todo.pop() {
        for earlier in plan.steps[next].reads.iter().chain(&plan.steps[next].after) {
            if seen.insert(*earlier) {
                todo.push(*earlier);
            }
        }
    }
    seen
}

fn gather(plan: &Plan, above: &str, catalogue: &Catalogue, missing: &mut Vec<String>) {
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
    for step in beginning_as_it_is(plan, catalogue) {
        if let Action::Flow(below) = &step.action {
            gather(below, &format!("{above}{}.", step.id), catalogue, missing);
        }
    }
}
