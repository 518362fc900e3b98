//! Cache keys, and what they were made of: so that a later run can say which part changed.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_task::Digest;

/// All that a result depends on (I22). Never a run id, never a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyParts {
    /// Task name.
    pub task: String,
    /// Task version.
    pub version: u32,
    /// Parameters as canonical JSON ([`canonical_json`]).
    pub params: String,
    /// Each connected input: the digest of its canonical JSON (artifact records hold content digests).
    pub inputs: BTreeMap<String, Digest>,
    /// Each local file or folder that the parameters name, by its path: digest of its content.
    pub files: BTreeMap<String, Digest>,
    /// Each variable of the environment that decides the result, where it is set: digest of its value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Digest>,
}

/// One reason why two keys differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Difference {
    /// Another task.
    Task {
        /// Before.
        before: String,
        /// Now.
        now: String,
    },
    /// Another version of the task.
    Version {
        /// Before.
        before: u32,
        /// Now.
        now: u32,
    },
    /// A parameter. Values are JSON texts of at most 80 characters; `None` where it was absent.
    Param {
        /// Its path, `bands[2]` or `area.west` for example.
        path: String,
        /// Before.
        before: Option<String>,
        /// Now.
        now: Option<String>,
    },
    /// What an input received.
    Input {
        /// The port.
        port: String,
    },
    /// The content of a file or folder that parameters name.
    File {
        /// Where it lies.
        path: String,
    },
    /// A variable of the environment: set, taken away or of another value.
    Variable {
        /// Its name.
        name: String,
    },
}

impl KeyParts {
    /// The cache key.
    pub fn digest(&self) -> Digest {
        // Lengths before texts: no two different parts can give the same bytes.
        let mut text = String::with_capacity(256 + self.params.len());
        let mut put = |name: &str, value: &str| {
            let _ = writeln!(text, "{name} {}\n{value}", value.len());
        };
        put("swath", "1");
        put("task", &self.task);
        put("version", &self.version.to_string());
        put("params", &self.params);
        for (group, parts) in [("input", &self.inputs), ("file", &self.files), ("variable", &self.variables)] {
            for (name, digest) in parts {
                put(group, name);
                put("digest", &digest.hex());
            }
        }
        Digest::of(text.as_bytes())
    }

    /// Why `self` is not `before`: empty when they are equal.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        if self.task != before.task {
            found.push(Difference::Task { before: before.task.clone(), now: self.task.clone() });
        }
        if self.version != before.version {
            found.push(Difference::Version { before: before.version, now: self.version });
        }
        if self.params != before.params {
            match (serde_json::from_str::<Value>(&before.params), serde_json::from_str::<Value>(&self.params)) {
                (Ok(old), Ok(new)) => compare("", Some(&old), Some(&new), &mut found),
                _ => found.push(Difference::Param { path: String::new(), before: None, now: None }),
            }
        }
        let changed = |now: &BTreeMap<String, Digest>, old: &BTreeMap<String, Digest>| -> Vec<String> {
            let names: std::collections::BTreeSet<&String> = now.keys().chain(old.keys()).collect();
            names.into_iter().filter(|name| now.get(*name) != old.get(*name)).cloned().collect()
        };
        found.extend(changed(&self.inputs, &before.inputs).into_iter().map(|port| Difference::Input { port }));
        let mut files = changed(&self.files, &before.files);
        if !found.is_empty() {
            // A parameter that names another file says so itself.
            files.retain(|path| self.files.contains_key(path) && before.files.contains_key(path));
        }
        found.extend(files.into_iter().map(|path| Difference::File { path }));
        let variables = changed(&self.variables, &before.variables);
        found.extend(variables.into_iter().map(|name| Difference::Variable { name }));
        found
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task { before, now } => write!(f, "task was `{before}`, is `{now}`"),
            Self::Version { before, now } => write!(f, "version of the task was {before}, is {now}"),
            Self::Param { path, before, now } => match (before, now) {
                (Some(before), Some(now)) => write!(f, "parameter `{path}` was `{before}`, is `{now}`"),
                (None, Some(now)) => write!(f, "parameter `{path}` is new: `{now}`"),
                (Some(before), None) => write!(f, "parameter `{path}` is gone, was `{before}`"),
                (None, None) => write!(f, "parameters changed"),
            },
            Self::Input { port } => write!(f, "input `{port}` changed"),
            Self::File { path } => write!(f, "what lies at `{path}` changed"),
            Self::Variable { name } => write!(f, "the variable `{name}` of the environment changed"),
        }
    }
}

fn compare(path: &str, before: Option<&Value>, now: Option<&Value>, found: &mut Vec<Difference>) {
    match (before, now) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&below, old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{index}]"), Some(old), Some(new), found);
            }
        }
        (before, now) if before != now => {
            let show = |value: &Value| {
                let text = crate::redact::redact(&value.to_string()).into_owned();
                match text.char_indices().nth(80) {
                    Some((end, _)) => format!("{}...", &text[..end]),
                    None => text,
                }
            };
            found.push(Difference::Param { path: path.to_owned(), before: before.map(show), now: now.map(show) });
        }
        _ => {}
    }
}

/// JSON with sorted keys and no spaces: equal values give equal texts.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut names: Vec<&String> = map.keys().collect();
            names.sort_unstable();
            text.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                let _ = write!(text, "{}:", Value::String(name.clone()));
                write_canonical(&map[name.as_str()], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        // `1.0` and `1` are one value to whoever wrote the flow, and to every number parameter.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9.0e15 => {
                let _ = write!(text, "{}", float as i64);
            }
            _ => {
                let _ = write!(text, "{number}");
            }
        },
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parts(params: Value) -> KeyParts {
        KeyParts { task: "raster.indices".into(), version: 1, params: canonical_json(&params), ..KeyParts::default() }
    }

    #[test]
    fn equal_values_have_one_canonical_text_and_one_key() {
        let one = parts(json!({ "b": [1.0, 2.5, null], "a": { "y": "ü\n", "x": true } }));
        let other = parts(json!({ "a": { "x": true, "y": "ü\n" }, "b": [1, 2.5, null] }));
        assert_eq!(one.params, r#"{"a":{"x":true,"y":"ü\n"},"b":[1,2.5,null]}"#);
        assert_eq!(one.digest(), other.digest());
        assert!(one.differences(&other).is_empty());
    }

    #[test]
    fn every_part_changes_the_key_and_is_named() {
        let mut before = parts(json!({ "eps": 1.5, "bands": ["B02", "B03"], "old": 1, "area": { "west": 1 } }));
        before.inputs.insert("raster".into(), Digest::of(b"a"));
        before.files.insert("/models/a".into(), Digest::of(b"m"));
        before.variables.insert("SERVER_URL".into(), Digest::of(b"s"));
        let mut now = parts(json!({ "eps": 2.5, "bands": ["B02", "B08"], "new": [], "area": { "west": 2 } }));
        now.version = 2;
        now.inputs.insert("raster".into(), Digest::of(b"b"));
        now.inputs.insert("mask".into(), Digest::of(b"c"));
        now.files.insert("/models/a".into(), Digest::of(b"n"));
        let said: Vec<String> = now.differences(&before).iter().map(Difference::to_string).collect();
        assert_eq!(
            said,
            [
                "version of the task was 1, is 2",
                "parameter `area.west` was `1`, is `2`",
                "parameter `bands[1]` was `\"B03\"`, is `\"B08\"`",
                "parameter `eps` was `1.5`, is `2.5`",
                "parameter `new` is new: `[]`",
                "parameter `old` is gone, was `1`",
                "input `mask` changed",
                "input `raster` changed",
                "what lies at `/models/a` changed",
                "the variable `SERVER_URL` of the environment changed",
            ]
        );
        let mut keys = std::collections::BTreeSet::from([before.digest(), now.digest()]);
        let mut moved = before.clone();
        moved.files = std::mem::take(&mut moved.inputs);
        keys.insert(moved.digest());
        let mut elsewhere = before.clone();
        elsewhere.variables.insert("SERVER_URL".into(), Digest::of(b"t"));
        keys.insert(elsewhere.digest());
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn a_parameter_that_names_another_file_is_told_and_not_that_a_file_changed() {
        let reads = |path: &str, backend: &str| {
            let mut parts = parts(json!({ "model": path, "backend": backend }));
            parts.files.insert(path.into(), Digest::of(b"same"));
            parts
        };
        let said = |now: &KeyParts, before: &KeyParts| -> Vec<String> {
            now.differences(before).iter().map(Difference::to_string).collect()
        };
        let before = reads("/a", "ort");
        assert_eq!(said(&reads("/a", "triton"), &before), ["parameter `backend` was `\"ort\"`, is `\"triton\"`"]);
        assert_eq!(said(&reads("/b", "ort"), &before), ["parameter `model` was `\"/a\"`, is `\"/b\"`"]);
    }
}
