//! The JSON Schema of a flow, with every task's parameters and documentation: editors complete and check with it.

use serde_json::{Map, Value, json};
use swath_flow::TYPES;

use crate::Catalogue;

/// JSON Schema (2020-12) of a flow.
pub fn flow_schema(catalogue: &Catalogue) -> Value {
    let mut cases = Vec::new();
    for known in catalogue.tasks() {
        let ports = known.ports();
        let mut schema = with_references(known.schema().clone());
        if let Value::Object(object) = &mut schema {
            object.remove("$schema");
            object.remove("title");
        }
        let required_params = known.schema()["required"].as_array().is_some_and(|names| !names.is_empty());
        let mut then = json!({ "properties": { "with": schema } });
        let mut required = Vec::new();
        if required_params {
            required.push("with");
        }
        if !ports.inputs.is_empty() {
            let edges: Map<String, Value> = ports
                .inputs
                .iter()
                .map(|port| {
                    let about =
                        format!("{} ({}{})", port.about, port.of.name(), if port.list { ", a list" } else { "" });
                    (port.name.clone(), json!({ "description": about.trim(), "$ref": "#/$defs/edge" }))
                })
                .collect();
            let names: Vec<&str> =
                ports.inputs.iter().filter(|port| port.required).map(|port| port.name.as_str()).collect();
            then["properties"]["in"] =
                json!({ "type": "object", "properties": edges, "required": names, "additionalProperties": false });
            if !names.is_empty() {
                required.push("in");
            }
        }
        if !required.is_empty() {
            then["required"] = json!(required);
        }
        cases.push(json!({ "if": { "properties": { "task": { "const": known.definition.name } }, "required": ["task"] }, "then": then }));
    }
    let tasks: Vec<Value> = catalogue
        .tasks()
        .map(|known| json!({ "const": known.definition.name, "description": known.schema()["description"] }))
        .collect();
    let mut deployment = swath_schedule::DeploymentSpec::schema();
    if let Value::Object(object) = &mut deployment {
        object.remove("$schema");
        object.remove("title");
    }
    let types: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    let name = json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$" });
    let duration = json!({ "type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*(ms|s|sec|m|min|h|d)\s*)+$", "examples": ["60s", "5m", "1h30m"] });
    let settings = json!({
        "retry": { "$ref": "#/$defs/retry", "description": "When and how often a failed attempt is tried again." },
        "timeout": { "$ref": "#/$defs/duration", "description": "Longest time of an attempt." },
        "cache": { "$ref": "#/$defs/cache", "description": "Whether results are reused." },
        "needs": { "$ref": "#/$defs/needs", "description": "Slots an attempt holds while it runs." },
        "isolate": { "enum": ["process", "none"], "description": "Whether an attempt runs in a process of its own." },
        "on_failure": { "enum": ["stop", "collect", "continue"], "description": "What a failure means for the rest of the run." },
        "tolerate": {
            "description": "How many instances of a lifted step may fail: a count, or a share such as 5%.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$" }],
        },
    });
    let mut step = json!({
        "task": { "description": "The task to run.", "anyOf": tasks },
        "flow": { "type": "string", "description": "Path of a flow to run as a step, relative to this one." },
        "about": { "type": "string", "description": "What the step is for." },
        "in": { "type": "object", "description": "Edges: input to STEP.OUTPUT.", "additionalProperties": { "$ref": "#/$defs/edge" } },
        "with": { "type": "object", "description": "Parameters." },
        "each": { "description": "A list to lift the step over; its outputs become lists.", "anyOf": [{ "type": "string" }, { "type": "array" }] },
        "when": { "description": "A condition; false: the step is skipped.", "type": ["string", "boolean"] },
        "after": { "description": "Steps that must have ended before.", "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
    });
    if let (Value::Object(step), Value::Object(settings)) = (&mut step, settings.clone()) {
        step.extend(settings);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Swath flow",
        "type": "object",
        "required": ["flow", "steps"],
        "additionalProperties": false,
        "properties": {
            "flow": { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,63}$", "description": "Name of the flow." },
            "about": { "type": "string", "description": "What it does." },
            "params": { "type": "object", "description": "Parameters of the flow.", "propertyNames": name, "additionalProperties": { "$ref": "#/$defs/parameter" } },
            "defaults": { "type": "object", "description": "Settings of all steps that do not say otherwise.", "properties": settings, "additionalProperties": false },
            "deployment": deployment,
            "steps": { "type": "object", "minProperties": 1, "propertyNames": name, "additionalProperties": { "$ref": "#/$defs/step" } },
            "outputs": { "type": "object", "description": "What the flow yields.", "propertyNames": name },
        },
        "$defs": {
            "parameter": {
                "type": "object",
                "required": ["type"],
                "additionalProperties": false,
                "properties": {
                    "type": { "enum": types },
                    "default": { "description": "Value when none is given." },
                    "about": { "type": "string" },
                    "required": { "type": "boolean" },
                    "min": { "type": "number" },
                    "max": { "type": "number" },
                    "values": { "type": "array", "items": { "type": ["string", "number"] } },
                },
            },
            "step": {
                "type": "object",
                "properties": step,
                "additionalProperties": false,
                "oneOf": [{ "required": ["task"] }, { "required": ["flow"] }],
                "dependentSchemas": { "flow": { "properties": { "needs": false, "isolate": false } } },
                "allOf": cases,
            },
            "edge": {
                "anyOf": [
                    { "type": "string", "pattern": r"^(item|[A-Za-z_]\w*\.[A-Za-z_]\w*)$" },
                    { "type": "array", "items": { "type": "string", "pattern": r"^(item|[A-Za-z_]\w*\.[A-Za-z_]\w*)$" } },
                ],
            },
            "duration": duration,
            "retry": {
                "anyOf": [
                    { "type": "integer", "minimum": 0, "maximum": 100 },
                    {
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "times": { "type": "integer", "minimum": 0, "maximum": 100 },
                            "wait": { "$ref": "#/$defs/duration" },
                            "max_wait": { "$ref": "#/$defs/duration" },
                            "backoff": { "enum": ["fixed", "exponential"] },
                            "jitter": { "type": "number", "minimum": 0, "maximum": 1 },
                            "on": { "type": "array", "items": { "enum": ["transient", "timeout", "lost", "permanent"] } },
                        },
                    },
                ],
            },
            "cache": {
                "anyOf": [
                    { "enum": ["on", "off", "refresh"] },
                    { "type": "object", "properties": { "ttl": { "$ref": "#/$defs/duration" } }, "required": ["ttl"], "additionalProperties": false },
                ],
            },
            "needs": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "cpu": { "type": "number", "minimum": 0 },
                    "memory": { "type": ["string", "integer"], "examples": ["2 GiB"] },
                    "gpu": { "type": "number", "minimum": 0 },
                    "limits": { "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } },
                },
            },
        },
    })
}

/// Wherever a parameter takes a value, it also takes `$name` and `${ ... }`.
fn with_references(schema: Value) -> Value {
    let Value::Object(mut object) = schema else { return schema };
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (_, property) in properties.iter_mut() {
            let about = property.get("description").cloned();
            let inner = with_references(property.take());
            let reference = json!({ "type": "string", "pattern": r"^\$|\$\{" });
            *property = json!({ "anyOf": [inner, reference] });
            if let Some(about) = about {
                property["description"] = about;
            }
        }
    }
    if let Some(items) = object.get_mut("items").filter(|items| items.is_object()) {
        let inner = with_references(items.take());
        *items = json!({ "anyOf": [inner, { "type": "string", "pattern": r"^\$|\$\{" }] });
    }
    Value::Object(object)
}
