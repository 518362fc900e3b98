//! Plans as programs: how the event loop evaluates and binds what a flow says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use swath_flow::Scope;
use swath_plan::{
    Again, Backoff, Cache, Catalogue, Each, InputSource, OnFailure, OutputSource, Plan, PlannedStep, Tolerance,
    borrowed,
};
use swath_run::{Fault, FaultClass, Graph, Retry, StepSpec};
use swath_task::{Needs, Problem};

use crate::program::{Action, Bound, CachePolicy, Items, Outputs, Program};

/// A plan with its parameters bound.
pub struct PlannedFlow {
    plan: Plan,
    params: Map<String, Value>,
    catalogue: Arc<Catalogue>,
    now: Timestamp,
}

impl PlannedFlow {
    /// A plan whose parameters all have values. `now` is what relative periods of sub-flows start from: the moment the
    /// run was created, so that a resumed run sees the same; of a re-run, the moment of the first.
    pub fn new(plan: Plan, catalogue: Arc<Catalogue>, now: Timestamp) -> Self {
        let now = plan.rerun.as_ref().map_or(now, |rerun| rerun.now);
        let params = plan.params.clone();
        Self { plan, params, catalogue, now }
    }

    fn step(&self, step: usize) -> &PlannedStep {
        &self.plan.steps[step]
    }

    /// What expressions of a step may name: only what it reads, so that nothing is cloned for the rest.
    fn scope<'a>(
        &'a self,
        reads: impl Iterator<Item = usize>,
        done: &'a dyn Outputs,
        item: Option<(&'a Value, u64)>,
    ) -> Scope<'a> {
        let outputs = reads.filter_map(|at| Some((self.plan.steps[at].id.as_str(), done.of(at)?)));
        Scope { params: borrowed(&self.params), steps: outputs.collect::<HashMap<_, _>>(), item }
    }

    fn fault(&self, step: usize, what: &str, reason: &dyn std::fmt::Display) -> Fault {
        Fault::new("E318", format!("`{what}` of step `{}` cannot be computed: {reason}", self.step(step).id), None)
    }

    fn inputs(&self, step: usize, done: &dyn Outputs, item: Option<(&Value, u64)>) -> Map<String, Value> {
        let mut inputs = Map::new();
        for input in &self.step(step).inputs {
            let value_of = |source: &InputSource| match source {
                InputSource::Item => item.map(|(value, _)| value.clone()),
                InputSource::Output { step, output, .. } => done.of(*step)?.get(output).cloned(),
            };
            let joined = input.list && !matches!(input.from.as_slice(), [InputSource::Output { list: true, .. }]);
            let value = match joined {
                false => input.from.first().and_then(value_of),
                true => {
                    let joined = input.from.iter().filter_map(value_of).flat_map(|value| match value {
                        Value::Array(items) => items,
                        one => vec![one],
                    });
                    Some(Value::Array(joined.collect()))
                }
            };
            // An optional output that was not made: the optional input stays open.
            if let Some(value) = value.filter(|value| !value.is_null()) {
                inputs.insert(input.port.clone(), value);
            }
        }
        inputs
    }
}

impl Program for PlannedFlow {
    fn name(&self) -> &str {
        &self.plan.name
    }

    fn graph(&self) -> Graph {
        let steps = self.plan.steps.iter().map(|step| StepSpec {
            id: step.id.clone(),
            reads: step.reads.iter().map(|at| *at as u32).collect(),
            after: step.after.iter().map(|at| *at as u32).collect(),
            evaluated: step.each.is_some() || step.when.is_some(),
            retry: retry(&step.retry),
            on_failure: match step.on_failure {
                OnFailure::Stop => swath_run::OnFailure::Stop,
                OnFailure::Collect => swath_run::OnFailure::Collect,
                OnFailure::Continue => swath_run::OnFailure::Continue,
            },
            tolerate: match step.tolerate {
                None => swath_run::Tolerance::default(),
                Some(Tolerance::Count(count)) => swath_run::Tolerance::Count(count),
                Some(Tolerance::Percent(percent)) => swath_run::Tolerance::Percent(percent),
            },
        });
        Graph { steps: steps.collect() }
    }

    fn is_lifted(&self, step: usize) -> bool {
        self.step(step).each.is_some()
    }

    fn task(&self, step: usize) -> &str {
        match &self.step(step).action {
            swath_plan::Action::Task { name, .. } => name,
            swath_plan::Action::Flow(_) => crate::FLOW,
        }
    }

    fn ports(&self, step: usize) -> Vec<String> {
        self.step(step).outputs.iter().map(|output| output.name.clone()).collect()
    }

    fn evaluate(&self, step: usize, done: &dyn Outputs) -> Result<Option<Items>, Fault> {
        let planned = self.step(step);
        let scope = self.scope(planned.reads.iter().copied(), done, None);
        if !planned.condition(&scope).map_err(|error| self.fault(step, "when", &error))? {
            return Ok(None);
        }
        let list = match &planned.each {
            None => return Ok(Some(Items::One)),
            Some(Each::Output { step: from, output }) => {
                done.of(*from).and_then(|outputs| outputs.get(output)).cloned()
            }
            Some(Each::Template(template)) => {
                Some(template.evaluate(&scope).map_err(|error| self.fault(step, "each", &error))?)
            }
        };
        match list {
            Some(Value::Array(items)) => Ok(Some(Items::Each(items))),
            other => {
                let found = other.map_or("nothing".to_owned(), |value| format!("`{value}`"));
                Err(self.fault(step, "each", &format!("it yields {found}, which is no list")))
            }
        }
    }

    fn taken_over(&self, step: usize) -> Option<&str> {
        let rerun = self.plan.rerun.as_ref()?;
        (rerun.steps.get(step) == Some(&Again::TakenOver)).then_some(rerun.of.as_str())
    }

    fn bind(&self, step: usize, item: Option<(&Value, u64)>, done: &dyn Outputs) -> Result<Bound, Fault> {
        let planned = self.step(step);
        let scope = self.scope(planned.reads.iter().copied(), done, item);
        let params = planned.bind_params(&scope).map_err(|error| self.fault(step, "with", &error))?;
        let (action, needs, native) = match &planned.action {
            swath_plan::Action::Task { name, version } => {
                let known = self.catalogue.get(name).filter(|known| known.definition.version == *version);
                let Some(known) = known else {
                    let message = format!(
                        "this program does not have task `{name}` in version {version}, which the run was planned with"
                    );
                    let help = "resume it with the program that started it, or start a new run";
                    return Err(Fault::new("E319", message, Some(help.to_owned())));
                };
                let task = known.definition.bind(params).map_err(|problems| self.refused(step, &problems))?;
                let needs = planned.needs.apply(task.needs());
                let native = known.definition.native;
                (Action::Task { name: name.clone(), version: *version, task }, needs, native)
            }
            swath_plan::Action::Flow(plan) => {
                let given = params.as_object().cloned().unwrap_or_default();
                let params = plan.bind(&given, self.now).map_err(|refusals| {
                    let words: Vec<String> = refusals
                        .iter()
                        .map(|(name, refusal)| format!("the parameter `{name}` {}", refusal.message))
                        .collect();
                    self.fault(step, "with", &words.join("; "))
                })?;
                let plan = Plan { params: params.clone(), ..plan.as_ref().clone() };
                let flow = Self { plan, params, catalogue: self.catalogue.clone(), now: self.now };
                // Its steps take the slots: holding some above them would keep them from ever starting.
                (Action::Flow(Arc::new(flow)), Needs::waiting(), false)
            }
        };
        Ok(Bound {
            action,
            inputs: Value::Object(self.inputs(step, done, item)),
            needs,
            gpu_by_flow: planned.needs.gpu.is_some(),
            isolate: planned.isolate,
            native,
            timeout: planned.timeout.map(Duration::from_millis),
            cache: match planned.cache {
                Cache::On => CachePolicy::On,
                Cache::Off => CachePolicy::Off,
                Cache::Refresh => CachePolicy::Refresh,
                Cache::Ttl(millis) => CachePolicy::TimeToLive(Duration::from_millis(millis)),
            },
        })
    }

    fn outputs(&self, done: &dyn Outputs) -> Result<Value, Fault> {
        let scope = self.scope(0..self.plan.steps.len(), done, None);
        let mut outputs = Map::new();
        for output in &self.plan.outputs {
            let value = match &output.from {
                OutputSource::Output { step, output } => {
                    done.of(*step).and_then(|outputs| outputs.get(output)).cloned()
                }
                OutputSource::Template(template) => Some(template.evaluate(&scope).map_err(|error| {
                    Fault::new(
                        "E318",
                        format!("output `{}` of the flow cannot be computed: {error}", output.name),
                        None,
                    )
                })?),
            };
            outputs.insert(output.name.clone(), value.unwrap_or(Value::Null));
        }
        Ok(Value::Object(outputs))
    }
}

impl PlannedFlow {
    fn refused(&self, step: usize, problems: &[Problem]) -> Fault {
        let words: Vec<String> = problems
            .iter()
            .map(|problem| match problem.at.as_str() {
                "" => problem.message.clone(),
                at => format!("`{}`: {}", at.trim_start_matches('/'), problem.message),
            })
            .collect();
        let help = problems.iter().find_map(|problem| problem.help.clone());
        let message = format!("the parameters of step `{}` do not fit: {}", self.step(step).id, words.join("; "));
        Fault::new("E320", message, help)
    }
}

fn retry(retry: &swath_plan::Retry) -> Retry {
    let class = |class: &swath_task::FaultClass| match class {
        swath_task::FaultClass::Transient => FaultClass::Transient,
        swath_task::FaultClass::Timeout => FaultClass::Timeout,
        swath_task::FaultClass::Lost => FaultClass::Lost,
        swath_task::FaultClass::Permanent => FaultClass::Permanent,
        swath_task::FaultClass::Cancelled => FaultClass::Cancelled,
    };
    Retry {
        times: retry.times,
        wait: retry.wait,
        backoff: match retry.backoff {
            Backoff::Fixed => swath_run::Backoff::Fixed,
            Backoff::Exponential => swath_run::Backoff::Exponential,
        },
        max_wait: retry.max_wait,
        jitter: retry.jitter,
        on: retry.on.iter().map(class).collect(),
        ..Retry::default()
    }
}
