//! What becomes of a plan before it is driven: a run of its own, pinned, with the values of its secrets.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde_json::Value;
use swath_flow::{ParameterSpec, ParameterType};
use swath_plan::{Action, Plan};
use swath_run::RunState;
use swath_schedule::Fire;
use swath_store::{NewRun, RunLease, Store};
use swath_task::Digest;

use crate::secrets::{NoSecret, secret};

/// A secret of a flow that has no value here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret `{parameter}` has no value: {why}")]
pub struct MissingSecret {
    /// The parameter.
    pub parameter: String,
    /// What is missing.
    pub why: NoSecret,
}

/// The values of a plan's secrets and of those of its sub-flows: it holds their names only. Blocks while a command prints one.
pub fn secrets(plan: &Plan) -> Result<BTreeMap<String, String>, MissingSecret> {
    let mut secrets = BTreeMap::new();
    for step in &plan.steps {
        if let Action::Flow(below) = &step.action {
            secrets.append(&mut self::secrets(below)?);
        }
    }
    let of_type = |spec: &&ParameterSpec| spec.of == ParameterType::Secret;
    for spec in plan.parameters.iter().filter(of_type) {
        let Some(variable) = plan.params.get(&spec.name).and_then(Value::as_str) else { continue };
        let missing = |why| MissingSecret { parameter: spec.name.clone(), why };
        secrets.insert(variable.to_owned(), secret(variable).map_err(missing)?);
    }
    Ok(secrets)
}

/// What a run covers, from `START/END`, where neither side is open; the error says what is wrong.
pub fn interval(text: &str, now: Timestamp) -> Result<Fire, String> {
    let resolved = swath_flow::resolve_period(text, now)?;
    let ends = resolved.split_once('/').and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
    let (since, at) = ends.ok_or_else(|| format!("`{text}` is open: an interval has a start and an end"))?;
    Ok(Fire { at, since })
}

/// The text of a flow: at most what the reader accepts and one byte, so that a huge file costs nothing to refuse.
pub fn read_text(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(swath_flow::MAX_TEXT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// An id for a new run of a flow: its name and the moment, which people read, and a salt. Another may be alike.
fn run_id(flow: &str, now: Timestamp) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let plain: String = flow.chars().map(plain).take(40).collect();
    // A server starts many runs in one moment.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let salt = Digest::of(format!("{now} {} {count}", std::process::id()).as_bytes()).hex();
    format!("{plain}-{}-{}", now.strftime("%Y%m%d-%H%M%S"), &salt[..6])
}

/// A lease on a new run of a flow, under an id that no run has.
pub async fn lease_new(store: &dyn Store, flow: &str, now: Timestamp) -> Result<RunLease, swath_store::Error> {
    lease_unused(store, || run_id(flow, now)).await
}

/// A lease on the first of these ids that no run has and nobody is about to give one: two may be alike.
async fn lease_unused(store: &dyn Store, mut id: impl FnMut() -> String) -> Result<RunLease, swath_store::Error> {
    loop {
        let id = id();
        let lease = match store.lease_run(&id).await {
            Err(swath_store::Error::RunHeld { .. }) => continue,
            lease => lease?,
        };
        match store.run_row(&id).await {
            Ok(_) => {}
            Err(swath_store::Error::NoRun(_)) => return Ok(lease),
            Err(error) => return Err(error),
        }
    }
}

/// The id of the run that a request with this key starts, whatever it asks for.
pub fn keyed_id(key: &str) -> String {
    format!("keyed-{}", &Digest::of(key.as_bytes()).hex()[..24])
}

/// The id of the run that a fire of a deployment starts: the instant that it covers, which people read, and what tells
/// the fire from others, also from those of a deployment of this name that is gone.
pub fn fired_id(deployment: &str, created_at: i64, key: &str, at: Timestamp) -> String {
    let salt = Digest::of(format!("{deployment} {created_at} {key}").as_bytes()).hex();
    format!("{deployment}-{}-{}", at.strftime("%Y%m%d-%H%M%S"), &salt[..16])
}

/// What a run is pinned to.
pub fn pinned(plan: &Plan) -> Result<String, swath_store::Error> {
    serde_json::to_string(plan)
        .map_err(|error| swath_store::Error::Record { what: "plan".to_owned(), reason: error.to_string() })
}

/// Pins a new run under the id of `lease`: nobody else can take it up before that ends.
pub async fn pin(
    store: &dyn Store,
    lease: &RunLease,
    plan: &Plan,
    text: &str,
    now: Timestamp,
) -> Result<(), swath_store::Error> {
    store
        .create_run(NewRun {
            id: lease.run().to_owned(),
            flow: plan.name.clone(),
            source: plan.source.clone(),
            text: text.into(),
            text_digest: plan.text_digest,
            params: Value::Object(plan.params.clone()).to_string(),
            plan: pinned(plan)?.into(),
            state: RunState::Pending.name().to_owned(),
            created_at: now.as_millisecond(),
        })
        .await
}

#[cfg(test)]
mod tests {
    use swath_store::{Access, SqliteStore};

    use super::*;

    #[tokio::test]
    async fn of_ids_that_are_alike_each_run_gets_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), Access::Write).await.unwrap();
        let run = |id: &str| NewRun {
            id: id.to_owned(),
            flow: "f".to_owned(),
            source: String::new(),
            text: "".into(),
            text_digest: Digest::of(b""),
            params: "{}".to_owned(),
            plan: "".into(),
            state: RunState::Pending.name().to_owned(),
            created_at: 0,
        };
        let drawn = || ["a", "a", "b", "a", "b", "c"].map(str::to_owned).into_iter();
        let (mut first, mut second, mut third) = (drawn(), drawn(), drawn());
        let ended = lease_unused(&store, || first.next().unwrap()).await.unwrap();
        store.create_run(run(ended.run())).await.unwrap();
        assert_eq!(ended.run(), "a");
        drop(ended);
        // One is there, another is about to be.
        let held = lease_unused(&store, || second.next().unwrap()).await.unwrap();
        let last = lease_unused(&store, || third.next().unwrap()).await.unwrap();
        assert_eq!((held.run(), last.run()), ("b", "c"));
    }
}
