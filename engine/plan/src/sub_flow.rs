//! A step that runs another flow: it is planned with its own text and folder, and takes its parameters from the step.

use std::path::{Path, PathBuf};

use swath_flow::{Diagnostic, MAX_STEPS, ParameterType, Span, Step, absolute};

use crate::bind_params::{Offer, Offered};
use crate::plan::{Action, Output, Plan, PlannedOutput};
use crate::planner::Planner;
use crate::template::Template;

/// Deepest nesting of flows in flows.
const MAX_NESTING: usize = 16;

/// Longest id of a run below another, bytes, the id of the run that the user started aside. An id names files, and the
/// store takes 240 bytes; that of a started run has up to 64.
const LONGEST_BELOW: usize = 176;
/// Digits of the position of an item.
const DIGITS: usize = 10;

impl Planner<'_> {
    /// Plans the flow that a step runs. Also what the step gives it, with paths and periods as this flow means them.
    pub(crate) fn sub_flow(
        &mut self,
        step: &Step,
        path: &str,
        span: Span,
        template: &Template,
    ) -> Option<(Plan, Template)> {
        let with = step.with.as_ref();
        let absolute = PathBuf::from(absolute(path, &self.folder));
        let shared = self.shared;
        let fail = |planner: &mut Self, message: String, help: Option<String>| {
            planner.wrong("F310", span, message, help);
            None
        };
        if self.ancestors.contains(&absolute) || self.ancestors.len() >= MAX_NESTING {
            let why = if self.ancestors.contains(&absolute) {
                format!("the flow `{path}` runs itself")
            } else {
                format!("flows are nested more than {MAX_NESTING} deep")
            };
            return fail(self, why, Some("a flow is finite: lift a step over a list with `each` instead".to_owned()));
        }
        // `PARENT.STEP`, or `PARENT.STEP.INDEX` of a lifted step.
        let below = self.below + 1 + step.id.len() + if step.each.is_some() { 1 + DIGITS } else { 0 };
        if below > LONGEST_BELOW {
            let why = format!(
                "the run of the step `{}` is named by all steps above it, which takes {below} characters; the most is {LONGEST_BELOW}",
                step.id.value
            );
            return fail(self, why, Some("shorten the ids of the steps that run flows, or nest fewer".to_owned()));
        }
        shared.loads.set(shared.loads.get() + 1);
        if shared.loads.get() > 1_000 || shared.steps.get() > MAX_STEPS {
            let help = "run the flow once, lifted over a list with `each`".to_owned();
            return fail(self, format!("flows in flows hold more than {MAX_STEPS} steps or 1000 flows"), Some(help));
        }
        let bytes = match (shared.input.load)(&absolute) {
            Ok(bytes) => bytes,
            Err(reason) => {
                let help =
                    format!("paths are relative to the flow that names them; looked for `{}`", absolute.display());
                return fail(self, format!("the flow `{path}` cannot be read: {reason}"), Some(help));
            }
        };
        let name = match self.flow.source.name().rsplit_once('/') {
            Some((folder, _)) if !path.starts_with('/') => format!("{folder}/{path}"),
            _ => path.to_owned(),
        };
        let reading = swath_flow::read(&name, &bytes);
        reading.diagnostics.into_iter().for_each(|one| self.diagnostics.push(one));
        let flow = reading.flow?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let mut ancestors = self.ancestors.clone();
        ancestors.push(absolute.clone());
        let mut planner = Planner::new(&flow, shared, folder, ancestors);
        planner.below = below;
        let entries = template.entries();
        for (name, value) in &entries {
            let name = name.clone();
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let name_span = with.map_or(span, |with| with.key_span_at(&pointer));
            let value_span = with.map_or(span, |with| with.span_at(&pointer));
            let value = match value {
                Template::Value(value) => Offered::Value(value.clone()),
                other => Offered::Later(self.yields(other)),
            };
            let source = self.flow.source.clone();
            planner.offers.push(Offer {
                name,
                value,
                source,
                name_span,
                span: value_span,
                folder: self.folder.clone(),
            });
        }
        for parameter in &flow.params {
            let missing =
                parameter.spec.required && !planner.offers.iter().any(|offer| offer.name == parameter.spec.name);
            if missing {
                let message = format!(
                    "the flow `{path}` needs the parameter `{}` ({})",
                    parameter.spec.name,
                    parameter.spec.of.name()
                );
                let help = format!("add `with: {{ {}: ... }}`", parameter.spec.name);
                let diagnostic = Diagnostic::at("F204", &self.flow.source, span, message);
                self.diagnostics.push(diagnostic.help(help));
            }
        }
        let plan = planner.run(true);
        // Outputs are known even when parts of the flow are wrong: edges from them can be checked.
        planner.diagnostics.into_vec().into_iter().for_each(|one| self.diagnostics.push(one));
        let given = entries.into_iter().map(|(name, value)| {
            let value = self.given_below(&plan, &name, value);
            (name, value)
        });
        let given = Template::mapping(given.collect());
        Some((plan, given))
    }

    /// What is known was read already; what is not will be, with the folder and the time of this flow.
    fn given_below(&self, plan: &Plan, name: &str, value: Template) -> Template {
        let Some(spec) = plan.parameters.iter().find(|spec| spec.name == name) else { return value };
        if let Template::Value(_) = value {
            return plan.params.get(name).cloned().map_or(value, Template::Value);
        }
        match spec.of {
            ParameterType::Path | ParameterType::Model | ParameterType::Aoi | ParameterType::Uri => {
                let folder = self.folder.to_string_lossy().into_owned();
                Template::Path { folder, words: Vec::new(), of: Box::new(value) }
            }
            ParameterType::Period => Template::Period { now: self.shared.input.now.to_string(), of: Box::new(value) },
            _ => value,
        }
    }

    /// The ports a step that runs a flow shows.
    pub(crate) fn sub_outputs(plan: &Plan) -> Vec<Output> {
        let output = |one: &PlannedOutput| Output {
            name: one.name.clone(),
            of: one.of.clone(),
            lists: one.lists,
            about: String::new(),
        };
        plan.outputs.iter().map(output).collect()
    }

    pub(crate) fn action_of(plan: Option<Plan>) -> Action {
        match plan {
            Some(plan) => Action::Flow(Box::new(plan)),
            None => Action::Task { name: String::new(), version: 0 },
        }
    }
}
