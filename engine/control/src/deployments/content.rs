//! What a version of a deployment runs, as it is stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use swath_host::{Asked, Files, FlowText};
use swath_plan::Given;
use swath_schedule::Fire;

/// The text of a flow with those of its sub-flows, and its parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Content {
    /// Absolute path of the flow.
    source: String,
    text: String,
    files: BTreeMap<PathBuf, String>,
    params: Vec<(String, String)>,
    params_folder: PathBuf,
}

impl Content {
    /// Of a flow that was planned with these parameters, and read these files for it.
    pub fn new(
        source: &str,
        flow: &FlowText,
        files: Files,
        params: Vec<(String, String)>,
        params_folder: PathBuf,
    ) -> Self {
        // A text that was planned is UTF-8.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let files = files.into_iter().map(|(path, bytes)| (path, text(&bytes))).collect();
        Self { source: source.to_owned(), text: text(&flow.bytes), files, params, params_folder }
    }

    /// The flow, as it was when it was deployed.
    pub fn flow(&self) -> FlowText {
        let folder = Path::new(&self.source).parent().unwrap_or(Path::new("/"));
        let files = self.files.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())).collect();
        FlowText::new(&self.source, folder, self.text.clone().into_bytes()).pinned_to(files)
    }

    /// What is asked of it for a fire, with `changed` parameters in the place of those it was deployed with. Texts among
    /// them are read as on a command line.
    pub fn asked(&self, changed: Map<String, Value>, fire: Fire) -> Asked {
        let kept = self.params.iter().filter(|(name, _)| !changed.contains_key(name));
        let mut params: Vec<_> = kept.map(|(name, value)| (name.clone(), Given::Text(value.clone()))).collect();
        params.extend(changed.into_iter().map(|(name, value)| match value {
            Value::String(text) => (name, Given::Text(text)),
            value => (name, Given::Value(value)),
        }));
        Asked { params, params_folder: self.params_folder.clone(), fire: Some(fire) }
    }
}
