//! `meta.yaml` of MLflow's file store: a mapping of names to plain values, of which no more is read than one name at a time.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

pub(crate) const META: &str = "meta.yaml";

/// Writes `meta.yaml` of a folder whole. JSON's values are YAML's as well.
pub(crate) fn write(folder: &Path, fields: &[(&str, Value)]) -> io::Result<()> {
    let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    put(&folder.join(META), text.as_bytes())
}

/// Writes a file whole: who reads it finds the old one or the new one.
pub(crate) fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("swath-new");
    File::create(&draft)?.write_all(content)?;
    std::fs::rename(&draft, path)
}

/// A value of the mapping as text; none when there is none of that name, or null.
pub(crate) fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
    match value.chars().next() {
        None => None,
        Some('"') => serde_json::from_str(value).ok(),
        Some('\'') => Some(value.get(1..value.len() - 1)?.replace("''", "'")),
        Some(_) if matches!(value, "null" | "~") => None,
        Some(_) => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_as_mlflow_and_as_this_crate_write_it() {
        let text = "artifact_location: file:///a\ncreation_time: 17\nname: 'it''s: 1'\nlast: \"a \\\"b\\\"\"\nnone: null\nempty: ''\n";
        for (name, value) in [
            ("artifact_location", Some("file:///a")),
            ("creation_time", Some("17")),
            ("name", Some("it's: 1")),
            ("last", Some("a \"b\"")),
            ("none", None),
            ("empty", Some("")),
            ("creation", None),
        ] {
            assert_eq!(field(text, name).as_deref(), value, "{name}");
        }
        assert_eq!(field("name: '", "name"), None);
    }
}
