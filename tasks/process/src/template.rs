//! Placeholders in arguments: `{inputs.scene}`, `{outputs.mask}`, `{files.script}`, `{scratch}`, `{cpus}`.
//!
//! Only braces around lower-case words and dots are placeholders, so that JSON, `${HOME}` and globs pass untouched;
//! `{{scratch}}` is the text `{scratch}`.

/// A piece of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    /// `inputs.scene` or `scratch`.
    Placeholder(&'a str),
}

/// Takes an argument apart.
pub(crate) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let inner = &rest[open + 1..];
        if let Some(escaped) = inner.strip_prefix('{')
            && let Some(close) = escaped.find("}}")
            && is_name(&escaped[..close])
        {
            push_text(&mut pieces, &rest[..open]);
            // The inner pair of braces stays.
            pieces.push(Piece::Text(&rest[open + 1..open + close + 3]));
            rest = &rest[open + close + 4..];
        } else if let Some(close) = inner.find('}').filter(|close| is_name(&inner[..*close])) {
            push_text(&mut pieces, &rest[..open]);
            pieces.push(Piece::Placeholder(&inner[..close]));
            rest = &inner[close + 1..];
        } else {
            push_text(&mut pieces, &rest[..=open]);
            rest = inner;
        }
    }
    push_text(&mut pieces, rest);
    pieces
}

/// The placeholder an argument consists of, if it is nothing else.
pub(crate) fn whole(text: &str) -> Option<&str> {
    match pieces(text).as_slice() {
        [Piece::Placeholder(name)] => Some(name),
        _ => None,
    }
}

fn push_text<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

fn is_name(text: &str) -> bool {
    let (group, name) = text.split_once('.').unwrap_or((text, "x"));
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    !group.is_empty() && group.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && is_word(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_told_from_other_braces() {
        use Piece::{Placeholder, Text};
        assert_eq!(pieces("{inputs.a}"), [Placeholder("inputs.a")]);
        assert_eq!(pieces("-o={outputs.b-1}.tif"), [Text("-o="), Placeholder("outputs.b-1"), Text(".tif")]);
        assert_eq!(pieces("{{scratch}}/x"), [Text("{scratch}"), Text("/x")]);
        for text in [r#"{"a": {"b": 1}}"#, "${HOME}", "{a,b}", "{", "}", "{}", "{{}}", "{ scratch }", "{A.b}", "é{ü}"]
        {
            let shown: String = pieces(text)
                .iter()
                .map(|piece| match piece {
                    Text(text) => *text,
                    Placeholder(name) => panic!("{text}: {name}"),
                })
                .collect();
            assert_eq!(shown, text);
        }
        assert_eq!(whole("{scratch}"), Some("scratch"));
        assert_eq!(whole("{scratch}/x"), None);
    }
}
