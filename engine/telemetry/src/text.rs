//! From an event to a text and its fields.

use std::borrow::Cow;
use std::fmt::Debug;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

use crate::Redact;

/// The longest message or field value, in bytes.
pub const LONGEST_LINE: usize = 64 * 1024;

/// What an event says: its message, and its fields as JSON.
#[derive(Default)]
pub(crate) struct Said {
    pub message: String,
    pub fields: Map<String, Value>,
}

impl Said {
    /// Makes what was told again ([`crate::RELAYED`]) what it was. Returns its target.
    pub fn relayed(&mut self) -> Option<String> {
        let Some(Value::String(from)) = self.fields.shift_remove("from") else { return None };
        if let Some(Value::String(said)) = self.fields.shift_remove("said") {
            self.fields = serde_json::from_str(&said).unwrap_or_default();
        }
        Some(from)
    }

    /// Adds where in its trace it was said, where traces are sent.
    pub fn say_where(&mut self) {
        if let Some((trace, span)) = crate::trace::ids() {
            self.fields.insert("trace_id".to_owned(), trace.into());
            self.fields.insert("span_id".to_owned(), span.into());
        }
    }

    /// Bounded, without escape sequences and without secrets.
    pub fn clean(mut self, redact: Redact) -> Self {
        self.message = clean(&self.message, redact);
        for value in self.fields.values_mut() {
            if let Value::String(text) = value {
                *text = clean(text, redact);
            }
        }
        self
    }
}

/// One text, made fit to be kept.
pub(crate) fn clean(text: &str, redact: Redact) -> String {
    // Enough is looked at that a secret is not torn in two by the cut.
    let head = cut(text, 4 * LONGEST_LINE);
    let plain = plain(head);
    let clean = redact(&plain);
    if clean.len() <= LONGEST_LINE && head.len() == text.len() {
        return clean.into_owned();
    }
    format!("{} ... (cut)", cut(&clean, LONGEST_LINE - 16))
}

fn cut(text: &str, longest: usize) -> &str {
    let mut end = text.len().min(longest);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text without terminal escape sequences and control characters; line ends and tabs stay. A carriage return (as
/// progress bars write it) becomes a line end.
pub fn plain(text: &str) -> Cow<'_, str> {
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(odd) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // Control sequence: parameters, then one final character.
                Some('[') => while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // Operating system command: up to BEL or ESC \.
                Some(']') => {
                    while let Some(c) = rest.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => plain.push('\n'),
            c if odd(c) => {}
            c => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // With its causes: the last is often the one that says something.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.text(field, text);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: they stay texts.
        let value = serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number);
        self.fields.insert(field.name().to_owned(), value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Said {
    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.insert(field.name().to_owned(), text.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_control_characters_go() {
        for (text, shown) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]8;;https://x\u{7}link\u{1b}]8;;\u{1b}\\!", "link!"),
            ("10 %\r20 %\r\nend\n\tx", "10 %\n20 %\nend\n\tx"),
            ("a\0b\u{8}c\u{9b}d\u{1b}", "abcd"),
            ("plain ü", "plain ü"),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let cut = clean(&"ü".repeat(LONGEST_LINE), |text| text.into());
        assert!(cut.len() <= LONGEST_LINE && cut.ends_with("(cut)"));
        let cut = clean(&"x".repeat(50 * LONGEST_LINE), |text| text.into());
        assert!(cut.len() <= LONGEST_LINE && cut.ends_with("(cut)"));
    }
}
