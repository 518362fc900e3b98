//! Cache keys: what a result depends on, whether it may be reused, and whether it is still whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use swath_store::{CacheTerms, KeyParts, canonical_json};
use swath_task::{ArtifactRecord, Digest, ErasedTask, Purity};

use crate::Engine;
use crate::program::CachePolicy;

/// How a step instance stands to the cache.
pub(crate) struct Reuse {
    /// What the key is made of.
    pub parts: KeyParts,
    /// The key.
    pub key: Digest,
    /// An earlier result may be taken.
    pub look_up: bool,
    /// Oldest creation time of a result that may be taken, milliseconds since 1970.
    pub not_before: i64,
    /// Whether its own result will be kept.
    pub terms: CacheTerms,
    /// The local files and folders that the task reads, as they were when the key was made.
    pub watched: Vec<(PathBuf, Digest)>,
    /// The task, when it can tell whether its effect is still there.
    lasting: Option<Arc<dyn ErasedTask>>,
}

impl Reuse {
    /// `None` when nothing of this step may be reused, or the files it names cannot be read (the task will say so).
    pub async fn of(
        engine: &Engine,
        (name, version): (&str, u32),
        task: &Arc<dyn ErasedTask>,
        inputs: &Value,
        policy: CachePolicy,
        now: i64,
    ) -> Option<Self> {
        let (look_up, not_before, terms) = match (policy, task.purity()) {
            (CachePolicy::Off, _) | (_, Purity::Effect) | (CachePolicy::On, Purity::Volatile) => return None,
            (CachePolicy::On, Purity::Pure | Purity::Lasting) => (true, i64::MIN, CacheTerms::Keep),
            (CachePolicy::Refresh, _) => (false, i64::MIN, CacheTerms::Keep),
            (CachePolicy::TimeToLive(ttl), _) => {
                let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
                (true, now.saturating_sub(ttl), CacheTerms::Until(now.saturating_add(ttl)))
            }
        };
        let ports = inputs.as_object().into_iter().flatten();
        let inputs = ports.map(|(port, value)| (port.clone(), Digest::of(canonical_json(value).as_bytes()))).collect();
        let mut watched = Vec::new();
        for path in task.reads() {
            match digest_of(engine, &path).await {
                Ok(digest) => watched.push((path, digest)),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "cannot digest a file a parameter names: the step runs uncached");
                    return None;
                }
            }
        }
        let files = watched.iter().map(|(path, digest)| (path.to_string_lossy().into_owned(), *digest)).collect();
        let params = canonical_json(&task.params());
        let variable = |name: &'static str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
            Some((name.to_owned(), Digest::of(value.as_encoded_bytes())))
        };
        let variables = task.variables().into_iter().filter_map(variable).collect();
        let parts = KeyParts { task: name.to_owned(), version, params, inputs, files, variables };
        let lasting = (task.purity() == Purity::Lasting).then(|| task.clone());
        Some(Self { key: parts.digest(), parts, look_up, not_before, terms, watched, lasting })
    }

    /// An earlier result that is whole: the run it is of, and its outputs. One that cannot be read, or whose artifacts are
    /// damaged or gone, is forgotten (I22).
    pub async fn find(&self, engine: &Engine, now: i64) -> Result<Option<(String, Value)>, swath_store::Error> {
        if !self.look_up {
            return Ok(None);
        }
        let found = match engine.store.cache_get(&self.key, now).await {
            Err(error @ swath_store::Error::Record { .. }) => return self.forget(engine, &error).await,
            found => found?,
        };
        let Some(entry) = found.filter(|entry| entry.created_at >= self.not_before) else { return Ok(None) };
        let outputs: Value = match serde_json::from_str(&entry.outputs) {
            Ok(outputs) => outputs,
            Err(error) => return self.forget(engine, &error).await,
        };
        if let Some(task) = self.lasting.clone() {
            let outputs = outputs.clone();
            let stands = tokio::task::spawn_blocking(move || task.stands(&outputs)).await;
            if !stands.unwrap_or(false) {
                return Ok(None);
            }
        }
        for artifact in &entry.artifacts {
            if !engine.artifacts.verify(artifact).await {
                let reason = format!("its artifact `{}` ({}) is damaged or gone", artifact.name, artifact.digest);
                return self.forget(engine, &reason).await;
            }
        }
        engine.store.cache_touch(&self.key, now).await?;
        Ok(Some((entry.run, outputs)))
    }

    async fn forget<T>(
        &self,
        engine: &Engine,
        reason: &(dyn std::fmt::Display + Sync),
    ) -> Result<Option<T>, swath_store::Error> {
        tracing::warn!(task = %self.parts.task, "an earlier result cannot be used, the step runs again: {reason}");
        engine.store.cache_forget(&self.key).await?;
        Ok(None)
    }
}

/// Whether files and folders are what they were: a result that may have seen others must not be kept for those.
pub(crate) async fn unchanged(engine: &Engine, watched: &[(PathBuf, Digest)]) -> bool {
    for (path, before) in watched {
        if digest_of(engine, path).await.ok() != Some(*before) {
            tracing::warn!(path = %path.display(), "a file changed while a step ran on it: its result will not be reused");
            return false;
        }
    }
    true
}

async fn digest_of(engine: &Engine, path: &Path) -> std::io::Result<Digest> {
    let (digests, path) = (engine.files.clone(), path.to_owned());
    tokio::task::spawn_blocking(move || digests.of(&path)).await.unwrap_or_else(|lost| Err(std::io::Error::other(lost)))
}

/// Every artifact in the outputs of a step.
pub fn artifacts_in(value: &Value) -> Vec<ArtifactRecord> {
    let mut found = Vec::new();
    collect(value, &mut found);
    found
}

fn collect(value: &Value, found: &mut Vec<ArtifactRecord>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(map) => {
            let is_record = ["kind", "name", "digest", "size"].iter().all(|field| map.contains_key(*field));
            match is_record.then(|| serde_json::from_value::<ArtifactRecord>(value.clone())) {
                Some(Ok(record)) => found.push(record),
                _ => map.values().for_each(|item| collect(item, found)),
            }
        }
        _ => {}
    }
}
