//! What is wrong with text that is no YAML, in the words of a flow's author.

use std::borrow::Cow;
use std::sync::Arc;

use granit_parser::{ErrorKind, ScanError};

use super::MAX_DEPTH;
use crate::{Diagnostic, Source, Span};

/// A broken syntax as a diagnostic.
pub(super) fn syntax(source: &Arc<Source>, error: &ScanError) -> Diagnostic {
    let offset = error.marker().byte_offset().unwrap_or_default().min(source.text().len());
    let span = Span::new(offset, offset + 1);
    let (line, _) = source.position(offset);
    if source.line(line).0.contains("${")
        && matches!(
            error.kind(),
            ErrorKind::MappingValueNotAllowed
                | ErrorKind::InvalidColonPlacement
                | ErrorKind::ExpectedFlowMappingSeparator
                | ErrorKind::ExpectedFlowSequenceSeparator
        )
    {
        let message = "YAML reads `:`, `,` and braces before the expression is read";
        return Diagnostic::at("F004", source, span, message).help("put quotes around the text: `\"${...}\"`");
    }
    let (code, message, help): (_, Cow<'static, str>, _) = match error.kind() {
        ErrorKind::RecursionLimitExceeded => (
            "F005",
            format!("values are nested more than {MAX_DEPTH} deep").into(),
            "a flow needs four or five levels: is a bracket left open?",
        ),
        ErrorKind::UnknownAnchor => (
            "F007",
            "the alias names an anchor that is not defined above it".into(),
            "define it with `&name` before, or put quotes around a text that begins with `*`",
        ),
        ErrorKind::DirectiveDisallowed => {
            ("F004", "a flow has no directives (`%`)".into(), "put quotes around a text that begins with `%`")
        }
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            ("F004", "a tab stands where YAML wants spaces".into(), "indent with spaces")
        }
        ErrorKind::UnclosedQuotedScalar => ("F004", "a quote is opened and not closed".into(), "close the quote"),
        ErrorKind::UnclosedFlowCollection { open } => {
            ("F004", format!("`{open}` is opened and not closed").into(), "close the bracket")
        }
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofFlowSequence => {
            ("F004", "a bracket is opened and not closed".into(), "close the bracket")
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => (
            "F004",
            "a `:` stands where no mapping can begin".into(),
            "put quotes around a text with `: ` in it, or mend the indentation",
        ),
        ErrorKind::UndeclaredTagHandle => {
            ("F008", "a tag has no meaning in a flow".into(), "put quotes around a text that begins with `!`")
        }
        ErrorKind::UnexpectedCharacter { character } => (
            "F004",
            format!("`{}` cannot begin a value", character.escape_default()).into(),
            "put quotes around the text",
        ),
        kind => (
            "F004",
            format!("this is not YAML: {kind}").into(),
            "check the indentation and the quotes around this place",
        ),
    };
    Diagnostic::at(code, source, span, message).help(help)
}
