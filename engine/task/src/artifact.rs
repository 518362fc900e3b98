//! Artifacts: what steps hand to each other. A record of a whole, immutable file or folder, typed by its [`Kind`].

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::port::KIND_MARK;

/// What an artifact is, as an edge of a flow checks it.
pub trait Kind: Send + Sync + 'static {
    /// The name a reader of a flow sees, `raster.cog` for example.
    const NAME: &'static str;
    /// One sentence for the generated reference.
    const ABOUT: &'static str;
}

/// A BLAKE3 digest, written `blake3:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest (`blake3:` and 64 hexadecimal digits)")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of all that `reader` yields, and how many bytes that was.
    pub fn of_reader(reader: impl std::io::Read) -> std::io::Result<(Self, u64)> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(reader)?;
        Ok((Self(*hasher.finalize().as_bytes()), hasher.count()))
    }

    /// The 64 hexadecimal digits alone, for file names.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hash = text.strip_prefix("blake3:").and_then(|hex| blake3::Hash::from_hex(hex).ok());
        hash.map(|hash| Self(*hash.as_bytes())).ok_or_else(|| DigestError(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One file of a folder artifact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Path below the folder, `/`-separated.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest of the content.
    pub digest: Digest,
}

/// An artifact without its type: what the engine stores and passes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// [`Kind::NAME`] of what it is.
    pub kind: String,
    /// File or folder name a person sees, `composite.tif` for example.
    pub name: String,
    /// Digest of the file, or of the sorted list of `files` for a folder.
    pub digest: Digest,
    /// Size in bytes, summed over a folder.
    pub size: u64,
    /// The files of a folder artifact, sorted by path; empty for a single file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ArtifactFile>,
}

impl ArtifactRecord {
    /// The record of a folder of these files, whose digest is that of one line a file: digest, size and path.
    pub fn of_folder(name: &str, kind: &str, mut files: Vec<ArtifactFile>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let text: String = files.iter().map(|file| format!("{} {} {}\n", file.digest, file.size, file.path)).collect();
        let size = files.iter().map(|file| file.size).sum();
        Self { kind: kind.to_owned(), name: name.to_owned(), digest: Digest::of(text.as_bytes()), size, files }
    }
}

/// A typed handle on an artifact: what a task's `Inputs` and `Outputs` hold.
pub struct Artifact<K> {
    record: ArtifactRecord,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Artifact<K> {
    /// The record behind the handle.
    pub fn record(&self) -> &ArtifactRecord {
        &self.record
    }

    /// Gives a record its type. `None` when the record is of another kind.
    pub fn typed(record: ArtifactRecord) -> Option<Self> {
        let fits = record.kind == K::NAME || K::NAME == crate::port::ANY_KIND;
        fits.then_some(Self { record, kind: PhantomData })
    }
}

impl<K> Clone for Artifact<K> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Artifact<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.record, f)
    }
}

impl<K> Serialize for Artifact<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.record.serialize(serializer)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Artifact<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = ArtifactRecord::deserialize(deserializer)?;
        let got = record.kind.clone();
        Self::typed(record)
            .ok_or_else(|| serde::de::Error::custom(format!("expected an artifact of kind `{}`, got `{got}`", K::NAME)))
    }
}

impl<K: Kind> JsonSchema for Artifact<K> {
    fn schema_name() -> Cow<'static, str> {
        format!("Artifact<{}>", K::NAME).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", (KIND_MARK): K::NAME })
    }
}
