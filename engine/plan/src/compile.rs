//! Values of a flow to templates: `$name` and `${ ... }` are read, their references checked, and all that is known
//! is computed.

use std::sync::Arc;

use serde_json::Value;
use swath_flow::{
    Data, Diagnostic, Expression, FUNCTIONS, Node, ParameterType, Part, Reference, SCHEDULE, Scope, Source, Span,
    Unwritten, Written, Yields, did_you_mean, list, nearest, read_string,
};
use swath_task::PortType;

use crate::planner::{Parameter, Planner};
use crate::template::{Template, TextPart};

/// What a value is compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The step, or the flow's outputs.
    pub step: Option<usize>,
    /// `item` and `index` have a meaning.
    pub lifted: bool,
    /// What it is, for messages: `with`, `when`.
    pub what: &'a str,
}

/// A reference and where it was written.
pub(crate) type Read = (Reference, Span);

impl Planner<'_> {
    pub(crate) fn wrong(&mut self, code: &'static str, span: Span, message: impl Into<String>, help: Option<String>) {
        let source: &Arc<Source> = &self.flow.source;
        let diagnostic = Diagnostic::at(code, source, span, message);
        self.diagnostics.push(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// Compiles a value. References go to `reads`.
    pub(crate) fn compile(&mut self, node: &Node, place: Place<'_>, reads: &mut Vec<Read>) -> Template {
        match &node.data {
            Data::String(text) => self.compile_string(node, text, place, reads),
            Data::List(items) => Template::list(items.iter().map(|item| self.compile(item, place, reads)).collect()),
            Data::Mapping(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.value.clone(), self.compile(value, place, reads)));
                Template::mapping(entries.collect())
            }
            // Reported by the reader: nothing is known of it, and nothing more is said.
            Data::Unreadable => Template::Expression(String::new()),
            _ => Template::Value(node.to_json()),
        }
    }

    fn compile_string(&mut self, node: &Node, text: &str, place: Place<'_>, reads: &mut Vec<Read>) -> Template {
        if !text.contains('$') {
            return Template::Value(Value::String(text.to_owned()));
        }
        match read_string(text) {
            Ok(Written::Text(text)) => Template::Value(Value::String(text)),
            Ok(Written::Parameter(name)) => self.parameter_value(&name, node.span, reads),
            Ok(Written::Expression(inside, at)) => {
                let span = self.within(node.span, text, at);
                self.compile_expression(&inside, span, place, reads)
            }
            Ok(Written::Parts(parts)) => {
                let mut compiled = Vec::new();
                for part in parts {
                    compiled.push(match part {
                        Part::Text(text) => Template::Value(Value::String(text)),
                        Part::Expression(inside, at) => {
                            let span = self.within(node.span, text, at);
                            self.compile_expression(&inside, span, place, reads)
                        }
                    });
                }
                if compiled.iter().all(|part| part.known().is_some()) {
                    let texts = compiled.iter().filter_map(Template::known).map(swath_flow::as_text);
                    return Template::Value(Value::String(texts.collect()));
                }
                let parts = compiled.into_iter().map(|part| match part {
                    Template::Value(value) => TextPart::Text(swath_flow::as_text(&value)),
                    Template::Expression(text) => TextPart::Expression(text),
                    other => TextPart::Text(format!("{other:?}")),
                });
                Template::Text(parts.collect())
            }
            Err(Unwritten::Unclosed(at)) => {
                let span = self.within(node.span, text, at);
                self.wrong(
                    "F111",
                    span,
                    "`${` is opened and not closed",
                    Some("close it with `}`, or write `$${` for the two characters".to_owned()),
                );
                Template::Expression(String::new())
            }
            Err(Unwritten::Dollar(at)) => {
                let span = self.within(node.span, text, at.clone());
                let name = text.get(at.start + 1..at.end).unwrap_or_default();
                let help = if name.is_empty() {
                    "write `$$` for a text that begins with `$`".to_owned()
                } else {
                    format!("`$name` stands alone; inside a text write `${{params.{name}}}`, or `$$` for a `$`")
                };
                self.wrong("F112", span, "a `$` begins this text, and it is no parameter", Some(help));
                Template::Expression(String::new())
            }
        }
    }

    /// The span of a part of a string, when the string stands in the text as it is read.
    fn within(&self, span: Span, text: &str, at: std::ops::Range<usize>) -> Span {
        let written = span.of(self.flow.source.text());
        match text.get(at).and_then(|part| written.find(part).map(|found| (found, part.len()))) {
            Some((found, length)) => Span::new(span.start + found, span.start + found + length),
            None => span,
        }
    }

    fn parameter_value(&mut self, name: &str, span: Span, reads: &mut Vec<Read>) -> Template {
        reads.push((Reference::Parameter(name.to_owned()), span));
        match self.params.get(name) {
            Some(Parameter { value: Some(value), .. }) => Template::Value(value.clone()),
            Some(_) => Template::Expression(format!("params.{name}")),
            None => {
                self.unknown_parameter(name, span);
                Template::Expression(String::new())
            }
        }
    }

    fn unknown_parameter(&mut self, name: &str, span: Span) {
        if self.flow.unread_params.iter().any(|unread| unread == name) {
            return;
        }
        let known: Vec<&str> = self.flow.params.iter().map(|parameter| parameter.spec.name.as_str()).collect();
        let help = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("declare it: `params: {{ {name}: {{ type: string }} }}`"),
            None => format!("the parameters are {}", list(&known)),
        };
        self.wrong("F201", span, format!("the flow has no parameter `{name}`"), Some(help));
    }

    fn compile_expression(&mut self, inside: &str, span: Span, place: Place<'_>, reads: &mut Vec<Read>) -> Template {
        let expression = match Expression::parse(inside) {
            Ok(expression) => expression,
            Err(error) => {
                let help = "an expression is CEL: `${params.n * 2}`, `${steps.search.count > 0}`".to_owned();
                self.wrong("F111", span, format!("this is not an expression: {error}"), Some(help));
                return Template::Expression(String::new());
            }
        };
        let before = self.diagnostics.len();
        for function in expression.unknown_functions() {
            let at = self.find(span, &function);
            let help = did_you_mean(&function, FUNCTIONS, "the functions are");
            self.wrong("F505", at, format!("there is no function `{function}`"), help);
        }
        let mut constant = true;
        for reference in expression.references() {
            constant &= self.check_reference(&reference, span, place);
            let at = self.find(span, &written(&reference));
            reads.push((reference, at));
        }
        if self.diagnostics.len() > before {
            return Template::Expression(String::new());
        }
        let scope = self.scope();
        let computed = match expression.bound(&scope) {
            Err(error) => Err(("F506", error)),
            Ok(()) if constant => expression.evaluate(&scope).map(Some).map_err(|error| ("F504", error)),
            Ok(()) => expression.must_fail(&scope).map_or(Ok(None), |error| Err(("F504", error))),
        };
        match computed {
            Ok(Some(value)) => Template::Value(value),
            Ok(None) => Template::Expression(expression.text().to_owned()),
            Err((code, error)) => {
                self.wrong(code, span, format!("this cannot be computed: {error}"), None);
                Template::Expression(String::new())
            }
        }
    }

    fn find(&self, span: Span, what: &str) -> Span {
        match span.of(self.flow.source.text()).find(what) {
            Some(at) => Span::new(span.start + at, span.start + at + what.len()),
            None => span,
        }
    }

    /// Checks that a reference names something. Returns whether its value is known now.
    fn check_reference(&mut self, reference: &Reference, span: Span, place: Place<'_>) -> bool {
        let at = self.find(span, &written(reference));
        match reference {
            Reference::Parameter(name) => match self.params.get(name) {
                Some(parameter) if parameter.of == ParameterType::Secret => {
                    let help = format!("a secret is only handed on: write `${name}` alone");
                    self.wrong(
                        "F206",
                        at,
                        format!("`{name}` is a secret: nothing can be computed from it"),
                        Some(help),
                    );
                    false
                }
                Some(parameter) => parameter.value.is_some(),
                None => {
                    self.unknown_parameter(name, at);
                    false
                }
            },
            Reference::Output { step, output, .. } => {
                self.output_of(step, output, at, place.step);
                false
            }
            Reference::Schedule(_) if self.shared.schedule.is_some() => true,
            Reference::Schedule(_) => {
                if self.shared.strict {
                    let message = format!("`{}` has no value: no schedule starts this run", written(reference));
                    let help = "give the flow a schedule, `deployment: { schedule: { every: 1d } }`, or say what the run \
                                covers: `--interval 2024-06-01/2024-06-02`";
                    self.wrong("F207", at, message, Some(help.to_owned()));
                }
                false
            }
            Reference::Item | Reference::Index if place.lifted => false,
            Reference::Item | Reference::Index => {
                let word = written(reference);
                let help = match place.what {
                    "with" => "give the step an `each`: `each: ${params.areas}`".to_owned(),
                    what => format!("`{what}` belongs to the step as a whole, not to one item"),
                };
                self.wrong(
                    "F502",
                    at,
                    format!("`{word}` has a meaning only in the `with` of a lifted step"),
                    Some(help),
                );
                false
            }
            Reference::Unknown(name) => {
                let (root, rest) = name.split_once('.').unwrap_or((name, ""));
                let help = match root {
                    "params" => "name one of them: `params.NAME`".to_owned(),
                    "steps" if rest.is_empty() => "name an output of one of them: `steps.ID.OUTPUT`".to_owned(),
                    "steps" => format!("name one of its outputs: `steps.{rest}.OUTPUT`"),
                    "schedule" => "a run covers from `schedule.start` to `schedule.end`".to_owned(),
                    _ if self.index.contains_key(root) => format!("outputs are read as `steps.{name}`"),
                    _ if self.params.contains_key(root) => format!("parameters are read as `params.{name}`"),
                    _ => match nearest(root, ["params", "steps", "schedule", "item", "index"]) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "an expression reads `params.NAME`, `steps.ID.OUTPUT`, `schedule.start`, `schedule.end`, `item` \
                                 and `index`"
                            .to_owned(),
                    },
                };
                self.wrong("F501", at, format!("`{name}` names nothing"), Some(help));
                false
            }
        }
    }

    /// What is known of the parameters of the flow and of the interval its run covers, as expressions read it.
    pub(crate) fn scope(&self) -> Scope<'_> {
        let known = self.params.iter().filter_map(|(name, parameter)| Some((name.as_str(), parameter.value.as_ref()?)));
        let interval = self.shared.schedule.as_ref().map(|interval| (SCHEDULE, interval));
        Scope { params: known.chain(interval).collect(), ..Scope::default() }
    }

    /// What a template yields, as far as it can be told.
    pub(crate) fn yields(&self, template: &Template) -> Yields {
        match template {
            Template::Value(value) => Yields::of(value),
            Template::Expression(text) if text.is_empty() => Yields::Unknown,
            Template::Expression(text) => Expression::parse(text)
                .map_or(Yields::Unknown, |expression| expression.yields(&|one| self.yields_of(one))),
            Template::Text(_) => Yields::Text,
            Template::Path { of, .. } | Template::Period { of, .. } => self.yields(of),
            Template::List(_) => Yields::List,
            Template::Mapping(_) => Yields::Mapping,
        }
    }

    fn yields_of(&self, reference: &Reference) -> Yields {
        match reference {
            Reference::Parameter(name) => match self.params.get(name).map(|parameter| (parameter, parameter.of)) {
                Some((Parameter { value: Some(value), .. }, _)) => Yields::of(value),
                Some((_, ParameterType::Integer)) => Yields::Integer,
                Some((_, ParameterType::Number)) => Yields::Number,
                Some((_, ParameterType::Boolean)) => Yields::Boolean,
                Some((_, ParameterType::Bbox)) => Yields::List,
                Some((_, ParameterType::Aoi)) | None => Yields::Unknown,
                Some(_) => Yields::Text,
            },
            Reference::Output { step, output, .. } => {
                let outputs = self.index.get(step).and_then(|at| self.outputs[*at].as_ref());
                match outputs.and_then(|outputs| outputs.iter().find(|one| one.name == *output)) {
                    Some(one) if one.lists > 0 => Yields::List,
                    Some(one) => match &one.of {
                        PortType::Artifact(_) => Yields::Mapping,
                        PortType::Value(name) => Yields::named(name),
                    },
                    None => Yields::Unknown,
                }
            }
            Reference::Index => Yields::Integer,
            Reference::Schedule(_) => Yields::Text,
            Reference::Item | Reference::Unknown(_) => Yields::Unknown,
        }
    }
}

/// A reference as a flow writes it.
pub(crate) fn written(reference: &Reference) -> String {
    match reference {
        Reference::Parameter(name) => format!("params.{name}"),
        Reference::Output { step, output, .. } => format!("steps.{step}.{output}"),
        Reference::Schedule(end) => format!("{SCHEDULE}.{end}"),
        Reference::Item => "item".to_owned(),
        Reference::Index => "index".to_owned(),
        Reference::Unknown(name) => name.clone(),
    }
}
