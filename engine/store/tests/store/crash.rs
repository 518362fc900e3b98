//! kill -9 in the middle of appends, two processes on one store, and one that is suspended while another takes over. The
//! child is this test binary, started again with `SWATH_STORE_CHILD` set.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{POSTGRES, all_events, append, new_run, result};
use swath_store::{Access, Address, Append, Error, RunUpdate, SqliteStore, Store};
use swath_testkit::postgres::psql;

const ROLE: &str = "SWATH_STORE_CHILD";
const HOME: &str = "SWATH_STORE_HOME";

/// The other process: does nothing when the test runner calls it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let home = std::env::var(HOME).unwrap();
    let store = open(&home).await;
    match role.split_once(':').unwrap() {
        ("append", runs) => {
            // Appends to several runs at once for ever, telling what was acknowledged.
            let drivers: Vec<_> = runs
                .split(',')
                .map(|run| (run.to_owned(), store.clone()))
                .map(|(run, store)| tokio::spawn(async move { append_for_ever(&run, store.as_ref()).await }))
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
            let _lease = store.lease_run(run).await.unwrap();
            tell("held");
            std::thread::sleep(Duration::from_secs(600));
        }
        ("drive", run) => {
            // Goes on writing by its lease, deaf to its loss, until a write is refused.
            let lease = store.lease_run(run).await.unwrap();
            let mut seq = store.run_row(run).await.unwrap().seq;
            let error = loop {
                match store.append(Append { epoch: lease.epoch(), ..append(run, seq, 1) }).await {
                    Ok(next) => seq = next,
                    Err(error) => break error,
                }
                tell(&format!("at {seq}"));
            };
            lease.term().lost().await;
            tell(&format!("refused {} {}", error.code(), seq));
        }
        ("crowd", name) => {
            let writers = (0..8).map(|n| (format!("{name}-{n}"), store.clone()));
            let writers: Vec<_> = writers
                .map(|(run, store)| tokio::spawn(async move { write_for_a_while(&run, store.as_ref()).await }))
                .collect();
            let (mut events, mut longest) = (0, Duration::ZERO);
            for writer in writers {
                let (written, waited) = writer.await.unwrap();
                (events, longest) = (events + written, longest.max(waited));
            }
            tell(&format!("wrote {events} {}", longest.as_millis()));
        }
        other => panic!("{other:?}"),
    }
}

/// Leases, writes and lets go again until the time is over: how many events that made, and how long the slowest call took.
async fn write_for_a_while(run: &str, store: &dyn Store) -> (u64, Duration) {
    let seconds = std::env::var("SWATH_CROWD").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut seq, mut longest) = (0, Duration::ZERO);
    store.create_run(new_run(run)).await.unwrap();
    while Instant::now() < until {
        let lease = store.lease_run(run).await.unwrap();
        for _ in 0..20 {
            let began = Instant::now();
            let results = vec![result(&format!("s{seq}"), "")];
            seq = store.append(Append { epoch: lease.epoch(), results, ..append(run, seq, 3) }).await.unwrap();
            longest = longest.max(began.elapsed());
        }
        store.ask_to_pause(run, false).await.unwrap();
        assert_eq!(store.run_row(run).await.unwrap().seq, seq);
    }
    (seq, longest)
}

async fn append_for_ever(run: &str, store: &dyn Store) {
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

fn child(home: &str, role: &str) -> Child {
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

/// How long a run on PostgreSQL stays with a process that is no longer heard of, here.
const LEASE: Duration = Duration::from_millis(1500);

/// The store in a folder, or at the address of a database.
async fn open(place: &str) -> Arc<dyn Store> {
    let database = place.starts_with("postgres://").then(|| place.to_owned());
    let address = Address { home: place.into(), database, lease: LEASE };
    address.open(Access::Write).await.unwrap()
}

#[tokio::test]
async fn a_killed_writer_leaves_a_dense_journal_with_all_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    killed_while_writing(home.path().to_str().unwrap()).await;
}

#[tokio::test]
async fn a_killed_writer_on_postgresql_leaves_a_dense_journal_with_all_that_was_acknowledged() {
    killed_while_writing(&POSTGRES.create_database()).await;
}

async fn killed_while_writing(place: &str) {
    let runs = ["a", "b", "c"];
    let store = open(place).await;
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
        let mut process = child(place, &format!("append:{}", runs.join(",")));
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
        let store = open(place).await;
        for run in runs {
            let row = store.get_run(run).await.unwrap().row;
            let due = acknowledged.get(run).copied().unwrap_or(0);
            // I3: all that was acknowledged is there, and nothing is half there.
            assert!(row.seq >= due, "{run}: {} < {due}", row.seq);
            interrupted += u32::from(row.seq > due);
            assert_eq!(row.seq % 3, 0);
            let events = all_events(store.as_ref(), run).await;
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
    compete(home.path().to_str().unwrap()).await;
}

#[tokio::test]
async fn two_processes_on_one_run_on_postgresql_take_turns_by_compare_and_set() {
    compete(&POSTGRES.create_database()).await;
}

async fn compete(place: &str) {
    let store = open(place).await;
    store.create_run(new_run("shared")).await.unwrap();
    let children: Vec<Child> = (0..2).map(|_| child(place, "compete:200")).collect();
    let mut conflicts = 0;
    for process in children {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let count = said.lines().find_map(told).and_then(|text| text.strip_prefix("conflicts ")).unwrap();
        conflicts += count.parse::<u64>().unwrap();
    }
    assert_eq!(all_events(store.as_ref(), "shared").await.len(), 800);
    assert!(conflicts > 0, "the processes never met");
}

#[tokio::test]
async fn a_run_is_driven_by_one_process_and_free_when_it_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path().to_str().unwrap()).await;
    assert_eq!(store.run_holder("r").await.unwrap(), None);
    let mut process = child(home.path().to_str().unwrap(), "hold:r");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| told(&line.unwrap()) == Some("held")));
    let refused = store.lease_run("r").await.unwrap_err();
    let pid = format!("process {}", process.id());
    assert!(refused.to_string().contains(&pid), "{refused}");
    assert_eq!((refused.code(), matches!(&refused, Error::RunHeld { run, .. } if run == "r")), ("E101", true));
    assert!(store.run_holder("r").await.unwrap().unwrap().contains(&pid));
    // Another run is nobody's, readers are welcome, and who wants the store alone has to wait.
    let other = store.lease_run("q").await.unwrap();
    SqliteStore::open(home.path(), Access::Read).await.unwrap();
    let alone = SqliteStore::open(home.path(), Access::Exclusive).await.err().unwrap();
    assert!(matches!(&alone, Error::StoreHeld { .. }) && alone.code() == "E101", "{alone:?}");
    process.kill().unwrap();
    process.wait().unwrap();
    let lease = store.lease_run("r").await.unwrap();
    assert_eq!(lease.run(), "r");
    // In the same process, too, a run has one driver.
    assert!(matches!(store.lease_run("r").await, Err(Error::RunHeld { .. })));
    drop((lease, other));
    store.lease_run("r").await.unwrap();
    store.close().await;
    drop(store);
    let alone = SqliteStore::open(home.path(), Access::Exclusive).await.unwrap();
    let second = SqliteStore::open(home.path(), Access::Write).await.err().unwrap();
    assert!(matches!(second, Error::StoreHeld { .. }), "{second:?}");
    alone.close().await;
}

/// Lines that a child tells, until one begins with `word`.
fn await_word(lines: &mut std::io::Lines<BufReader<std::process::ChildStdout>>, word: &str) -> String {
    let line = lines.map_while(Result::ok).find(|line| told(line).is_some_and(|told| told.starts_with(word)));
    told(&line.unwrap_or_else(|| panic!("it never told `{word}`"))).unwrap().to_owned()
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_killed_process_is_free_when_its_lease_has_ended_and_not_before() {
    let place = POSTGRES.create_database();
    let store = open(&place).await;
    let mut process = child(&place, "hold:r");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    await_word(&mut lines, "held");
    let holder = store.run_holder("r").await.unwrap().unwrap();
    assert!(holder.contains(&format!("process {}", process.id())), "{holder}");
    assert!(!holder.contains("postgres://postgres:"), "{holder}");
    // Longer than a lease: it is renewed.
    tokio::time::sleep(LEASE * 2).await;
    assert!(matches!(store.lease_run("r").await, Err(Error::RunHeld { .. })));
    process.kill().unwrap();
    process.wait().unwrap();
    let killed = Instant::now();
    let until = psql(&place, "select until from swath.claim where run = 'r'");
    // Nobody lives who could hear it: it is meant for who goes on.
    store.ask_to_cancel("r").await.unwrap();
    let lease = loop {
        match store.lease_run("r").await {
            Ok(lease) => break lease,
            Err(Error::RunHeld { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error:?}"),
        }
    };
    let waited = killed.elapsed();
    assert!(waited < LEASE + Duration::from_secs(5), "{waited:?}");
    assert_eq!(psql(&place, &format!("select '{until}' <= clock_timestamp()")), "t", "it was not taken away before");
    assert_eq!(lease.epoch(), 2);
    tokio::time::timeout(Duration::from_secs(5), lease.term().cancel_asked()).await.expect("the wish is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_suspended_past_its_lease_is_refused_when_it_goes_on() {
    let place = POSTGRES.create_database();
    let store = open(&place).await;
    store.create_run(new_run("r")).await.unwrap();
    let mut process = child(&place, "drive:r");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    await_word(&mut lines, "at 20");
    signal(&process, "STOP");
    let lease = loop {
        match store.lease_run("r").await {
            Ok(lease) => break lease,
            Err(Error::RunHeld { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error:?}"),
        }
    };
    let seq = store.run_row("r").await.unwrap().seq;
    let ours = store.append(Append { epoch: lease.epoch(), ..append("r", seq, 5) }).await.unwrap();
    signal(&process, "CONT");
    let said = await_word(&mut lines, "refused");
    assert!(said.starts_with("refused E123 "), "{said}");
    assert!(process.wait().unwrap().success());
    // Nothing of it was taken, and it was counted.
    assert_eq!(
        (store.run_row("r").await.unwrap().seq, all_events(store.as_ref(), "r").await.len() as u64),
        (ours, ours)
    );
    assert_eq!(store.refused("r").await.unwrap(), 1);
    assert!(!lease.term().is_lost());
}

/// `SWATH_CROWD` says for how many seconds (`make faults`: a minute).
#[tokio::test]
async fn sixty_four_writers_in_eight_processes_never_meet_a_lock_of_sqlite() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().to_str().unwrap();
    open(place).await.close().await;
    let processes: Vec<Child> = (0..8).map(|n| child(place, &format!("crowd:{n}"))).collect();
    let (mut events, mut longest) = (0, 0);
    for process in processes {
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let told = said.lines().find_map(told).and_then(|told| told.strip_prefix("wrote ")?.split_once(' '));
        let (wrote, waited) = told.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)));
        (events, longest) = (events + wrote.parse::<u64>().unwrap(), longest.max(waited.parse::<u64>().unwrap()));
    }
    let store = open(place).await;
    let rows = store.list_runs(&Default::default()).await.unwrap();
    assert_eq!((rows.len(), rows.iter().map(|row| row.seq).sum::<u64>()), (64, events), "nothing is lost or doubled");
    println!("64 writers: {events} events, the slowest write took {longest} ms");
}
