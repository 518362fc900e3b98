//! What only a server can do to a store: not be there, go away in the middle, be another program's, refuse a password.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use swath_store::{Access, Append, Deployments, Error, LEASE, PostgresStore, RunFilter, Store, Vocabulary};
use swath_testkit::closed::Closed;
use swath_testkit::postgres::{Postgres, psql};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{POSTGRES, all_events, append, new_run, result};

async fn refusal(url: &str, access: Access) -> Error {
    match PostgresStore::open(url, access, LEASE).await {
        Ok(_) => panic!("`{url}` was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn reading_where_there_is_no_store_makes_nothing() {
    let url = POSTGRES.create_database();
    assert_eq!(refusal(&url, Access::Read).await.code(), "E102");
    assert_eq!(psql(&url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'swath'"), "0");
}

#[tokio::test]
async fn a_store_shares_its_database_with_others_and_is_not_put_into_their_schema() {
    let url = POSTGRES.create_database();
    psql(&url, "CREATE TABLE run (x text); INSERT INTO run VALUES ('ours')");
    let store = PostgresStore::open(&url, Access::Write, LEASE).await.unwrap();
    store.create_run(new_run("r")).await.unwrap();
    assert_eq!(psql(&url, "SELECT (SELECT count(*) FROM public.run), (SELECT id FROM swath.run)"), "1|r");
    let other = POSTGRES.create_database();
    psql(&other, "CREATE SCHEMA swath; CREATE TABLE swath.bookmarks (url text)");
    for access in [Access::Write, Access::Read] {
        let error = refusal(&other, access).await;
        assert!(matches!(&error, Error::Corrupt { .. }) && error.to_string().contains("another program"), "{error}");
    }
    assert_eq!(
        psql(
            &other,
            "SELECT count(*) FROM pg_class c, pg_namespace s WHERE s.oid = c.relnamespace AND nspname = 'swath'"
        ),
        "1"
    );
}

#[tokio::test]
async fn a_later_schema_is_refused() {
    let url = POSTGRES.create_database();
    PostgresStore::open(&url, Access::Write, LEASE).await.unwrap().close().await;
    psql(&url, "UPDATE swath.schema_version SET swath_store = 99");
    for access in [Access::Write, Access::Exclusive, Access::Read] {
        let error = refusal(&url, access).await;
        assert!(matches!(error, Error::SchemaNewer { found: 99, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn where_the_flows_of_schema_3_were_read_is_brought_out_of_their_content() {
    let url = POSTGRES.create_database();
    let steps = [
        "CREATE SCHEMA swath; CREATE TABLE swath.schema_version (swath_store BIGINT NOT NULL); \
         INSERT INTO swath.schema_version VALUES (3); SET search_path TO swath;",
        include_str!("../../src/postgres/migrations/0001.sql"),
        include_str!("../../src/postgres/migrations/0002.sql"),
        include_str!("../../src/postgres/migrations/0003.sql"),
        "INSERT INTO deployment (name, version, paused, handled, created_at, updated_at) VALUES ('scan', 1, 0, 0, 0, 0); \
         INSERT INTO deployment_version (deployment, version, digest, created_at, flow, spec, content) \
         SELECT n, 1, 'd', 0, 'scan', '{}', '{\"source\":\"/flows/scan.yaml\",\"text\":\"t\"}' FROM deployment;",
    ];
    psql(&url, &steps.join("\n"));
    let store = PostgresStore::open(&url, Access::Write, LEASE).await.unwrap();
    assert_eq!(store.versions("scan").await.unwrap()[0].source, "/flows/scan.yaml");
    assert!(store.content("scan", 1).await.unwrap().unwrap().contains("\"text\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_may_make_a_store_at_once_and_one_that_collects_is_alone() {
    let url = POSTGRES.create_database();
    let opened: Vec<_> = (0..8)
        .map(|n| {
            let url = url.clone();
            tokio::spawn(async move {
                let store = PostgresStore::open(&url, Access::Write, LEASE).await.unwrap();
                store.create_run(new_run(&format!("r{n}"))).await.unwrap();
                store
            })
        })
        .collect();
    let mut stores = Vec::new();
    for one in opened {
        stores.push(one.await.unwrap());
    }
    let alone = refusal(&url, Access::Exclusive).await;
    let pid = format!("swath process {}", std::process::id());
    assert!(matches!(&alone, Error::StoreHeld { holder, .. } if holder.contains(&pid)), "{alone:?}");
    let reader = PostgresStore::open(&url, Access::Read, LEASE).await.unwrap();
    assert_eq!(reader.list_runs(&RunFilter::default()).await.unwrap().len(), 8);
    for refused in [reader.append(append("r0", 0, 1)).await.map(drop), reader.create_run(new_run("q")).await] {
        assert_eq!(refused.unwrap_err().code(), "E112");
    }
    assert_eq!(reader.lease_run("r0").await.unwrap_err().code(), "E112");
    for store in &stores {
        store.close().await;
    }
    let alone = PostgresStore::open(&url, Access::Exclusive, LEASE).await.unwrap();
    assert!(matches!(refusal(&url, Access::Write).await, Error::StoreHeld { .. }));
    alone.close().await;
}

#[tokio::test]
async fn a_server_that_does_not_let_us_in_is_told_without_the_password() {
    let database = POSTGRES.create_database();
    let admin = POSTGRES.url("postgres");
    psql(&admin, "DO $$ BEGIN CREATE ROLE guarded; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
    psql(&admin, "CREATE ROLE clerk LOGIN PASSWORD 'right' IN ROLE guarded");
    let wrong = database.replace("postgres@", "clerk:hush@");
    let nowhere = POSTGRES.url("no_such_database");
    for (url, says) in [(&wrong, "clerk"), (&nowhere, "no_such_database")] {
        let error = refusal(url, Access::Write).await;
        assert_eq!(error.code(), "E102", "{error:?}");
        assert!(error.to_string().contains(says) && !format!("{error:?}").contains("hush"), "{error:?}");
    }
    // Let in, but not to make anything.
    let error = refusal(&database.replace("postgres@", "clerk:right@"), Access::Write).await;
    assert!(matches!(&error, Error::ReadOnly { .. }), "{error:?}");
    psql(
        &admin,
        &format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.rsplit('/').next().unwrap()),
    );
    assert!(matches!(refusal(&database, Access::Write).await, Error::ReadOnly { .. }));
}

#[tokio::test]
async fn what_the_server_says_is_wrong_has_its_own_error_and_what_passes_is_waited_for() {
    let url = POSTGRES.create_database();
    let store = PostgresStore::open(&url, Access::Write, Duration::from_secs(1)).await.unwrap();
    store.create_run(new_run("r")).await.unwrap();
    let says = |code: &str| {
        psql(
            &url,
            &format!(
                "CREATE OR REPLACE FUNCTION swath.fail() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RAISE EXCEPTION SQLSTATE ''{code}''; END'; \
                 CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON swath.event FOR EACH ROW EXECUTE FUNCTION swath.fail()"
            ),
        );
    };
    for (state, code) in [
        ("53100", "E111"),
        ("25006", "E112"),
        ("XX001", "E103"),
        ("55P03", "E113"),
        ("42703", "E114"),
        // Still so when patience, two seconds here, is over.
        ("40P01", "E121"),
        ("57P03", "E121"),
    ] {
        says(state);
        let error = store.append(append("r", 0, 1)).await.unwrap_err();
        assert_eq!(error.code(), code, "{state}: {error:?}");
        assert_eq!(error.is_transient(), ["E111", "E113", "E121"].contains(&code), "{state}");
    }
    let patient = PostgresStore::open(&url, Access::Write, Duration::from_secs(15)).await.unwrap();
    let passing = patient.append(append("r", 0, 3));
    let passed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        psql(&url, "DROP TRIGGER fail ON swath.event");
    };
    let (appended, ()) = tokio::join!(passing, passed);
    assert_eq!(appended.unwrap(), 3);
    assert_eq!(all_events(&store, "r").await.len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_soon() {
    let closed = Closed::take();
    let port = closed.address().port();
    let asked = Instant::now();
    let error = refusal(&format!("postgres://u:hush@127.0.0.1:{port}/d"), Access::Write).await;
    assert!(matches!(&error, Error::Unreachable { .. }) && error.code() == "E121", "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(10) && !format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn damage_to_rows_is_found_by_an_audit_and_told_when_they_are_read() {
    let url = POSTGRES.create_database();
    let store = PostgresStore::open(&url, Access::Write, LEASE).await.unwrap();
    for run in ["gap", "epoch", "twice", "ended", "bare", "row"] {
        store.create_run(new_run(run)).await.unwrap();
        store.append(Append { results: vec![result("s", "")], ..append(run, 0, 1) }).await.unwrap();
        store.append(append(run, 1, 2)).await.unwrap();
    }
    psql(&url, "DELETE FROM swath.event WHERE seq = 2 AND run = (SELECT n FROM swath.run WHERE id = 'gap')");
    psql(&url, "INSERT INTO swath.claim (run, epoch) VALUES ('epoch', 7)");
    psql(
        &url,
        "UPDATE swath.event SET kind = 'result' WHERE seq < 3 AND run = (SELECT n FROM swath.run WHERE id = 'twice')",
    );
    psql(&url, "UPDATE swath.run SET state = 'completed' WHERE id = 'ended'");
    psql(&url, "DELETE FROM swath.pinned WHERE run = (SELECT n FROM swath.run WHERE id = 'bare')");
    psql(&url, "UPDATE swath.run SET seq = 9 WHERE id = 'row'");
    psql(&url, "UPDATE swath.event SET kind = 'result' WHERE seq = 1 AND kind <> 'result'");
    let vocabulary = Vocabulary {
        ended_states: vec!["completed".into()],
        result_kinds: vec!["result".into()],
        begin_kinds: Vec::new(),
        end_kinds: Vec::new(),
    };
    let broken = store.audit(&vocabulary).await.unwrap();
    let found: Vec<_> = broken.iter().map(|broken| (broken.run.as_str(), broken.rule.as_str())).collect();
    let due = [("bare", "references"), ("ended", "I8"), ("epoch", "I5"), ("gap", "I3"), ("row", "I3"), ("twice", "I6")];
    assert_eq!(found, due, "{broken:?}");
    assert!(matches!(store.load_events("gap", 0, 10).await, Err(Error::Corrupt { .. })));
    psql(
        &url,
        "UPDATE swath.result SET attempt = -1, parts = 'x' WHERE run = (SELECT n FROM swath.run WHERE id = 'row')",
    );
    assert!(matches!(store.results("row", None).await, Err(Error::Record { .. })));
}

/// Appends to some runs, one event at a time, until told to stop; gives what was acknowledged.
fn writers(
    store: &Arc<PostgresStore>,
    runs: usize,
    stop: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<(String, u64)>> {
    let writer = |n: usize| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let run = format!("run-{n}");
            let lease = store.lease_run(&run).await.unwrap();
            store.create_run(new_run(&run)).await.unwrap();
            let mut seq = 0;
            while !stop.load(Ordering::Relaxed) {
                seq = store.append(Append { epoch: lease.epoch(), ..append(&run, seq, 1) }).await.unwrap();
            }
            assert!(!lease.term().is_lost());
            (run, seq)
        })
    };
    (0..runs).map(writer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_comes_back_costs_nothing_that_was_acknowledged() {
    let mut server = Postgres::start(true);
    let url = server.create_database();
    // A machine that is busy with other things may take long to start a server.
    let lease = Duration::from_secs(60);
    let store = Arc::new(PostgresStore::open(&url, Access::Write, lease).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&store, 16, &stop);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server = tokio::task::spawn_blocking(move || {
            server.restart_immediate();
            server
        })
        .await
        .unwrap();
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let (run, seq) = writer.await.unwrap();
        // Not one more either: a group whose answer was lost was not sent twice.
        assert_eq!(all_events(store.as_ref(), &run).await.len() as u64, seq);
        assert!(seq > 0);
    }
    store.close().await;
}

/// A way to the server that can be cut.
struct Gate {
    url: String,
    open: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Gate {
    async fn to(url: &str) -> Self {
        let (head, database) = url.rsplit_once('/').unwrap();
        let (user, target) = head.rsplit_once('@').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
        let open = Arc::new(tokio::sync::watch::Sender::new(true));
        let (target, switch) = (target.to_owned(), open.clone());
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (target, mut closed) = (target.clone(), switch.subscribe());
                tokio::spawn(async move {
                    let through = async {
                        let mut server = TcpStream::connect(target).await?;
                        tokio::io::copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        _ = through => {}
                        _ = closed.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { url, open }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_cut_off_for_long_gives_its_runs_up_and_for_short_goes_on() {
    let direct = POSTGRES.create_database();
    let gate = Gate::to(&direct).await;
    let lease = Duration::from_secs(6);
    let cut_off = Arc::new(PostgresStore::open(&gate.url, Access::Write, lease).await.unwrap());
    let other = PostgresStore::open(&direct, Access::Write, lease).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(&cut_off, 4, &stop);
    tokio::time::sleep(Duration::from_millis(500)).await;
    gate.open.send_replace(false);
    // A renewal is missed, and who would miss the next one, too, would lose its lease before the writers end.
    tokio::time::sleep(lease * 2 / 5).await;
    gate.open.send_replace(true);
    tokio::time::sleep(lease + Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let (run, seq) = writer.await.unwrap();
        assert_eq!(all_events(&other, &run).await.len() as u64, seq);
    }
    let held = cut_off.lease_run("run-0").await.unwrap();
    gate.open.send_replace(false);
    let seq = other.run_row("run-0").await.unwrap().seq;
    let late = {
        let (store, epoch) = (cut_off.clone(), held.epoch());
        tokio::spawn(async move { store.append(Append { epoch, ..append("run-0", seq, 1) }).await })
    };
    let taken = loop {
        match other.lease_run("run-0").await {
            Ok(lease) => break lease,
            Err(Error::RunHeld { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error:?}"),
        }
    };
    // By its own count of time, which hears of nobody.
    tokio::time::timeout(lease, held.term().lost()).await.expect("it is given up");
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error:?}");
    gate.open.send_replace(true);
    other.append(Append { epoch: taken.epoch(), ..append("run-0", seq, 1) }).await.unwrap();
    let stale = cut_off.append(Append { epoch: held.epoch(), ..append("run-0", seq + 1, 1) }).await.unwrap_err();
    assert!(matches!(&stale, Error::LeaseLost { .. }), "{stale:?}");
}
