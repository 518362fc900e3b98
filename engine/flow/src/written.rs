//! Strings as a flow writes them: plain text, `$name`, `${ ... }`, and text with `${ ... }` in it.

use std::ops::Range;

/// A part of a string that may hold expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is; `$$` at its beginning and `$${` in it have become `$` and `${`.
    Text(String),
    /// The inside of `${ ... }` and its place in the string.
    Expression(String, Range<usize>),
}

/// What a string in `with`, `each`, `when` or `outputs` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Plain text.
    Text(String),
    /// `$name`: the value of a parameter. (`$schedule.start` and `$schedule.end` are expressions.)
    Parameter(String),
    /// Wholly `${ ... }`: the typed value.
    Expression(String, Range<usize>),
    /// Text with `${ ... }` in it: a string.
    Parts(Vec<Part>),
}

/// A string whose `$` cannot be understood, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// `${` without its `}`.
    Unclosed(Range<usize>),
    /// It begins with `$` and is neither `$name` nor `${ ... }`.
    Dollar(Range<usize>),
}

/// Reads a string for parameters and expressions.
pub fn read_string(text: &str) -> Result<Written, Unwritten> {
    if let Some(rest) = text.strip_prefix("$$")
        && !rest.starts_with('{')
    {
        return Ok(match split(text, 1)?.as_slice() {
            [] => Written::Text(format!("${rest}")),
            [Part::Text(text)] => Written::Text(text.clone()),
            parts => Written::Parts(parts.to_vec()),
        });
    }
    if let Some(interval @ ("schedule.start" | "schedule.end")) = text.strip_prefix('$') {
        return Ok(Written::Expression(interval.to_owned(), 1..text.len()));
    }
    if let Some(name) = text.strip_prefix('$')
        && !name.starts_with(['{', '$'])
    {
        let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
        return if end == name.len() && end > 0 {
            Ok(Written::Parameter(name.to_owned()))
        } else {
            Err(Unwritten::Dollar(0..end + 1))
        };
    }
    let mut parts = split(text, 0)?;
    Ok(match parts.as_slice() {
        [] => Written::Text(String::new()),
        [_] => match parts.remove(0) {
            Part::Text(text) => Written::Text(text),
            Part::Expression(inside, at) => Written::Expression(inside, at),
        },
        _ => Written::Parts(parts),
    })
}

fn split(text: &str, from: usize) -> Result<Vec<Part>, Unwritten> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut at = from;
    while let Some(found) = text[at..].find("${") {
        let open = at + found;
        if text[at..open].ends_with('$') {
            plain.push_str(&text[at..open - 1]);
            plain.push_str("${");
            at = open + 2;
            continue;
        }
        plain.push_str(&text[at..open]);
        let inside = open + 2;
        let length = closing(&text[inside..]).ok_or(Unwritten::Unclosed(open..text.len()))?;
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Expression(text[inside..inside + length].to_owned(), open..inside + length + 1));
        at = inside + length + 1;
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// Where the `}` is that closes an expression; braces in strings and of mappings inside are passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_split_at_their_expressions() {
        assert_eq!(read_string("$area"), Ok(Written::Parameter("area".into())));
        assert_eq!(read_string("$$area"), Ok(Written::Text("$area".into())));
        assert_eq!(read_string("${ {'a': '}'} }"), Ok(Written::Expression(" {'a': '}'} ".into(), 0..15)));
        assert_eq!(read_string("a $${b}"), Ok(Written::Text("a ${b}".into())));
        assert_eq!(read_string("costs 5$"), Ok(Written::Text("costs 5$".into())));
        assert_eq!(
            read_string("a-${b}.tif"),
            Ok(Written::Parts(vec![
                Part::Text("a-".into()),
                Part::Expression("b".into(), 2..6),
                Part::Text(".tif".into())
            ]))
        );
        assert_eq!(read_string("$area/x"), Err(Unwritten::Dollar(0..5)));
        assert_eq!(read_string("x ${a"), Err(Unwritten::Unclosed(2..5)));
    }
}
