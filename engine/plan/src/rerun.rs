//! A run again: which steps take the results of the earlier run over, and which run.
//!
//! Both plans are of one text, planned with one `now`, so that steps differ only where changed parameters reach them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use swath_flow::did_you_mean;

use crate::plan::{Action, Cache, Each, Plan, PlannedStep};
use crate::template::{Template, TextPart};

/// What a plan of a re-run knows of the run it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerun {
    /// The run whose results are taken over.
    pub of: String,
    /// What `now` means: as in that run.
    pub now: Timestamp,
    /// The steps that were named; all of the flow when empty.
    pub from: Vec<String>,
    /// What becomes of each step, by position.
    pub steps: Vec<Again>,
}

/// What becomes of a step in a re-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// Its result of the earlier run is taken over, if it has one that is whole.
    TakenOver,
    /// It runs: it was named, or reads or comes after what was. No earlier result is looked up.
    Asked,
    /// Changed parameters may reach it, or what it reads or comes after: it is treated as in a new run.
    Changed,
}

/// Why a run cannot be run again as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RerunProblem {
    /// The flow has no such step.
    #[error("the flow of run `{run}` has no step `{step}`{help}")]
    Step {
        /// The run.
        run: String,
        /// What was named.
        step: String,
        /// Which may have been meant.
        help: String,
    },
    /// A sub-flow is not what it was.
    #[error("the flow `{flow}` that step `{step}` runs has changed since run `{run}`: start a new run")]
    SubFlow {
        /// The run.
        run: String,
        /// The step.
        step: String,
        /// The sub-flow.
        flow: String,
    },
    /// The steps are others: another version of the planner made the earlier plan.
    #[error("run `{0}` was planned by another version of swath: start a new run")]
    Version(String),
}

impl Plan {
    /// This plan as a re-run of run `of`, which was held to `earlier`, from the named steps on (from all when there are
    /// none).
    pub fn again(mut self, of: &str, earlier: &Self, now: Timestamp, from: &[String]) -> Result<Self, RerunProblem> {
        let run = of.to_owned();
        let ids: Vec<&str> = self.steps.iter().map(|step| step.id.as_str()).collect();
        if let Some(step) = from.iter().find(|step| !ids.contains(&step.as_str())) {
            let help = did_you_mean(step, &ids, "its steps are").map(|help| format!("; {help}")).unwrap_or_default();
            return Err(RerunProblem::Step { run, step: step.clone(), help });
        }
        if !ids.iter().copied().eq(earlier.steps.iter().map(|step| step.id.as_str())) {
            return Err(RerunProblem::Version(run));
        }
        let changed: Vec<&str> = self.params.keys().map(String::as_str).collect();
        let changed: Vec<&str> =
            changed.into_iter().filter(|name| self.params.get(*name) != earlier.params.get(*name)).collect();
        let mut steps: Vec<Again> = Vec::with_capacity(self.steps.len());
        for (step, before) in self.steps.iter().zip(&earlier.steps) {
            if let Some(flow) = changed_flow(&step.action, &before.action) {
                return Err(RerunProblem::SubFlow { run, step: step.id.clone(), flow });
            }
            let above = |is: Again| step.reads.iter().chain(&step.after).any(|at| steps[*at] == is);
            let named = from.is_empty() || from.contains(&step.id);
            steps.push(match () {
                () if named || above(Again::Asked) => Again::Asked,
                () if differs(step, before, &changed) || above(Again::Changed) => Again::Changed,
                () => Again::TakenOver,
            });
        }
        for (step, again) in self.steps.iter_mut().zip(&steps) {
            if *again == Again::Asked {
                refresh(step);
            }
        }
        self.rerun = Some(Rerun { of: run, now, from: from.to_vec(), steps });
        Ok(self)
    }
}

/// No earlier result of the step, or of those of its sub-flow, is looked up.
fn refresh(step: &mut PlannedStep) {
    if step.cache != Cache::Off {
        step.cache = Cache::Refresh;
    }
    if let Action::Flow(plan) = &mut step.action {
        plan.steps.iter_mut().for_each(refresh);
    }
}

/// The sub-flow, at any depth, whose text is not what it was.
fn changed_flow(now: &Action, before: &Action) -> Option<String> {
    match (now, before) {
        (Action::Flow(now), Action::Flow(before)) if now.text_digest == before.text_digest => {
            now.steps.iter().zip(&before.steps).find_map(|(now, before)| changed_flow(&now.action, &before.action))
        }
        (Action::Flow(now), _) => Some(now.name.clone()),
        _ => None,
    }
}

/// Whether a step may do other work than before, given equal results of what it reads.
fn differs(now: &PlannedStep, before: &PlannedStep, changed: &[&str]) -> bool {
    let action = match (&now.action, &before.action) {
        (Action::Flow(now), Action::Flow(before)) => {
            now.params != before.params
                || now.steps.iter().zip(&before.steps).any(|(now, before)| differs(now, before, &[]))
        }
        (now, before) => now != before,
    };
    let each = match &now.each {
        Some(Each::Template(template)) => Some(template),
        _ => None,
    };
    // What is computed only when the step runs may name what changed.
    let mentions = [Some(&now.with), each, now.when.as_ref()].into_iter().flatten().any(|one| mentions(one, changed));
    action
        || mentions
        || (&now.with, &now.each, &now.when, &now.inputs) != (&before.with, &before.each, &before.when, &before.inputs)
}

/// Whether an expression in a template may name one of these parameters. A name that only looks like one counts, too.
fn mentions(template: &Template, names: &[&str]) -> bool {
    let named = |text: &str| names.iter().any(|name| text.contains(name));
    match template {
        Template::Value(_) => false,
        Template::Expression(text) => named(text),
        Template::Text(parts) => parts.iter().any(|part| matches!(part, TextPart::Expression(text) if named(text))),
        Template::Path { of, .. } | Template::Period { of, .. } => mentions(of, names),
        Template::List(items) => items.iter().any(|item| mentions(item, names)),
        Template::Mapping(entries) => entries.iter().any(|(_, item)| mentions(item, names)),
    }
}
