//! Lists that are known before the run: what each item makes of the parameters, checked as the run would.

use serde_json::Value;
use swath_flow::{Expression, ExpressionError, Node, Reference, SCHEDULE, Scope, Span, Surroundings};

use crate::catalogue::Known;
use crate::mistakes::Finding;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::template::{Template, TextPart};

/// Most items of one list that are looked at.
const MOST_ITEMS: usize = 100;
/// Most items of all lists of a flow and its sub-flows.
const MOST_OF_ALL: usize = 10_000;

/// Why an item gives no parameters, and where in `with`.
struct Uncomputed {
    pointer: String,
    error: ExpressionError,
}

impl Planner<'_> {
    /// What is wrong with the parameters of a task for the first item that something is wrong with, what is wrong for
    /// all of them aside.
    pub(crate) fn first_wrong_item(
        &self,
        known: &Known,
        template: &Template,
        items: Option<&[Value]>,
        of_all: &[Finding],
    ) -> Option<Finding> {
        let items = items?;
        self.items(template, items, |at, item, filled| {
            let found = match filled {
                Err(uncomputed) => {
                    Finding::new("F504", uncomputed.pointer, format!("this cannot be computed: {}", uncomputed.error))
                }
                Ok(filled) => {
                    let (found, _) = self.judge(known, &filled);
                    found.into_iter().find(|one| !of_all.iter().any(|known| known.pointer == one.pointer))?
                }
            };
            // What helps a value that is written down does not help one that is computed.
            let help = match found.help.as_deref() {
                Some(help) if help.starts_with("put quotes") => Some("make it a string: `string(...)`".to_owned()),
                Some(help) if help.starts_with("take the quotes") => {
                    Some("make it a number: `double(...)` or `int(...)`".to_owned())
                }
                _ => found.help,
            };
            Some(Finding { message: format!("{}: {}", named(at, item), found.message), help, ..found })
        })
    }

    /// The same for the parameters of a sub-flow.
    pub(crate) fn check_items_below(
        &mut self,
        plan: &Plan,
        template: &Template,
        items: &[Value],
        with: Option<&Node>,
        span: Span,
    ) {
        let around = Surroundings { folder: &self.folder, now: self.shared.input.now };
        let wrong = self.items(template, items, |at, item, filled| {
            let (code, pointer, message, help) = match filled {
                Err(uncomputed) => {
                    ("F504", uncomputed.pointer, format!("this cannot be computed: {}", uncomputed.error), None)
                }
                Ok(filled) => filled.entries().into_iter().find_map(|(name, value)| {
                    let (Template::Value(value), Some(spec)) =
                        (&value, plan.parameters.iter().find(|spec| spec.name == name))
                    else {
                        return None;
                    };
                    let refusal = spec.read(value, around).err()?;
                    Some((
                        "F203",
                        format!("/{name}"),
                        format!("the parameter `{name}` {}", refusal.message),
                        refusal.help,
                    ))
                })?,
            };
            Some((code, pointer, format!("{}: {message}", named(at, item)), help))
        });
        if let Some((code, pointer, message, help)) = wrong {
            self.wrong(code, with.map_or(span, |with| with.span_at(&pointer)), message, help);
        }
    }

    /// Looks at the items in order until something is found.
    fn items<T>(
        &self,
        template: &Template,
        items: &[Value],
        mut look: impl FnMut(usize, &Value, Result<Template, Uncomputed>) -> Option<T>,
    ) -> Option<T> {
        if self.diagnostics.is_full() || !reads_item(template) {
            return None;
        }
        let params = self.scope();
        for (at, item) in items.iter().enumerate().take(MOST_ITEMS) {
            let looked = self.shared.items.get();
            if looked >= MOST_OF_ALL {
                return None;
            }
            self.shared.items.set(looked + 1);
            let scope = Scope { item: Some((item, at as u64)), ..params.clone() };
            if let Some(found) = look(at, item, fill(template, &scope, "")) {
                return Some(found);
            }
        }
        None
    }
}

fn named(at: usize, item: &Value) -> String {
    let text = swath_flow::as_text(item);
    let short: String = text.chars().take(40).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("for item {at} (`{short}{dots}`)")
}

fn reads_item(template: &Template) -> bool {
    let reads = |text: &String| {
        let references = Expression::parse(text).map(|one| one.references()).unwrap_or_default();
        references.iter().any(|one| matches!(one, Reference::Item | Reference::Index))
    };
    match template {
        Template::Value(_) => false,
        Template::Expression(text) => reads(text),
        Template::Text(parts) => parts.iter().any(|part| matches!(part, TextPart::Expression(text) if reads(text))),
        Template::Path { of, .. } | Template::Period { of, .. } => reads_item(of),
        Template::List(items) => items.iter().any(reads_item),
        Template::Mapping(entries) => entries.iter().any(|(_, value)| reads_item(value)),
    }
}

/// Computes what the item and the known parameters are enough for.
fn fill(template: &Template, scope: &Scope<'_>, pointer: &str) -> Result<Template, Uncomputed> {
    let enough = |text: &String| {
        Expression::parse(text).is_ok_and(|expression| {
            expression.references().iter().all(|reference| match reference {
                Reference::Item | Reference::Index => true,
                Reference::Parameter(name) => scope.params.contains_key(name.as_str()),
                Reference::Schedule(_) => scope.params.contains_key(SCHEDULE),
                Reference::Output { .. } | Reference::Unknown(_) => false,
            })
        })
    };
    let computed = |template: &Template| {
        let value = template.evaluate(scope);
        value.map(Template::Value).map_err(|error| Uncomputed { pointer: pointer.to_owned(), error })
    };
    match template {
        Template::Value(_) => Ok(template.clone()),
        Template::Expression(text) if enough(text) => computed(template),
        Template::Text(parts) => {
            let known = |part: &TextPart| match part {
                TextPart::Text(_) => true,
                TextPart::Expression(text) => enough(text),
            };
            if parts.iter().all(known) { computed(template) } else { Ok(template.clone()) }
        }
        Template::Path { of, .. } | Template::Period { of, .. } => match fill(of, scope, pointer)? {
            Template::Value(_) => computed(template),
            _ => Ok(template.clone()),
        },
        Template::List(items) => {
            let items = items.iter().enumerate().map(|(at, item)| fill(item, scope, &format!("{pointer}/{at}")));
            Ok(Template::list(items.collect::<Result<_, _>>()?))
        }
        Template::Mapping(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                Ok((key.clone(), fill(value, scope, &pointer)?))
            });
            Ok(Template::mapping(entries.collect::<Result<_, _>>()?))
        }
        Template::Expression(_) => Ok(template.clone()),
    }
}
