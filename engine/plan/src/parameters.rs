//! Parameters of a step against the JSON Schema of its task: paths made absolute, values and types checked, every
//! mistake told at the place in the flow.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value, json};
use swath_flow::{Node, Span, Yields, did_you_mean, list, nearest};

use crate::absolute::absolute;
use crate::catalogue::Known;
use crate::planner::Planner;
use crate::template::{Template, TextPart};

/// What is wrong with a parameter.
struct Finding {
    code: &'static str,
    pointer: String,
    on_key: bool,
    message: String,
    help: Option<String>,
}

/// A part that is computed later: where it is, and what it yields.
struct Hole {
    pointer: String,
    yields: Yields,
}

impl Planner<'_> {
    /// Checks the parameters of a task. Returns them with paths made absolute, and the ports that parameters declare.
    pub(crate) fn task_params(
        &mut self,
        known: &Known,
        name_span: Span,
        with: Option<&Node>,
        template: Template,
    ) -> (Template, Option<swath_task::Ports>) {
        let schema = known.schema();
        let folder = self.folder.to_string_lossy().into_owned();
        let template = absolute(template, schema, &folder, self.shared.input.now);
        let mut holes = Vec::new();
        let value = self.filled(&template, schema, "", &mut holes);
        let place = |finding: &Finding| match with {
            Some(with) if !finding.pointer.is_empty() && finding.on_key => with.key_span_at(&finding.pointer),
            Some(with) if !finding.pointer.is_empty() => value_span(with, &finding.pointer),
            _ => name_span,
        };
        let mut findings = Vec::new();
        let name = known.definition.name;
        for hole in &holes {
            if let Some(allowed) = allowed_types(schema_at(schema, &hole.pointer))
                && !fits(hole.yields, &allowed)
            {
                let message = format!(
                    "{} expects {}, this yields {}",
                    subject(&hole.pointer),
                    either(&allowed),
                    hole.yields.name()
                );
                findings.push(Finding {
                    code: "F503",
                    pointer: hole.pointer.clone(),
                    on_key: false,
                    message,
                    help: None,
                });
            }
        }
        if let Some(validator) = known.validator() {
            for error in validator.iter_errors(&value) {
                explain(&error, schema, name, &mut findings);
            }
        }
        findings.retain(|finding| {
            let computed = |hole: &Hole| within(&finding.pointer, &hole.pointer);
            // What stands in for a value that is not known yet is not the user's mistake.
            finding.code == "F503" || !holes.iter().any(computed)
        });
        // A misspelt name is one mistake, not also a missing parameter.
        let meant: Vec<String> =
            findings.iter().filter(|one| one.code == "F401").filter_map(|one| one.help.clone()).collect();
        findings.retain(|finding| {
            let missing = finding.message.rsplit('`').nth(1).unwrap_or_default();
            finding.code != "F402" || !meant.iter().any(|help| *help == format!("did you mean `{missing}`?"))
        });
        let sound = findings.is_empty();
        let mut ports = None;
        if sound {
            match known.definition.bind(value) {
                Ok(bound) => ports = bound.own_ports(),
                Err(problems) => {
                    for problem in problems {
                        let doubtful = |hole: &Hole| {
                            problem.at.is_empty()
                                || within(&problem.at, &hole.pointer)
                                || within(&hole.pointer, &problem.at)
                        };
                        if holes.iter().any(doubtful) {
                            continue;
                        }
                        let message = match problem.at.as_str() {
                            "" => format!("`{name}`: {}", problem.message),
                            at => format!("{}: {}", subject(at), problem.message),
                        };
                        findings.push(Finding {
                            code: "F406",
                            pointer: problem.at,
                            on_key: false,
                            message,
                            help: problem.help,
                        });
                    }
                }
            }
        }
        for finding in findings {
            let span = place(&finding);
            self.wrong(finding.code, span, finding.message, finding.help);
        }
        (template, ports)
    }

    /// The value as far as it is known; what is not is stood in for, and listed.
    fn filled(&self, template: &Template, schema: &Value, pointer: &str, holes: &mut Vec<Hole>) -> Value {
        match template {
            Template::Value(value) => value.clone(),
            Template::List(items) => {
                let items = items.iter().enumerate();
                Value::Array(
                    items.map(|(at, item)| self.filled(item, schema, &format!("{pointer}/{at}"), holes)).collect(),
                )
            }
            Template::Mapping(entries) => {
                let entries = entries.iter().map(|(key, item)| {
                    let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                    (key.clone(), self.filled(item, schema, &pointer, holes))
                });
                Value::Object(entries.collect::<Map<_, _>>())
            }
            Template::Text(parts) => {
                holes.push(Hole { pointer: pointer.to_owned(), yields: self.yields(template) });
                // What is written around the computed parts counts: `{outputs.text}` in a command is a use of it.
                let known = parts.iter().map(|part| match part {
                    TextPart::Text(text) => text.as_str(),
                    TextPart::Expression(_) => "1",
                });
                Value::String(known.collect())
            }
            other => {
                holes.push(Hole { pointer: pointer.to_owned(), yields: self.yields(other) });
                stand_in(schema_at(schema, pointer).unwrap_or(&Value::Null), 0)
            }
        }
    }
}

/// Whether `pointer` is `outer` or lies in it.
fn within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A block mapping or list is pointed at by its key.
fn value_span(with: &Node, pointer: &str) -> Span {
    let span = with.span_at(pointer);
    let key = with.key_span_at(pointer);
    if span.end - span.start > 100 { key } else { span }
}

/// `/bands/2` as a person says it.
fn subject(pointer: &str) -> String {
    let mut name = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
            name.push_str(&format!("[{part}]"));
        } else {
            name.push_str(if name.is_empty() { "" } else { "." });
            name.push_str(&part);
        }
    }
    format!("`{name}`")
}

fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten()
}

/// The schema of what a pointer leads to.
pub(crate) fn schema_at<'s>(schema: &'s Value, pointer: &str) -> Option<&'s Value> {
    let Some((part, rest)) = pointer
        .strip_prefix('/')
        .map(|rest| rest.split_once('/').map_or((rest, String::new()), |(a, b)| (a, format!("/{b}"))))
    else {
        return Some(schema);
    };
    let part = part.replace("~1", "/").replace("~0", "~");
    let mut next: Vec<&Value> = Vec::new();
    next.extend(schema["properties"].get(&part));
    if next.is_empty() && schema["additionalProperties"].is_object() {
        next.push(&schema["additionalProperties"]);
    }
    if part.bytes().all(|b| b.is_ascii_digit()) && schema["items"].is_object() {
        next.push(&schema["items"]);
    }
    next.into_iter()
        .find_map(|schema| schema_at(schema, &rest))
        .or_else(|| branches(schema).find_map(|branch| schema_at(branch, pointer)))
}

/// The names of the JSON types a schema allows; `None` when it allows all or cannot be told.
fn allowed_types(schema: Option<&Value>) -> Option<Vec<String>> {
    let schema = schema?;
    match &schema["type"] {
        Value::String(name) => return Some(vec![name.clone()]),
        Value::Array(names) => return Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => {}
    }
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.iter().map(|value| type_of(value).to_owned()).collect());
    }
    if schema.get("const").is_some() {
        return Some(vec![type_of(&schema["const"]).to_owned()]);
    }
    let choices: Vec<&Value> =
        ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten().collect();
    if choices.is_empty() {
        return None;
    }
    let mut all = Vec::new();
    for choice in choices {
        all.extend(allowed_types(Some(choice))?);
    }
    all.dedup();
    Some(all)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(yields: Yields, allowed: &[String]) -> bool {
    let any = |names: &[&str]| allowed.iter().any(|name| names.contains(&name.as_str()));
    match yields {
        Yields::Unknown => true,
        Yields::Text => any(&["string"]),
        Yields::Integer => any(&["integer", "number"]),
        // A number may be whole; whether it is shows when it is computed.
        Yields::Number => any(&["number", "integer"]),
        Yields::Boolean => any(&["boolean"]),
        Yields::List => any(&["array"]),
        Yields::Mapping => any(&["object"]),
    }
}

fn name_of(json_type: &str) -> &'static str {
    match json_type {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "a boolean",
        "array" => "a list",
        "object" => "a mapping",
        _ => "nothing",
    }
}

fn either(types: &[String]) -> String {
    let mut names: Vec<&str> = types.iter().filter(|name| *name != "null").map(|name| name_of(name)).collect();
    names.dedup();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        [one, ..] => (*one).to_owned(),
    }
}

/// Some value that fits a schema: stands in for what is computed later.
fn stand_in(schema: &Value, depth: usize) -> Value {
    if depth > 8 {
        return Value::Null;
    }
    if let Some(value) = schema
        .get("default")
        .or_else(|| schema["examples"].get(0))
        .or_else(|| schema["enum"].get(0))
        .or_else(|| schema.get("const"))
    {
        return value.clone();
    }
    let kind = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null"),
        _ => match branches(schema).find(|branch| branch["type"] != "null") {
            Some(branch) => return stand_in(branch, depth + 1),
            None => "string",
        },
    };
    match kind {
        "integer" | "number" => {
            let least =
                schema["minimum"].as_f64().or_else(|| schema["exclusiveMinimum"].as_f64().map(|number| number + 1.0));
            let number = least.unwrap_or(1.0).min(schema["maximum"].as_f64().unwrap_or(f64::MAX));
            if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
        }
        "boolean" => json!(false),
        "array" => {
            let count = schema["minItems"].as_u64().unwrap_or(0).min(16);
            Value::Array((0..count).map(|_| stand_in(&schema["items"], depth + 1)).collect())
        }
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(
                required.map(|name| (name.to_owned(), stand_in(&schema["properties"][name], depth + 1))).collect(),
            )
        }
        "null" => Value::Null,
        _ => json!("value"),
    }
}

/// Tells an error of the validator in the words of a flow.
fn explain(error: &ValidationError<'_>, schema: &Value, task: &str, findings: &mut Vec<Finding>) {
    let pointer = error.instance_path().as_str().to_owned();
    let got = error.instance();
    let what = if pointer.is_empty() { format!("`{task}`") } else { subject(&pointer) };
    let mut push = |code, pointer: String, on_key, message, help| {
        findings.push(Finding { code, pointer, on_key, message, help });
    };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let at = schema_at(schema, &pointer).unwrap_or(schema);
            let mut known: Vec<&str> =
                at["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            known.sort_unstable();
            for name in unexpected {
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None if known.is_empty() => Some("it has no parameters".to_owned()),
                    None => Some(format!("its parameters are {}", list(&known))),
                };
                let at = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                push("F401", at, true, format!("{what} has no parameter `{name}`"), help);
            }
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let about = schema_at(schema, &format!("{pointer}/{name}")).and_then(|one| one["description"].as_str());
            let help = match about {
                Some(about) => format!("add it to `with`. {}", first_sentence(about)),
                None => "add it to `with`".to_owned(),
            };
            push("F402", pointer, false, format!("{what} needs the parameter `{name}`"), Some(help));
        }
        ValidationErrorKind::Type { kind } => {
            let allowed: Vec<String> = match kind {
                TypeKind::Single(one) => vec![one.as_str().to_owned()],
                TypeKind::Multiple(many) => many.iter().map(|one| one.as_str().to_owned()).collect(),
            };
            push(
                "F403",
                pointer,
                false,
                format!("{what} expects {}, this is {}", either(&allowed), article(got)),
                type_help(&allowed, got),
            );
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<String> = options.as_array().into_iter().flatten().map(swath_flow::as_text).collect();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            one_of(&mut push, pointer, &what, got, &options);
        }
        ValidationErrorKind::Constant { expected_value } => {
            push("F404", pointer, false, format!("{what} can only be `{}`", swath_flow::as_text(expected_value)), None);
        }
        ValidationErrorKind::Minimum { limit } => {
            push("F405", pointer, false, format!("{what} is at least {limit}, got {got}"), None)
        }
        ValidationErrorKind::Maximum { limit } => {
            push("F405", pointer, false, format!("{what} is at most {limit}, got {got}"), None)
        }
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            push("F405", pointer, false, format!("{what} is above {limit}, got {got}"), None)
        }
        ValidationErrorKind::ExclusiveMaximum { limit } => {
            push("F405", pointer, false, format!("{what} is below {limit}, got {got}"), None)
        }
        ValidationErrorKind::MinItems { limit } => {
            push("F405", pointer, false, format!("{what} has at least {limit} members"), None)
        }
        ValidationErrorKind::MaxItems { limit } => {
            push("F405", pointer, false, format!("{what} has at most {limit} members"), None)
        }
        ValidationErrorKind::MinLength { limit: 1 } => push("F405", pointer, false, format!("{what} is empty"), None),
        ValidationErrorKind::MinLength { limit } => {
            push("F405", pointer, false, format!("{what} has at least {limit} characters"), None)
        }
        ValidationErrorKind::MaxLength { limit } => {
            push("F405", pointer, false, format!("{what} has at most {limit} characters"), None)
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            choose(context, &pointer, schema, task, &what, got, findings);
        }
        ValidationErrorKind::Pattern { pattern } => {
            let at = schema_at(schema, &pointer);
            let examples = at.and_then(|at| at["examples"].as_array()).into_iter().flatten().filter_map(Value::as_str);
            let examples: Vec<&str> = examples.collect();
            let help = if examples.is_empty() {
                format!("it must match `{pattern}`")
            } else {
                format!("write it like {}", list(&examples))
            };
            push("F407", pointer, false, format!("{what} cannot be `{}`", short(got)), Some(help));
        }
        _ => {
            let text = error.to_string();
            let text = text.chars().take(160).collect::<String>();
            push("F407", pointer, false, format!("{what}: {text}"), None);
        }
    }
}

type Push<'p> = dyn FnMut(&'static str, String, bool, String, Option<String>) + 'p;

fn one_of(push: &mut Push<'_>, pointer: String, what: &str, got: &Value, options: &[&str]) {
    let text = short(got);
    // A number is not a misspelt one.
    let help = match got {
        Value::Number(_) => Some(format!("it is one of: {}", list(options))),
        _ => did_you_mean(&text, options, "it is one of"),
    };
    push("F404", pointer, false, format!("{what} cannot be `{text}`"), help);
}

/// Of several forms a value may have, the one that was meant: told as if it were the only one.
fn choose(
    context: &[Vec<ValidationError<'static>>],
    pointer: &str,
    schema: &Value,
    task: &str,
    what: &str,
    got: &Value,
    findings: &mut Vec<Finding>,
) {
    let wrong_type = |error: &ValidationError<'_>| {
        matches!(error.kind(), ValidationErrorKind::Type { .. }) && error.instance_path().as_str() == pointer
    };
    let meant: Vec<&Vec<ValidationError<'static>>> =
        context.iter().filter(|errors| !errors.iter().any(wrong_type)).collect();
    // An enumeration whose members have a description each is a choice of constants.
    let mut constants = Vec::new();
    for error in meant.iter().flat_map(|errors| errors.iter()) {
        match error.kind() {
            ValidationErrorKind::Constant { expected_value } => {
                constants.extend(expected_value.as_str().map(str::to_owned))
            }
            ValidationErrorKind::Enum { options } => {
                constants.extend(options.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    let mut push = |code, pointer: String, on_key, message, help| {
        findings.push(Finding { code, pointer, on_key, message, help });
    };
    match meant.as_slice() {
        [] => {
            let mut allowed: Vec<String> = Vec::new();
            for error in context.iter().flatten() {
                if let ValidationErrorKind::Type { kind } = error.kind() {
                    match kind {
                        TypeKind::Single(one) => allowed.push(one.as_str().to_owned()),
                        TypeKind::Multiple(many) => allowed.extend(many.iter().map(|one| one.as_str().to_owned())),
                    }
                }
            }
            allowed.dedup();
            push(
                "F403",
                pointer.to_owned(),
                false,
                format!("{what} expects {}, this is {}", either(&allowed), article(got)),
                type_help(&allowed, got),
            );
        }
        _ if !constants.is_empty() => {
            let options: Vec<&str> = constants.iter().map(String::as_str).collect();
            one_of(&mut push, pointer.to_owned(), what, got, &options);
        }
        [errors, ..] => errors.iter().for_each(|error| explain(error, schema, task, findings)),
    }
}

fn short(value: &Value) -> String {
    swath_flow::as_text(value).chars().take(60).collect()
}

fn article(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string `{}`", text.chars().take(40).collect::<String>()),
        Value::Number(number) => format!("the number {number}"),
        Value::Bool(value) => format!("`{value}`"),
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

fn type_help(allowed: &[String], got: &Value) -> Option<String> {
    let allows = |name: &str| allowed.iter().any(|one| one == name);
    match got {
        Value::String(text) if (allows("number") || allows("integer")) && text.parse::<f64>().is_ok() => {
            Some(format!("take the quotes away: `{text}`"))
        }
        Value::String(text)
            if allows("boolean") && ["yes", "no", "on", "off"].contains(&text.to_lowercase().as_str()) =>
        {
            Some("booleans are `true` and `false`".to_owned())
        }
        Value::Number(_) | Value::Bool(_) if allows("string") => Some("put quotes around it".to_owned()),
        Value::Number(number) if allows("integer") && number.is_f64() => Some("it is a whole number".to_owned()),
        Value::String(_) | Value::Number(_) if allows("array") => Some("put it into a list: `[...]`".to_owned()),
        _ => None,
    }
}

fn first_sentence(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let end = line.find(". ").map_or(line.len(), |at| at + 1);
    line[..end].trim_end_matches('.').to_owned()
}
