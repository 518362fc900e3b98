//! What can be wrong with the files of a dataset.

use std::path::Path;

/// A file that cannot be used. The message names it and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read: the disk, or it is not there.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A manifest of another format, or one that contradicts itself.
    #[error("the manifest `{path}` is wrong: {reason}")]
    Manifest {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A shard that is damaged or not the one that the manifest tells of.
    #[error("the shard `{path}` is damaged: {reason}")]
    Shard {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A dataset whose chips lie in a set that was not given, or that has changed.
    #[error(
        "the dataset needs the chip set whose manifest has the digest {digest}, which is not among the {given} given"
    )]
    MissingSet {
        /// Digest of its manifest.
        digest: String,
        /// How many were given.
        given: usize,
    },
}

impl Error {
    /// The code whose page explains it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "L130",
            Self::Write { .. } => "L131",
            Self::Manifest { .. } => "L132",
            Self::Shard { .. } => "L133",
            Self::MissingSet { .. } => "L134",
        }
    }

    /// What a person can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check that the folder is a chip set: `manifest.json` and its shards",
            Self::Write { .. } => "free disk space or choose a folder that can be written",
            Self::Manifest { .. } => {
                "make it again with `dataset.chips` or `dataset.split`; docs/datasets.md tells every field"
            }
            Self::Shard { .. } => "copy or make the set again; a shard is never changed once it is written",
            Self::MissingSet { .. } => "give every chip set that the split was made of, unchanged",
        }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), source }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write { path: path.display().to_string(), source }
    }

    pub(crate) fn manifest(path: &Path, reason: impl Into<String>) -> Self {
        Self::Manifest { path: path.display().to_string(), reason: reason.into() }
    }

    pub(crate) fn shard(path: &Path, reason: impl Into<String>) -> Self {
        Self::Shard { path: path.display().to_string(), reason: reason.into() }
    }
}
