//! Parameters that name files and addresses. The planner makes relative ones absolute from the folder of the flow.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Schema keyword on strings that hold a path: relative ones are resolved against the folder of the flow.
pub const PATH_MARK: &str = "x-swath-path";
/// Schema keyword on strings that hold a period: `2024-06`, `P90D/now` and the like are resolved to two instants when the
/// flow is planned. `#[schemars(extend("x-swath-period" = true))]`
pub const PERIOD_MARK: &str = "x-swath-period";

/// A file or folder on this machine. Relative paths are relative to the flow that names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalPath(pub PathBuf);

impl AsRef<Path> for LocalPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl JsonSchema for LocalPath {
    fn schema_name() -> Cow<'static, str> {
        "LocalPath".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, (PATH_MARK): true })
    }
}

/// A file on this machine or an address (`https://...`, `s3://...`). Relative paths are relative to the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Location(pub String);

impl Location {
    /// Whether it is an address with a scheme (`https://`), not a path.
    pub fn is_remote(&self) -> bool {
        self.0.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme != "file"
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        })
    }

    /// The path, when it is not remote (`file://` is stripped).
    pub fn local(&self) -> Option<&Path> {
        (!self.is_remote()).then(|| Path::new(self.0.strip_prefix("file://").unwrap_or(&self.0)))
    }
}

impl JsonSchema for Location {
    fn schema_name() -> Cow<'static, str> {
        "Location".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, (PATH_MARK): true })
    }
}
