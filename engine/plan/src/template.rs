//! Values with holes: what `with`, `each`, `when` and `outputs` become when all that is known has been filled in.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swath_flow::{Expression, ExpressionError, Scope, absolute, as_text, resolve_period};

/// A value, parts of which are computed when the steps before have run. It serialises without loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// Known already.
    Value(Value),
    /// A CEL expression, without `${` and `}`: its typed value.
    Expression(String),
    /// Texts and expressions, joined to one string.
    Text(Vec<TextPart>),
    /// A path that is made absolute from a folder once it is known.
    Path {
        /// Absolute folder.
        folder: String,
        /// What is no path, see `absolute::words`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        words: Vec<String>,
        /// What yields the path.
        of: Box<Template>,
    },
    /// A period that is resolved to two instants once it is known.
    Period {
        /// What `now` means, an instant in RFC 3339.
        now: String,
        /// What yields the period.
        of: Box<Template>,
    },
    /// A list with unknown members.
    List(Vec<Template>),
    /// A mapping with unknown members.
    Mapping(Vec<(String, Template)>),
}

impl Default for Template {
    /// A mapping without entries.
    fn default() -> Self {
        Self::Value(Value::Object(Map::new()))
    }
}

/// A part of a string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPart {
    /// As it is.
    Text(String),
    /// A CEL expression.
    Expression(String),
}

impl Template {
    /// The value, when nothing is left to compute.
    pub fn known(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    /// A mapping: a value when all in it is known.
    pub(crate) fn mapping(entries: Vec<(String, Self)>) -> Self {
        if entries.iter().all(|(_, value)| value.known().is_some()) {
            let values = entries.into_iter().map(|(key, value)| (key, value.known().cloned().unwrap_or_default()));
            return Self::Value(Value::Object(values.collect()));
        }
        Self::Mapping(entries)
    }

    /// A list: a value when all in it is known.
    pub(crate) fn list(items: Vec<Self>) -> Self {
        if items.iter().all(|item| item.known().is_some()) {
            return Self::Value(Value::Array(
                items.into_iter().map(|item| item.known().cloned().unwrap_or_default()).collect(),
            ));
        }
        Self::List(items)
    }

    /// The entries of a mapping; none of what is no mapping.
    pub(crate) fn entries(&self) -> Vec<(String, Self)> {
        match self {
            Self::Value(Value::Object(values)) => {
                values.iter().map(|(name, value)| (name.clone(), Self::Value(value.clone()))).collect()
            }
            Self::Mapping(entries) => entries.clone(),
            _ => Vec::new(),
        }
    }

    /// Computes the value.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Expression(text) => Expression::parse(text)?.evaluate(scope),
            Self::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        TextPart::Text(part) => text.push_str(part),
                        TextPart::Expression(part) => {
                            text.push_str(&as_text(&Expression::parse(part)?.evaluate(scope)?));
                        }
                    }
                }
                Ok(Value::String(text))
            }
            Self::Path { folder, words, of } => Ok(match of.evaluate(scope)? {
                Value::String(path) => absolute_path(path, words, folder),
                other => other,
            }),
            Self::Period { now, of } => {
                let value = of.evaluate(scope)?;
                Ok(match now.parse() {
                    Ok(now) => absolute_period(value, now),
                    Err(_) => value,
                })
            }
            Self::List(items) => {
                items.iter().map(|item| item.evaluate(scope)).collect::<Result<_, _>>().map(Value::Array)
            }
            Self::Mapping(entries) => {
                let entries = entries.iter().map(|(key, value)| Ok((key.clone(), value.evaluate(scope)?)));
                entries.collect::<Result<Map<_, _>, _>>().map(Value::Object)
            }
        }
    }
}

/// A path, from the root on. What is none of this machine's stays as it is.
pub(crate) fn absolute_path(path: String, words: &[String], folder: &str) -> Value {
    let stays = path.is_empty() || swath_flow::is_remote(&path) || words.contains(&path);
    Value::String(if stays { path } else { absolute(&path, folder.as_ref()) })
}

/// The two instants of a period. What is none stays as it is, for the task to refuse in its own words.
pub(crate) fn absolute_period(value: Value, now: Timestamp) -> Value {
    let resolved = match &value {
        Value::String(text) => resolve_period(text, now).ok(),
        _ => None,
    };
    resolved.map_or(value, Value::String)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_survives_its_serialisation_and_computes_its_holes() {
        let template = Template::Mapping(vec![
            ("kept".into(), Template::Value(json!("${not evaluated}"))),
            ("typed".into(), Template::Expression("params.n + 1".into())),
            (
                "text".into(),
                Template::Text(vec![TextPart::Text("a-".into()), TextPart::Expression("steps.s.count".into())]),
            ),
            (
                "path".into(),
                Template::Path {
                    folder: "/flows".into(),
                    words: vec!["none".into()],
                    of: Box::new(Template::Expression("'../x-' + string(params.n)".into())),
                },
            ),
        ]);
        let again: Template = serde_json::from_str(&serde_json::to_string(&template).unwrap()).unwrap();
        assert_eq!(again, template);
        let (n, outputs) = (json!(2), json!({ "count": 5 }));
        let scope = Scope { params: HashMap::from([("n", &n)]), steps: HashMap::from([("s", &outputs)]), item: None };
        let value = again.evaluate(&scope).unwrap();
        assert_eq!(value, json!({ "kept": "${not evaluated}", "typed": 3, "text": "a-5", "path": "/x-2" }));
    }
}
