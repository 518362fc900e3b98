//! A flow, a catalogue and parameters to a plan, or every diagnostic at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use swath_flow::{
    Action as Written, Diagnostic, Diagnostics, Flow, ParameterType, SCHEDULE, Span, Yields, did_you_mean, nearest,
};
use swath_schedule::Fire;
use swath_task::{Digest, PortType};

use crate::Catalogue;
use crate::bind_params::Offer;
use crate::compile::{Place, Read};
use crate::deployment::deployment_of;
use crate::order;
use crate::plan::{Output, OutputSource, Plan, PlannedOutput, PlannedStep};

/// What a flow is planned with. Nothing is asked of the machine but what `load` reads.
#[derive(Clone, Copy)]
pub struct PlanInput<'a> {
    /// The tasks there are.
    pub catalogue: &'a Catalogue,
    /// Parameters given by the user, by name.
    pub params: &'a [(String, Given)],
    /// The folder that relative paths in `params` are relative to: the current one.
    pub params_folder: &'a Path,
    /// Absolute folder of the flow.
    pub folder: &'a Path,
    /// What `now` means.
    pub now: Timestamp,
    /// The fire of a schedule that starts the run. `None` when somebody starts it: it then covers the time since the last
    /// fire of the flow's own schedule, if that has one.
    pub fire: Option<Fire>,
    /// Reads a sub-flow by its absolute path. The error says why not, without the path.
    pub load: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
}

/// A value given for a parameter.
#[derive(Clone, Debug)]
pub enum Given {
    /// As text: `-p name=value`.
    Text(String),
    /// With its type.
    Value(Value),
}

/// Plans a flow. Every required parameter must have a value.
pub fn plan(flow: &Flow, input: PlanInput<'_>) -> Result<Plan, Vec<Diagnostic>> {
    let shared = Shared::of(flow, input, true);
    let mut planner = Planner::of_user(flow, &shared);
    let plan = planner.run(false);
    if planner.diagnostics.is_empty() { Ok(plan) } else { Err(planner.diagnostics.into_vec()) }
}

/// Checks a flow without running it: as [`plan`], but required parameters may lack a value.
pub fn check(flow: &Flow, input: PlanInput<'_>) -> Vec<Diagnostic> {
    let shared = Shared::of(flow, input, false);
    let mut planner = Planner::of_user(flow, &shared);
    planner.run(true);
    planner.diagnostics.into_vec()
}

/// A plan of a flow whose missing parameters stay open: for drawings.
pub fn sketch(flow: &Flow, input: PlanInput<'_>) -> Result<Plan, Vec<Diagnostic>> {
    let shared = Shared::of(flow, input, false);
    let mut planner = Planner::of_user(flow, &shared);
    let plan = planner.run(true);
    if planner.diagnostics.is_empty() { Ok(plan) } else { Err(planner.diagnostics.into_vec()) }
}

/// What a flow and its sub-flows share.
pub(crate) struct Shared<'a> {
    pub input: PlanInput<'a>,
    /// The interval that the run covers, as expressions read it.
    pub schedule: Option<Value>,
    /// Whether everything must have a value now.
    pub strict: bool,
    pub steps: Cell<usize>,
    pub loads: Cell<usize>,
    /// Items of known lists that were looked at.
    pub items: Cell<usize>,
}

impl<'a> Shared<'a> {
    fn of(flow: &Flow, input: PlanInput<'a>, strict: bool) -> Self {
        let own = || {
            let spec = deployment_of(flow).ok().and_then(|spec| spec.schedule)?;
            Some(spec.compile().ok()?.since_last(input.now))
        };
        let interval = |fire: Fire| json!({ "start": fire.since.to_string(), "end": fire.at.to_string() });
        let schedule = input.fire.or_else(own).map(interval);
        Self { input, schedule, strict, steps: Cell::new(0), loads: Cell::new(0), items: Cell::new(0) }
    }
}

/// A parameter while planning.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub of: ParameterType,
    /// `None`: not given yet, or computed by the step that runs this flow.
    pub value: Option<Value>,
}

/// Steps whose condition may skip a step; `None`: too many to tell.
type Conditions = Option<Vec<usize>>;
/// Most conditions that are followed.
const MOST_CONDITIONS: usize = 64;

pub(crate) struct Planner<'a> {
    pub flow: &'a Flow,
    pub shared: &'a Shared<'a>,
    pub folder: PathBuf,
    pub ancestors: Vec<PathBuf>,
    /// How much longer the id of this flow's run is than that of the run the user started.
    pub below: usize,
    pub offers: Vec<Offer>,
    pub params: HashMap<String, Parameter>,
    pub index: HashMap<String, usize>,
    /// Steps in the order they are planned in: before a step stand those it may read.
    pub order: Vec<usize>,
    /// By position in the flow; `None`: not known, because something is wrong with the step or it is in a cycle.
    pub outputs: Vec<Option<Vec<Output>>>,
    conditions: Vec<Conditions>,
    pub diagnostics: Diagnostics,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(flow: &'a Flow, shared: &'a Shared<'a>, folder: PathBuf, ancestors: Vec<PathBuf>) -> Self {
        Self {
            flow,
            shared,
            folder,
            ancestors,
            below: 0,
            offers: Vec::new(),
            params: HashMap::new(),
            order: Vec::new(),
            index: flow.steps.iter().enumerate().map(|(at, step)| (step.id.value.clone(), at)).collect(),
            outputs: vec![None; flow.steps.len()],
            conditions: vec![Some(Vec::new()); flow.steps.len()],
            diagnostics: Diagnostics::default(),
        }
    }

    /// The flow that the user named, with the parameters the user gave.
    fn of_user(flow: &'a Flow, shared: &'a Shared<'a>) -> Self {
        let input = shared.input;
        let file = Path::new(flow.source.name()).file_name().unwrap_or_default();
        let mut planner = Self::new(flow, shared, input.folder.to_owned(), vec![input.folder.join(file)]);
        planner.given(input.params);
        if let Err(problems) = deployment_of(flow) {
            problems.into_iter().for_each(|problem| planner.diagnostics.push(problem));
        }
        planner
    }

    pub(crate) fn run(&mut self, open: bool) -> Plan {
        let total = self.shared.steps.get() + self.flow.steps.len();
        self.shared.steps.set(total);
        self.bind_params(open);
        let order::Order { order, cycles } = order::order(self.flow, &self.index);
        for (steps, span) in cycles {
            self.cycle(&steps, span);
        }
        let order = order.unwrap_or_else(|| (0..self.flow.steps.len()).collect());
        let mut position = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, step)| position[*step] = at);
        let mut steps = Vec::with_capacity(order.len());
        self.order.clone_from(&order);
        for at in &order {
            let planned = self.step(*at, &position);
            steps.push(planned);
        }
        let outputs = self.flow_outputs(&position);
        let params = self.flow.params.iter().filter_map(|one| {
            let name = &one.spec.name;
            Some((name.clone(), self.params.get(name)?.value.clone()?))
        });
        let interval = self.shared.schedule.iter().map(|interval| (SCHEDULE.to_owned(), interval.clone()));
        Plan {
            name: self.flow.name.value.clone(),
            about: self.flow.about.clone(),
            text_digest: Digest::of(self.flow.source.text().as_bytes()),
            source: self.flow.source.name().to_owned(),
            folder: self.folder.to_string_lossy().into_owned(),
            parameters: self.flow.params.iter().map(|one| one.spec.clone()).collect(),
            params: params.chain(interval).collect::<Map<_, _>>(),
            steps,
            outputs,
            rerun: None,
        }
    }

    fn cycle(&mut self, steps: &[usize], span: Span) {
        let ids: Vec<&str> = steps.iter().map(|at| self.flow.steps[*at].id.value.as_str()).collect();
        let quote = |ids: &[&str]| ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" -> ");
        let message = match ids.as_slice() {
            [one] => format!("the step `{one}` waits for itself"),
            ids if ids.len() <= 8 => format!("steps wait for each other: {} -> `{}`", quote(ids), ids[0]),
            ids => format!(
                "steps wait for each other: {} -> ... {} more ... -> {} -> `{}`",
                quote(&ids[..4]),
                ids.len() - 6,
                quote(&ids[ids.len() - 2..]),
                ids[0]
            ),
        };
        let first = self.flow.steps[steps[0]].id.span;
        let span = if span == Span::default() { first } else { span };
        let diagnostic = Diagnostic::at("F308", &self.flow.source, span, message);
        self.diagnostics.push(diagnostic.help("take away one of the edges: every step needs a beginning"));
    }

    /// Looks an output up by the ids a user wrote, and says what is wrong with them. `reader` is who asks.
    pub(crate) fn output_of(
        &mut self,
        step: &str,
        output: &str,
        span: Span,
        reader: Option<usize>,
    ) -> Option<(usize, Output)> {
        let Some(at) = self.index.get(step).copied() else {
            let help = if self.diagnostics.is_full() { None } else { self.steps_like(step) };
            self.wrong("F302", span, format!("there is no step `{step}`"), help);
            return None;
        };
        if reader == Some(at) {
            return None;
        }
        let outputs = self.outputs[at].as_ref()?;
        if let Some(found) = outputs.iter().find(|one| one.name == output) {
            return Some((at, found.clone()));
        }
        let names: Vec<&str> = outputs.iter().map(|one| one.name.as_str()).collect();
        let help = match did_you_mean(output, &names, "its outputs are") {
            None if names.is_empty() => Some("it makes nothing".to_owned()),
            help => help,
        };
        let what = match &self.flow.steps[at].action {
            Written::Task(task) => format!("`{}`", task.value),
            Written::Flow(_) | Written::Missing(_) => "a sub-flow".to_owned(),
        };
        self.wrong("F303", span, format!("the step `{step}` ({what}) has no output `{output}`"), help);
        None
    }

    /// The step that was meant, or all of them when they are few.
    pub(crate) fn steps_like(&self, id: &str) -> Option<String> {
        let ids = || self.flow.steps.iter().map(|step| step.id.value.as_str());
        if let Some(near) = nearest(id, ids()) {
            return Some(format!("did you mean `{near}`?"));
        }
        (self.flow.steps.len() <= 16).then(|| format!("the steps are {}", swath_flow::list(&ids().collect::<Vec<_>>())))
    }

    /// Adds the conditions under which `reader` is skipped because `from` was.
    pub(crate) fn skipped_with(&mut self, reader: usize, from: usize) {
        let joined = match (&self.conditions[reader], &self.conditions[from]) {
            (Some(own), Some(other)) => {
                let mut all = own.clone();
                all.extend(other);
                all.sort_unstable();
                all.dedup();
                (all.len() <= MOST_CONDITIONS).then_some(all)
            }
            _ => None,
        };
        self.conditions[reader] = joined;
    }

    pub(crate) fn conditional(&mut self, step: usize) {
        if let Some(own) = &mut self.conditions[step] {
            own.push(step);
            own.sort_unstable();
        }
    }

    /// A value of a step that may be skipped is used where nothing is skipped with it.
    pub(crate) fn check_skipped(&mut self, reads: &[Read], reader: Option<usize>, what: &str) {
        for (reference, span) in reads {
            let swath_flow::Reference::Output { step, output, .. } = reference else { continue };
            let Some(from) = self.index.get(step).copied() else { continue };
            let Some(needed) = self.conditions[from].clone() else { continue };
            let own = match reader {
                Some(reader) => match &self.conditions[reader] {
                    Some(own) => own.clone(),
                    None => continue,
                },
                None => Vec::new(),
            };
            let when_of =
                |at: usize| self.flow.steps[at].when.as_ref().and_then(|when| when.as_str().map(str::to_owned));
            let covered = |condition: &usize| {
                own.contains(condition)
                    || own.iter().any(|other| when_of(*other).is_some() && when_of(*other) == when_of(*condition))
            };
            let Some(root) = needed.iter().find(|condition| !covered(condition)).copied() else { continue };
            let condition = &self.flow.steps[root];
            let because = match &condition.when {
                Some(when) => when.span,
                None => condition.id.span,
            };
            let message = format!("{what} uses `{step}.{output}`, and the step `{step}` may be skipped");
            let help = match reader {
                Some(_) => {
                    "read it by an edge (`in`), so that this step is skipped too, or give this step the same `when`"
                }
                None => "take the `when` away, or leave this output out: an output of a flow is always there",
            };
            let label = if root == from { "this decides" } else { "this decides, through the edges between" };
            let diagnostic = Diagnostic::at("F309", &self.flow.source, *span, message);
            self.diagnostics.push(diagnostic.label(because, label).help(help));
        }
    }

    fn flow_outputs(&mut self, position: &[usize]) -> Vec<PlannedOutput> {
        let mut planned = Vec::new();
        for (name, node) in &self.flow.outputs {
            let edge = node.as_str().filter(|text| !text.contains('$'));
            if let Some(text) = edge {
                match swath_flow::read_edge(text) {
                    Some(swath_flow::EdgeSource::Output { step, output }) => {
                        let Some((at, found)) = self.output_of(&step, &output, node.span, None) else { continue };
                        let reference = swath_flow::Reference::Output { step, output: output.clone(), deeper: false };
                        self.check_skipped(
                            &[(reference, node.span)],
                            None,
                            &format!("the output `{}` of the flow", name.value),
                        );
                        let from = OutputSource::Output { step: position[at], output };
                        planned.push(PlannedOutput {
                            name: name.value.clone(),
                            from,
                            of: found.of,
                            lists: found.lists,
                        });
                    }
                    _ => {
                        let help = "an output of a flow is `STEP.OUTPUT`, `$parameter` or `${ expression }`".to_owned();
                        self.wrong("F109", node.span, format!("`{text}` is not an output of a step"), Some(help));
                    }
                }
                continue;
            }
            let mut reads = Vec::new();
            let place = Place { step: None, lifted: false, what: "outputs" };
            let template = self.compile(node, place, &mut reads);
            self.check_skipped(&reads, None, &format!("the output `{}` of the flow", name.value));
            let of = PortType::Value(type_name(self.yields(&template)).to_owned());
            planned.push(PlannedOutput {
                name: name.value.clone(),
                from: OutputSource::Template(template),
                of,
                lists: 0,
            });
        }
        planned
    }

    fn step(&mut self, at: usize, position: &[usize]) -> PlannedStep {
        let planned = self.plan_step(at, position);
        self.outputs[at] = planned.1;
        planned.0
    }
}

fn type_name(yields: Yields) -> &'static str {
    match yields {
        Yields::Text => "string",
        Yields::Integer => "integer",
        Yields::Number => "number",
        Yields::Boolean => "boolean",
        Yields::List => "array",
        Yields::Mapping => "object",
        Yields::Unknown => "any",
    }
}
