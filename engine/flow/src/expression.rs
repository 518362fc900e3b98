//! Computed values: `${ ... }` holds an expression in CEL, the Common Expression Language, which always ends.
//!
//! An expression may name `params.NAME`, `steps.ID.OUTPUT`, `schedule.start` and `schedule.end`, and in a lifted step `item`
//! and `index`; nothing else.
//! References are found without evaluating, so that all of them are checked before a run.

mod values;
mod yields;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::objects::{Key, Value as Cel};
use cel::parser::PrattParser;
use cel::{Context, Env, IdedExpr};
use serde_json::Value;

pub use self::values::as_text;
use self::values::{from_cel, to_cel, told};
pub use self::yields::Yields;
use self::yields::infer;
use crate::work;

/// Longest expression, bytes.
const LONGEST: usize = 4096;
/// Deepest nesting of brackets, as they are written.
const DEEPEST_BRACKETS: usize = 48;
/// Deepest nesting of operations: evaluation recurses, and its stack is bounded.
const DEEPEST: usize = 96;
/// The name under which expressions read the interval that a run covers: `{"start": INSTANT, "end": INSTANT}`, RFC 3339.
pub const SCHEDULE: &str = "schedule";
/// Functions an expression may call; operators and the macros `has`, `all`, `exists`, `exists_one`, `map`, `filter` aside.
pub const FUNCTIONS: &[&str] =
    &["bool", "contains", "double", "dyn", "endsWith", "int", "size", "startsWith", "string", "type", "uint"];

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    parsed: Arc<IdedExpr>,
}

/// Something an expression reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `params.NAME`.
    Parameter(String),
    /// `steps.ID.OUTPUT`.
    Output {
        /// The step.
        step: String,
        /// Its output.
        output: String,
        /// Whether fields of the output are read (`steps.a.report.count`).
        deeper: bool,
    },
    /// `schedule.start` or `schedule.end`: the interval that the run covers.
    Schedule(String),
    /// `item`, what this instance of a lifted step was given.
    Item,
    /// `index`, its position from 0.
    Index,
    /// Anything else, as it was written.
    Unknown(String),
}

/// An expression that cannot be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(pub String);

/// The values an expression is evaluated on.
#[derive(Clone, Debug, Default)]
pub struct Scope<'a> {
    /// Values of the flow's parameters; under [`SCHEDULE`] the interval that the run covers.
    pub params: HashMap<&'a str, &'a Value>,
    /// Outputs by step id, each an object keyed by output.
    pub steps: HashMap<&'a str, &'a Value>,
    /// What this instance of a lifted step was given, and its position.
    pub item: Option<(&'a Value, u64)>,
}

impl Expression {
    /// Parses the text between `${` and `}`.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.trim().is_empty() {
            return Err(ExpressionError("the expression is empty".to_owned()));
        }
        if text.len() > LONGEST {
            return Err(ExpressionError(format!("the expression is longer than {LONGEST} bytes")));
        }
        let too_deep = || ExpressionError("the expression is nested too deeply".to_owned());
        if bracket_depth(text) > DEEPEST_BRACKETS {
            return Err(too_deep());
        }
        let parser = PrattParser::new().max_recursion_depth(96).max_expression_node_count(10_000);
        match parser.parse(text) {
            Ok(parsed) if depth(&parsed) > DEEPEST => Err(too_deep()),
            Ok(parsed) => Ok(Self { text: text.trim().to_owned(), parsed: Arc::new(parsed) }),
            Err(errors) => {
                let first = errors.errors.first();
                let message = first.map_or_else(|| "not an expression".to_owned(), |error| error.msg.clone());
                Err(ExpressionError(message.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()))
            }
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it reads, each once, in the order of the text.
    pub fn references(&self) -> Vec<Reference> {
        references(&self.parsed)
    }

    /// The functions it calls that do not exist.
    pub fn unknown_functions(&self) -> Vec<String> {
        let references = self.parsed.references();
        let known = |name: &str| !name.starts_with(|c: char| c.is_ascii_alphabetic()) || FUNCTIONS.contains(&name);
        let mut unknown: Vec<String> =
            references.functions().into_iter().filter(|name| !known(name)).map(str::to_owned).collect();
        unknown.sort();
        unknown
    }

    /// What it yields, given what its references yield.
    pub fn yields(&self, of: &dyn Fn(&Reference) -> Yields) -> Yields {
        infer(&self.parsed, of)
    }

    /// Whether evaluating it would compute too much. What has no value in `scope` counts as a single one.
    pub fn bound(&self, scope: &Scope<'_>) -> Result<(), ExpressionError> {
        work::bound(&self.parsed, scope)
    }

    /// Evaluates it, unless it would compute too much.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
        self.bound(scope)?;
        from_cel(&resolve(&self.parsed, scope)?)
    }

    /// Why it fails whatever the values are that `scope` lacks: a part of it that is always computed, and that reads
    /// only what `scope` holds, cannot be.
    pub fn must_fail(&self, scope: &Scope<'_>) -> Option<ExpressionError> {
        self.bound(scope).err().or_else(|| failing(&self.parsed, scope))
    }
}

fn references(expr: &IdedExpr) -> Vec<Reference> {
    let mut found = Vec::new();
    collect(expr, &mut Vec::new(), &mut found);
    let mut seen = std::collections::HashSet::new();
    found.retain(|reference| seen.insert(reference.clone()));
    found
}

fn resolve(expr: &IdedExpr, scope: &Scope<'_>) -> Result<Cel, ExpressionError> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    let env = ENV.get_or_init(|| Arc::new(Env::stdlib()));
    let mut context = Context::with_env(env.clone());
    let (mut params, mut steps) = (HashMap::new(), HashMap::<Key, HashMap<Key, Cel>>::new());
    for reference in references(expr) {
        match reference {
            Reference::Parameter(name) => {
                let value = scope.params.get(name.as_str());
                let value = value.ok_or_else(|| ExpressionError(format!("`params.{name}` has no value")))?;
                params.insert(Key::from(name), to_cel(value));
            }
            Reference::Output { step, output, .. } => {
                let value = scope.steps.get(step.as_str()).and_then(|outputs| outputs.get(&output));
                let value = value.ok_or_else(|| ExpressionError(format!("`steps.{step}.{output}` has no value")))?;
                steps.entry(Key::from(step)).or_default().insert(Key::from(output), to_cel(value));
            }
            Reference::Schedule(end) => {
                let interval = scope.params.get(SCHEDULE).filter(|interval| interval.get(&end).is_some());
                let interval = interval.ok_or_else(|| ExpressionError(format!("`schedule.{end}` has no value")))?;
                context.add_variable_from_value(SCHEDULE, to_cel(interval));
            }
            Reference::Item => {
                let (item, _) = scope.item.ok_or_else(|| ExpressionError("`item` has no value here".to_owned()))?;
                context.add_variable_from_value("item", to_cel(item));
            }
            Reference::Index => {
                let (_, index) = scope.item.ok_or_else(|| ExpressionError("`index` has no value here".to_owned()))?;
                context.add_variable_from_value("index", Cel::Int(i64::try_from(index).unwrap_or(i64::MAX)));
            }
            Reference::Unknown(name) => return Err(ExpressionError(format!("`{name}` names nothing"))),
        }
    }
    context.add_variable_from_value("params", Cel::from(params));
    let steps: HashMap<Key, Cel> = steps.into_iter().map(|(step, outputs)| (step, Cel::from(outputs))).collect();
    context.add_variable_from_value("steps", Cel::from(steps));
    Cel::resolve(expr, &context).map_err(|error| ExpressionError(told(&error)))
}

fn failing(expr: &IdedExpr, scope: &Scope<'_>) -> Option<ExpressionError> {
    let known = |reference: &Reference| match reference {
        Reference::Parameter(name) => scope.params.contains_key(name.as_str()),
        Reference::Schedule(_) => scope.params.contains_key(SCHEDULE),
        _ => false,
    };
    if references(expr).iter().all(known) {
        return resolve(expr, scope).err();
    }
    let any = |parts: &[IdedExpr]| parts.iter().find_map(|part| failing(part, scope));
    match &expr.expr {
        Expr::Select(select) => failing(&select.operand, scope),
        Expr::Call(call) => match call.func_name.as_str() {
            // The other side may make up for a side that fails.
            "_&&_" | "_||_" => None,
            "_?_:_" => call.args.first().and_then(|condition| failing(condition, scope)),
            _ => call.target.as_deref().and_then(|target| failing(target, scope)).or_else(|| any(&call.args)),
        },
        Expr::List(list) => any(&list.elements),
        Expr::Comprehension(comprehension) => failing(&comprehension.iter_range, scope),
        _ => None,
    }
}

fn bracket_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn depth(expr: &IdedExpr) -> usize {
    let entry = |entry: &EntryExpr| match entry {
        EntryExpr::StructField(field) => depth(&field.value),
        EntryExpr::MapEntry(entry) => depth(&entry.key).max(depth(&entry.value)),
    };
    let below = match &expr.expr {
        Expr::Select(select) => depth(&select.operand),
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).map(depth).max().unwrap_or(0),
        Expr::List(list) => list.elements.iter().map(depth).max().unwrap_or(0),
        Expr::Map(map) => map.entries.iter().map(|one| entry(&one.expr)).max().unwrap_or(0),
        Expr::Struct(structure) => structure.entries.iter().map(|one| entry(&one.expr)).max().unwrap_or(0),
        Expr::Comprehension(c) => {
            let parts = [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result];
            parts.into_iter().map(depth).max().unwrap_or(0)
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 0,
    };
    below + 1
}

fn collect(expr: &IdedExpr, bound: &mut Vec<String>, found: &mut Vec<Reference>) {
    match &expr.expr {
        Expr::Ident(_) | Expr::Select(_) => path(expr, bound, found),
        Expr::Call(call) if call.func_name == "_[_]" && call.args.len() == 2 && literal(&call.args[1]).is_some() => {
            path(expr, bound, found);
        }
        Expr::Call(call) => {
            for part in call.target.iter().map(|target| &**target).chain(&call.args) {
                collect(part, bound, found);
            }
        }
        Expr::List(list) => list.elements.iter().for_each(|element| collect(element, bound, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| entry_of(&entry.expr, bound, found)),
        Expr::Struct(structure) => structure.entries.iter().for_each(|entry| entry_of(&entry.expr, bound, found)),
        Expr::Comprehension(comprehension) => {
            collect(&comprehension.iter_range, bound, found);
            collect(&comprehension.accu_init, bound, found);
            let depth = bound.len();
            bound.push(comprehension.iter_var.clone());
            bound.extend(comprehension.iter_var2.clone());
            bound.push(comprehension.accu_var.clone());
            collect(&comprehension.loop_cond, bound, found);
            collect(&comprehension.loop_step, bound, found);
            collect(&comprehension.result, bound, found);
            bound.truncate(depth);
        }
        Expr::Unspecified | Expr::Literal(_) => {}
    }
}

fn entry_of(entry: &EntryExpr, bound: &mut Vec<String>, found: &mut Vec<Reference>) {
    match entry {
        EntryExpr::StructField(field) => collect(&field.value, bound, found),
        EntryExpr::MapEntry(entry) => {
            collect(&entry.key, bound, found);
            collect(&entry.value, bound, found);
        }
    }
}

fn literal(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}

/// `root.a.b` and `root["a"]["b"]` as their segments; `None` when something else is selected from.
pub(crate) fn segments(expr: &IdedExpr) -> Option<Vec<String>> {
    match &expr.expr {
        Expr::Ident(name) => Some(vec![name.clone()]),
        Expr::Select(select) => {
            let mut parts = segments(&select.operand)?;
            parts.push(select.field.clone());
            Some(parts)
        }
        Expr::Call(call) if call.func_name == "_[_]" && call.args.len() == 2 => {
            let mut parts = segments(&call.args[0])?;
            parts.push(literal(&call.args[1])?);
            Some(parts)
        }
        _ => None,
    }
}

fn path(expr: &IdedExpr, bound: &mut Vec<String>, found: &mut Vec<Reference>) {
    let Some(parts) = segments(expr) else {
        match &expr.expr {
            Expr::Select(select) => collect(&select.operand, bound, found),
            Expr::Call(call) => call.args.iter().for_each(|arg| collect(arg, bound, found)),
            _ => {}
        }
        return;
    };
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    if words[0].starts_with('@') || bound.iter().any(|name| name == words[0]) {
        return;
    }
    found.push(match words.as_slice() {
        ["params", name, ..] => Reference::Parameter((*name).to_owned()),
        ["steps", step, output, rest @ ..] => {
            Reference::Output { step: (*step).to_owned(), output: (*output).to_owned(), deeper: !rest.is_empty() }
        }
        [SCHEDULE, end @ ("start" | "end")] => Reference::Schedule((*end).to_owned()),
        ["item", ..] => Reference::Item,
        ["index"] => Reference::Index,
        // Names of types, as in `type(x) == int`.
        ["bool" | "int" | "uint" | "double" | "string" | "list" | "map" | "null_type" | "type"] => return,
        _ => Reference::Unknown(words.join(".")),
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(text: &str) -> Result<Value, ExpressionError> {
        let (n, names, outputs, item) = (json!(3), json!(["B04", "B08"]), json!({ "count": 7 }), json!({ "id": "a" }));
        let scope = Scope {
            params: HashMap::from([("n", &n), ("names", &names)]),
            steps: HashMap::from([("search", &outputs)]),
            item: Some((&item, 2)),
        };
        Expression::parse(text)?.evaluate(&scope)
    }

    #[test]
    fn expressions_compute_on_parameters_outputs_and_items() {
        for (text, value) in [
            ("params.n + 1", json!(4)),
            ("params['n'] * 2", json!(6)),
            ("params.n > 2 && steps.search.count == 7", json!(true)),
            ("params.names.map(name, name + '.tif')", json!(["B04.tif", "B08.tif"])),
            ("item.id + '-' + string(index)", json!("a-2")),
            ("size(params.names) == 2 ? 'two' : 'other'", json!("two")),
            ("{'a': 1}", json!({ "a": 1 })),
            ("double(params.n) / 2.0", json!(1.5)),
            ("'x'.startsWith('x') && 'xy'.contains('y') && 'xy'.endsWith('y')", json!(true)),
            ("int('3') + int(2.0) + int(uint(1))", json!(6)),
            ("bool('true')", json!(true)),
            ("type(params.n) == int && dyn(1) == 1", json!(true)),
        ] {
            assert_eq!(evaluate(text), Ok(value), "{text}");
        }
        for bad in ["params.nothing", "1 / 0", "steps.search.nothing", "now()", "nothing", "1 +", "", "1.0 / 0.0"] {
            assert!(evaluate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_must_fail_is_told_without_the_values_that_are_missing() {
        let n = json!(0);
        let scope = Scope { params: HashMap::from([("n", &n)]), ..Scope::default() };
        let fails = |text: &str| Expression::parse(text).unwrap().must_fail(&scope).is_some();
        for doomed in ["item + 1 / 0", "[item, 1 / params.n]", "(1 / 0 > item) ? 1 : 2", "string(1 / 0) + item.id"] {
            assert!(fails(doomed), "{doomed}");
        }
        for open in [
            "item + 1",
            "item || 1 / 0 > 1",
            "item ? 1 / 0 : 1",
            "item.map(x, 1 / 0)",
            "1 / item",
            "params.m",
            "type(item) == int",
        ] {
            assert!(!fails(open), "{open}");
        }
    }

    #[test]
    fn references_are_found_without_evaluating() {
        let references = |text: &str| Expression::parse(text).unwrap().references();
        let output =
            |step: &str, output: &str| Reference::Output { step: step.into(), output: output.into(), deeper: false };
        assert_eq!(references("params.a > 1 && steps.b.c"), [Reference::Parameter("a".into()), output("b", "c")]);
        assert_eq!(
            references("params.list.filter(x, x.size > item)"),
            [Reference::Parameter("list".into()), Reference::Item]
        );
        assert_eq!(
            references("stesp.a.b + foo"),
            [Reference::Unknown("stesp.a.b".into()), Reference::Unknown("foo".into())]
        );
        assert_eq!(Expression::parse("nows() + size('a')").unwrap().unknown_functions(), ["nows"]);
    }

    #[test]
    fn deep_and_long_expressions_are_refused_and_end() {
        assert!(Expression::parse(&"(".repeat(1000)).is_err());
        assert!(Expression::parse(&format!("{}1{}", "(".repeat(500), ")".repeat(500))).is_err());
        assert!(Expression::parse(&"[".repeat(4000)).is_err());
        assert!(Expression::parse(&"1+".repeat(5000)).is_err());
        assert!(Expression::parse(&"-".repeat(4000)).is_err());
        assert!(Expression::parse(&"!".repeat(4000)).is_err());
        assert!(Expression::parse(&format!("a{}", ".b".repeat(2000))).is_err());
        assert!(Expression::parse(&format!("1{}", "+1".repeat(2000))).is_err());
        assert!(Expression::parse(&format!("1{} > 1", "+1".repeat(40))).is_ok());
    }
}
