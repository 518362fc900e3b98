//! Values into the parameters of a flow: defaults, what the user gives, and what the step of the flow above gives.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use swath_flow::{Diagnostic, ParameterType, Refusal, Source, Span, Surroundings, Yields, did_you_mean, nearest};

use crate::planner::{Given, Parameter, Planner};

/// A value on its way into a parameter.
pub(crate) struct Offer {
    pub name: String,
    pub value: Offered,
    pub source: Arc<Source>,
    pub name_span: Span,
    pub span: Span,
    pub folder: PathBuf,
}

pub(crate) enum Offered {
    Text(String),
    Value(Value),
    Later(Yields),
}

impl Planner<'_> {
    pub(crate) fn given(&mut self, params: &[(String, Given)]) {
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

    pub(crate) fn bind_params(&mut self, open: bool) {
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
