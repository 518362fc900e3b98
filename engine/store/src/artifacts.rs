//! Artifacts: whole, immutable files and folders under their digest.
//!
//! A key is `ab/DIGEST/NAME` (`ab` are the digest's first two digits); a folder has its files below that key and a
//! manifest `NAME.files.json` beside it, written last: without it the folder is not there.
//!
//! - I15 A visible artifact is whole: it gets its final name by a rename, after its bytes are on the disk; its key is its
//!   digest, so it never changes meaning. Sizes are checked whenever it is read, digests once a process and file.
//! - I23 Collection removes nothing that is referenced.
//!
//! On a local disk a commit moves the staged file (no second copy); any other [`ObjectStore`] is uploaded to, and read
//! through a folder on this machine.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use swath_task::{ArtifactFile, ArtifactRecord, Digest};
use tokio::io::AsyncWriteExt;
use tracing::Instrument;

use crate::disk::{self, Disk, MANIFEST, Verified};
use crate::error::Error;
use crate::redact::redact;

/// The artifacts of a store.
#[derive(Clone)]
pub struct Artifacts {
    objects: Arc<dyn ObjectStore>,
    place: Place,
    verified: Arc<Verified>,
}

#[derive(Clone)]
enum Place {
    /// Moved in by renames.
    Local(Disk),
    /// Uploaded, and read through copies on this disk.
    Remote(Disk),
}

/// A stored artifact as a listing sees it: all names under one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Bytes it takes.
    pub size: u64,
    /// When the newest of its files was committed.
    pub committed_at: SystemTime,
}

/// What a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Artifacts.
    pub artifacts: Vec<Digest>,
    /// Bytes that are free now.
    pub bytes: u64,
}

impl Artifacts {
    /// Artifacts in the folder `HOME/artifacts`, created when missing.
    pub fn local(home: &Path) -> Result<Self, Error> {
        let disk = Disk::create(home, "artifacts")?;
        let objects = LocalFileSystem::new_with_prefix(disk.root()).map_err(|error| objects("artifacts", &error))?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)), place: Place::Local(disk), verified: Arc::default() })
    }

    /// Artifacts in any object store; copies that tasks read lie in `HOME/fetched`.
    pub fn remote(store: Arc<dyn ObjectStore>, home: &Path) -> Result<Self, Error> {
        let disk = Disk::create(home, "fetched")?;
        Ok(Self { objects: store, place: Place::Remote(disk), verified: Arc::default() })
    }

    /// Makes a staged file or folder an artifact: durable and visible whole when this returns, or not at all.
    /// On a local disk the staged path is gone afterwards. Committing equal content again gives the same record, and
    /// mends a damaged copy.
    ///
    /// # Errors
    /// [`Error::Stage`] when there is nothing staged, the name cannot be a file name, or a folder holds links;
    /// [`Error::DiskFull`], [`Error::ReadOnly`], [`Error::Io`], [`Error::Objects`].
    pub async fn commit(&self, staged: &Path, name: &str, kind: &str) -> Result<ArtifactRecord, Error> {
        check_name(name)?;
        let span = tracing::debug_span!(
            target: "swath::store",
            "commit an artifact",
            swath.artifact.name = name,
            swath.artifact.kind = kind,
            swath.artifact.size = tracing::field::Empty,
        );
        let (path, title, label) = (staged.to_owned(), name.to_owned(), kind.to_owned());
        let work = async {
            match &self.place {
                Place::Local(disk) => {
                    let (disk, verified) = (disk.clone(), self.verified.clone());
                    blocking(move || disk.take(&path, &title, &label, &verified)).await
                }
                Place::Remote(_) => {
                    let record = blocking(move || disk::describe(&path, &title, &label, false)).await?;
                    self.upload(staged, &record).await?;
                    Ok(record)
                }
            }
        };
        let record = work.instrument(span.clone()).await?;
        span.record("swath.artifact.size", record.size as i64);
        Ok(record)
    }

    /// A local, read-only path of an artifact, whole and verified: sizes always, digests once a process and file.
    ///
    /// # Errors
    /// [`Error::ArtifactMissing`], [`Error::ArtifactCorrupt`], or what the disk or object store said.
    pub async fn locate(&self, record: &ArtifactRecord) -> Result<PathBuf, Error> {
        check_name(&record.name)?;
        let (Place::Local(disk) | Place::Remote(disk)) = &self.place;
        let found = self.on_disk(disk, record).await;
        match (&self.place, found) {
            (Place::Remote(_), Err(Error::ArtifactMissing { .. } | Error::ArtifactCorrupt { .. })) => {
                self.download(disk, record).await?;
                self.on_disk(disk, record).await
            }
            (_, found) => found,
        }
    }

    async fn on_disk(&self, disk: &Disk, record: &ArtifactRecord) -> Result<PathBuf, Error> {
        let (disk, verified, record) = (disk.clone(), self.verified.clone(), record.clone());
        blocking(move || disk.locate(&record, &verified)).await
    }

    /// Whether an artifact can be had whole: what a cache entry needs to be a hit. Reads it all the first time.
    pub async fn verify(&self, record: &ArtifactRecord) -> bool {
        match self.locate(record).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "an artifact cannot be reused");
                false
            }
        }
    }

    /// Everything stored, ordered by digest.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found: BTreeMap<Digest, Stored> = BTreeMap::new();
        let mut entries = self.objects.list(None);
        while let Some(entry) = entries.try_next().await.map_err(|error| objects("", &error))? {
            // Anything that is not under a digest was not put there by a commit.
            let Some(digest) = digest_in(&entry.location) else { continue };
            let at = SystemTime::from(entry.last_modified);
            let stored = found.entry(digest).or_insert(Stored { digest, size: 0, committed_at: at });
            stored.size += entry.size;
            stored.committed_at = stored.committed_at.max(at);
        }
        Ok(found.into_values().collect())
    }

    /// Removes an artifact under all its names. One that is not there is removed already.
    pub async fn remove(&self, digest: &Digest) -> Result<(), Error> {
        if let Place::Local(disk) = &self.place {
            let (disk, digest) = (disk.clone(), *digest);
            return blocking(move || disk.remove(&digest)).await;
        }
        let prefix = Key::from(format!("{}/{}", &digest.hex()[..2], digest.hex()));
        let mut keys: Vec<Key> = Vec::new();
        let mut entries = self.objects.list(Some(&prefix));
        while let Some(entry) = entries.try_next().await.map_err(|error| objects(prefix.as_ref(), &error))? {
            keys.push(entry.location);
        }
        // Manifests first: a folder without one is not there.
        keys.sort_by_key(|key| (!key.as_ref().ends_with(MANIFEST), key.to_string()));
        for key in keys {
            match self.objects.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(objects(key.as_ref(), &error)),
            }
        }
        Ok(())
    }

    /// Removes what nothing refers to and was committed before `before` (I23). Nobody may be committing meanwhile:
    /// the caller holds the store alone.
    pub async fn sweep(&self, referenced: &HashSet<Digest>, before: SystemTime) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        for stored in self.list().await? {
            if !referenced.contains(&stored.digest) && stored.committed_at < before {
                self.remove(&stored.digest).await?;
                swept.artifacts.push(stored.digest);
                swept.bytes += stored.size;
            }
        }
        let (Place::Local(disk) | Place::Remote(disk)) = &self.place;
        let (disk, referenced) = (disk.clone(), referenced.clone());
        let rest = blocking(move || disk.sweep_rest(&referenced, before)).await?;
        swept.bytes += rest;
        Ok(swept)
    }

    async fn upload(&self, staged: &Path, record: &ArtifactRecord) -> Result<(), Error> {
        if record.files.is_empty() {
            return self.put(staged, &key_of(&record.digest, &record.name)?).await;
        }
        for file in &record.files {
            let key = key_of(&record.digest, &format!("{}/{}", record.name, file.path))?;
            self.put(&staged.join(&file.path), &key).await?;
        }
        let manifest = key_of(&record.digest, &format!("{}{MANIFEST}", record.name))?;
        let text = disk::manifest_text(&record.files)?;
        self.objects.put(&manifest, text.into()).await.map(drop).map_err(|error| objects(manifest.as_ref(), &error))
    }

    /// Uploads in parts: the object appears whole when the last is there.
    async fn put(&self, path: &Path, key: &Key) -> Result<(), Error> {
        let mut file = tokio::fs::File::open(path).await.map_err(|error| Error::io("read", path, &error))?;
        let mut writer = BufWriter::new(self.objects.clone(), key.clone());
        let failed = |error: std::io::Error| Error::Objects {
            key: key.to_string(),
            reason: redact(&error.to_string()).into_owned(),
        };
        match tokio::io::copy(&mut file, &mut writer).await {
            Ok(_) => writer.shutdown().await.map_err(failed),
            Err(error) => {
                // What was uploaded so far must not stay, but the first error is the one to tell.
                let _ = writer.abort().await;
                Err(failed(error))
            }
        }
    }

    async fn download(&self, disk: &Disk, record: &ArtifactRecord) -> Result<(), Error> {
        let target = disk.incoming()?;
        let fetched = self.fetch_into(&target, record).await;
        let (disk, verified, record) = (disk.clone(), self.verified.clone(), record.clone());
        blocking(move || {
            let taken = fetched.and_then(|()| disk.take(&target, &record.name, &record.kind, &verified));
            disk::discard(&target)?;
            let taken = taken?;
            if taken.digest != record.digest {
                disk.remove(&taken.digest)?;
                let reason = format!("its content has digest {}", taken.digest);
                return Err(Error::ArtifactCorrupt { name: record.name, digest: record.digest, reason });
            }
            Ok(())
        })
        .await
    }

    async fn fetch_into(&self, target: &Path, record: &ArtifactRecord) -> Result<(), Error> {
        let whole = [ArtifactFile { path: String::new(), size: record.size, digest: record.digest }];
        let files = if record.files.is_empty() {
            &whole[..]
        } else {
            let manifest = key_of(&record.digest, &format!("{}{MANIFEST}", record.name))?;
            self.objects.head(&manifest).await.map_err(|error| missing_or(record, manifest.as_ref(), &error))?;
            &record.files[..]
        };
        for file in files {
            let (key, path) = match file.path.as_str() {
                "" => (key_of(&record.digest, &record.name)?, target.to_owned()),
                below => (key_of(&record.digest, &format!("{}/{below}", record.name))?, target.join(below)),
            };
            let reply = self.objects.get(&key).await.map_err(|error| missing_or(record, key.as_ref(), &error))?;
            if let Some(parent) = path.parent() {
                tokio::fs::create_dir_all(parent).await.map_err(|error| Error::io("create", parent, &error))?;
            }
            let failed = |error: std::io::Error| Error::io("write", &path, &error);
            let mut out = tokio::fs::File::create(&path).await.map_err(failed)?;
            let mut bytes = reply.into_stream();
            while let Some(part) = bytes.try_next().await.map_err(|error| objects(key.as_ref(), &error))? {
                out.write_all(&part).await.map_err(failed)?;
            }
            out.flush().await.map_err(failed)?;
        }
        Ok(())
    }
}

/// A name that is one part of a path, on a disk and in an object store alike.
fn check_name(name: &str) -> Result<(), Error> {
    let refused = |reason: &str| Err(Error::Stage { name: name.to_owned(), reason: reason.to_owned() });
    if name.is_empty() || name.len() > 200 {
        return refused("a name has 1 to 200 bytes");
    }
    if name.contains('/') || name.starts_with('.') || name.ends_with(MANIFEST) || Key::parse(name).is_err() {
        return refused("the name cannot be a file name");
    }
    Ok(())
}

fn key_of(digest: &Digest, below: &str) -> Result<Key, Error> {
    let hex = digest.hex();
    let text = format!("{}/{hex}/{below}", &hex[..2]);
    Key::parse(&text).map_err(|error| Error::Stage { name: below.to_owned(), reason: error.to_string() })
}

fn digest_in(key: &Key) -> Option<Digest> {
    let hex = key.parts().nth(1)?;
    format!("blake3:{}", hex.as_ref()).parse().ok()
}

fn missing_or(record: &ArtifactRecord, key: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => {
            Error::ArtifactMissing { name: record.name.clone(), digest: record.digest }
        }
        error => objects(key, error),
    }
}

fn objects(key: &str, error: &object_store::Error) -> Error {
    Error::Objects { key: key.to_owned(), reason: redact(&error.to_string()).into_owned() }
}

/// File work off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}
