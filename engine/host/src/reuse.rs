//! Cache keys: what a result depends on, whether it may be reused, and whether it is still whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use swath_store::{CacheEntry, CacheTerms, KeyParts, Store, canonical_json};
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
        let mut files = BTreeMap::new();
        for path in task.reads() {
            let digests = engine.files.clone();
            let named = path.clone();
            let digest = tokio::task::spawn_blocking(move || digests.of(&path)).await.ok()?;
            match digest {
                Ok(digest) => files.insert(named.to_string_lossy().into_owned(), digest),
                Err(error) => {
                    tracing::warn!(%error, path = %named.display(), "cannot digest a file a parameter names: the step runs uncached");
                    return None;
                }
            };
        }
        let params = canonical_json(&task.params());
        let parts = KeyParts { task: name.to_owned(), version, params, inputs, files };
        let lasting = (task.purity() == Purity::Lasting).then(|| task.clone());
        Some(Self { key: parts.digest(), parts, look_up, not_before, terms, lasting })
    }

    /// An earlier result that is whole. One whose artifacts are damaged or gone is forgotten (I22).
    pub async fn find(&self, engine: &Engine, now: i64) -> Result<Option<CacheEntry>, swath_store::Error> {
        if !self.look_up {
            return Ok(None);
        }
        let found = engine.store.cache_get(&self.key, now).await?;
        let Some(entry) = found.filter(|entry| entry.created_at >= self.not_before) else { return Ok(None) };
        if let Some(task) = self.lasting.clone() {
            let outputs: Value = serde_json::from_str(&entry.outputs).unwrap_or(Value::Null);
            let stands = tokio::task::spawn_blocking(move || task.stands(&outputs)).await;
            if !stands.unwrap_or(false) {
                return Ok(None);
            }
        }
        for artifact in &entry.artifacts {
            if !engine.artifacts.verify(artifact).await {
                tracing::warn!(artifact = %artifact.name, digest = %artifact.digest, "a cached artifact is damaged or gone: the step runs again");
                engine.store.cache_forget(&self.key).await?;
                return Ok(None);
            }
        }
        engine.store.cache_touch(&self.key, now).await?;
        Ok(Some(entry))
    }
}

/// Every artifact in the outputs of a step.
pub(crate) fn artifacts_in(value: &Value) -> Vec<ArtifactRecord> {
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
