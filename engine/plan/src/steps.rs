//! One step: what it runs, its parameters, its edges by artifact kind, its list and its condition.

use std::collections::BTreeMap;

use serde_json::Value;
use swath_flow::{Action as Written, Data, EdgeSource, Span, Step, Yields, did_you_mean, nearest, read_edge};
use swath_task::{Bytes, Port, PortType, Ports};

use crate::compile::{Place, Read};
use crate::plan::{Action, Each, InputSource, NeedsOverride, Output, PlannedInput, PlannedStep};
use crate::planner::Planner;
use crate::template::Template;

impl Planner<'_> {
    /// Plans the step at a position of the flow; also what it makes, when that is known.
    pub(crate) fn plan_step(&mut self, at: usize, position: &[usize]) -> (PlannedStep, Option<Vec<Output>>) {
        let flow = self.flow;
        let step = &flow.steps[at];
        let mut reads: Vec<Read> = Vec::new();
        let mut sources: Vec<usize> = Vec::new();

        let (each, item) = self.each(at, step, position, &mut reads, &mut sources);
        let lifted = each.is_some();
        let place = Place { step: Some(at), lifted, what: "with" };
        let with = match &step.with {
            Some(node) => self.compile(node, place, &mut reads),
            None => Template::Value(serde_json::json!({})),
        };

        // Items that are known already: what each makes of the parameters can be told now.
        let items = match &each {
            Some(Each::Template(Template::Value(Value::Array(items)))) => Some(items.as_slice()),
            _ => None,
        };
        let (action, with, ports) = match &step.action {
            Written::Task(name) => match self.shared.input.catalogue.get(name) {
                Some(known) => {
                    let (with, own) = self.task_params(known, name.span, step.with.as_ref(), with, items);
                    let action = Action::Task { name: name.value.clone(), version: known.definition.version };
                    (action, with, Some(own.unwrap_or_else(|| known.ports().clone())))
                }
                None => {
                    let names = self.shared.input.catalogue.names();
                    let help = match nearest(name, names.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "`swath tasks` lists the tasks".to_owned(),
                    };
                    self.wrong("F301", name.span, format!("there is no task `{}`", name.value), Some(help));
                    (Action::Task { name: name.value.clone(), version: 0 }, with, None)
                }
            },
            Written::Flow(path) => {
                let (plan, with) = match self.sub_flow(step, path, path.span, &with) {
                    Some((plan, with)) => (Some(plan), with),
                    None => (None, with),
                };
                if let (Some(plan), Some(items)) = (&plan, items) {
                    self.check_items_below(plan, &with, items, step.with.as_ref(), path.span);
                }
                let outputs = plan.as_ref().map(Self::sub_outputs);
                for edge in &step.inputs {
                    let help = format!("give it as a parameter: `with: {{ {}: ... }}`", edge.port.value);
                    self.wrong("F304", edge.port.span, "a flow has no ports: it takes parameters", Some(help));
                }
                let planned = self.finish(
                    at,
                    step,
                    position,
                    Parts { action: Self::action_of(plan), with, each, inputs: Vec::new() },
                    reads,
                    sources,
                );
                let outputs = outputs.map(|outputs| lift(outputs, lifted));
                return (PlannedStep { outputs: outputs.clone().unwrap_or_default(), ..planned }, outputs);
            }
            Written::Missing(_) => (Action::Task { name: String::new(), version: 0 }, with, None),
        };
        let inputs = self.edges(at, step, ports.as_ref(), item.as_ref(), position, &mut sources);
        let outputs = ports.map(|ports| lift(ports.outputs.into_iter().map(output_of_port).collect(), lifted));
        let planned = self.finish(at, step, position, Parts { action, with, each, inputs }, reads, sources);
        (PlannedStep { outputs: outputs.clone().unwrap_or_default(), ..planned }, outputs)
    }

    fn each(
        &mut self,
        at: usize,
        step: &Step,
        position: &[usize],
        reads: &mut Vec<Read>,
        sources: &mut Vec<usize>,
    ) -> (Option<Each>, Option<Output>) {
        let Some(node) = &step.each else { return (None, None) };
        let any =
            Output { name: "item".to_owned(), of: PortType::Value("any".to_owned()), lists: 0, about: String::new() };
        let not_a_list = "`each` takes a list: an output that is one, `$parameter`, `${ expression }` or `[a, b]`";
        match &node.data {
            Data::String(text) if !text.contains('$') => {
                let Some(EdgeSource::Output { step: from, output }) = read_edge(text) else {
                    self.wrong(
                        "F503",
                        node.span,
                        format!("`each` cannot be lifted over `{text}`"),
                        Some(not_a_list.to_owned()),
                    );
                    return (None, Some(any));
                };
                let Some((source, found)) = self.output_of(&from, &output, node.span, Some(at)) else {
                    return (Some(Each::Template(Template::Expression(String::new()))), None);
                };
                sources.push(source);
                let is_list =
                    found.lists > 0 || matches!(&found.of, PortType::Value(name) if name == "array" || name == "any");
                if !is_list {
                    let message = format!("`{text}` is not a list, it is one `{}`", found.of.name());
                    self.wrong("F503", node.span, message, Some("take `each` away, and read it by an edge".to_owned()));
                }
                let item = if found.lists > 0 { Output { lists: found.lists - 1, ..found } } else { any };
                (Some(Each::Output { step: position[source], output }), Some(item))
            }
            _ => {
                let place = Place { step: Some(at), lifted: false, what: "each" };
                let template = self.compile(node, place, reads);
                let yields = self.yields(&template);
                if !matches!(yields, Yields::List | Yields::Unknown) {
                    self.wrong(
                        "F503",
                        node.span,
                        format!("`each` expects a list, this is {}", yields.name()),
                        Some(not_a_list.to_owned()),
                    );
                }
                let item = match &template {
                    Template::Expression(text) => self.item_of(text).unwrap_or(any),
                    _ => any,
                };
                (Some(Each::Template(template)), Some(item))
            }
        }
    }

    /// `each: ${steps.split.tiles}` yields items of a known kind.
    fn item_of(&self, text: &str) -> Option<Output> {
        let mut parts = text.strip_prefix("steps.")?.split('.');
        let (step, output, None) = (parts.next()?, parts.next()?, parts.next()) else { return None };
        let found = self.outputs[*self.index.get(step)?].as_ref()?.iter().find(|one| one.name == output)?.clone();
        (found.lists > 0).then(|| Output { lists: found.lists - 1, ..found })
    }

    fn edges(
        &mut self,
        at: usize,
        step: &Step,
        ports: Option<&Ports>,
        item: Option<&Output>,
        position: &[usize],
        sources: &mut Vec<usize>,
    ) -> Vec<PlannedInput> {
        let mut planned = Vec::with_capacity(step.inputs.len());
        // A misspelt name is one mistake, not also an input connected to nothing.
        let mut meant: Vec<&str> = Vec::new();
        for edge in &step.inputs {
            let port = ports.and_then(|ports| ports.inputs.iter().find(|port| port.name == edge.port.value));
            if let (Some(ports), None) = (ports, port) {
                let names: Vec<&str> = ports.inputs.iter().map(|port| port.name.as_str()).collect();
                meant.extend(nearest(&edge.port, names.iter().copied()));
                let is_parameter = self.is_parameter(step, &edge.port);
                let help = if is_parameter {
                    Some(format!("`{}` is a parameter: write it under `with`", edge.port.value))
                } else if names.is_empty() {
                    Some("it reads no outputs of other steps".to_owned())
                } else {
                    did_you_mean(&edge.port, &names, "its inputs are")
                };
                let what = action_name(step);
                self.wrong("F304", edge.port.span, format!("{what} has no input `{}`", edge.port.value), help);
            }
            let mut from = Vec::with_capacity(edge.from.len());
            let mut found_all = Vec::new();
            for source in &edge.from {
                let found = match &source.value {
                    EdgeSource::Item => match (&step.each, item) {
                        (Some(_), Some(item)) => {
                            from.push(InputSource::Item);
                            Some(item.clone())
                        }
                        (Some(_), None) => None,
                        (None, _) => {
                            let help = "give the step an `each`".to_owned();
                            self.wrong("F502", source.span, "`item` has a meaning only in a lifted step", Some(help));
                            None
                        }
                    },
                    EdgeSource::Output { step: id, output } => {
                        self.output_of(id, output, source.span, Some(at)).map(|(step, found)| {
                            sources.push(step);
                            self.skipped_with(at, step);
                            from.push(InputSource::Output {
                                step: position[step],
                                output: output.clone(),
                                list: found.lists > 0,
                            });
                            found
                        })
                    }
                };
                if let (Some(port), Some(found)) = (port, &found) {
                    self.check_edge(step, port, source.span, &edge_text(&source.value), found);
                }
                found_all.push(found);
            }
            let single = port.is_some_and(|port| {
                !port.list && !matches!(&port.of, PortType::Value(name) if name == "array" || name == "any")
            });
            if let Some(port) = port.filter(|_| single && edge.from.len() > 1) {
                let message =
                    format!("the input `{}` takes one `{}`, these are {}", port.name, port.of.name(), edge.from.len());
                self.wrong(
                    "F307",
                    edge.from[1].span,
                    message,
                    Some("lift the step over them with `each`, or keep one".to_owned()),
                );
            }
            if let Some(port) = port.filter(|port| port.required && edge.from.is_empty() && edge.list) {
                self.wrong("F305", edge.port.span, format!("the input `{}` is connected to nothing", port.name), None);
            }
            let list = port.map_or(edge.list, |port| port.list || edge.list);
            planned.push(PlannedInput { port: edge.port.value.clone(), from, list });
        }
        for port in ports.iter().flat_map(|ports| &ports.inputs) {
            let misspelt = meant.contains(&port.name.as_str());
            if port.required && !misspelt && !step.inputs.iter().any(|edge| edge.port.value == port.name) {
                let help = match self.fitting(at, port, position) {
                    Some(edge) => format!("connect it: `in: {{ {}: {edge} }}`", port.name),
                    None => format!("connect it to a `{}`: `in: {{ {}: STEP.OUTPUT }}`", port.of.name(), port.name),
                };
                let span = match &step.action {
                    Written::Task(name) => name.span,
                    _ => step.id.span,
                };
                let message = format!("{} needs the input `{}` (`{}`)", action_name(step), port.name, port.of.name());
                self.wrong("F305", span, message, Some(help));
            }
        }
        planned
    }

    fn is_parameter(&self, step: &Step, name: &str) -> bool {
        let Written::Task(task) = &step.action else { return false };
        self.shared.input.catalogue.get(task).is_some_and(|known| known.schema()["properties"].get(name).is_some())
    }

    /// The last output before a step that would fit a port.
    fn fitting(&self, at: usize, port: &Port, position: &[usize]) -> Option<String> {
        if self.diagnostics.is_full() {
            return None;
        }
        let before = &self.order[..position[at]];
        before.iter().rev().take(64).find_map(|other| {
            let other = *other;
            let outputs = self.outputs[other].as_ref()?;
            let one = outputs.iter().find(|one| {
                matches!(one.of, PortType::Artifact(_)) && one.of.fits(&port.of) && (one.lists > 0) == port.list
            })?;
            Some(format!("{}.{}", self.flow.steps[other].id.value, one.name))
        })
    }

    fn check_edge(&mut self, step: &Step, port: &Port, span: Span, text: &str, found: &Output) {
        let what = action_name(step);
        let takes_lists = matches!(&port.of, PortType::Value(name) if name == "array" || name == "any");
        if takes_lists && found.lists > 0 && matches!(found.of, PortType::Value(_)) {
            return;
        }
        if !found.of.fits(&port.of) {
            let message = format!(
                "`{text}` is a `{}`, the input `{}` of {what} takes a `{}`",
                found.of.name(),
                port.name,
                port.of.name()
            );
            let help = self.fitting_of(port, text);
            self.wrong("F306", span, message, help);
            return;
        }
        if !port.list && found.lists > 0 && !takes_lists {
            let message =
                format!("`{text}` is a list of `{}`, the input `{}` of {what} takes one", found.of.name(), port.name);
            let help = format!("lift the step over it: `each: {text}` and `in: {{ {}: item }}`", port.name);
            self.wrong("F307", span, message, Some(help));
        } else if port.list && found.lists > 1 {
            let message = format!(
                "`{text}` is a list of lists of `{}`, the input `{}` of {what} takes a list",
                found.of.name(),
                port.name
            );
            let help = format!("lift the step over it: `each: {text}` and `in: {{ {}: item }}`", port.name);
            self.wrong("F307", span, message, Some(help));
        }
    }

    /// Another output of the same step that fits.
    fn fitting_of(&self, port: &Port, text: &str) -> Option<String> {
        let (id, _) = text.split_once('.')?;
        let outputs = self.outputs[*self.index.get(id)?].as_ref()?;
        let other = outputs.iter().find(|one| one.of.fits(&port.of))?;
        Some(format!("did you mean `{id}.{}`?", other.name))
    }

    fn finish(
        &mut self,
        at: usize,
        step: &Step,
        position: &[usize],
        parts: Parts,
        mut reads: Vec<Read>,
        mut sources: Vec<usize>,
    ) -> PlannedStep {
        if let Some(Each::Output { .. }) = &parts.each {
            let lifted_over: Vec<usize> = sources.first().copied().into_iter().collect();
            lifted_over.into_iter().for_each(|from| self.skipped_with(at, from));
        }
        let mut in_when = Vec::new();
        let when = step.when.as_ref().map(|node| {
            let place = Place { step: Some(at), lifted: false, what: "when" };
            let template = match &node.data {
                Data::String(text) if !text.contains('$') => {
                    let help = format!("write `when: ${{{text}}}`");
                    self.wrong("F503", node.span, "`when` expects a boolean, this is a string", Some(help));
                    Template::Expression(String::new())
                }
                _ => self.compile(node, place, &mut in_when),
            };
            let yields = self.yields(&template);
            if !matches!(yields, Yields::Boolean | Yields::Unknown) {
                let help = "compare it: `when: ${steps.search.count > 0}`".to_owned();
                self.wrong(
                    "F503",
                    node.span,
                    format!("`when` expects a boolean, this is {}", yields.name()),
                    Some(help),
                );
            }
            template
        });
        let name = format!("the step `{}`", step.id.value);
        self.check_skipped(&in_when, Some(at), &format!("`when` of {name}"));
        if step.when.is_some() {
            self.conditional(at);
        }
        self.check_skipped(&reads, Some(at), &name);
        reads.extend(in_when);
        for (reference, _) in &reads {
            if let swath_flow::Reference::Output { step, .. } = reference {
                sources.extend(self.index.get(step));
            }
        }
        let mut after = Vec::new();
        for id in &step.after {
            match self.index.get(&id.value) {
                Some(from) => after.push(position[*from]),
                None => {
                    let help = if id.contains('.') {
                        Some("`after` takes ids of steps, without an output".to_owned())
                    } else if self.diagnostics.is_full() {
                        None
                    } else {
                        self.steps_like(id)
                    };
                    self.wrong("F302", id.span, format!("there is no step `{}`", id.value), help);
                }
            }
        }
        let mut reads: Vec<usize> = sources.into_iter().map(|from| position[from]).collect();
        reads.sort_unstable();
        reads.dedup();
        reads.shrink_to_fit();
        after.sort_unstable();
        after.dedup();
        PlannedStep {
            id: step.id.value.clone(),
            about: step.about.clone(),
            action: parts.action,
            with: parts.with,
            inputs: parts.inputs,
            each: parts.each,
            when,
            reads,
            after,
            retry: step.retry.clone().unwrap_or_default().into(),
            timeout: step.timeout,
            cache: step.cache.unwrap_or_default(),
            needs: self.needs(step),
            isolate: step.isolate,
            on_failure: step.on_failure.unwrap_or_default(),
            tolerate: step.tolerate,
            outputs: Vec::new(),
        }
    }

    fn needs(&mut self, step: &Step) -> NeedsOverride {
        let memory = step.needs.memory.as_ref().and_then(|text| match text.value.parse::<Bytes>() {
            Ok(memory) => Some(memory),
            Err(error) => {
                self.wrong("F108", text.span, error.to_string(), None);
                None
            }
        });
        let limits: BTreeMap<String, u32> = step.needs.limits.iter().cloned().collect();
        NeedsOverride { cpu: step.needs.cpu, memory, gpu: step.needs.gpu, limits }
    }
}

struct Parts {
    action: Action,
    with: Template,
    each: Option<Each>,
    inputs: Vec<PlannedInput>,
}

fn output_of_port(port: Port) -> Output {
    Output { name: port.name, of: port.of, lists: u8::from(port.list), about: port.about }
}

fn lift(mut outputs: Vec<Output>, lifted: bool) -> Vec<Output> {
    outputs.iter_mut().for_each(|output| output.lists = output.lists.saturating_add(u8::from(lifted)));
    outputs
}

fn action_name(step: &Step) -> String {
    match &step.action {
        Written::Task(name) => format!("`{}`", name.value),
        Written::Flow(path) => format!("the flow `{}`", path.value),
        Written::Missing(_) => format!("the step `{}`", step.id.value),
    }
}

fn edge_text(source: &EdgeSource) -> String {
    match source {
        EdgeSource::Item => "item".to_owned(),
        EdgeSource::Output { step, output } => format!("{step}.{output}"),
    }
}
