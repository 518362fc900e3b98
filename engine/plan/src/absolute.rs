//! What the schema of a task marks as a path or a period, made absolute when the flow is planned.

use jiff::Timestamp;
use serde_json::Value;
use swath_flow::is_remote;
use swath_task::{PATH_MARK, PERIOD_MARK};

use crate::parameters::schema_at;
use crate::template::{Template, absolute_period};

fn takes_path(schema: &Value) -> bool {
    schema[PATH_MARK] == true
        || ["anyOf", "oneOf"].iter().any(|key| schema[*key].as_array().into_iter().flatten().any(takes_path))
}

fn takes_period(schema: &Value) -> bool {
    schema[PERIOD_MARK] == true
}

/// Makes relative paths and periods absolute, where the schema says that a value is one.
pub(crate) fn absolute(template: Template, schema: &Value, folder: &str, now: Timestamp) -> Template {
    match template {
        Template::Value(value) => Template::Value(absolute_value(value, schema, folder, now)),
        Template::List(items) => {
            let at = |index: usize| schema_at(schema, &format!("/{index}")).unwrap_or(&Value::Null);
            Template::List(
                items.into_iter().enumerate().map(|(index, item)| absolute(item, at(index), folder, now)).collect(),
            )
        }
        Template::Mapping(entries) => Template::Mapping(
            entries
                .into_iter()
                .map(|(key, item)| {
                    let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                    let schema = schema_at(schema, &pointer).unwrap_or(&Value::Null);
                    (key, absolute(item, schema, folder, now))
                })
                .collect(),
        ),
        other if takes_path(schema) => Template::Path { folder: folder.to_owned(), of: Box::new(other) },
        other if takes_period(schema) => Template::Period { now: now.to_string(), of: Box::new(other) },
        other => other,
    }
}

fn absolute_value(value: Value, schema: &Value, folder: &str, now: Timestamp) -> Value {
    match value {
        Value::String(text) if !text.is_empty() && !is_remote(&text) && takes_path(schema) => {
            Value::String(swath_flow::absolute(&text, folder.as_ref()))
        }
        Value::String(_) if takes_period(schema) => absolute_period(value, now),
        Value::Array(items) => {
            let at = |index: usize| schema_at(schema, &format!("/{index}")).unwrap_or(&Value::Null);
            Value::Array(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| absolute_value(item, at(index), folder, now))
                    .collect(),
            )
        }
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, item)| {
                    let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                    let item = absolute_value(item, schema_at(schema, &pointer).unwrap_or(&Value::Null), folder, now);
                    (key, item)
                })
                .collect(),
        ),
        other => other,
    }
}
