//! kill -9 in the middle of appends, and two processes on one store. The child is this test binary, started again with
//! `SWATH_STORE_CHILD` set.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{all_events, append, new_run, result};
use swath_store::{Access, Append, Error, RunUpdate, SqliteStore, Store};

const ROLE: &str = "SWATH_STORE_CHILD";
const HOME: &str = "SWATH_STORE_HOME";

/// The other process: does nothing when the test runner calls it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let home = std::env::var(HOME).unwrap();
    let store = Arc::new(SqliteStore::open(home, Access::Write).await.unwrap());
    match role.split_once(':').unwrap() {
        ("append", runs) => {
            // Appends to several runs at once for ever, telling what was acknowledged.
            let drivers: Vec<_> = runs
                .split(',')
                .map(|run| (run.to_owned(), store.clone()))
                .map(|(run, store)| tokio::spawn(async move { append_for_ever(&run, &store).await }))
                .collect();
            for driver in drivers {
                driver.await.unwrap();
            }
        }
        ("compete", count) => {
            let (count, mut seq, mut mine) = (count.parse::<u64>().unwrap(), 0, 0);
            let mut conflicts = 0;
            while mine < count {
                match store.append(append("shared", seq, 2)).await {
                    Ok(next) => (seq, mine) = (next, mine + 1),
                    Err(Error::Conflict { actual, .. }) => (seq, conflicts) = (actual, conflicts + 1),
                    Err(error) => panic!("{error:?}"),
                }
            }
            tell(&format!("conflicts {conflicts}"));
        }
        ("hold", run) => {
            let _lease = store.lease_run(run).unwrap();
            tell("held");
            std::thread::sleep(Duration::from_secs(600));
        }
        other => panic!("{other:?}"),
    }
}

async fn append_for_ever(run: &str, store: &SqliteStore) {
    let mut seq = store.get_run(run).await.unwrap().row.seq;
    loop {
        let next = seq + 3;
        let with_all = Append {
            results: vec![result(&format!("s{next}"), "")],
            update: Some(RunUpdate { state: Some(format!("at {next}")), ..RunUpdate::default() }),
            transition: Some(format!("to {next}")),
            ..append(run, seq, 3)
        };
        seq = store.append(with_all).await.unwrap();
        tell(&format!("{run} {seq}"));
    }
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@@{line}").unwrap();
    out.flush().unwrap();
}

fn child(home: &Path, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(HOME, home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn told(line: &str) -> Option<&str> {
    line.split_once("@@").map(|(_, told)| told)
}

async fn open(home: &Path) -> SqliteStore {
    SqliteStore::open(home, Access::Write).await.unwrap()
}

#[tokio::test]
async fn a_killed_writer_leaves_a_dense_journal_with_all_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let runs = ["a", "b", "c"];
    let store = open(home.path()).await;
    for run in runs {
        store.create_run(new_run(run)).await.unwrap();
    }
    store.close().await;
    drop(store);
    let mut interrupted = 0;
    for round in 0..400_u64 {
        if round >= 40 && interrupted > 0 {
            break;
        }
        let mut process = child(home.path(), &format!("append:{}", runs.join(",")));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // Killed after a different number of acknowledged appends each time, at any point of the next one.
        let mut acknowledged = std::collections::HashMap::new();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            let Some(text) = told(&line) else { continue };
            let (run, seq) = text.split_once(' ').unwrap();
            acknowledged.insert(run.to_owned(), seq.parse::<u64>().unwrap());
            seen += 1;
            if seen > 5 + (round * 7) % 23 {
                std::thread::sleep(Duration::from_micros((round * 137) % 900));
                process.kill().unwrap();
                break;
            }
        }
        for text in lines.map_while(Result::ok) {
            // What was written to the pipe before the kill was acknowledged as well.
            let acknowledgement = told(&text).and_then(|text| text.split_once(' '));
            if let Some((run, Ok(seq))) = acknowledgement.map(|(run, seq)| (run, seq.parse())) {
                acknowledged.insert(run.to_owned(), seq);
            }
        }
        process.wait().unwrap();
        let store = open(home.path()).await;
        for run in runs {
            let row = store.get_run(run).await.unwrap().row;
            let due = acknowledged.get(run).copied().unwrap_or(0);
            // I3: all that was acknowledged is there, and nothing is half there.
            assert!(row.seq >= due, "{run}: {} < {due}", row.seq);
            interrupted += u32::from(row.seq > due);
            assert_eq!(row.seq % 3, 0);
            let events = all_events(&store, run).await;
            assert_eq!(events.len() as u64, row.seq);
            if row.seq > 0 {
                assert_eq!(row.state, format!("at {}", row.seq));
            }
            assert_eq!(store.results(run, None).await.unwrap().len() as u64, row.seq / 3);
            // I4: the last transition again is answered, not repeated.
            if row.seq > 0 {
                let again = Append { transition: Some(format!("to {}", row.seq)), ..append(run, row.seq - 3, 3) };
                assert_eq!(store.append(again).await.unwrap(), row.seq);
            }
        }
        store.close().await;
    }
    assert!(interrupted > 0, "no kill came between a commit and its acknowledgement");
}

#[tokio::test]
async fn two_processes_on_one_run_take_turns_by_compare_and_set() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path()).await;
    store.create_run(new_run("shared")).await.unwrap();
    let children: Vec<Child> = (0..2).map(|_| child(home.path(), "compete:200")).collect();
    let mut conflicts = 0;
    for process in children {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let count = said.lines().find_map(told).and_then(|text| text.strip_prefix("conflicts ")).unwrap();
        conflicts += count.parse::<u64>().unwrap();
    }
    assert_eq!(all_events(&store, "shared").await.len(), 800);
    assert!(conflicts > 0, "the processes never met");
}

#[tokio::test]
async fn a_run_is_driven_by_one_process_and_free_when_it_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path()).await;
    assert_eq!(store.run_holder("r").unwrap(), None);
    let mut process = child(home.path(), "hold:r");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| told(&line.unwrap()) == Some("held")));
    let refused = store.lease_run("r").unwrap_err();
    let pid = format!("process {}", process.id());
    assert!(refused.to_string().contains(&pid), "{refused}");
    assert_eq!((refused.code(), matches!(&refused, Error::RunHeld { run, .. } if run == "r")), ("E101", true));
    assert!(store.run_holder("r").unwrap().unwrap().contains(&pid));
    // Another run is nobody's, readers are welcome, and who wants the store alone has to wait.
    let other = store.lease_run("q").unwrap();
    SqliteStore::open(home.path(), Access::Read).await.unwrap();
    let alone = SqliteStore::open(home.path(), Access::Exclusive).await.err().unwrap();
    assert!(matches!(&alone, Error::StoreHeld { .. }) && alone.code() == "E101", "{alone:?}");
    process.kill().unwrap();
    process.wait().unwrap();
    let lease = store.lease_run("r").unwrap();
    assert_eq!(lease.run(), "r");
    // In the same process, too, a run has one driver.
    assert!(matches!(store.lease_run("r"), Err(Error::RunHeld { .. })));
    drop((lease, other));
    store.lease_run("r").unwrap();
    store.close().await;
    drop(store);
    let alone = SqliteStore::open(home.path(), Access::Exclusive).await.unwrap();
    let second = SqliteStore::open(home.path(), Access::Write).await.err().unwrap();
    assert!(matches!(second, Error::StoreHeld { .. }), "{second:?}");
    alone.close().await;
}
