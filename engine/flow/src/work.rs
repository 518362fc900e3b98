//! How much an expression computes at most, told from its shape and the sizes of what it reads, before it is evaluated.
//!
//! CEL always ends, but lists within lists multiply: a text of 4 KiB can ask for more values than any machine holds.
//! Every bound here is one from above, so what is allowed is never more than it says.

use std::collections::HashMap;
use std::rc::Rc;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use serde_json::Value;

use crate::expression::{ExpressionError, SCHEDULE, Scope, segments};

/// Most operations and copied values of one evaluation: about a second.
const MOST_WORK: u64 = 5_000_000;
/// Most values that any part of an expression may yield, lists in lists counted through.
const MOST_VALUES: u64 = 1_000_000;
/// Bytes of a string that count as one value.
const BYTES: u64 = 16;

/// The most that a value may hold.
#[derive(Clone, Debug, Default)]
struct Size {
    /// Values in all, itself included.
    whole: u64,
    /// Members of a list or mapping.
    members: u64,
    /// The largest of its members.
    each: Option<Rc<Size>>,
}

impl Size {
    fn one() -> Self {
        Self { whole: 1, ..Self::default() }
    }

    fn of_text(bytes: usize) -> Self {
        Self { whole: 1 + bytes as u64 / BYTES, ..Self::default() }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::of_text(text.len()),
            Value::Array(items) => Self::holding(items.iter().map(Self::of)),
            Value::Object(entries) => {
                Self::holding(entries.iter().flat_map(|(key, value)| [Self::of_text(key.len()), Self::of(value)]))
            }
            _ => Self::one(),
        }
    }

    fn holding(members: impl Iterator<Item = Self>) -> Self {
        let mut all = Self::one();
        for member in members {
            all.whole = all.whole.saturating_add(member.whole);
            all.members += 1;
            all.each = either(all.each, Some(Rc::new(member)));
        }
        all
    }

    fn member(&self) -> Self {
        self.each.as_deref().cloned().unwrap_or_else(Self::one)
    }

    fn or(&self, other: &Self) -> Self {
        Self {
            whole: self.whole.max(other.whole),
            members: self.members.max(other.members),
            each: either(self.each.clone(), other.each.clone()),
        }
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            whole: self.whole.saturating_add(other.whole),
            members: self.members.saturating_add(other.members),
            each: either(self.each.clone(), other.each.clone()),
        }
    }
}

fn either(one: Option<Rc<Size>>, other: Option<Rc<Size>>) -> Option<Rc<Size>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Rc::new(one.or(&other))),
        (one, other) => one.or(other),
    }
}

/// Refuses an expression that would compute too much. What has no value in `scope` counts as a single one.
pub(crate) fn bound(expr: &IdedExpr, scope: &Scope<'_>) -> Result<(), ExpressionError> {
    let mut meter = Meter { scope, known: HashMap::new(), bound: Vec::new(), work: 0 };
    meter.size(expr).map(drop)
}

struct Meter<'a> {
    scope: &'a Scope<'a>,
    known: HashMap<Vec<String>, Rc<Size>>,
    /// Variables of the comprehensions around.
    bound: Vec<(String, Size)>,
    work: u64,
}

impl Meter<'_> {
    fn charge(&mut self, work: u64) -> Result<(), ExpressionError> {
        self.work = self.work.saturating_add(work);
        if self.work > MOST_WORK {
            let message = format!("it would take more than {MOST_WORK} operations: lists within lists multiply");
            return Err(ExpressionError(message));
        }
        Ok(())
    }

    fn made(&mut self, size: Size) -> Result<Size, ExpressionError> {
        if size.whole > MOST_VALUES {
            return Err(ExpressionError(format!("it would make more than {MOST_VALUES} values")));
        }
        self.charge(size.whole)?;
        Ok(size)
    }

    fn size(&mut self, expr: &IdedExpr) -> Result<Size, ExpressionError> {
        self.charge(1)?;
        match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => Ok(Size::of_text(text.inner().len())),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Ok(Size::of_text(bytes.inner().len())),
            Expr::Literal(_) | Expr::Unspecified => Ok(Size::one()),
            Expr::Ident(name) => Ok(match self.bound.iter().rev().find(|(bound, _)| bound == name) {
                Some((_, size)) => size.clone(),
                None => self.read(expr),
            }),
            Expr::Select(select) if select.test => self.size(&select.operand).map(|_| Size::one()),
            Expr::Select(select) => match self.is_bound(expr) {
                true => Ok(self.size(&select.operand)?.member()),
                false => Ok(self.read(expr)),
            },
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let members = list.elements.iter().map(|one| self.size(one)).collect::<Result<Vec<_>, _>>()?;
                self.made(Size::holding(members.into_iter()))
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|entry| &entry.expr)),
            Expr::Struct(structure) => self.entries(structure.entries.iter().map(|entry| &entry.expr)),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn entries<'e>(&mut self, entries: impl Iterator<Item = &'e EntryExpr>) -> Result<Size, ExpressionError> {
        let mut members = Vec::new();
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => members.push(self.size(&field.value)?),
                EntryExpr::MapEntry(entry) => {
                    members.push(self.size(&entry.key)?);
                    members.push(self.size(&entry.value)?);
                }
            }
        }
        self.made(Size::holding(members.into_iter()))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Size, ExpressionError> {
        if call.func_name == "_[_]" && segments(expr).is_some() && !self.is_bound(expr) {
            return Ok(self.read(expr));
        }
        let parts = call.target.iter().map(|target| &**target).chain(&call.args);
        let parts = parts.map(|part| self.size(part)).collect::<Result<Vec<_>, _>>()?;
        let part = |at: usize| parts.get(at).cloned().unwrap_or_else(Size::one);
        match call.func_name.as_str() {
            "_[_]" => Ok(part(0).member()),
            "_?_:_" => Ok(part(1).or(&part(2))),
            "_+_" => self.made(part(0).and(&part(1))),
            "dyn" => Ok(part(0)),
            // The longest number is shorter than a second value.
            "string" => self.made(Size { whole: part(0).whole + 2, ..Size::default() }),
            _ => {
                // What is looked through: in comparisons, `in`, `contains`.
                self.charge(parts.iter().fold(0, |all, part| all.saturating_add(part.whole)))?;
                Ok(Size::one())
            }
        }
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<Size, ExpressionError> {
        let over = self.size(&comprehension.iter_range)?;
        let start = self.size(&comprehension.accu_init)?;
        let before = self.work;
        let depth = self.bound.len();
        let member = over.member();
        self.bound.push((comprehension.accu_var.clone(), start.clone()));
        self.charge(member.whole)?;
        for name in std::iter::once(&comprehension.iter_var).chain(&comprehension.iter_var2) {
            self.bound.push((name.clone(), member.clone()));
        }
        self.size(&comprehension.loop_cond)?;
        let step = self.size(&comprehension.loop_step)?;
        let turn = self.work - before;
        self.work = before;
        self.charge(turn.saturating_mul(over.members))?;
        // Each turn adds the same to what is collected: the macros append to a list or join truths.
        let grown = |from: u64, to: u64| from.saturating_add(to.saturating_sub(from).saturating_mul(over.members));
        let collected = Size {
            whole: grown(start.whole, step.whole),
            members: grown(start.members, step.members),
            each: either(start.each, step.each),
        };
        self.bound.truncate(depth);
        self.bound.push((comprehension.accu_var.clone(), collected));
        let result = self.size(&comprehension.result)?;
        self.bound.truncate(depth);
        self.made(result)
    }

    fn is_bound(&self, expr: &IdedExpr) -> bool {
        match segments(expr) {
            Some(parts) => self.bound.iter().any(|(name, _)| *name == parts[0]),
            None => true,
        }
    }

    /// The size of what a path leads to, or of the nearest value above it.
    fn read(&mut self, expr: &IdedExpr) -> Size {
        let Some(path) = segments(expr) else { return Size::one() };
        if let Some(size) = self.known.get(&path) {
            return size.as_ref().clone();
        }
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let (value, rest) = match words.as_slice() {
            ["params", name, rest @ ..] => (self.scope.params.get(name).copied(), rest),
            ["steps", step, output, rest @ ..] => {
                (self.scope.steps.get(step).and_then(|outputs| outputs.get(*output)), rest)
            }
            [SCHEDULE, rest @ ..] => (self.scope.params.get(SCHEDULE).copied(), rest),
            ["item", rest @ ..] => (self.scope.item.map(|(item, _)| item), rest),
            _ => (None, [].as_slice()),
        };
        let value = rest.iter().fold(value, |value, part| value.and_then(|value| value.get(*part)));
        let size = Rc::new(value.map_or_else(Size::one, Size::of));
        self.known.insert(path, size.clone());
        size.as_ref().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::Expression;

    #[test]
    fn lists_within_lists_end_soon_with_an_error_and_honest_work_is_done() {
        let many = json!((0..1_000).collect::<Vec<_>>());
        let text = json!("x".repeat(1 << 20));
        let records =
            json!((0..5_000).map(|at| json!({ "id": format!("scene-{at}"), "cloud": at })).collect::<Vec<_>>());
        let scope = Scope {
            params: HashMap::from([("many", &many), ("text", &text), ("records", &records)]),
            ..Scope::default()
        };
        let twenty = format!("[{}]", ["1"; 20].join(", "));
        let nested = (0..10).fold("1".to_owned(), |inner, at| format!("{twenty}.map(v{at}, {inner})"));
        let doubled = format!("['x']{}", ".map(a, a + a)".repeat(60));
        let folded = format!("[[1]]{}", ".map(a, [a, a, a, a])".repeat(30));
        let hundred = format!("[{}]", ["1"; 100].join(", "));
        let counted = (0..5).fold("true".to_owned(), |inner, at| format!("{hundred}.all(v{at}, {inner})"));
        for hostile in [
            nested.as_str(),
            doubled.as_str(),
            folded.as_str(),
            counted.as_str(),
            "params.many.map(a, params.many.map(b, params.many.map(c, a + b + c)))",
            "params.many.all(a, params.many.all(b, params.many.all(c, a + b + c > 0)))",
            "params.many.map(a, params.text)",
            "params.many.exists(a, params.text.contains('y'))",
            "params.many.map(a, params.many).map(a, [a, a])",
        ] {
            let start = Instant::now();
            let error = Expression::parse(hostile).and_then(|one| one.evaluate(&scope)).unwrap_err();
            assert!(error.0.contains("more than"), "{hostile}: {error}");
            assert!(start.elapsed() < Duration::from_secs(1), "{hostile}");
        }
        for honest in [
            "params.many.map(a, string(a) + '.tif')",
            "params.many.filter(a, a in params.many)",
            "params.records.filter(r, r.cloud < 20 && r.id.startsWith('scene')).map(r, r.id)",
            "size(params.records.map(r, r.id)) > 3 ? params.records[0].id : params.text",
            "[2022, 2023].map(y, [1, 2, 3].map(m, string(y) + '-' + string(m)))",
            "params.text.contains('y') ? params.text + 'y' : ''",
        ] {
            let start = Instant::now();
            Expression::parse(honest).unwrap().evaluate(&scope).unwrap_or_else(|error| panic!("{honest}: {error}"));
            assert!(start.elapsed() < Duration::from_secs(10), "{honest}: {:?}", start.elapsed());
        }
    }
}
