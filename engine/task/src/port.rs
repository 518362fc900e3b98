//! Ports: the named, typed ends of a step's edges, read off the schemas of `Inputs` and `Outputs`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Schema keyword that carries the artifact kind of a port.
pub const KIND_MARK: &str = "x-swath-kind";
/// The kind that accepts every artifact.
pub(crate) const ANY_KIND: &str = "artifact.any";

/// What may travel through a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortType {
    /// An artifact of this kind (`artifact.any` for every kind).
    Artifact(String),
    /// A plain JSON value of this schema type: `string`, `integer`, `number`, `boolean`, `array`, `object`, or `any`.
    Value(String),
}

impl PortType {
    /// Whether what leaves a port of type `self` may enter a port of type `other`.
    pub fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Artifact(from), Self::Artifact(to)) => from == to || to == ANY_KIND || from == ANY_KIND,
            (Self::Value(from), Self::Value(to)) => {
                from == to || to == "any" || from == "any" || (from == "integer" && to == "number")
            }
            _ => false,
        }
    }

    /// The name a person reads.
    pub fn name(&self) -> &str {
        match self {
            Self::Artifact(name) | Self::Value(name) => name,
        }
    }
}

/// One input or output of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name, as a flow writes it.
    pub name: String,
    /// What travels through it.
    pub of: PortType,
    /// It carries a list of `of` (`Vec<Artifact<K>>`).
    pub list: bool,
    /// An input that must be connected, an output that is always there.
    pub required: bool,
    /// Its documentation.
    pub about: String,
}

/// The ports of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// What it reads.
    pub inputs: Vec<Port>,
    /// What it makes.
    pub outputs: Vec<Port>,
}

/// Reads ports off the JSON Schema of a struct.
pub(crate) fn ports_of(schema: &Value) -> Vec<Port> {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, property)| {
            let about = property["description"].as_str().unwrap_or_default().to_owned();
            let shape = strip_null(property);
            let (item, list) = match shape.get("items") {
                Some(items) if items.get(KIND_MARK).is_some() => (items, true),
                _ => (shape, false),
            };
            let of = match item.get(KIND_MARK).and_then(Value::as_str) {
                Some(kind) => PortType::Artifact(kind.to_owned()),
                None => PortType::Value(json_type(item)),
            };
            Port { name: name.clone(), of, list, required: required.contains(&name.as_str()), about }
        })
        .collect()
}

/// `Option<T>` is `anyOf: [T, null]`: the `T`.
fn strip_null(schema: &Value) -> &Value {
    let branches = schema["anyOf"].as_array();
    branches.and_then(|all| all.iter().find(|s| s["type"] != "null")).unwrap_or(schema)
}

fn json_type(schema: &Value) -> String {
    match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let mut names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.next().unwrap_or("any").to_owned()
        }
        _ => "any".to_owned(),
    }
}
