//! YAML 1.2 text to a tree with a span on every key and value, within a budget. What a flow does not need is refused:
//! tags, several documents, merge keys, characters that hide or steer.
//!
//! It deliberately knows nothing of flows: [`crate::read`] gives the tree its meaning.

mod syntax;
mod tree;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Number, Value};

use self::syntax::syntax;
pub use self::tree::{Data, Node};
use crate::diagnostic::{Diagnostics, is_bidirectional};
use crate::{Diagnostic, Source, Span, Spanned};

/// Largest flow text, bytes.
pub const MAX_TEXT: usize = 16 << 20;
/// Largest single value, bytes.
pub const MAX_SCALAR: usize = 1 << 20;
/// Deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 32;
/// Most values in all, those that aliases repeat included.
pub const MAX_NODES: usize = 2_000_000;
/// Most values that anchors may mark, those in nested anchors once for each.
pub const MAX_ANCHORED: usize = 200_000;
/// Most values that aliases may add.
pub const MAX_ALIASED: usize = 100_000;

/// The text of a flow as JSON, for checking it against the schema; `None` when its syntax is broken.
pub fn to_json(source: &Arc<Source>) -> Option<Value> {
    let mut diagnostics = Diagnostics::default();
    parse(source, &mut diagnostics).filter(|_| diagnostics.is_empty()).map(|node| node.to_json())
}

/// The tree of a file that is no flow, or everything that is wrong with its text.
pub fn read_tree(name: &str, bytes: &[u8]) -> Result<(Arc<Source>, Node), Vec<Diagnostic>> {
    let (source, problems) = source_of(name, bytes);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut diagnostics = Diagnostics::default();
    match parse(&source, &mut diagnostics) {
        Some(root) if diagnostics.is_empty() => Ok((source, root)),
        _ if diagnostics.is_empty() => Err(vec![Diagnostic::about("F012", &source, "the file is empty")]),
        _ => Err(diagnostics.into_vec()),
    }
}

/// Makes a source of what was read from a file, and says what is wrong with its bytes.
pub fn source_of(name: &str, bytes: &[u8]) -> (Arc<Source>, Vec<Diagnostic>) {
    if bytes.len() > MAX_TEXT {
        let source = Arc::new(Source::new(name, ""));
        let message = format!("the flow is more than {} MiB of text", MAX_TEXT >> 20);
        let help = "lift a step over a list with `each` instead of writing it many times, and keep data in files";
        let diagnostic = Diagnostic::about("F001", &source, message).help(help);
        return (source, vec![diagnostic]);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => {
            let source = Arc::new(Source::new(name, text));
            let diagnostics = forbidden_character(&source).into_iter().collect();
            (source, diagnostics)
        }
        Cow::Owned(text) => {
            let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), |text| text.len());
            let utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
            let source = Arc::new(Source::new(name, text));
            let byte = bytes.get(valid).copied().unwrap_or_default();
            let message = format!("the text is not UTF-8: byte {valid} is 0x{byte:02x}");
            let help = if utf16 { "it looks like UTF-16: save it as UTF-8" } else { "save the file as UTF-8" };
            let diagnostic = Diagnostic::at("F002", &source, Span::new(valid, valid + 3), message).help(help);
            (source, vec![diagnostic])
        }
    }
}

fn forbidden_character(source: &Arc<Source>) -> Option<Diagnostic> {
    let forbidden = |c: char| (c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}')) || is_bidirectional(c);
    let (at, c) = source.text().char_indices().find(|(_, c)| forbidden(*c))?;
    let what = match c {
        '\0' => "a NUL character",
        c if is_bidirectional(c) => "a character that turns the direction of writing",
        _ => "a control character",
    };
    let message = format!("the text holds {what} (U+{:04X})", u32::from(c));
    let help = "what is seen would not be what is read: delete it, or write it as an escape in double quotes";
    Some(Diagnostic::at("F003", source, Span::new(at, at + c.len_utf8()), message).help(help))
}

enum Open {
    List {
        start: usize,
        items: Vec<Node>,
        anchor: usize,
    },
    Mapping {
        start: usize,
        entries: Vec<(Spanned<String>, Node)>,
        key: Option<Spanned<String>>,
        anchor: usize,
        seen: HashMap<String, Span>,
    },
}

/// Reads a text into its tree. `None` when it is empty or its syntax is broken.
pub fn parse(source: &Arc<Source>, diagnostics: &mut Diagnostics) -> Option<Node> {
    let text = source.text();
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH * 2,
        block_nesting_limit: MAX_DEPTH * 2,
        emit_comments: false,
        disallow_directives: true,
    };
    let mut builder = Builder {
        source,
        diagnostics,
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes: 0,
        anchored: 0,
        aliased: 0,
    };
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match next {
            Ok(event) => event,
            Err(error) => {
                let diagnostic = syntax(source, &error);
                builder.diagnostics.push(diagnostic);
                return None;
            }
        };
        let span = span.byte_range().map_or_else(Span::default, |range| Span::new(range.start, range.end));
        if builder.event(event, span).is_break() {
            return None;
        }
    }
    builder.root
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    diagnostics: &'a mut Diagnostics,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Values kept for aliases: one in nested anchors is kept once for each of them.
    anchored: usize,
    aliased: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> ControlFlow<()> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                self.report(
                    "F009",
                    span,
                    "the text holds several documents",
                    "keep one flow a file; remove the `---`",
                )?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                if text.len() > MAX_SCALAR {
                    let message = format!("a value of {} KiB; the most is {} KiB", text.len() >> 10, MAX_SCALAR >> 10);
                    self.report(
                        "F001",
                        Span::new(span.start, span.start + 1),
                        message,
                        "keep data in a file and name the file",
                    )?;
                }
                let is_key = matches!(self.open.last(), Some(Open::Mapping { key: None, .. }));
                if is_key {
                    return self.key(&text, style, span);
                }
                let data =
                    if style == ScalarStyle::Plain { self.plain(&text, span) } else { Data::String(text.into_owned()) };
                self.value(Node { span, data }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                self.descend(span)?;
                self.open.push(Open::List { start: span.start, items: Vec::new(), anchor });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                self.descend(span)?;
                let (entries, seen) = (Vec::new(), HashMap::new());
                self.open.push(Open::Mapping { start: span.start, entries, key: None, anchor, seen });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                // Exactly as long as they are: a tree may have millions of short ones.
                let (start, data, anchor) = match self.open.pop() {
                    Some(Open::List { start, mut items, anchor }) => {
                        items.shrink_to_fit();
                        (start, Data::List(items), anchor)
                    }
                    Some(Open::Mapping { start, mut entries, anchor, .. }) => {
                        entries.shrink_to_fit();
                        (start, Data::Mapping(entries), anchor)
                    }
                    None => return ControlFlow::Break(()),
                };
                let text = self.source.text();
                let end = start + text.get(start..span.end).unwrap_or_default().trim_end().len();
                self.value(Node { span: Span::new(start, end), data }, anchor)?;
            }
            Event::Alias(anchor) => self.alias(anchor, span)?,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn report(&mut self, code: &'static str, span: Span, message: impl Into<String>, help: &str) -> ControlFlow<()> {
        self.diagnostics.push(Diagnostic::at(code, self.source, span, message).help(help));
        ControlFlow::Break(())
    }

    fn refuse_tag(&mut self, tag: Option<&granit_parser::Tag>, span: Span) -> ControlFlow<()> {
        let Some(tag) = tag else { return ControlFlow::Continue(()) };
        let shown: String = tag.original().chars().take(40).collect();
        // The tag stands before the value it is given to.
        let before = self.source.text().get(..span.start.max(span.end)).unwrap_or_default();
        let start = before.rfind(&shown).unwrap_or(span.start);
        let message = format!("the tag `{shown}` has no meaning in a flow");
        self.report(
            "F008",
            Span::new(start, start + shown.len()),
            message,
            "remove it; put quotes around the value to make it a string",
        )
    }

    fn descend(&mut self, span: Span) -> ControlFlow<()> {
        if self.open.len() < MAX_DEPTH {
            return ControlFlow::Continue(());
        }
        let message = format!("values are nested more than {MAX_DEPTH} deep");
        self.report(
            "F005",
            Span::new(span.start, span.start + 1),
            message,
            "a flow needs four or five levels: is a bracket left open?",
        )
    }

    fn key(&mut self, text: &str, style: ScalarStyle, span: Span) -> ControlFlow<()> {
        if text == "<<" && style == ScalarStyle::Plain {
            self.report(
                "F015",
                span,
                "merge keys (`<<`) are not part of YAML 1.2",
                "write shared settings under `defaults`",
            )?;
        }
        let Some(Open::Mapping { key, seen, .. }) = self.open.last_mut() else { return ControlFlow::Break(()) };
        if let Some(first) = seen.get(text) {
            let message = format!("the key `{text}` is given twice");
            let diagnostic = Diagnostic::at("F010", self.source, span, message).label(*first, "given here first");
            self.diagnostics.push(diagnostic.help("rename one of them, or remove it"));
        } else {
            seen.insert(text.to_owned(), span);
        }
        *key = Some(Spanned::new(text.to_owned(), span));
        ControlFlow::Continue(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> ControlFlow<()> {
        let Some(target) = self.anchors.get(&anchor) else {
            return self.report(
                "F007",
                span,
                "the alias stands inside what it repeats",
                "a flow is finite: write the value out",
            );
        };
        let (count, height) = target.measure();
        self.aliased += count;
        if self.aliased > MAX_ALIASED {
            let message = format!("aliases repeat more than {MAX_ALIASED} values");
            return self.report(
                "F006",
                span,
                message,
                "aliases of aliases multiply: write the values once, in `defaults` or `params`",
            );
        }
        if self.open.len() + height > MAX_DEPTH {
            return self.descend_alias(span);
        }
        let mut node = target.clone();
        node.span = span;
        self.nodes += count;
        if matches!(self.open.last(), Some(Open::Mapping { key: None, .. })) {
            return self.report("F011", span, "an alias cannot be a key", "write the key out");
        }
        self.value(node, 0)
    }

    fn descend_alias(&mut self, span: Span) -> ControlFlow<()> {
        self.report(
            "F005",
            span,
            format!("values are nested more than {MAX_DEPTH} deep"),
            "write the value out, or flatten it",
        )
    }

    fn value(&mut self, node: Node, anchor: usize) -> ControlFlow<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the flow holds more than {MAX_NODES} values");
            self.report(
                "F006",
                node.span,
                message,
                "lift a step over a list with `each` instead of writing it many times",
            )?;
        }
        if anchor > 0 {
            self.anchored += node.measure().0;
            if self.anchored > MAX_ANCHORED {
                let message = format!("anchors mark more than {MAX_ANCHORED} values");
                self.report(
                    "F006",
                    Span::new(node.span.start, node.span.start + 1),
                    message,
                    "anchors within anchors multiply: mark only what an alias repeats",
                )?;
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, seen, .. }) => match key.take() {
                // Of a key that is given twice the first value counts; the second was reported.
                Some(key) if seen.get(&key.value).is_some_and(|first| *first != key.span) => {}
                Some(key) => entries.push((key, node)),
                None => {
                    let span = Span::new(node.span.start, node.span.start + 1);
                    self.report(
                        "F011",
                        span,
                        format!("a key must be a string, this is {}", node.kind()),
                        "put quotes around the key",
                    )?;
                }
            },
        }
        ControlFlow::Continue(())
    }

    /// The core schema of YAML 1.2, section 10.3.2, less what surprises: numbers with leading zeros and infinities.
    fn plain(&mut self, text: &str, span: Span) -> Data {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
            "true" | "True" | "TRUE" => return Data::Boolean(true),
            "false" | "False" | "FALSE" => return Data::Boolean(false),
            _ => {}
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let lower = unsigned.to_ascii_lowercase();
        if lower == ".inf" || text.eq_ignore_ascii_case(".nan") {
            let message = format!("`{text}` is not a finite number");
            self.diagnostics
                .push(Diagnostic::at("F013", self.source, span, message).help("leave the value out to have no bound"));
            return Data::Unreadable;
        }
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return Data::String(text.to_owned());
        }
        let digits = unsigned.bytes().all(|b| b.is_ascii_digit());
        if digits && unsigned.len() > 1 && unsigned.starts_with('0') {
            let decimal = unsigned.trim_start_matches('0');
            let decimal = if decimal.is_empty() { "0" } else { decimal };
            let message = format!("`{text}` is octal to some readers and decimal to others");
            let help =
                format!("write `\"{text}\"` for a string, `{decimal}` for a decimal number, `0o{decimal}` for octal");
            self.diagnostics.push(Diagnostic::at("F014", self.source, span, message).help(help));
            return Data::Unreadable;
        }
        if digits {
            let negative = text.starts_with('-');
            let number = if negative {
                text.parse::<i64>().ok().map(Number::from)
            } else {
                unsigned.parse::<u64>().ok().map(Number::from)
            };
            if let Some(number) = number {
                return Data::Number(number);
            }
            let message = format!("`{text}` does not fit into 64 bits");
            self.diagnostics.push(
                Diagnostic::at("F013", self.source, span, message).help("put quotes around it to make it a string"),
            );
            return Data::Unreadable;
        }
        for (prefix, radix) in [("0x", 16), ("0o", 8)] {
            if let Some(rest) = text.strip_prefix(prefix)
                && let Ok(number) = u64::from_str_radix(rest, radix)
            {
                return Data::Number(number.into());
            }
        }
        let numeric = unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        if numeric && let Ok(number) = text.parse::<f64>() {
            return match Number::from_f64(number) {
                Some(number) => Data::Number(number),
                None => {
                    let message = format!("`{text}` is too large for a number");
                    self.diagnostics.push(
                        Diagnostic::at("F013", self.source, span, message)
                            .help("put quotes around it to make it a string"),
                    );
                    Data::Unreadable
                }
            };
        }
        Data::String(text.to_owned())
    }
}
