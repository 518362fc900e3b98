//! kill -9 of servers and of the processes of steps, at random moments of runs with two hundred steps that leave a trace
//! each: nothing is lost, nothing that had finished runs again, and no step has more effects than attempts.
//!
//! Each test kills thirty times; `SWATH_FAULTS=500` says how often, `SWATH_FAULTS_SEED` when (`make faults` does it). What
//! is told of a failure names the seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use swath_run::{Event, FaultClass, Retry};
use swath_store::{Access, LEASE, PostgresStore, SqliteStore, Store};
use swath_testkit::postgres::Postgres;

use crate::common::{Place, signal};
use crate::serve::Serving;

const STEPS: u32 = 198;

/// A first step, 198 instances in processes of their own that write a line each, and a last one.
fn flow() -> String {
    let numbers: Vec<String> = (0..STEPS).map(|n| n.to_string()).collect();
    format!(
        "flow: fragile
params: {{ ledger: {{ type: path, default: ledger }} }}
steps:
  first: {{ task: run.command, with: {{ command: [sh, -c, 'echo first >> $0', $ledger], purity: effect }} }}
  many:
    task: run.command
    after: first
    each: [{}]
    isolate: process
    with: {{ command: [sh, -c, 'echo $1 >> $0', $ledger, \"${{string(item)}}\"], purity: effect }}
  last: {{ task: run.command, after: many, with: {{ command: [sh, -c, 'echo last >> $0', $ledger], purity: effect }} }}
",
        numbers.join(", ")
    )
}

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Processes of steps that a server has started.
fn workers(server: u32) -> Vec<u32> {
    let of = |entry: std::fs::DirEntry| -> Option<u32> {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let parent: u32 = read("stat")?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        (parent == server && read("cmdline")?.contains("attempt-worker")).then_some(process)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Whether an instance has lost so many workers that the next loss may be the end of its run, as is promised.
async fn is_spared(store: &dyn Store, run: &str, forgiven: u32) -> bool {
    let mut losses = BTreeMap::new();
    for stored in store.load_events(run, 0, u32::MAX).await.unwrap() {
        match Event::decode(&stored.payload).unwrap() {
            Event::Retried { s, i, class: FaultClass::Lost, .. } => *losses.entry((s, i)).or_insert(0) += 1,
            Event::Succeeded { s, i, .. } => drop(losses.remove(&(s, i))),
            _ => {}
        }
    }
    losses.into_values().any(|lost| lost >= forgiven)
}

/// Kills until enough is killed and the run that is live then has completed. `store` makes the store of a run and gives
/// the options that name it. While an instance has lost as many workers as is `forgiven` here, nothing is
/// killed.
async fn kill(
    name: &str,
    forgiven: u32,
    store: impl Fn() -> Vec<String>,
    open: impl AsyncFn(&Path, &[&str]) -> Box<dyn Store>,
) {
    let (kills, seed) = (number("SWATH_FAULTS", 30), number("SWATH_FAULTS_SEED", 1));
    let mut random = Random(seed);
    let (mut killed, mut of_steps, mut runs) = (0, 0, 0);
    while killed < kills {
        let place = Place::new(&flow());
        let told = format!("{name}, seed {seed}, run {runs}, {killed} kills");
        let options = store();
        let more: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut serving = Serving::start(&place, &more);
        let url = format!("http://{}", serving.address);
        // It ends with the first server, the run does not.
        let mut started = place.swath(&["run", "flow.yaml", "--server", &url]).spawn().unwrap();
        let store = open(&place.home(), &more).await;
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(900), "{told}: the run does not end");
            tokio::time::sleep(Duration::from_millis(20 + random.next(400))).await;
            let rows = store.list_runs(&Default::default()).await.unwrap();
            if rows.first().is_some_and(|row| row.ended_at.is_some()) {
                assert_eq!(rows[0].state, "completed", "{told}: {:?}", rows[0].error);
                break;
            }
            // A run that was not there yet when its server died was never acknowledged.
            let is_there = !rows.is_empty();
            if is_there && is_spared(store.as_ref(), &rows[0].id, forgiven).await {
                continue;
            }
            let steps = workers(serving.child.id());
            if random.next(2) == 0 && !steps.is_empty() {
                let step = steps[random.next(steps.len() as u64) as usize].to_string();
                // It may have ended just now.
                let _ = std::process::Command::new("kill").args(["-KILL", &step]).status();
                (killed, of_steps) = (killed + 1, of_steps + 1);
            } else if is_there {
                signal(&serving.child, "KILL");
                serving.child.wait().unwrap();
                killed += 1;
                serving = Serving::start(&place, &more);
            }
        }
        // Its server is gone, or it has told the end.
        let _ = started.kill();
        started.wait().unwrap();
        check(&place, store.as_ref(), &told).await;
        let (code, checked) = place.json(&[&["check"][..], &more[..more.len().min(2)]].concat());
        assert_eq!((code, &checked["broken"]), (Some(0), &Value::Array(Vec::new())), "{told}: {checked}");
        runs += 1;
    }
    println!("{name}: {killed} kills ({of_steps} of processes of steps) in {runs} runs, seed {seed}");
}

/// The journal and the traces of a run that has completed.
async fn check(place: &Place, store: &dyn Store, told: &str) {
    let run = store.list_runs(&Default::default()).await.unwrap().remove(0).id;
    let (mut succeeded, mut attempts) = (BTreeMap::new(), BTreeMap::new());
    for stored in store.load_events(&run, 0, u32::MAX).await.unwrap() {
        match Event::decode(&stored.payload).unwrap() {
            Event::Succeeded { s, i, .. } => *succeeded.entry((s, i)).or_insert(0) += 1,
            Event::Started { s, i, .. } => {
                assert!(!succeeded.contains_key(&(s, i)), "{told}: {s}/{i} started after it had succeeded");
                *attempts.entry((s, i)).or_insert(0usize) += 1;
            }
            _ => {}
        }
    }
    assert!(succeeded.values().all(|times| *times == 1), "{told}: {succeeded:?}");
    assert_eq!(succeeded.len(), STEPS as usize + 2, "{told}");
    let mut traces: BTreeMap<String, usize> = BTreeMap::new();
    let ledger = std::fs::read_to_string(place.path().join("ledger")).unwrap();
    ledger.lines().for_each(|line| *traces.entry(line.to_owned()).or_insert(0) += 1);
    assert_eq!(traces.len(), STEPS as usize + 2, "{told}: nothing is lost");
    for ((_, i), tried) in attempts.iter().filter(|((s, _), _)| *s == 1) {
        let had = traces[&i.to_string()];
        assert!(had <= *tried, "{told}: instance {i} has {had} effects of {tried} attempts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_runs_on_sqlite_end_as_if_never_killed() {
    kill("SQLite", Retry::default().losses, Vec::new, async |home, _| {
        Box::new(SqliteStore::open(home, Access::Read).await.unwrap()) as Box<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_runs_on_postgresql_end_as_if_never_killed() {
    let postgres = Postgres::start(false);
    let store = || ["--store", &postgres.create_database(), "--lease", "1s"].map(str::to_owned).to_vec();
    // One more may be lost by a server that is too slow for so short a lease.
    kill("PostgreSQL", Retry::default().losses - 1, store, async |_, options| {
        Box::new(PostgresStore::open(options[1], Access::Read, LEASE).await.unwrap()) as Box<dyn Store>
    })
    .await;
}
