//! Parameters of a flow: their types, and the values users give them in YAML or on the command line.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::nearest::{list, nearest};
use crate::period::resolve_period;
use crate::{Node, Span, Spanned};

/// Types of parameters, as a flow writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterType {
    /// Any text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// One of `values`.
    Enum,
    /// A day, `2024-06-30`.
    Date,
    /// An ISO 8601 interval, also relative: resolved to two instants.
    Period,
    /// West, south, east, north in degrees.
    Bbox,
    /// An area: a bbox or the path of a GeoJSON file.
    Aoi,
    /// A path on this machine.
    Path,
    /// An address, or a path on this machine.
    Uri,
    /// A model folder.
    Model,
    /// The name of an environment variable that holds a secret. The secret itself never enters a flow.
    Secret,
}

/// Every type and the name it is written by.
pub const TYPES: &[(&str, ParameterType)] = &[
    ("string", ParameterType::String),
    ("integer", ParameterType::Integer),
    ("number", ParameterType::Number),
    ("boolean", ParameterType::Boolean),
    ("enum", ParameterType::Enum),
    ("date", ParameterType::Date),
    ("period", ParameterType::Period),
    ("bbox", ParameterType::Bbox),
    ("aoi", ParameterType::Aoi),
    ("path", ParameterType::Path),
    ("uri", ParameterType::Uri),
    ("model", ParameterType::Model),
    ("secret", ParameterType::Secret),
];

impl ParameterType {
    /// The name a flow writes.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, of)| *of == self).map_or("string", |(name, _)| *name)
    }
}

/// What a parameter may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterSpec {
    /// Its name.
    pub name: String,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Its type.
    #[serde(rename = "type")]
    pub of: ParameterType,
    /// It must be given: it has no default, and was not declared `required: false`.
    pub required: bool,
    /// Least value of an integer or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value of an integer or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The values of an enum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A parameter as a flow declares it.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// What it may be.
    pub spec: ParameterSpec,
    /// Where its name was written.
    pub span: Span,
    /// Its default as it was written.
    pub default: Option<Node>,
    /// The values of an enum with their places.
    pub values: Vec<Spanned<String>>,
}

/// What a value is read in: nothing is asked of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Relative paths are relative to this folder.
    pub folder: &'a Path,
    /// What `now` means.
    pub now: Timestamp,
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong with it, to be read after `the parameter ... `.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

fn refuse(message: impl Into<String>, help: impl Into<Option<&'static str>>) -> Refusal {
    Refusal { message: message.into(), help: help.into().map(str::to_owned) }
}

impl ParameterSpec {
    /// Reads a value that has a type already: from YAML, JSON or another flow.
    pub fn read(&self, value: &Value, around: Surroundings<'_>) -> Result<Value, Refusal> {
        let expects = |what: &str| Err(refuse(format!("expects {what}, this is {}", kind(value)), None));
        match self.of {
            ParameterType::String => match value {
                Value::String(_) => Ok(value.clone()),
                _ => Err(refuse(format!("expects a string, this is {}", kind(value)), "put quotes around it")),
            },
            ParameterType::Integer => match value.as_i64().or_else(|| whole(value)) {
                Some(number) => self.within(number as f64).map(|()| number.into()),
                None if value.is_u64() => Err(refuse(format!("is at most {}, got {value}", i64::MAX), None)),
                None => expects("an integer"),
            },
            ParameterType::Number => match value.as_f64() {
                // Always a floating-point number: expressions do not mix them with integers.
                Some(number) => self.within(number).map(|()| number.into()),
                None => expects("a number"),
            },
            ParameterType::Boolean => match value {
                Value::Bool(_) => Ok(value.clone()),
                Value::String(text) if ["yes", "no", "on", "off"].contains(&text.to_lowercase().as_str()) => {
                    Err(refuse(format!("expects a boolean, `{text}` is a string"), "booleans are `true` and `false`"))
                }
                _ => expects("a boolean"),
            },
            ParameterType::Enum => self.one_of(value),
            ParameterType::Date => match value.as_str().map(|text| text.parse::<jiff::civil::Date>()) {
                Some(Ok(day)) => Ok(day.to_string().into()),
                Some(Err(_)) => Err(refuse(
                    format!("expects a day, {} is none of the calendar", show(value)),
                    "write it `2024-06-30`",
                )),
                None => expects("a day like `2024-06-30`"),
            },
            ParameterType::Period => match value {
                Value::String(text) => resolve_period(text, around.now).map(Value::String).map_err(|reason| Refusal {
                    message: format!("expects a period: {reason}"),
                    help: Some("write it `2024-01-01/2024-06-30`, `2024-06`, `P90D/now` or `../2024-06-30`".to_owned()),
                }),
                _ => expects("a period like `2024-01-01/2024-06-30`"),
            },
            ParameterType::Bbox => read_box(value),
            ParameterType::Aoi => match value {
                Value::String(text) if is_like_box(text) => Err(no_box(text, true)),
                Value::String(text) if !text.is_empty() => Ok(absolute(text, around.folder).into()),
                Value::Array(_) => read_box(value),
                _ => expects("an area: `[west, south, east, north]` or the path of a GeoJSON file"),
            },
            ParameterType::Path | ParameterType::Model => match value {
                Value::String(text) if text.is_empty() => Err(refuse("expects a path, this is empty", None)),
                Value::String(text) if is_remote(text) => Err(refuse(
                    format!("expects a path on this machine, `{}` is an address", brief(text)),
                    "a parameter of type `uri` takes both",
                )),
                Value::String(text) => Ok(absolute(text, around.folder).into()),
                _ => expects("a path"),
            },
            ParameterType::Uri => match value {
                Value::String(text) if is_remote(text) => Ok(value.clone()),
                Value::String(text) if !text.is_empty() => Ok(absolute(text, around.folder).into()),
                _ => expects("an address or a path"),
            },
            ParameterType::Secret => match value {
                Value::String(name) if is_variable(name) => Ok(value.clone()),
                _ => Err(refuse(
                    "expects the name of an environment variable in capitals, not the secret itself",
                    "put the secret into an environment variable and give its name, `PC_SUBSCRIPTION_KEY` for example",
                )),
            },
        }
    }

    /// Reads a value given as text: `-p name=value`.
    pub fn read_text(&self, text: &str, around: Surroundings<'_>) -> Result<Value, Refusal> {
        let value = match self.of {
            ParameterType::Integer => text.trim().parse::<i64>().map(Value::from).ok(),
            ParameterType::Number => {
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                text.trim().parse::<i64>().map(Value::from).ok().or(number.map(Value::from))
            }
            ParameterType::Boolean => match text.trim().to_lowercase().as_str() {
                "true" => Some(true.into()),
                "false" => Some(false.into()),
                _ => None,
            },
            ParameterType::Bbox => numbers(text),
            ParameterType::Aoi => Some(numbers(text).unwrap_or_else(|| text.into())),
            ParameterType::Secret if !is_variable(text) => None,
            _ => Some(text.into()),
        };
        match value {
            Some(value) => self.read(&value, around),
            None if self.of == ParameterType::Secret => self.read(&Value::Null, around),
            None if self.of == ParameterType::Boolean => {
                Err(refuse(format!("expects `true` or `false`, got `{}`", brief(text)), None))
            }
            None if self.of == ParameterType::Bbox => Err(no_box(text, false)),
            None => {
                let article = if self.of == ParameterType::Integer { "an" } else { "a" };
                Err(refuse(format!("expects {article} {}, got `{}`", self.of.name(), brief(text)), None))
            }
        }
    }

    fn within(&self, number: f64) -> Result<(), Refusal> {
        match (self.min, self.max) {
            (Some(min), _) if number < min => Err(refuse(format!("is at least {min}, got {number}"), None)),
            (_, Some(max)) if number > max => Err(refuse(format!("is at most {max}, got {number}"), None)),
            _ => Ok(()),
        }
    }

    fn one_of(&self, value: &Value) -> Result<Value, Refusal> {
        let names: Vec<&str> = self.values.iter().map(String::as_str).collect();
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(refuse(format!("expects one of {}, this is {}", list(&names), kind(value)), None)),
        };
        if names.contains(&text.as_str()) {
            return Ok(Value::String(text));
        }
        let help = nearest(&text, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        Err(Refusal { message: format!("expects one of {}, got `{}`", list(&names), brief(&text)), help })
    }
}

fn whole(value: &Value) -> Option<i64> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
}

fn numbers(text: &str) -> Option<Value> {
    let numbers: Vec<f64> = box_parts(text).map(finite).collect::<Option<_>>()?;
    (numbers.len() == 4).then(|| json!(numbers))
}

fn box_parts(text: &str) -> impl Iterator<Item = &str> {
    text.trim().trim_start_matches('[').trim_end_matches(']').split(',').map(str::trim)
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Whether a text means a box, not a file: it has commas, and neither folders nor the suffix of GeoJSON.
fn is_like_box(text: &str) -> bool {
    let suffix = text.rsplit('.').next().unwrap_or_default().to_lowercase();
    text.contains(',') && !text.contains(['/', '\\']) && !matches!(suffix.as_str(), "geojson" | "json")
}

/// Why a text is no box. `file`: it could have been the path of one.
fn no_box(text: &str, file: bool) -> Refusal {
    let parts: Vec<&str> = box_parts(text).collect();
    let what = if file { "an area" } else { "a box" };
    let message = match parts.iter().find(|part| finite(part).is_none()) {
        _ if parts.len() != 4 => {
            format!("expects {what}, and a box has four numbers: `{}` has {}", brief(text), parts.len())
        }
        Some(part) => format!("expects {what}, and a box has four numbers: `{}` is none", brief(part)),
        None => format!("expects {what}: a box is a list, this is the string `{}`", brief(text)),
    };
    let mut help = match parts.iter().all(|part| finite(part).is_some()) && parts.len() == 4 {
        true => format!("write `[{}]`", parts.join(", ")),
        false => "a box is west, south, east and north in degrees: `12.5,52.4,12.7,52.5`".to_owned(),
    };
    if file {
        help.push_str(&format!("; the file of that name is `./{}`", brief(text)));
    }
    Refusal { message, help: Some(help) }
}

fn read_box(value: &Value) -> Result<Value, Refusal> {
    let help = "it is `[west, south, east, north]` in degrees; west above east crosses the antimeridian";
    let numbers: Option<Vec<f64>> = value.as_array().and_then(|items| items.iter().map(Value::as_f64).collect());
    let Some([west, south, east, north]) = numbers.as_deref() else {
        let got = value.as_array().map_or_else(|| kind(value).to_owned(), |items| format!("a list of {}", items.len()));
        return Err(refuse(format!("expects a box of four numbers, this is {got}"), help));
    };
    if ![west, east].iter().all(|x| (-180.0..=180.0).contains(*x))
        || ![south, north].iter().all(|y| (-90.0..=90.0).contains(*y))
    {
        return Err(refuse(format!("expects a box, `[{west}, {south}, {east}, {north}]` is not on the globe"), help));
    }
    if south >= north || west == east {
        return Err(refuse(
            format!(
                "expects a box, `[{west}, {south}, {east}, {north}]` is none: south is not below north, or it has no width"
            ),
            help,
        ));
    }
    // The shorter way round is what a box over the antimeridian means, the longer one what swapped numbers make.
    let width = if west > east { east + 360.0 - west } else { east - west };
    if west > east && width > 180.0 {
        let help = format!(
            "did you mean `[{east}, {south}, {west}, {north}]`? A box over the antimeridian has west above east, \
             `[179, -17, -179, -16]`, and is at most 180 degrees wide"
        );
        let message = format!(
            "expects a box, `[{west}, {south}, {east}, {north}]` has west above east and goes round the globe, {width} degrees"
        );
        return Err(Refusal { message, help: Some(help) });
    }
    Ok(value.clone())
}

pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether a text is an address with a scheme, not a path.
pub fn is_remote(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme != "file"
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// A path made absolute from `folder` without asking the file system; `.` and `..` are resolved by their letters.
pub fn absolute(text: &str, folder: &Path) -> String {
    let joined = folder.join(text.strip_prefix("file://").unwrap_or(text));
    let mut clean = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn show(value: &Value) -> String {
    format!("`{}`", brief(&crate::expression::as_text(value)))
}

/// The beginning of a long text.
pub(crate) fn brief(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}...", text.chars().take(57).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec_of(of: ParameterType) -> ParameterSpec {
        ParameterSpec {
            name: "p".into(),
            about: None,
            of,
            required: true,
            min: Some(0.0),
            max: Some(100.0),
            values: vec!["median".into(), "mean".into()],
        }
    }

    fn read(of: ParameterType, text: &str) -> Result<Value, Refusal> {
        let around = Surroundings { folder: Path::new("/flows/lakes"), now: "2024-08-15T00:00:00Z".parse().unwrap() };
        spec_of(of).read_text(text, around)
    }

    #[test]
    fn texts_of_the_command_line_become_typed_values() {
        for (of, text, value) in [
            (ParameterType::Integer, "42", json!(42)),
            (ParameterType::Number, "0.5", json!(0.5)),
            (ParameterType::Boolean, "true", json!(true)),
            (ParameterType::Enum, "mean", json!("mean")),
            (ParameterType::Date, "2024-02-29", json!("2024-02-29")),
            (ParameterType::Bbox, "10,50,11,51", json!([10.0, 50.0, 11.0, 51.0])),
            (ParameterType::Aoi, "../areas/lake.geojson", json!("/flows/areas/lake.geojson")),
            (ParameterType::Aoi, "[179, -17, -179, -16]", json!([179.0, -17.0, -179.0, -16.0])),
            (ParameterType::Uri, "https://example.com/x", json!("https://example.com/x")),
            (ParameterType::Path, "./a/../b.tif", json!("/flows/lakes/b.tif")),
            (ParameterType::Secret, "PC_KEY", json!("PC_KEY")),
            (ParameterType::String, "no", json!("no")),
        ] {
            assert_eq!(read(of, text), Ok(value), "{text}");
        }
        for (of, text) in [
            (ParameterType::Integer, "4.5"),
            (ParameterType::Integer, "101"),
            (ParameterType::Number, "nan"),
            (ParameterType::Number, "inf"),
            (ParameterType::Boolean, "yes"),
            (ParameterType::Enum, "medain"),
            (ParameterType::Date, "2023-02-29"),
            (ParameterType::Bbox, "10,51,11,50"),
            (ParameterType::Bbox, "500000,0,500010,10"),
            (ParameterType::Path, "https://example.com/x"),
        ] {
            assert!(read(of, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_that_means_a_box_is_not_taken_for_a_file() {
        let told = |of, text| {
            let refusal = read(of, text).unwrap_err();
            format!("{}; {}", refusal.message, refusal.help.unwrap_or_default())
        };
        for of in [ParameterType::Bbox, ParameterType::Aoi] {
            for (text, words) in [
                ("1,2,3", "`1,2,3` has 3"),
                ("a,b,c,d", "`a` is none"),
                ("nan,50,11,51", "`nan` is none"),
                ("10,50,inf,51", "`inf` is none"),
                ("[10,50,11]", "has 3"),
                ("11,50,10,51", "did you mean `[10, 50, 11, 51]`?"),
            ] {
                assert!(told(of, text).contains(words), "{text}: {}", told(of, text));
            }
            assert!(read(of, "179,-17,-179,-16").is_ok());
        }
        for file in ["lakes,north.geojson", "./1,2,3", "areas/a,b,c,d", "lake"] {
            assert!(read(ParameterType::Aoi, file).is_ok(), "{file}");
        }
        let around = Surroundings { folder: Path::new("/"), now: "2024-08-15T00:00:00Z".parse().unwrap() };
        let refusal = spec_of(ParameterType::Aoi).read(&json!("10,50,11,51"), around).unwrap_err();
        assert!(refusal.help.unwrap().starts_with("write `[10, 50, 11, 51]`"));
    }

    #[test]
    fn a_secret_given_by_mistake_is_refused_and_not_repeated() {
        let refusal = read(ParameterType::Secret, "sk-Hunter2abc").unwrap_err();
        assert!(!format!("{refusal:?}").contains("Hunter2"), "{refusal:?}");
    }
}
