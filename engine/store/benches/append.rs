//! How many durable transitions a second: a chain (each waits for the one before) and a fan-out (all wait together).
//!
//! `cargo bench -p swath-store --bench append [-- FOLDER]`: the folder decides which disk is measured.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use swath_store::{Access, Append, CacheTerms, KeyParts, NewEvent, NewResult, NewRun, SqliteStore, Store};
use swath_task::Digest;

const CHAIN: u64 = 10_000;
const FAN_OUT: u64 = 100_000;
const WAITING: u64 = 256;

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let base = folder.map_or_else(std::env::temp_dir, Into::into);
    for (name, threads) in [("current thread", 0), ("2 workers", 2)] {
        let runtime = match threads {
            0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            n => tokio::runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build(),
        }
        .expect("a runtime");
        let home = base.join(format!("swath-bench-{}-{threads}", std::process::id()));
        runtime.block_on(measure(name, &home));
        std::fs::remove_dir_all(&home).expect("the folder of the benchmark");
    }
}

async fn measure(name: &str, home: &Path) {
    let opening = Instant::now();
    let store = Arc::new(SqliteStore::open(home, Access::Write).await.expect("a store"));
    println!("{name}: opened in {:.1} ms", opening.elapsed().as_secs_f64() * 1e3);
    for (what, events, result, cached) in [
        ("2 events", 2, false, false),
        ("3 events + result", 3, true, false),
        ("3 events + result + cache", 3, true, true),
    ] {
        let run = format!("chain-{events}-{result}-{cached}");
        create(&store, &run).await;
        let started = Instant::now();
        let mut seq = 0;
        for n in 0..CHAIN {
            seq = store.append(append(&run, seq, n, events, result, cached)).await.expect("an append");
        }
        report(name, &format!("chain, {what}"), CHAIN, seq, started);
    }
    // One driver appends groups: what a fan-out of many ready steps gives.
    create(&store, "groups").await;
    let started = Instant::now();
    let mut seq = 0;
    for n in 0..FAN_OUT / WAITING {
        let mut group = append("groups", seq, n, 0, false, false);
        group.events = (0..WAITING).map(|k| event(n * WAITING + k)).collect();
        seq = store.append(group).await.expect("an append");
    }
    report(name, "one run, 256 events an append", FAN_OUT / WAITING, seq, started);
    // Many runs at once: their appends share commits.
    for run in 0..WAITING {
        create(&store, &format!("fan-{run}")).await;
    }
    let started = Instant::now();
    let drivers: Vec<_> = (0..WAITING)
        .map(|run| {
            let store = store.clone();
            tokio::spawn(async move {
                let (run, mut seq) = (format!("fan-{run}"), 0);
                for n in 0..FAN_OUT / WAITING / 3 {
                    seq = store.append(append(&run, seq, n, 3, false, false)).await.expect("an append");
                }
                seq
            })
        })
        .collect();
    let mut events = 0;
    for driver in drivers {
        events += driver.await.expect("a driver");
    }
    report(name, "256 runs at once, 3 events an append", events / 3, events, started);
    store.close().await;
}

fn report(name: &str, what: &str, appends: u64, events: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{name}: {what}: {:.0} appends/s, {:.0} events/s, {:.0} us each",
        appends as f64 / seconds,
        events as f64 / seconds,
        seconds * 1e6 / appends as f64
    );
}

fn event(n: u64) -> NewEvent {
    NewEvent {
        kind: "succeeded".into(),
        step: Some(format!("step-{n}")),
        payload: format!(r#"{{"Succeeded":{{"step":{n},"attempt":1,"worker":"local","lease":7,"metrics":{{}}}}}}"#),
    }
}

fn append(run: &str, seq: u64, n: u64, events: u64, result: bool, cached: bool) -> Append {
    let results = result.then(|| NewResult {
        step: format!("step-{n}"),
        instance: String::new(),
        attempt: 1,
        outputs: r#"{"value":1}"#.into(),
        artifacts: Vec::new(),
        key: Some(KeyParts {
            task: "bench.nothing".into(),
            version: 1,
            params: format!(r#"{{"n":{n}}}"#),
            ..KeyParts::default()
        }),
        cache: if cached { CacheTerms::Keep } else { CacheTerms::Off },
        reused_from: None,
    });
    Append {
        run: run.into(),
        expected_seq: seq,
        at: 1_700_000_000_000,
        events: (0..events).map(|_| event(n)).collect(),
        results: results.into_iter().collect(),
        ..Append::default()
    }
}

async fn create(store: &SqliteStore, id: &str) {
    let run = NewRun {
        id: id.into(),
        flow: "bench".into(),
        source: "bench.yaml".into(),
        text: "".into(),
        text_digest: Digest::of(b""),
        params: "{}".into(),
        plan: "{}".into(),
        state: "running".into(),
        created_at: 0,
    };
    store.create_run(run).await.expect("a run");
}
