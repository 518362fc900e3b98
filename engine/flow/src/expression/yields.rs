//! What an expression yields, told without evaluating it. What cannot be told is [`Yields::Unknown`], never a mistake.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};
use serde_json::Value;

use super::{Reference, path, segments};

/// What an expression yields, as far as it can be told without evaluating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    List,
    /// A mapping.
    Mapping,
    /// It cannot be told.
    Unknown,
}

impl Yields {
    /// What a JSON value is.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_f64() => Self::Number,
            Value::Number(_) => Self::Integer,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Mapping,
        }
    }

    /// By the name of a JSON Schema type.
    pub fn named(name: &str) -> Self {
        match name {
            "string" => Self::Text,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "array" => Self::List,
            "object" => Self::Mapping,
            _ => Self::Unknown,
        }
    }

    /// With its article.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::List => "a list",
            Self::Mapping => "a mapping",
            Self::Unknown => "a value",
        }
    }
}

/// What `expr` yields, given what its references yield.
pub(super) fn infer(expr: &IdedExpr, of: &dyn Fn(&Reference) -> Yields) -> Yields {
    match &expr.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => Yields::Boolean,
        Expr::Literal(LiteralValue::String(_)) => Yields::Text,
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_)) => Yields::Integer,
        Expr::Literal(LiteralValue::Double(_)) => Yields::Number,
        Expr::List(_) => Yields::List,
        Expr::Map(_) => Yields::Mapping,
        Expr::Select(select) if select.test => Yields::Boolean,
        Expr::Ident(_) | Expr::Select(_) => {
            let mut found = Vec::new();
            path(expr, &mut Vec::new(), &mut found);
            match found.as_slice() {
                [Reference::Parameter(_)] if segments(expr).is_some_and(|parts| parts.len() > 2) => Yields::Unknown,
                [Reference::Output { deeper: true, .. }] => Yields::Unknown,
                [Reference::Item] if segments(expr).is_some_and(|parts| parts.len() > 1) => Yields::Unknown,
                [one] => of(one),
                _ => Yields::Unknown,
            }
        }
        Expr::Call(call) => {
            let arg = |at: usize| call.args.get(at).map_or(Yields::Unknown, |arg| infer(arg, of));
            match call.func_name.as_str() {
                "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "_&&_" | "_||_" | "!_" | "@in" | "contains"
                | "startsWith" | "endsWith" | "bool" => Yields::Boolean,
                "size" | "int" | "uint" | "_%_" => Yields::Integer,
                "double" => Yields::Number,
                "string" => Yields::Text,
                "_+_" | "_-_" | "_*_" | "_/_" => {
                    if arg(0) == arg(1) {
                        arg(0)
                    } else {
                        Yields::Unknown
                    }
                }
                "-_" => arg(0),
                "_?_:_" => {
                    if arg(1) == arg(2) {
                        arg(1)
                    } else {
                        Yields::Unknown
                    }
                }
                _ => Yields::Unknown,
            }
        }
        _ => Yields::Unknown,
    }
}
