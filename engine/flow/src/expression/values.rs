//! Values between JSON and CEL, as text, and what went wrong with them. Nothing here evaluates.

use std::collections::HashMap;

use cel::ExecutionError;
use cel::objects::{Key, Value as Cel};
use serde_json::{Map, Number, Value};

use super::ExpressionError;

/// What went wrong, in words; the library prints its own values.
pub(super) fn told(error: &ExecutionError) -> String {
    let kind = |value: &Cel| format!("{:?}", value.type_of()).to_lowercase().replace("float", "double");
    match error {
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!(
                "`{operator}` does not work on {} and {}: convert one with `double(...)`, `int(...)` or `string(...)`",
                kind(left),
                kind(right)
            )
        }
        ExecutionError::Overflow(operator, ..) => format!("`{operator}` overflows 64 bits"),
        ExecutionError::NoSuchKey(key) => format!("there is no `{key}`"),
        ExecutionError::IndexOutOfBounds(_) => "the index lies beyond the end of the list".to_owned(),
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("{} and {} cannot be compared", kind(left), kind(right))
        }
        other => other.to_string(),
    }
}

pub(super) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(unsigned)) => Cel::UInt(unsigned),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => Cel::from(items.iter().map(to_cel).collect::<Vec<_>>()),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (Key::from(key.as_str()), to_cel(value)));
            Cel::from(entries.collect::<HashMap<_, _>>())
        }
    }
}

pub(super) fn from_cel(value: &Cel) -> Result<Value, ExpressionError> {
    let finite = |number: f64| {
        Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| ExpressionError(format!("it yields {number}, which is no number")))
    };
    match value {
        Cel::Null => Ok(Value::Null),
        Cel::Bool(value) => Ok(Value::Bool(*value)),
        Cel::Int(number) => Ok((*number).into()),
        Cel::UInt(number) => Ok((*number).into()),
        Cel::Float(number) => finite(*number),
        Cel::String(text) => Ok(Value::String(text.to_string())),
        Cel::List(items) => items.iter().map(from_cel).collect::<Result<Vec<_>, _>>().map(Value::Array),
        Cel::Map(map) => {
            let mut entries: Vec<(String, Value)> = map
                .map
                .iter()
                .map(|(key, value)| Ok((key.to_string(), from_cel(value)?)))
                .collect::<Result<_, ExpressionError>>()?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(Value::Object(entries.into_iter().collect::<Map<_, _>>()))
        }
        other => Err(ExpressionError(format!("it yields a {:?}, which no parameter can hold", other.type_of()))),
    }
}

/// How a value reads when it is put into a text: strings as they are, all else as JSON.
pub fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
