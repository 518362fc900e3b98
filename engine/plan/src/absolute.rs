//! What the schema of a task marks as a path or a period, made absolute when the flow is planned.

use jiff::Timestamp;
use serde_json::Value;
use swath_task::{PATH_MARK, PERIOD_MARK};

use crate::parameters::schema_at;
use crate::template::{Template, absolute_path, absolute_period};

fn takes_path(schema: &Value) -> bool {
    schema[PATH_MARK] == true
        || ["anyOf", "oneOf"].iter().any(|key| schema[*key].as_array().into_iter().flatten().any(takes_path))
}

/// The words that stand beside a path, as `none` does: what an `enum` next to it lists. A word is no path.
fn words(schema: &Value) -> Vec<String> {
    let branches = ["anyOf", "oneOf"].iter().flat_map(|key| schema[*key].as_array()).flatten();
    let listed = branches.flat_map(|branch| branch["enum"].as_array()).flatten();
    listed.filter_map(Value::as_str).map(str::to_owned).collect()
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
        other if takes_path(schema) => {
            Template::Path { folder: folder.to_owned(), words: words(schema), of: Box::new(other) }
        }
        other if takes_period(schema) => Template::Period { now: now.to_string(), of: Box::new(other) },
        other => other,
    }
}

fn absolute_value(value: Value, schema: &Value, folder: &str, now: Timestamp) -> Value {
    match value {
        Value::String(text) if takes_path(schema) => absolute_path(text, &words(schema), folder),
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use swath_flow::Scope;

    use super::*;

    #[test]
    fn a_word_beside_a_path_stays_a_word() {
        let schema = json!({ "anyOf": [{ "enum": ["none"] }, { "type": "string", (PATH_MARK): true }] });
        let plain = json!({ "type": "string", (PATH_MARK): true });
        let text = |text: &str| Template::Value(json!(text));
        let computed = |text: &str| Template::Expression(format!("'{text}'"));
        for of in [text, computed] {
            for (schema, given, wanted) in [
                (&schema, "none", "none"),
                (&schema, "/any/none", "/any/none"),
                (&schema, "best.pth", "/flows/best.pth"),
                (&schema, "https://a/none", "https://a/none"),
                (&plain, "none", "/flows/none"),
            ] {
                let made = absolute(of(given), schema, "/flows", Timestamp::UNIX_EPOCH);
                assert_eq!(made.evaluate(&Scope::default()).unwrap(), wanted);
            }
        }
    }
}
