//! A host without an engine: runs a task by itself in a folder. For tests, benchmarks and examples of task crates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::files::{copy, describe};
use crate::{Artifact, ArtifactRecord, Context, Fault, Host, Kind, Staged, TaskError};

/// Keeps artifacts as `folder/artifacts/DIGEST/NAME`. Nothing is durable and nothing is verified on reading. All attempts share
/// one folder to keep things in, `folder/keep`.
pub struct LocalHost {
    folder: PathBuf,
    scratch: PathBuf,
    keep: PathBuf,
    metrics: Mutex<Vec<(&'static str, f64)>>,
    secrets: Mutex<BTreeMap<String, String>>,
}

impl LocalHost {
    /// A host in `folder`, created when missing.
    pub fn new(folder: impl Into<PathBuf>) -> std::io::Result<Arc<Self>> {
        let folder = folder.into();
        let scratch = folder.join("scratch");
        let keep = folder.join("keep");
        std::fs::create_dir_all(&scratch)?;
        std::fs::create_dir_all(&keep)?;
        Ok(Arc::new(Self { folder, scratch, keep, metrics: Mutex::default(), secrets: Mutex::default() }))
    }

    /// A context on this host with `cpus` threads.
    pub fn context(self: &Arc<Self>, cpus: usize) -> Context {
        Context::new(self.clone(), CancellationToken::new(), cpus, "local")
    }

    /// A context that `cancel` stops.
    pub fn cancellable(self: &Arc<Self>, cpus: usize, cancel: CancellationToken) -> Context {
        Context::new(self.clone(), cancel, cpus, "local")
    }

    /// The context of an attempt whose [`Context::idempotency_key`] is `key`, that `cancel` stops.
    pub fn attempt(self: &Arc<Self>, key: &str, cancel: CancellationToken) -> Context {
        Context::new(self.clone(), cancel, 1, key)
    }

    /// Makes the value of a secret known to tasks that ask for it by this name.
    pub fn learn_secret(&self, name: &str, value: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.to_owned());
    }

    /// Where an artifact lies.
    pub fn path(&self, record: &ArtifactRecord) -> PathBuf {
        self.folder.join("artifacts").join(record.digest.hex()).join(&record.name)
    }

    /// Copies a file or folder in as an artifact of kind `K`.
    pub fn import<K: Kind>(&self, path: &Path) -> std::io::Result<Artifact<K>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = describe(path, &name, K::NAME)?;
        if !self.path(&record).exists() {
            let staging = tempfile::tempdir_in(&self.folder)?;
            let staged = staging.path().join("artifact");
            copy(path, &staged, &|_| Ok(()))?;
            self.place(&staged, &record)?;
        }
        Artifact::typed(record).ok_or_else(|| std::io::Error::other("kind"))
    }

    /// Moves what is staged to where the artifact lies, in one step: several may import the same, and each finds all of it.
    fn place(&self, staged: &Path, record: &ArtifactRecord) -> std::io::Result<()> {
        let target = self.path(record);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::rename(staged, &target) {
            Err(_) if target.exists() => Ok(()),
            moved => moved,
        }
    }

    /// The metrics reported so far, in order.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Host for LocalHost {
    fn scratch(&self) -> Result<&Path, TaskError> {
        Ok(&self.scratch)
    }
    fn keep(&self) -> Result<&Path, TaskError> {
        Ok(&self.keep)
    }
    async fn locate(&self, artifact: &ArtifactRecord) -> Result<PathBuf, TaskError> {
        let path = self.path(artifact);
        if path.exists() {
            Ok(path)
        } else {
            Err(Fault::new("E206", format!("no artifact at `{}`", path.display())).permanent())
        }
    }
    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        let store = || -> std::io::Result<ArtifactRecord> {
            let record = describe(&staged.path, &staged.name, staged.kind)?;
            self.place(&staged.path, &record)?;
            Ok(record)
        };
        store().map_err(|error| Fault::new("E207", format!("cannot store `{}`: {error}", staged.name)).permanent())
    }
    fn progress(&self, _: u64, _: u64, _: &'static str) {}
    fn metric(&self, name: &'static str, value: f64) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).push((name, value));
    }
    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Parts {}

    impl Kind for Parts {
        const NAME: &'static str = "parts";
        const ABOUT: &'static str = "A folder of parts";
    }

    #[test]
    fn whoever_imports_what_another_imports_finds_it_whole() {
        let place = tempfile::tempdir().unwrap();
        let host = LocalHost::new(place.path().join("host")).unwrap();
        let folder = place.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        for part in 0..50_u8 {
            std::fs::write(folder.join(part.to_string()), vec![part; 100_000]).unwrap();
        }
        let wanted = describe(&folder, "folder", Parts::NAME).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let artifact = host.import::<Parts>(&folder).unwrap();
                    let found = describe(&host.path(artifact.record()), "folder", Parts::NAME).unwrap();
                    assert_eq!(found.digest, wanted.digest);
                });
            }
        });
        assert_eq!(std::fs::read_dir(place.path().join("host")).unwrap().count(), 3, "nothing staged is left");
    }
}
