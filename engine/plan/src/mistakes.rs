//! What a JSON Schema refuses, told in the words of a flow: which parameter, what it expects, the likely fix.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;
use swath_flow::{did_you_mean, list, nearest};

use crate::parameters::{branches, schema_at, type_of};

/// What is wrong with a parameter.
pub(crate) struct Finding {
    pub code: &'static str,
    pub pointer: String,
    pub on_key: bool,
    pub message: String,
    pub help: Option<String>,
}

impl Finding {
    pub(crate) fn new(code: &'static str, pointer: String, message: String) -> Self {
        Self { code, pointer, on_key: false, message, help: None }
    }

    /// The parameter of the step that is missing, if that is what is wrong.
    pub(crate) fn missing(&self) -> Option<&str> {
        (self.code == "F402").then(|| self.message.rsplit('`').nth(1)).flatten()
    }
}

/// `/bands/2` as a person says it.
pub(crate) fn subject(pointer: &str) -> String {
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

pub(crate) fn either(types: &[String]) -> String {
    let mut names: Vec<&str> = types.iter().filter(|name| *name != "null").map(|name| name_of(name)).collect();
    names.dedup();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        [one, ..] => (*one).to_owned(),
    }
}

/// Tells an error of the validator in the words of a flow.
pub(crate) fn explain(error: &ValidationError<'_>, schema: &Value, task: &str, findings: &mut Vec<Finding>) {
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
            let mut known = names(at);
            known.sort_unstable();
            known.dedup();
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

/// The parameters a schema knows, in any of its forms.
fn names(schema: &Value) -> Vec<&str> {
    let own = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    own.chain(branches(schema).flat_map(names)).collect()
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
    let meant: Vec<&Vec<ValidationError<'static>>> =
        context.iter().filter(|errors| !errors.iter().any(|error| is_wrong_type(error, pointer, got))).collect();
    // An enumeration whose members have a description each is a choice of constants, here or in a field that tells
    // the forms apart.
    let choice = meant.iter().flat_map(|errors| errors.iter()).find(|error| constants(error).is_some());
    let at = choice.map(|error| error.instance_path().as_str().to_owned()).unwrap_or_default();
    let of_choice = |error: &&ValidationError<'static>| error.instance_path().as_str() == at;
    let told: Vec<&Vec<ValidationError<'static>>> = meant
        .iter()
        .copied()
        .filter(|errors| !errors.iter().filter(of_choice).any(|error| constants(error).is_some()))
        .collect();
    if meant.is_empty() {
        let mut allowed = Vec::new();
        context.iter().flatten().for_each(|error| types(error, &mut allowed));
        allowed.dedup();
        let message = format!("{what} expects {}, this is {}", either(&allowed), article(got));
        let help = type_help(&allowed, got);
        findings.push(Finding { help, ..Finding::new("F403", pointer.to_owned(), message) });
    } else if let (Some(choice), true) = (choice, told.is_empty()) {
        let mut options: Vec<String> =
            meant.iter().flat_map(|errors| errors.iter()).filter(of_choice).filter_map(constants).flatten().collect();
        options.dedup();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut push = |code, pointer: String, on_key, message, help| {
            findings.push(Finding { code, pointer, on_key, message, help });
        };
        let what = if at == pointer { what.to_owned() } else { subject(&at) };
        one_of(&mut push, at.clone(), &what, choice.instance(), &options);
    } else if let Some(nearest) = told.iter().min_by_key(|errors| errors.len()) {
        nearest.iter().for_each(|error| explain(error, schema, task, findings));
    }
}

/// Whether a value is of a kind that a form, or each of its own forms, does not take.
fn is_wrong_type(error: &ValidationError<'_>, pointer: &str, got: &Value) -> bool {
    error.instance_path().as_str() == pointer
        && match error.kind() {
            ValidationErrorKind::Type { .. } => true,
            ValidationErrorKind::Constant { expected_value } => type_of(expected_value) != type_of(got),
            ValidationErrorKind::Enum { options } => {
                options.as_array().is_some_and(|all| all.iter().all(|one| type_of(one) != type_of(got)))
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                context.iter().all(|errors| errors.iter().any(|error| is_wrong_type(error, pointer, got)))
            }
            _ => false,
        }
}

/// The texts that an error says would have been right.
fn constants(error: &ValidationError<'_>) -> Option<Vec<String>> {
    match error.kind() {
        ValidationErrorKind::Constant { expected_value } => Some(vec![expected_value.as_str()?.to_owned()]),
        ValidationErrorKind::Enum { options } => {
            Some(options.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let at = error.instance_path().as_str();
            let same = |inner: &&ValidationError<'static>| inner.instance_path().as_str() == at;
            let all: Vec<String> = context.iter().flatten().filter(same).filter_map(constants).flatten().collect();
            (!all.is_empty()).then_some(all)
        }
        _ => None,
    }
}

/// The JSON types that an error says would have been right.
fn types(error: &ValidationError<'_>, allowed: &mut Vec<String>) {
    match error.kind() {
        ValidationErrorKind::Type { kind: TypeKind::Single(one) } => allowed.push(one.as_str().to_owned()),
        ValidationErrorKind::Type { kind: TypeKind::Multiple(many) } => {
            allowed.extend(many.iter().map(|one| one.as_str().to_owned()));
        }
        ValidationErrorKind::Constant { expected_value } => allowed.push(type_of(expected_value).to_owned()),
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            context.iter().flatten().for_each(|error| types(error, allowed));
        }
        _ => {}
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
