//! How a flow goes when it is deployed: the `deployment` of its text, checked.

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;
use swath_flow::{Diagnostic, Flow, Node};
use swath_schedule::DeploymentSpec;

use crate::mistakes::explain;

/// What the flow says of its deployment, or everything that is wrong with that.
pub fn deployment_of(flow: &Flow) -> Result<DeploymentSpec, Vec<Diagnostic>> {
    match &flow.deployment {
        Some(node) => read(flow, node),
        None => Ok(DeploymentSpec::default()),
    }
}

fn read(flow: &Flow, node: &Node) -> Result<DeploymentSpec, Vec<Diagnostic>> {
    static SCHEMA: OnceLock<(Value, Option<Validator>)> = OnceLock::new();
    let (schema, validator) = SCHEMA.get_or_init(|| {
        let schema = DeploymentSpec::schema();
        let validator = jsonschema::validator_for(&schema).ok();
        (schema, validator)
    });
    let given = node.to_json();
    let mut findings = Vec::new();
    for error in validator.iter().flat_map(|validator| validator.iter_errors(&given)) {
        explain(&error, schema, "deployment", &mut findings);
    }
    let mut problems: Vec<Diagnostic> = Vec::new();
    for finding in findings {
        let span = if finding.on_key { node.key_span_at(&finding.pointer) } else { node.span_at(&finding.pointer) };
        let diagnostic = Diagnostic::at("F115", &flow.source, span, finding.message);
        problems.push(diagnostic.maybe_help(finding.help));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let whole = |message: String| vec![Diagnostic::at("F115", &flow.source, node.span, message)];
    let spec: DeploymentSpec = serde_json::from_value(given).map_err(|error| whole(error.to_string()))?;
    let problems = spec.problems().into_iter().map(|problem| {
        let span = node.key_span_at(&problem.at);
        if problem.at.ends_with("/secret") || problem.at.ends_with("/webhook") {
            // Whoever wrote the secret itself must not find it again in a log.
            flow.source.conceal(node.span_at(&problem.at));
        }
        Diagnostic::at("F115", &flow.source, span, problem.message)
    });
    let problems: Vec<Diagnostic> = problems.collect();
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}
