//! The tree that YAML text becomes.

use serde_json::{Map, Number, Value};

use crate::{Span, Spanned};

/// A value of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it was written; of an alias: where the alias stands.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// What a value is, by the core schema of YAML 1.2.
#[derive(Clone, Debug)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`; `yes`, `no`, `on` and `off` are strings.
    Boolean(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the text, each key once.
    Mapping(Vec<(Spanned<String>, Node)>),
    /// A number that was reported: nothing more is said about it.
    Unreadable,
}

impl Node {
    /// What it is, with its article.
    pub fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null | Data::Unreadable => "nothing",
            Data::Boolean(_) => "a boolean",
            Data::Number(number) if number.is_f64() => "a number",
            Data::Number(_) => "an integer",
            Data::String(_) => "a string",
            Data::List(_) => "a list",
            Data::Mapping(_) => "a mapping",
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if it is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.data {
            Data::Mapping(entries) => entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null | Data::Unreadable => Value::Null,
            Data::Boolean(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::String(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Mapping(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.value.clone(), node.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// Where a JSON pointer leads: the span of the value, or of the nearest value above it that was written.
    pub fn span_at(&self, pointer: &str) -> Span {
        self.walk(pointer).0.span
    }

    /// The span of the key a JSON pointer ends in, or as [`Node::span_at`].
    pub fn key_span_at(&self, pointer: &str) -> Span {
        let (node, key) = self.walk(pointer);
        key.unwrap_or(node.span)
    }

    fn walk(&self, pointer: &str) -> (&Self, Option<Span>) {
        let (mut node, mut key_span) = (self, None);
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::Mapping(entries) => {
                    entries.iter().find(|(key, _)| key.value == part).map(|(k, n)| (n, Some(k.span)))
                }
                Data::List(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)).map(|n| (n, None)),
                _ => None,
            };
            match next {
                Some((found, key)) => (node, key_span) = (found, key),
                None => return (node, key_span),
            }
        }
        (node, key_span)
    }

    /// How many values it holds, itself included, and how many levels are below it.
    pub(super) fn measure(&self) -> (usize, usize) {
        match &self.data {
            Data::List(items) => items.iter().fold((1, 1), |(n, h), item| {
                let (count, height) = item.measure();
                (n + count, h.max(height + 1))
            }),
            Data::Mapping(entries) => entries.iter().fold((1, 1), |(n, h), (_, item)| {
                let (count, height) = item.measure();
                (n + count, h.max(height + 1))
            }),
            _ => (1, 0),
        }
    }
}
