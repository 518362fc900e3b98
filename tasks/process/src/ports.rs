//! Declared inputs and outputs: what kinds they are, and how kinds known by name become artifacts.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::{
    Any, Checkpoint, ChipSetFolder, Chips, Cog, DatasetFile, Detections, File, Folder, GeoPackage, Model, Picture,
    SceneList, SiteList, StacItem, StretchFile,
};
use swath_task::{ArtifactRecord, Context, Draft, Kind, PortType, TaskError};

const VALUES: &[&str] = &["string", "integer", "number", "boolean"];

/// An input as declared: `raster.cog`, `raster.cog[]` for a list, `raster.cog?` where it may be left open, or the
/// type of a plain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputSpec<'a> {
    pub of: &'a str,
    pub list: bool,
    pub optional: bool,
}

impl<'a> InputSpec<'a> {
    pub fn parse(text: &'a str) -> Self {
        let (text, optional) = text.strip_suffix('?').map_or((text, false), |stem| (stem, true));
        let (of, list) = text.strip_suffix("[]").map_or((text, false), |stem| (stem, true));
        Self { of, list, optional }
    }

    pub fn port_type(&self) -> PortType {
        if VALUES.contains(&self.of) {
            // A list of plain values travels as one value.
            PortType::Value(if self.list { "array" } else { self.of }.to_owned())
        } else {
            PortType::Artifact(self.of.to_owned())
        }
    }
}

/// An output: its kind, or its kind with a name or a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OutputSpec {
    /// `raster.cog`: the program writes it to `{outputs.NAME}`.
    Kind(String),
    /// With more said about it.
    Full(FullOutput),
}

/// An output with a file name, or one that the program writes to a place of its own choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullOutput {
    /// Artifact kind, `raster.cog` for example.
    pub kind: String,
    /// File name a person sees; by the output's name and kind when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the program leaves it, relative to its working folder; left out: it writes to `{outputs.NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl OutputSpec {
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Kind(kind) => kind,
            Self::Full(full) => &full.kind,
        }
    }

    pub(crate) fn path(&self) -> Option<&str> {
        match self {
            Self::Kind(_) => None,
            Self::Full(full) => full.path.as_deref(),
        }
    }

    /// The artifact's file name.
    pub(crate) fn file_name(&self, port: &str) -> String {
        if let Self::Full(full) = self {
            let of_path = || full.path.as_deref().and_then(|path| Path::new(path).file_name()?.to_str());
            if let Some(name) = full.name.as_deref().or_else(of_path) {
                return name.to_owned();
            }
        }
        let end = match self.kind() {
            Cog::NAME => ".tif",
            Detections::NAME => ".geojson",
            GeoPackage::NAME => ".gpkg",
            Picture::NAME => ".png",
            SceneList::NAME | StacItem::NAME | StretchFile::NAME | DatasetFile::NAME => ".json",
            _ => "",
        };
        format!("{port}{end}")
    }

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        let kind = self.kind();
        if !is_kind(kind) {
            return Some(format!("`{kind}` is not an artifact kind (one of {})", kinds()));
        }
        let Self::Full(full) = self else { return None };
        if full.name.as_deref().is_some_and(|name| !is_file_name(name)) {
            return Some("`name` is a file name without folders".into());
        }
        let inside = |path: &str| {
            let mut parts = Path::new(path).components();
            !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if full.path.as_deref().is_some_and(|path| !inside(path)) {
            return Some("`path` is relative to the working folder and stays in it".into());
        }
        None
    }
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains('/')
}

/// Whether an input may be declared so.
pub(crate) fn input_problem(spec: &str) -> Option<String> {
    let of = InputSpec::parse(spec).of;
    let known = VALUES.contains(&of) || is_kind(of);
    (!known).then(|| format!("`{of}` is neither an artifact kind ({}) nor one of {}", kinds(), VALUES.join(", ")))
}

fn is_kind(name: &str) -> bool {
    swath_kinds::KINDS.iter().any(|(kind, _)| *kind == name)
}

fn kinds() -> String {
    swath_kinds::KINDS.iter().map(|(kind, _)| format!("`{kind}`")).collect::<Vec<_>>().join(", ")
}

macro_rules! drafts {
    ($($kind:ident),+) => {
        /// An artifact being written, whose kind is known by name only.
        pub(crate) enum AnyDraft {
            $($kind(Draft<$kind>)),+
        }

        impl AnyDraft {
            /// Starts an artifact of a kind. A kind that is not known here is `artifact.any`, which fits every input.
            pub fn new(ctx: &Context, kind: &str, name: &str) -> Result<Self, TaskError> {
                Ok(match kind {
                    $($kind::NAME => Self::$kind(ctx.draft(name)?),)+
                    _ => Self::Any(ctx.draft(name)?),
                })
            }

            /// Where to write.
            pub fn path(&self) -> &Path {
                match self {
                    $(Self::$kind(draft) => draft.path()),+
                }
            }

            /// Makes it an artifact.
            pub async fn commit(self) -> Result<ArtifactRecord, TaskError> {
                async fn record<K: Kind>(draft: Draft<K>) -> Result<ArtifactRecord, TaskError> {
                    Ok(draft.commit().await?.record().clone())
                }
                match self {
                    $(Self::$kind(draft) => record(draft).await),+
                }
            }
        }
    };
}

drafts!(
    Any,
    File,
    Folder,
    SceneList,
    SiteList,
    StacItem,
    Cog,
    StretchFile,
    Chips,
    ChipSetFolder,
    DatasetFile,
    Checkpoint,
    Model,
    Detections,
    GeoPackage,
    Picture
);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_is_recorded_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let host = swath_task::local::LocalHost::new(folder.path()).unwrap();
        for (kind, _) in swath_kinds::KINDS {
            let draft = AnyDraft::new(&host.context(1), kind, "x").unwrap();
            std::fs::write(draft.path(), "x").unwrap();
            assert_eq!(draft.commit().await.unwrap().kind, *kind);
        }
    }
}
