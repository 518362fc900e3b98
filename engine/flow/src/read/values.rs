//! Values of fields, each read as what it must be and told where it is not.

use super::{Reader, first_line};
use crate::Spanned;
use crate::duration::parse_duration;
use crate::nearest::{did_you_mean, list, nearest};
use crate::parameter::brief;
use crate::yaml::{Data, Node};

impl Reader {
    pub(super) fn mapping<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        fields: &[&str],
    ) -> Option<&'n [(Spanned<String>, Node)]> {
        let Data::Mapping(entries) = &node.data else {
            if !matches!(node.data, Data::Unreadable) {
                let message = format!("{what} is a mapping, this is {}", node.kind());
                let help = format!("its fields are {}", list(fields));
                self.wrong("F103", first_line(&self.source, node.span), message, Some(help));
            }
            return None;
        };
        for (key, _) in entries {
            if !fields.contains(&key.value.as_str()) {
                let help = match nearest(&key.value, fields.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its fields are {}", list(fields)),
                };
                self.wrong("F101", key.span, format!("{what} has no field `{}`", brief(&key.value)), Some(help));
            }
        }
        Some(entries)
    }

    /// A mapping of names that the user chooses.
    pub(super) fn named<'n>(&mut self, node: &'n Node, what: &str) -> &'n [(Spanned<String>, Node)] {
        match &node.data {
            Data::Mapping(entries) => entries,
            Data::Null | Data::Unreadable => &[],
            _ => {
                let message = format!("{what} is a mapping, this is {}", node.kind());
                self.wrong("F103", first_line(&self.source, node.span), message, None);
                &[]
            }
        }
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.data {
            Data::List(items) => items,
            Data::Null | Data::Unreadable => &[],
            _ => {
                let message = format!("{what} is a list, this is {}", node.kind());
                self.wrong("F103", first_line(&self.source, node.span), message, None);
                &[]
            }
        }
    }

    pub(super) fn text(&mut self, node: &Node, what: &str) -> Option<Spanned<String>> {
        match &node.data {
            Data::String(text) if !text.trim().is_empty() => Some(Spanned::new(text.clone(), node.span)),
            Data::Unreadable => None,
            Data::String(_) => {
                self.wrong("F103", node.span, format!("{what} is empty"), None);
                None
            }
            _ => {
                let message = format!("{what} is a string, this is {}", node.kind());
                self.wrong("F103", first_line(&self.source, node.span), message, None);
                None
            }
        }
    }

    pub(super) fn about(&mut self, node: &Node) -> Option<String> {
        let about = node.get("about")?;
        self.text(about, "`about`").map(|text| text.value.trim().to_owned())
    }

    pub(super) fn duration(&mut self, node: &Node, what: &str) -> Option<u64> {
        let text = match &node.data {
            Data::String(text) => text.clone(),
            Data::Number(number) => number.to_string(),
            Data::Unreadable => return None,
            _ => {
                self.wrong(
                    "F107",
                    first_line(&self.source, node.span),
                    format!("{what} is a length of time like `60s`, this is {}", node.kind()),
                    None,
                );
                return None;
            }
        };
        match parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                let help = "write `500ms`, `60s`, `5m`, `1h30m` or `2d`".to_owned();
                self.wrong("F107", node.span, format!("{what} is a length of time: {}", brief(&reason)), Some(help));
                None
            }
        }
    }

    pub(super) fn number(&mut self, node: &Node, what: &str, least: f64, most: f64) -> Option<f64> {
        let number = match &node.data {
            Data::Number(number) => number.as_f64(),
            Data::Unreadable => return None,
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Some(number),
            Some(number) => {
                self.wrong("F108", node.span, format!("{what} lies between {least} and {most}, got {number}"), None);
                None
            }
            None => {
                self.wrong(
                    "F103",
                    first_line(&self.source, node.span),
                    format!("{what} is a number, this is {}", node.kind()),
                    None,
                );
                None
            }
        }
    }

    pub(super) fn count(&mut self, node: &Node, what: &str, most: u32) -> Option<u32> {
        match &node.data {
            Data::Number(number) if !number.is_f64() => {
                match number.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= most) {
                    Some(count) => Some(count),
                    None => {
                        self.wrong("F108", node.span, format!("{what} lies between 0 and {most}, got {number}"), None);
                        None
                    }
                }
            }
            Data::Unreadable => None,
            _ => {
                self.wrong(
                    "F103",
                    first_line(&self.source, node.span),
                    format!("{what} is a whole number, this is {}", node.kind()),
                    None,
                );
                None
            }
        }
    }

    pub(super) fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let text = self.text(node, what)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let help = did_you_mean(&text, &known, "it is one of");
            self.wrong("F110", text.span, format!("{what} cannot be `{}`", brief(&text)), help);
        }
        found.map(|(_, value)| *value)
    }

    /// Names are used in expressions, file names and URLs.
    pub(super) fn check_name(&mut self, name: &Spanned<String>, of_flow: bool) {
        let first = name.value.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = name.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (of_flow && c == '-'));
        let reserved = !of_flow && ["item", "index", "params", "steps", "schedule"].contains(&name.value.as_str());
        if first && rest && name.value.len() <= 64 && !reserved {
            return;
        }
        let message = format!("`{}` is not a name", brief(&name.value));
        let help = if reserved {
            "`item`, `index`, `params`, `steps` and `schedule` have a meaning in expressions: choose another".to_owned()
        } else {
            let allowed = if of_flow { "letters, digits, `_` and `-`" } else { "letters, digits and `_`" };
            let suggested: String =
                name.value.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
            let suggested = suggested.trim_matches('_');
            let fit = suggested.starts_with(|c: char| c.is_ascii_alphabetic());
            let like = if fit { format!(", `{suggested}` for example") } else { String::new() };
            format!("a name begins with a letter and holds {allowed}, 64 at most{like}")
        };
        self.wrong("F104", name.span, message, Some(help));
    }
}
