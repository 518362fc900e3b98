//! Triton's `config.pbtxt`, in protobuf's text format, of which no more is known than where a field ends.

use crate::folder::policy;

/// What Triton is told of a model whose folder says nothing. Triton finds out the rest.
pub(crate) const PLAIN: &str = "platform: \"onnxruntime_onnx\"";

/// A configuration under another name and version; all else stays as it is written.
pub(crate) fn configured(text: &str, name: &str, version: u32) -> String {
    let kept = without(text, &["name", "version_policy"]);
    let kept: Vec<&str> = kept.lines().filter(|line| !line.trim().is_empty()).collect();
    format!("name: \"{name}\"\n{}\n{}\n", kept.join("\n"), policy(version))
}

/// A text without the fields of these names; those within other fields stay.
fn without(text: &str, fields: &[&str]) -> String {
    let mut kept = String::new();
    let mut at = 0;
    while at < text.len() {
        let field = gap(text, at);
        kept.push_str(&text[at..field]);
        let name = field + word(&text[field..]);
        let end = value(text, name);
        at = end;
        if fields.contains(&&text[field..name]) {
            let after = end + (text[end..].len() - text[end..].trim_start().len());
            // What parts it from the next one goes with it.
            at = if text[after..].starts_with([',', ';']) { after + 1 } else { end };
        } else {
            kept.push_str(&text[field..end]);
        }
    }
    kept
}

/// Where blanks, comments and what parts fields end.
fn gap(text: &str, mut at: usize) -> usize {
    loop {
        let rest = &text[at..];
        if rest.starts_with('#') {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(c) = rest.chars().next().filter(|c| c.is_whitespace() || matches!(c, ',' | ';')) {
            at += c.len_utf8();
        } else {
            return at;
        }
    }
}

/// The length of a name or of a value that is neither text nor in brackets.
fn word(rest: &str) -> usize {
    rest.find(|c: char| c.is_whitespace() || ":,;#{}[]<>\"'".contains(c)).unwrap_or(rest.len())
}

/// Where the value of a field ends whose name ends at `at`: at least a character later, whatever stands there.
fn value(text: &str, at: usize) -> usize {
    let begin = gap(text, at);
    let begin = if text[begin..].starts_with(':') { gap(text, begin + 1) } else { begin };
    match text[begin..].chars().next() {
        None => text.len(),
        Some('{' | '[' | '<') => brackets(text, begin),
        Some('"' | '\'') => {
            // Texts in a row are one.
            let (mut end, mut next) = (begin, begin);
            while text[next..].starts_with(['"', '\'']) {
                end = quoted(text, next);
                next = gap(text, end);
            }
            end
        }
        Some(other) => begin + word(&text[begin..]).max(other.len_utf8()),
    }
}

/// Where what begins with a bracket ends.
fn brackets(text: &str, mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at = quoted(text, at);
                continue;
            }
            '#' => {
                at = gap(text, at);
                continue;
            }
            '{' | '[' | '<' => depth += 1,
            '}' | ']' | '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Where a text in quotes ends.
fn quoted(text: &str, at: usize) -> usize {
    let mut letters = text[at..].char_indices();
    let quote = letters.next().map(|(_, quote)| quote);
    while let Some((index, letter)) = letters.next() {
        if letter == '\\' {
            letters.next();
        } else if Some(letter) == quote {
            return at + index + letter.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_versions_are_replaced_and_all_else_stays() {
        let by_hand = r#"# Ours, "by hand" {
name: "old"  # the name
platform: "onnxruntime_onnx"; max_batch_size: 8
input [
  {
    name: "image"
    data_type: TYPE_FP32
    dims: [ 3, 64, 64 ]
  }
]
version_policy: {
  specific: {
    versions: [ 1 ]  # not }
  }
}
parameters { key: "note" value { string_value: "name: \"x\" }" "version_policy" } }
instance_group [ { name: "cpu" kind: KIND_CPU } ]
"#;
        let wanted = r#"name: "pads"
# Ours, "by hand" {
  # the name
platform: "onnxruntime_onnx"; max_batch_size: 8
input [
  {
    name: "image"
    data_type: TYPE_FP32
    dims: [ 3, 64, 64 ]
  }
]
parameters { key: "note" value { string_value: "name: \"x\" }" "version_policy" } }
instance_group [ { name: "cpu" kind: KIND_CPU } ]
version_policy: { specific: { versions: [ 7 ] } }
"#;
        assert_eq!(configured(by_hand, "pads", 7), wanted);
        assert_eq!(configured(wanted, "pads", 7).matches("version_policy:").count(), 1);
        let one_line = "version_policy < latest { num_versions: 2 } >, name: 'a' 'b', max_batch_size: 4";
        let told = configured(one_line, "pads", 2);
        assert_eq!(told, "name: \"pads\"\n  max_batch_size: 4\nversion_policy: { specific: { versions: [ 2 ] } }\n");
    }

    #[test]
    fn half_a_configuration_ends() {
        for text in ["", "name", "name:", "name: \"", "input [ {", "}", ":::", "x: \"\\", "ä ö: ü"] {
            assert!(configured(text, "pads", 1).contains("versions: [ 1 ]"), "{text}");
        }
    }
}
