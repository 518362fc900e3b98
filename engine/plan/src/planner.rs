//! A flow, a catalogue and parameters to a plan, or every diagnostic at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use swath_flow::{
    Action as Written, Diagnostic, Diagnostics, Flow, MAX_STEPS, ParameterType, Refusal, Source, Span, Surroundings,
    Yields, absolute, did_you_mean, nearest,
};
use swath_task::{Digest, PortType};

use crate::Catalogue;
use crate::compile::{Place, Read};
use crate::order;
use crate::plan::{Action, Output, OutputSource, Plan, PlannedOutput, PlannedStep};
use crate::template::Template;

/// Deepest nesting of flows in flows.
const MAX_NESTING: usize = 16;

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
    let shared = Shared::of(input);
    let mut planner = Planner::of_user(flow, &shared);
    let plan = planner.run(false);
    if planner.diagnostics.is_empty() { Ok(plan) } else { Err(planner.diagnostics.into_vec()) }
}

/// Checks a flow without running it: as [`plan`], but required parameters may lack a value.
pub fn check(flow: &Flow, input: PlanInput<'_>) -> Vec<Diagnostic> {
    let shared = Shared::of(input);
    let mut planner = Planner::of_user(flow, &shared);
    planner.run(true);
    planner.diagnostics.into_vec()
}

/// A plan of a flow whose missing parameters stay open: for drawings.
pub fn sketch(flow: &Flow, input: PlanInput<'_>) -> Result<Plan, Vec<Diagnostic>> {
    let shared = Shared::of(input);
    let mut planner = Planner::of_user(flow, &shared);
    let plan = planner.run(true);
    if planner.diagnostics.is_empty() { Ok(plan) } else { Err(planner.diagnostics.into_vec()) }
}

/// What a flow and its sub-flows share.
pub(crate) struct Shared<'a> {
    pub input: PlanInput<'a>,
    steps: Cell<usize>,
    loads: Cell<usize>,
    /// Items of known lists that were looked at.
    pub items: Cell<usize>,
}

impl<'a> Shared<'a> {
    fn of(input: PlanInput<'a>) -> Self {
        Self { input, steps: Cell::new(0), loads: Cell::new(0), items: Cell::new(0) }
    }
}

/// A parameter while planning.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub of: ParameterType,
    /// `None`: not given yet, or computed by the step that runs this flow.
    pub value: Option<Value>,
}

/// A value on its way into a parameter.
struct Offer {
    name: String,
    value: Offered,
    source: Arc<Source>,
    name_span: Span,
    span: Span,
    folder: PathBuf,
}

enum Offered {
    Text(String),
    Value(Value),
    Later(Yields),
}

/// Steps whose condition may skip a step; `None`: too many to tell.
type Conditions = Option<Vec<usize>>;
/// Most conditions that are followed.
const MOST_CONDITIONS: usize = 64;

pub(crate) struct Planner<'a> {
    pub flow: &'a Flow,
    pub shared: &'a Shared<'a>,
    pub folder: PathBuf,
    ancestors: Vec<PathBuf>,
    offers: Vec<Offer>,
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
    fn new(flow: &'a Flow, shared: &'a Shared<'a>, folder: PathBuf, ancestors: Vec<PathBuf>) -> Self {
        Self {
            flow,
            shared,
            folder,
            ancestors,
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
        planner
    }

    fn given(&mut self, params: &[(String, Given)]) {
        for (name, given) in params {
            let (text, value) = match given {
                Given::Text(text) => (text.clone(), Offered::Text(text.clone())),
                Given::Value(value) => (swath_flow::as_text(value), Offered::Value(value.clone())),
            };
            // A value given for a secret must not be shown again, whatever it is.
            let secret =
                self.flow.params.iter().any(|one| one.spec.name == *name && one.spec.of == ParameterType::Secret);
            let shown = if secret { "***" } else { &text };
            let source = Arc::new(Source::new("--param", format!("{name}={shown}")));
            let start = name.len() + 1;
            let (name_span, span) = (Span::new(0, name.len()), Span::new(start, start + shown.len()));
            let folder = self.shared.input.params_folder.to_owned();
            self.offers.push(Offer { name: name.clone(), value, source, name_span, span, folder });
        }
    }

    fn run(&mut self, open: bool) -> Plan {
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
        Plan {
            name: self.flow.name.value.clone(),
            about: self.flow.about.clone(),
            text_digest: Digest::of(self.flow.source.text().as_bytes()),
            source: self.flow.source.name().to_owned(),
            folder: self.folder.to_string_lossy().into_owned(),
            parameters: self.flow.params.iter().map(|one| one.spec.clone()).collect(),
            params: params.collect::<Map<_, _>>(),
            steps,
            outputs,
        }
    }

    fn bind_params(&mut self, open: bool) {
        let known: Vec<&str> = self.flow.params.iter().map(|one| one.spec.name.as_str()).collect();
        let mut offers: HashMap<String, Offer> = HashMap::new();
        for offer in std::mem::take(&mut self.offers) {
            if self.flow.unread_params.contains(&offer.name) {
                continue;
            }
            if !known.contains(&offer.name.as_str()) {
                let help = match nearest(&offer.name, known.iter().copied()) {
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None if known.is_empty() => Some("the flow has none".to_owned()),
                    None => did_you_mean(&offer.name, &known, "the parameters are"),
                };
                let message = format!("the flow `{}` has no parameter `{}`", self.flow.name.value, offer.name);
                let diagnostic = Diagnostic::at("F205", &offer.source, offer.name_span, message);
                self.diagnostics.push(diagnostic.maybe_help(help));
                continue;
            }
            offers.insert(offer.name.clone(), offer);
        }
        for parameter in &self.flow.params {
            let spec = &parameter.spec;
            let around = Surroundings { folder: &self.folder, now: self.shared.input.now };
            let default = parameter.default.as_ref().map(|node| (node.span, spec.read(&node.to_json(), around)));
            let mut value = match default {
                Some((_, Ok(value))) => Some(value),
                Some((span, Err(refusal))) => {
                    let message = format!("the default of the parameter `{}` {}", spec.name, refusal.message);
                    self.wrong("F202", span, message, refusal.help);
                    None
                }
                None if !spec.required => Some(Value::Null),
                None => None,
            };
            let broken = parameter.default.is_some() && value.is_none();
            match offers.remove(&spec.name) {
                Some(offer) => {
                    let around = Surroundings { folder: &offer.folder, now: self.shared.input.now };
                    let read = match &offer.value {
                        Offered::Text(text) => spec.read_text(text, around).map(Some),
                        Offered::Value(value) => spec.read(value, around).map(Some),
                        Offered::Later(yields) if later_fits(spec.of, *yields) => Ok(None),
                        Offered::Later(yields) => {
                            let message = format!("expects a {}, this yields {}", spec.of.name(), yields.name());
                            Err(Refusal { message, help: None })
                        }
                    };
                    match read {
                        Ok(read) => value = read,
                        Err(refusal) => {
                            let message = format!("the parameter `{}` {}", spec.name, refusal.message);
                            let diagnostic = Diagnostic::at("F203", &offer.source, offer.span, message);
                            self.diagnostics.push(diagnostic.maybe_help(refusal.help));
                            value = None;
                        }
                    }
                }
                None if value.is_none() && !open && !broken => {
                    let help = format!("give it: `-p {}=...`, or write a `default`", spec.name);
                    let message = format!("the parameter `{}` ({}) has no value", spec.name, spec.of.name());
                    self.wrong("F204", parameter.span, message, Some(help));
                }
                None => {}
            }
            self.params.insert(spec.name.clone(), Parameter { of: spec.of, value });
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

    /// Plans the flow that a step runs. Also what the step gives it, with paths and periods as this flow means them.
    pub(crate) fn sub_flow(
        &mut self,
        path: &str,
        span: Span,
        with: Option<&swath_flow::Node>,
        template: &Template,
    ) -> Option<(Plan, Template)> {
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
                Template::Path { folder: self.folder.to_string_lossy().into_owned(), of: Box::new(value) }
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

    fn step(&mut self, at: usize, position: &[usize]) -> PlannedStep {
        let planned = self.plan_step(at, position);
        self.outputs[at] = planned.1;
        planned.0
    }
}

/// Whether what is computed later may be a value of a type.
fn later_fits(of: ParameterType, yields: Yields) -> bool {
    match yields {
        Yields::Unknown => true,
        Yields::Text => {
            !matches!(of, ParameterType::Integer | ParameterType::Number | ParameterType::Boolean | ParameterType::Bbox)
        }
        Yields::Integer | Yields::Number => {
            matches!(of, ParameterType::Integer | ParameterType::Number | ParameterType::Enum)
        }
        Yields::Boolean => of == ParameterType::Boolean,
        Yields::List => matches!(of, ParameterType::Bbox | ParameterType::Aoi),
        Yields::Mapping => false,
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
