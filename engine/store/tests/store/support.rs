//! What the tests of this crate share: runs, appends and results with sensible contents.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use swath_store::{Append, CacheTerms, KeyParts, NewEvent, NewResult, NewRun, Store, StoredEvent};
use swath_task::{ArtifactRecord, Digest};

/// One server for all tests, which take a database each.
pub static POSTGRES: LazyLock<swath_testkit::postgres::Postgres> =
    LazyLock::new(|| swath_testkit::postgres::Postgres::start(false));

pub fn new_run(id: &str) -> NewRun {
    NewRun {
        id: id.to_owned(),
        flow: "detect".to_owned(),
        source: "flows/detect.yaml".to_owned(),
        text: "flow: detect\n".into(),
        text_digest: Digest::of(b"flow: detect\n"),
        params: r#"{"area":"x"}"#.to_owned(),
        plan: r#"{"steps":[]}"#.into(),
        state: "scheduled".to_owned(),
        created_at: 1_000,
    }
}

pub fn event(n: u64) -> NewEvent {
    NewEvent {
        kind: "succeeded".into(), step: Some(format!("s{n}")), payload: format!(r#"{{"n":{n},"text":"ü\"'"}}"#)
    }
}

/// `count` events after `seq`, numbered as they will be stored.
pub fn append(run: &str, seq: u64, count: u64) -> Append {
    Append {
        run: run.to_owned(),
        expected_seq: seq,
        at: 2_000 + seq as i64,
        events: (seq + 1..=seq + count).map(event).collect(),
        ..Append::default()
    }
}

pub fn key(params: &str) -> KeyParts {
    KeyParts {
        task: "raster.indices".into(),
        version: 3,
        params: params.into(),
        inputs: BTreeMap::from([("raster".to_owned(), Digest::of(b"input"))]),
        ..KeyParts::default()
    }
}

pub fn record(content: &[u8]) -> ArtifactRecord {
    ArtifactRecord {
        kind: "raster.cog".into(),
        name: "composite.tif".into(),
        digest: Digest::of(content),
        size: content.len() as u64,
        files: Vec::new(),
    }
}

pub fn result(step: &str, instance: &str) -> NewResult {
    NewResult {
        step: step.into(),
        instance: instance.into(),
        attempt: 1,
        outputs: format!(r#"{{"made_by":"{step}/{instance}"}}"#),
        artifacts: Vec::new(),
        key: Some(key("{}")),
        cache: CacheTerms::Off,
        reused_from: None,
    }
}

/// All events of a run, page by page.
pub async fn all_events(store: &dyn Store, run: &str) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    loop {
        let page = store.load_events(run, events.len() as u64, 100).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}
