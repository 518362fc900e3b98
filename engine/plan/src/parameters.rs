//! Parameters of a step against the JSON Schema of its task: paths made absolute, values and types checked, every
//! mistake told at the place in the flow.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use swath_flow::{Node, Span, Yields};
use swath_task::{PERIOD_MARK, Ports, Problem};

use crate::absolute::absolute;
use crate::catalogue::Known;
use crate::mistakes::{Finding, either, explain, subject};
use crate::planner::Planner;
use crate::template::{Template, TextPart};

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
        items: Option<&[Value]>,
    ) -> (Template, Option<Ports>) {
        let folder = self.folder.to_string_lossy().into_owned();
        let template = absolute(template, known.schema(), &folder, self.shared.input.now);
        let (mut findings, ports) = self.judge(known, &template);
        findings.extend(self.first_wrong_item(known, &template, items, &findings));
        for finding in findings {
            let span = match with {
                Some(with) if !finding.pointer.is_empty() && finding.on_key => with.key_span_at(&finding.pointer),
                Some(with) if !finding.pointer.is_empty() => value_span(with, &finding.pointer),
                _ => name_span,
            };
            self.wrong(finding.code, span, finding.message, finding.help);
        }
        (template, ports)
    }

    /// What is wrong with parameters, and the ports they declare.
    pub(crate) fn judge(&self, known: &Known, template: &Template) -> (Vec<Finding>, Option<Ports>) {
        let schema = known.schema();
        let mut holes = Vec::new();
        let value = self.filled(template, schema, "", &mut holes);
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
                findings.push(Finding::new("F503", hole.pointer.clone(), message));
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
            let missing = finding.missing().unwrap_or_default();
            !meant.iter().any(|help| *help == format!("did you mean `{missing}`?"))
        });
        let (problems, ports) = if findings.is_empty() {
            match known.definition.bind(value) {
                Ok(bound) => (Vec::new(), bound.own_ports()),
                Err(problems) => (problems, None),
            }
        } else {
            (own_problems(known, &value, &findings), None)
        };
        for problem in problems {
            let doubtful = |hole: &Hole| {
                problem.at.is_empty() || within(&problem.at, &hole.pointer) || within(&hole.pointer, &problem.at)
            };
            if holes.iter().any(doubtful) {
                continue;
            }
            let message = match problem.at.as_str() {
                "" => format!("`{name}`: {}", problem.message),
                at => format!("{}: {}", subject(at), problem.message),
            };
            findings.push(Finding { help: problem.help, ..Finding::new("F406", problem.at, message) });
        }
        (findings, ports)
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
                stand_in(schema_at(schema, pointer).unwrap_or(&Value::Null), Stand::Likely, 0)
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

pub(crate) fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
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

pub(crate) fn type_of(value: &Value) -> &'static str {
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

/// What the task's own check says of the parameters in which the schema finds nothing.
///
/// The faulty ones are left out, and given two other values of their kind. A problem that comes up each time does not
/// come from them; one that does not may, and is left for when they are mended.
fn own_problems(known: &Known, value: &Value, findings: &[Finding]) -> Vec<Problem> {
    let schema = known.schema();
    let Some(given) = value.as_object() else { return Vec::new() };
    let mut faulty = BTreeSet::new();
    for finding in findings {
        match (finding.pointer.split('/').nth(1), finding.missing()) {
            (Some(first), _) => drop(faulty.insert(first.replace("~1", "/").replace("~0", "~"))),
            (None, Some(missing)) => drop(faulty.insert(missing.to_owned())),
            (None, None) => return Vec::new(),
        }
        if finding.code == "F401"
            && let Some(meant) = finding.help.as_deref().and_then(|help| help.split('`').nth(1))
        {
            faulty.insert(meant.to_owned());
        }
    }
    let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let fill = |stand: Stand| {
        let mut filled = given.clone();
        for name in &faulty {
            match schema["properties"].get(name) {
                Some(schema) if required(name) || !matches!(stand, Stand::Likely) => {
                    filled.insert(name.clone(), stand_in(schema, stand, 0));
                }
                _ => drop(filled.remove(name)),
            }
        }
        known.definition.bind(Value::Object(filled)).err().unwrap_or_default()
    };
    let mut problems = fill(Stand::Likely);
    // Names that the task does not know have no part in its check.
    let mut sound = !faulty.iter().any(|name| schema["properties"].get(name).is_some());
    for others in [fill(Stand::Least), fill(Stand::Greatest)] {
        // A value of the right kind may still be none that the task can read.
        let of_filling = |problem: &Problem| {
            let first = problem.at.split('/').nth(1).unwrap_or_default();
            (first.is_empty() || faulty.contains(first)) && !problems.contains(problem)
        };
        if !others.iter().any(of_filling) {
            sound = true;
            problems.retain(|problem| others.contains(problem));
        }
    }
    problems.retain(|problem| sound && !faulty.contains(problem.at.split('/').nth(1).unwrap_or_default()));
    problems
}

/// What stands in for a value.
#[derive(Clone, Copy)]
enum Stand {
    /// The default or an example.
    Likely,
    /// The least that fits, the first of a choice.
    Least,
    /// The greatest that fits, the last of a choice.
    Greatest,
}

/// Some value that fits a schema: stands in for what is computed later, or is faulty.
fn stand_in(schema: &Value, stand: Stand, depth: usize) -> Value {
    if depth > 8 {
        return Value::Null;
    }
    let (likely, greatest) = (matches!(stand, Stand::Likely), matches!(stand, Stand::Greatest));
    let end = |list: &Value| {
        let list = list.as_array()?;
        if greatest { list.last().cloned() } else { list.first().cloned() }
    };
    let default = schema.get("default").filter(|_| likely).cloned();
    if let Some(value) = default
        .or_else(|| end(&schema["examples"]))
        .or_else(|| end(&schema["enum"]))
        .or_else(|| schema.get("const").cloned())
    {
        return value;
    }
    if schema["format"] == "aoi" {
        return if greatest { json!([-180.0, -90.0, 180.0, 90.0]) } else { json!([0.0, 0.0, 1.0, 1.0]) };
    }
    if schema[PERIOD_MARK] == true {
        return json!(if greatest { "1900-01-01/2100-01-01" } else { "2024-01-01/2024-02-01" });
    }
    let kind = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null"),
        _ => {
            let mut fitting = branches(schema).filter(|branch| branch["type"] != "null");
            let branch = if greatest { fitting.last() } else { fitting.next() };
            match branch {
                Some(branch) => return stand_in(branch, stand, depth + 1),
                None => "string",
            }
        }
    };
    match kind {
        "integer" | "number" => {
            let step = if kind == "integer" { 1.0 } else { 1e-3 };
            let bound = |bound: &str, exclusive: &str, step: f64| {
                schema[bound].as_f64().or_else(|| schema[exclusive].as_f64().map(|number| number + step))
            };
            let least = bound("minimum", "exclusiveMinimum", if likely { 1.0 } else { step });
            let most = bound("maximum", "exclusiveMaximum", -step);
            let number = match greatest {
                true => most.unwrap_or_else(|| least.unwrap_or(0.0).max(0.0) + 1e6),
                false => least.unwrap_or(1.0).min(most.unwrap_or(f64::MAX)),
            };
            if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
        }
        "boolean" => json!(greatest),
        "array" => {
            let least = schema["minItems"].as_u64().unwrap_or(0);
            let count = if likely { least } else { least.max(1) }.min(16);
            Value::Array((0..count).map(|_| stand_in(&schema["items"], stand, depth + 1)).collect())
        }
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(
                required
                    .map(|name| (name.to_owned(), stand_in(&schema["properties"][name], stand, depth + 1)))
                    .collect(),
            )
        }
        "null" => Value::Null,
        _ => json!(if greatest { "other" } else { "value" }),
    }
}
