//! The tree of a text to a [`Flow`]: every field by its name and kind, everything wrong reported in one go.

mod values;

use std::sync::Arc;

use crate::diagnostic::Diagnostics;
use crate::flow::{
    Action, Backoff, Cache, Edge, FailureClass, Flow, Isolate, Needs, OnFailure, Retry, Step, Tolerance, read_edge,
};
use crate::nearest::{did_you_mean, list};
use crate::parameter::{Parameter, ParameterSpec, ParameterType, TYPES, brief, is_variable};
use crate::yaml::{Data, Node, parse, source_of};
use crate::{Diagnostic, Source, Span, Spanned};

/// Most steps of a flow.
pub const MAX_STEPS: usize = 100_000;

const FLOW_FIELDS: &[&str] = &["flow", "about", "params", "defaults", "deployment", "steps", "outputs"];
const PARAM_FIELDS: &[&str] = &["type", "default", "about", "required", "min", "max", "values"];
const STEP_FIELDS: &[&str] = &[
    "task",
    "flow",
    "about",
    "in",
    "with",
    "each",
    "when",
    "after",
    "retry",
    "timeout",
    "cache",
    "needs",
    "isolate",
    "on_failure",
    "tolerate",
];
const DEFAULT_FIELDS: &[&str] = &["retry", "timeout", "cache", "needs", "isolate", "on_failure", "tolerate"];
const RETRY_FIELDS: &[&str] = &["times", "wait", "backoff", "max_wait", "jitter", "on"];
const NEEDS_FIELDS: &[&str] = &["cpu", "memory", "gpu", "limits"];

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The text.
    pub source: Arc<Source>,
    /// The flow, as far as it could be understood; `None` when there is nothing to plan.
    pub flow: Option<Flow>,
    /// Everything wrong with the text itself. Empty: the flow is whole.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a flow. `name` is the path as the user wrote it.
pub fn read(name: &str, bytes: &[u8]) -> Reading {
    let (source, problems) = source_of(name, bytes);
    if !problems.is_empty() {
        return Reading { source, flow: None, diagnostics: problems };
    }
    let mut reader = Reader { source: source.clone(), diagnostics: Diagnostics::default() };
    let root = parse(&source, &mut reader.diagnostics);
    let flow = match root {
        Some(root) if !matches!(root.data, Data::Null) => reader.flow(&root),
        None if !reader.diagnostics.is_empty() => None,
        _ => {
            let help = "a flow begins with `flow: NAME` and has `steps`; `docs/flow-language.md` shows one";
            reader.diagnostics.push(Diagnostic::about("F012", &source, "the file is empty").help(help));
            None
        }
    };
    Reading { source, flow, diagnostics: reader.diagnostics.into_vec() }
}

struct Reader {
    source: Arc<Source>,
    diagnostics: Diagnostics,
}

/// Settings that a step may have, and `defaults` for all of them.
#[derive(Clone, Default)]
struct Settings {
    retry: Option<Retry>,
    timeout: Option<u64>,
    cache: Option<Cache>,
    needs: Needs,
    isolate: Option<Isolate>,
    on_failure: Option<OnFailure>,
    tolerate: Option<Tolerance>,
}

impl Reader {
    fn wrong(&mut self, code: &'static str, span: Span, message: impl Into<String>, help: Option<String>) {
        self.diagnostics.push(Diagnostic::at(code, &self.source, span, message).maybe_help(help));
    }

    fn flow(&mut self, root: &Node) -> Option<Flow> {
        let entries = self.mapping(root, "the flow", FLOW_FIELDS)?;
        let mut flow = Flow {
            source: self.source.clone(),
            name: Spanned::new(String::new(), Span::default()),
            about: None,
            params: Vec::new(),
            unread_params: Vec::new(),
            deployment: root.get("deployment").cloned(),
            steps: Vec::new(),
            outputs: Vec::new(),
        };
        let top = Span::new(root.span.start, root.span.start + 1);
        match root.get("flow") {
            Some(node) => {
                if let Some(name) = self.text(node, "the name of the flow") {
                    self.check_name(&name, true);
                    flow.name = name;
                }
            }
            None => self.wrong("F102", top, "the flow has no name", Some("begin with `flow: NAME`".to_owned())),
        }
        flow.about = self.about(root);
        let defaults = match root.get("defaults") {
            Some(node) => match self.mapping(node, "`defaults`", DEFAULT_FIELDS) {
                Some(_) => self.settings(node, &Settings::default()),
                None => Settings::default(),
            },
            None => Settings::default(),
        };
        if let Some(node) = root.get("params") {
            for (name, node) in self.named(node, "`params`") {
                match self.parameter(name, node) {
                    Some(parameter) => flow.params.push(parameter),
                    None => flow.unread_params.push(name.value.clone()),
                }
            }
        }
        match root.get("steps") {
            Some(node) => {
                if matches!(node.data, Data::List(_)) {
                    let help = "write `steps:` and below it `ID:` with the fields of the step, each id once";
                    self.wrong(
                        "F103",
                        first_line(&self.source, node.span),
                        "`steps` is a mapping of ids to steps, this is a list",
                        Some(help.to_owned()),
                    );
                }
                let steps: &[_] = if matches!(node.data, Data::List(_)) { &[] } else { self.named(node, "`steps`") };
                if steps.len() > MAX_STEPS {
                    let message = format!("the flow has {} steps; the most is {MAX_STEPS}", steps.len());
                    self.wrong(
                        "F113",
                        steps[MAX_STEPS].0.span,
                        message,
                        Some("lift a step over a list with `each`".to_owned()),
                    );
                    return None;
                }
                if steps.is_empty() && matches!(node.data, Data::Null | Data::Mapping(_)) {
                    let key = entries.iter().find(|(key, _)| key.value == "steps").map_or(top, |(key, _)| key.span);
                    self.wrong(
                        "F105",
                        key,
                        "the flow has no steps",
                        Some("a step is `ID: { task: NAME }`; `swath tasks` lists the tasks".to_owned()),
                    );
                }
                flow.steps = steps.iter().map(|(id, node)| self.step(id, node, &defaults)).collect();
            }
            None => self.wrong(
                "F105",
                top,
                "the flow has no steps",
                Some("add `steps:`; `swath tasks` lists what a step can run".to_owned()),
            ),
        }
        if let Some(node) = root.get("outputs") {
            flow.outputs = self.named(node, "`outputs`").to_vec();
            for (name, _) in &flow.outputs {
                self.check_name(name, false);
            }
        }
        Some(flow)
    }

    fn parameter(&mut self, name: &Spanned<String>, node: &Node) -> Option<Parameter> {
        self.check_name(name, false);
        let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        self.mapping(node, &format!("the parameter `{}`", name.value), PARAM_FIELDS)?;
        let of = match node.get("type") {
            None => {
                let help = format!("the types are {}", list(&known));
                self.wrong("F102", name.span, format!("the parameter `{}` has no `type`", name.value), Some(help));
                return None;
            }
            Some(of) => {
                let text = self.text(of, "`type`")?;
                let Some((_, of)) = TYPES.iter().find(|(name, _)| *name == text.value) else {
                    let help = did_you_mean(&text, &known, "the types are");
                    self.wrong("F110", text.span, format!("`{}` is not a type of parameters", brief(&text)), help);
                    return None;
                };
                *of
            }
        };
        if of == ParameterType::Secret
            && let Some(default) = node.get("default")
            && !default.to_json().as_str().is_some_and(is_variable)
        {
            self.source.conceal(default.span);
        }
        let numeric = matches!(of, ParameterType::Integer | ParameterType::Number);
        let bound = |reader: &mut Self, field: &str| {
            let node = node.get(field).filter(|node| !matches!(node.data, Data::Unreadable))?;
            let number = node.to_json().as_f64();
            if number.is_none() || !numeric {
                let message = format!("`{field}` is a number, and only integers and numbers have it");
                reader.wrong("F202", node.span, message, None);
                return None;
            }
            number
        };
        let (min, max) = (bound(self, "min"), bound(self, "max"));
        if let (Some(min), Some(max), Some(node)) = (min, max, node.get("max"))
            && min > max
        {
            self.wrong("F202", node.span, format!("`min` is {min} and `max` is {max}: no value can be given"), None);
        }
        let mut values = Vec::new();
        match (node.get("values"), of) {
            (Some(list), ParameterType::Enum) => {
                for item in self.list(list, "`values`") {
                    match &item.data {
                        Data::String(text) => values.push(Spanned::new(text.clone(), item.span)),
                        Data::Number(number) => values.push(Spanned::new(number.to_string(), item.span)),
                        Data::Unreadable => {}
                        _ => self.wrong(
                            "F202",
                            item.span,
                            format!("a value of an enum is a string, this is {}", item.kind()),
                            Some("put quotes around it".to_owned()),
                        ),
                    }
                }
                if values.is_empty() {
                    self.wrong("F202", list.span, "an enum without values has no value", None);
                }
            }
            (None, ParameterType::Enum) => {
                self.wrong(
                    "F202",
                    name.span,
                    format!("the enum `{}` has no `values`", name.value),
                    Some("add `values: [one, other]`".to_owned()),
                );
            }
            (Some(list), _) => self.wrong("F202", list.span, "only a parameter of type `enum` has `values`", None),
            (None, _) => {}
        }
        // A default that cannot be read was reported.
        let written = node.get("default").filter(|node| !matches!(node.data, Data::Null));
        if written.is_some_and(|node| matches!(node.data, Data::Unreadable)) {
            return None;
        }
        let default = written.cloned();
        let required = match node.get("required").map(|node| (node, &node.data)) {
            None => default.is_none(),
            Some((_, Data::Boolean(required))) => *required && default.is_none(),
            Some((node, _)) => {
                self.wrong(
                    "F103",
                    node.span,
                    format!("`required` is `true` or `false`, this is {}", node.kind()),
                    None,
                );
                false
            }
        };
        let spec = ParameterSpec {
            name: name.value.clone(),
            about: self.about(node),
            of,
            required,
            min,
            max,
            values: values.iter().map(|value| value.value.clone()).collect(),
        };
        Some(Parameter { spec, span: name.span, default, values })
    }

    /// A step that is no mapping stays a step, so that others may name it.
    fn step(&mut self, id: &Spanned<String>, node: &Node, defaults: &Settings) -> Step {
        self.check_name(id, false);
        let Some(entries) = self.mapping(node, &format!("the step `{}`", brief(id)), STEP_FIELDS) else {
            return Step {
                id: id.clone(),
                about: None,
                action: Action::Missing(id.span),
                inputs: Vec::new(),
                with: None,
                each: None,
                when: None,
                after: Vec::new(),
                retry: None,
                timeout: None,
                cache: None,
                needs: Needs::default(),
                isolate: None,
                on_failure: None,
                tolerate: None,
            };
        };
        let action = match (node.get("task"), node.get("flow")) {
            (Some(task), None) => self.text(task, "`task`").map(Action::Task),
            (None, Some(flow)) => self.text(flow, "`flow`").map(Action::Flow),
            (Some(_), Some(flow)) => {
                self.wrong(
                    "F106",
                    flow.span,
                    format!("the step `{}` has both `task` and `flow`", brief(id)),
                    Some("keep one of them".to_owned()),
                );
                None
            }
            (None, None) => {
                let help = "add `task: NAME` (`swath tasks` lists them) or `flow: PATH`".to_owned();
                self.wrong(
                    "F106",
                    id.span,
                    format!("the step `{}` has neither `task` nor `flow`", brief(id)),
                    Some(help),
                );
                None
            }
        };
        let inputs = match node.get("in") {
            Some(node) => self.named(node, "`in`").iter().map(|(port, node)| self.edge(port, node)).collect(),
            None => Vec::new(),
        };
        let with = node.get("with").filter(|node| !matches!(node.data, Data::Null)).cloned();
        if let Some(with) = &with
            && !matches!(with.data, Data::Mapping(_) | Data::Unreadable)
        {
            let message = format!("`with` is a mapping of parameters, this is {}", with.kind());
            self.wrong("F103", first_line(&self.source, with.span), message, None);
        }
        let after = match node.get("after") {
            Some(Node { data: Data::String(step), span }) => vec![Spanned::new(step.clone(), *span)],
            Some(node) => {
                self.list(node, "`after`").iter().filter_map(|node| self.text(node, "a step in `after`")).collect()
            }
            None => Vec::new(),
        };
        let mut settings = self.settings(node, defaults);
        if let Some(Action::Flow(_)) = &action {
            (settings.needs, settings.isolate) = (Needs::default(), None);
            for (key, _) in entries.iter().filter(|(key, _)| ["needs", "isolate"].contains(&key.value.as_str())) {
                let field = &key.value;
                self.wrong(
                    "F114",
                    key.span,
                    format!("the step `{}` runs a flow: `{field}` belongs to the steps inside", brief(id)),
                    Some(format!("write `{field}` in the steps of that flow, or under its `defaults`")),
                );
            }
        }
        if node.get("each").is_none() {
            settings.tolerate = None;
            if let Some((key, _)) = entries.iter().find(|(key, _)| key.value == "tolerate") {
                self.wrong(
                    "F116",
                    key.span,
                    format!("the step `{}` is not lifted: it has no instances of which some may fail", brief(id)),
                    Some("write `on_failure: continue` to go on without it, or lift it with `each`".to_owned()),
                );
            }
        }
        Step {
            about: self.about(node),
            action: action.unwrap_or(Action::Missing(id.span)),
            inputs,
            with: with.filter(|with| matches!(with.data, Data::Mapping(_))),
            each: node.get("each").cloned(),
            when: node.get("when").cloned(),
            after,
            retry: settings.retry,
            timeout: settings.timeout,
            cache: settings.cache,
            needs: settings.needs,
            isolate: settings.isolate,
            on_failure: settings.on_failure,
            tolerate: settings.tolerate,
            id: id.clone(),
        }
    }

    fn edge(&mut self, port: &Spanned<String>, node: &Node) -> Edge {
        let list = matches!(node.data, Data::List(_));
        let items: &[Node] = match &node.data {
            Data::List(items) => items,
            _ => std::slice::from_ref(node),
        };
        let mut from = Vec::with_capacity(items.len());
        for item in items {
            match item.as_str().map(|text| (text, read_edge(text))) {
                Some((_, Some(edge))) => from.push(Spanned::new(edge, item.span)),
                Some((text, None)) => {
                    let help = if text.starts_with('$') {
                        "`in` takes edges only: parameters and expressions go into `with`".to_owned()
                    } else if text.contains('.') {
                        "an edge is the id of a step, a dot and one of its outputs".to_owned()
                    } else {
                        format!("an edge names an output too: `{}.OUTPUT`", brief(text))
                    };
                    self.wrong("F109", item.span, format!("`{}` is not an edge", brief(text)), Some(help));
                }
                None if matches!(item.data, Data::Unreadable) => {}
                None => {
                    let message = format!("an edge is `STEP.OUTPUT`, this is {}", item.kind());
                    let help = "values go into `with`; `in` holds what other steps made".to_owned();
                    self.wrong("F109", first_line(&self.source, item.span), message, Some(help));
                }
            }
        }
        Edge { port: port.clone(), from, list }
    }

    fn settings(&mut self, node: &Node, defaults: &Settings) -> Settings {
        let mut settings = defaults.clone();
        if let Some(node) = node.get("retry") {
            settings.retry = self.retry(node, defaults.retry.clone());
        }
        if let Some(node) = node.get("timeout") {
            settings.timeout = self.duration(node, "`timeout`");
            if settings.timeout == Some(0) {
                self.wrong("F107", node.span, "a `timeout` of nothing lets no attempt end", None);
            }
        }
        if let Some(node) = node.get("cache") {
            settings.cache = self.cache(node);
        }
        if let Some(node) = node.get("needs") {
            self.needs(node, &mut settings.needs);
        }
        if let Some(node) = node.get("isolate") {
            let words = [("process", Isolate::Process), ("none", Isolate::None)];
            settings.isolate = self.word(node, "`isolate`", &words);
        }
        if let Some(node) = node.get("on_failure") {
            let words = [("stop", OnFailure::Stop), ("collect", OnFailure::Collect), ("continue", OnFailure::Continue)];
            settings.on_failure = self.word(node, "`on_failure`", &words);
        }
        if let Some(node) = node.get("tolerate") {
            settings.tolerate = self.tolerance(node);
        }
        settings
    }

    /// `5`, or `5%`.
    fn tolerance(&mut self, node: &Node) -> Option<Tolerance> {
        let Data::String(text) = &node.data else {
            return self.count(node, "`tolerate`", u32::MAX).map(Tolerance::Count);
        };
        let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            let message = format!("`tolerate` is a count of instances or a share of them, not `{}`", brief(text));
            self.wrong(
                "F108",
                node.span,
                message,
                Some("write `tolerate: 5`, or `tolerate: 5%` up to 100%".to_owned()),
            );
        }
        percent.map(Tolerance::Percent)
    }

    fn retry(&mut self, node: &Node, defaults: Option<Retry>) -> Option<Retry> {
        let mut retry = defaults.unwrap_or_default();
        if let Data::Number(_) = node.data {
            retry.times = self.count(node, "`retry`", 100)?;
            return Some(retry);
        }
        self.mapping(node, "`retry`", RETRY_FIELDS)?;
        if let Some(node) = node.get("times") {
            retry.times = self.count(node, "`times`", 100).unwrap_or(retry.times);
        }
        if let Some(node) = node.get("wait") {
            retry.wait = self.duration(node, "`wait`").unwrap_or(retry.wait);
        }
        if let Some(node) = node.get("max_wait") {
            retry.max_wait = self.duration(node, "`max_wait`").unwrap_or(retry.max_wait);
        }
        if let Some(node) = node.get("jitter") {
            retry.jitter = self.number(node, "`jitter`", 0.0, 1.0).unwrap_or(retry.jitter);
        }
        if let Some(node) = node.get("backoff") {
            let words = [("fixed", Backoff::Fixed), ("exponential", Backoff::Exponential)];
            retry.backoff = self.word(node, "`backoff`", &words).unwrap_or(retry.backoff);
        }
        if let Some(node) = node.get("on") {
            let words = [
                ("transient", FailureClass::Transient),
                ("timeout", FailureClass::Timeout),
                ("lost", FailureClass::Lost),
                ("permanent", FailureClass::Permanent),
            ];
            let items: &[Node] = match &node.data {
                Data::List(items) => items,
                _ => std::slice::from_ref(node),
            };
            retry.on = items.iter().filter_map(|item| self.word(item, "a class in `on`", &words)).collect();
        }
        Some(retry)
    }

    fn cache(&mut self, node: &Node) -> Option<Cache> {
        match &node.data {
            Data::Mapping(_) => {
                self.mapping(node, "`cache`", &["ttl"])?;
                match node.get("ttl") {
                    Some(ttl) => self.duration(ttl, "`ttl`").map(Cache::Ttl),
                    None => {
                        self.wrong(
                            "F102",
                            node.span,
                            "`cache` as a mapping has a `ttl`",
                            Some("write `cache: { ttl: 7d }`".to_owned()),
                        );
                        None
                    }
                }
            }
            Data::Boolean(value) => {
                let word = if *value { "on" } else { "off" };
                self.wrong(
                    "F110",
                    node.span,
                    format!("`cache` is a word, `{value}` is a boolean"),
                    Some(format!("write `cache: {word}`")),
                );
                None
            }
            _ => self.word(node, "`cache`", &[("on", Cache::On), ("off", Cache::Off), ("refresh", Cache::Refresh)]),
        }
    }

    fn needs(&mut self, node: &Node, needs: &mut Needs) {
        if self.mapping(node, "`needs`", NEEDS_FIELDS).is_none() {
            return;
        }
        if let Some(node) = node.get("cpu") {
            needs.cpu = self.number(node, "`cpu`", 0.0, 1e6).map(|number| number as f32).or(needs.cpu);
        }
        if let Some(node) = node.get("gpu") {
            needs.gpu = self.number(node, "`gpu`", 0.0, 1024.0).map(|number| number as f32).or(needs.gpu);
        }
        match node.get("memory").map(|node| (node.span, &node.data)) {
            Some((span, Data::String(text))) => needs.memory = Some(Spanned::new(text.clone(), span)),
            Some((span, Data::Number(number))) => needs.memory = Some(Spanned::new(number.to_string(), span)),
            Some((span, Data::List(_) | Data::Mapping(_) | Data::Boolean(_) | Data::Null)) => {
                self.wrong("F103", span, "`memory` is an amount like `2 GiB`", None);
            }
            _ => {}
        }
        if let Some(node) = node.get("limits") {
            for (name, node) in self.named(node, "`limits`") {
                if let Some(count) = self.count(node, "a limit", 1_000_000) {
                    needs.limits.retain(|(known, _)| *known != name.value);
                    needs.limits.push((name.value.clone(), count));
                }
            }
        }
    }
}

/// The part of a span on its first line: a caret below a whole block says nothing.
fn first_line(source: &Source, span: Span) -> Span {
    let text = span.of(source.text());
    let length = text.find('\n').unwrap_or(text.len());
    Span::new(span.start, span.start + length.max(1))
}
