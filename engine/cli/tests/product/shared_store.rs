//! Commands and servers on one PostgreSQL store, which share the work and take over from each other.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_store::{Access, PostgresStore, Store};
use swath_testkit::postgres::{Postgres, psql};
use tonic::transport::Channel;

use crate::common::{Place, signal};
use crate::serve::{FLOW, Serving, ledger, start, state_of, watched};

static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(false));

/// How long a run stays with a server that is no longer heard of, here.
const LEASE: &str = "2s";

/// Asks until the answer is yes.
async fn until<F: Future<Output = bool>>(what: &str, mut asked: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !asked().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts runs whose middle step sleeps, and waits until they are there.
async fn in_the_middle(
    place: &Place,
    runs: &mut RunServiceClient<Channel>,
    count: usize,
    seconds: &str,
) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(runs.start_run(start(place, seconds, "")).await.unwrap().into_inner().run.unwrap().id);
    }
    until("the first steps", || async { begun(place) == count }).await;
    ids
}

/// How many runs have done their first step.
fn begun(place: &Place) -> usize {
    ledger(place).iter().filter(|line| line.starts_with("first")).count()
}

/// Each step with an effect had it once, in each of so many runs.
fn each_once(place: &Place, runs: usize) {
    let mut told = BTreeMap::new();
    ledger(place).into_iter().for_each(|line| *told.entry(line).or_insert(0) += 1);
    assert_eq!(told, BTreeMap::from([("first hello".to_owned(), runs), ("last".to_owned(), runs)]));
}

/// What is stored keeps the invariants.
fn is_sound(place: &Place, url: &str) {
    let (code, told) = place.json(&["check", "--store", url]);
    assert_eq!((code, &told["broken"]), (Some(0), &Value::Array(Vec::new())), "{told}");
    assert!(told["runs"].as_u64().unwrap() > 0);
}

async fn completed(runs: &mut RunServiceClient<Channel>, ids: &[String]) {
    for id in ids {
        until("a run completes", || {
            let mut runs = runs.clone();
            async move { state_of(&mut runs, id).await == v1::RunState::Completed }
        })
        .await;
        let events = watched(runs, id, 0).await;
        assert!(events.iter().enumerate().all(|(at, event)| event.number == at as u64 + 1), "each once, in order");
        assert_eq!(events.iter().filter(|event| event.kind == "succeeded").count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_with_the_runs_of_another_that_was_killed() {
    let (place, url) = (Place::new(FLOW), POSTGRES.create_database());
    let on_store = ["--store", &url, "--lease", LEASE];
    let (first, second) = (Serving::start(&place, &on_store), Serving::start(&place, &on_store));
    let (mut at_first, mut at_second) =
        (RunServiceClient::new(first.channel().await), RunServiceClient::new(second.channel().await));
    let mut ids = in_the_middle(&place, &mut at_first, 2, "10").await;
    // Each sees what the other drives, and asks it to end it.
    assert_eq!(state_of(&mut at_second, &ids[0]).await, v1::RunState::Running);
    let other = at_second.start_run(start(&place, "600", "")).await.unwrap().into_inner().run.unwrap().id;
    until("the third run", || async { begun(&place) == 3 }).await;
    at_first.cancel_run(v1::CancelRunRequest { id: other.clone() }).await.unwrap();
    until("the other cancels it", || {
        let (mut runs, id) = (at_first.clone(), other.clone());
        async move { state_of(&mut runs, &id).await == v1::RunState::Cancelled }
    })
    .await;
    signal(&first.child, "KILL");
    completed(&mut at_second, &ids).await;
    let told = ledger(&place);
    assert_eq!(told.iter().filter(|line| *line == "first hello").count(), 3, "no finished step ran again: {told:?}");
    assert_eq!(told.iter().filter(|line| *line == "last").count(), 2, "{told:?}");
    ids.push(other);
    let page = at_second.list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner();
    assert_eq!(page.runs.len(), ids.len());
    is_sound(&place, &url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_suspended_past_its_leases_does_nothing_more_to_its_runs() {
    let (place, url) = (Place::new(FLOW), POSTGRES.create_database());
    let on_store = ["--store", &url, "--lease", LEASE];
    let (first, second) = (Serving::start(&place, &on_store), Serving::start(&place, &on_store));
    let (mut at_first, mut at_second) =
        (RunServiceClient::new(first.channel().await), RunServiceClient::new(second.channel().await));
    let ids = in_the_middle(&place, &mut at_first, 2, "10").await;
    signal(&first.child, "STOP");
    let store = PostgresStore::open(&url, Access::Read, swath_store::LEASE).await.unwrap();
    let pid = format!("process {}", second.child.id());
    until("the second server takes the runs over", || async {
        let holders = store.holders(&ids).await.unwrap();
        holders.len() == 2 && holders.values().all(|holder| holder.contains(&pid))
    })
    .await;
    assert!(!ledger(&place).contains(&"last".to_owned()), "the middle steps begin anew");
    signal(&first.child, "CONT");
    completed(&mut at_second, &ids).await;
    // Time for it to do what it should not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    each_once(&place, 2);
    is_sound(&place, &url);
    // It serves on: a new run of its own completes.
    let fresh = at_first.start_run(start(&place, "0", "")).await.unwrap().into_inner().run.unwrap().id;
    completed(&mut at_first, &[fresh]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_flow_goes_on_where_it_was_when_another_server_takes_the_run_over() {
    let (place, url) = (Place::new(FLOW), POSTGRES.create_database());
    let on_store = ["--store", &url, "--lease", LEASE];
    let (first, second) = (Serving::start(&place, &on_store), Serving::start(&place, &on_store));
    let ledger_file = place.path().join("ledger");
    let outer = format!(
        "flow: outer\nsteps:\n  area: {{ flow: flow.yaml, with: {{ seconds: 8, ledger: '{}' }} }}\n",
        ledger_file.display()
    );
    let request = v1::StartRunRequest {
        flow_text: outer,
        source: place.path().join("outer.yaml").display().to_string(),
        ..v1::StartRunRequest::default()
    };
    let mut at_first = RunServiceClient::new(first.channel().await);
    let id = at_first.start_run(request).await.unwrap().into_inner().run.unwrap().id;
    until("the first step", || async { begun(&place) == 1 }).await;
    signal(&first.child, "KILL");
    let mut at_second = RunServiceClient::new(second.channel().await);
    until("the run completes", || {
        let (mut runs, id) = (at_second.clone(), id.clone());
        async move { state_of(&mut runs, &id).await == v1::RunState::Completed }
    })
    .await;
    assert_eq!(watched(&mut at_second, &format!("{id}.area"), 0).await.last().unwrap().kind, "ended");
    each_once(&place, 1);
    is_sound(&place, &url);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_complete_through_a_crash_of_the_database() {
    let mut postgres = Postgres::start(true);
    let (place, url) = (Place::new(FLOW), postgres.create_database());
    let serving = Serving::start(&place, &["--store", &url]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let ids = in_the_middle(&place, &mut runs, 2, "2").await;
    tokio::task::spawn_blocking(move || {
        postgres.restart_immediate();
        postgres
    })
    .await
    .map(|postgres| async move {
        completed(&mut runs, &ids).await;
        each_once(&place, 2);
        is_sound(&place, &url);
        drop(postgres);
    })
    .unwrap()
    .await;
}

#[test]
fn every_command_works_on_a_store_on_postgresql_and_none_tells_its_password() {
    let (place, url) = (Place::new(FLOW), POSTGRES.create_database());
    let admin = POSTGRES.url("postgres");
    psql(&admin, "DO $$ BEGIN CREATE ROLE guarded; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
    psql(&admin, "CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'hush-hush' IN ROLE guarded");
    let url = url.replace("postgres@", "keeper:hush-hush@");
    let mut said = String::new();
    let mut run = |arguments: &[&str]| {
        let (code, out, err) = place.run(&[arguments, &["--store", &url]].concat());
        said.push_str(&format!("{out}{err}"));
        (code, out, err)
    };
    let (code, _, err) = run(&["run", "flow.yaml", "-p", "word=one"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(run(&["run", "flow.yaml", "-p", "word=two"]).0, Some(0));
    let (_, out, _) = run(&["runs", "--json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    let id = listed[0]["run"]["id"].as_str().unwrap();
    let (_, out, _) = run(&["show", id, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (shown["shown_state"].as_str(), shown["results"].as_array().map(Vec::len)),
        (Some("completed"), Some(3))
    );
    assert!(run(&["logs", id]).1.contains("told: two"));
    assert_eq!(run(&["workers", "--json"]).1.trim(), "[]");
    assert!(run(&["explain", id]).1.contains("ran"));
    assert_eq!(run(&["resume", id]).0, Some(0));
    let (code, _, err) = run(&["rerun", id, "--from", "last"]);
    assert_eq!(code, Some(0), "{err}");
    let text = "flow: kept\nsteps: { says: { task: run.command, with: { command: [echo, hello], purity: pure } } }\n";
    std::fs::write(place.path().join("kept.yaml"), text).unwrap();
    assert_eq!(run(&["run", "kept.yaml"]).0, Some(0));
    let (_, out, _) = run(&["cache", "list", "--json"]);
    let kept: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((kept.as_array().map(Vec::len), &kept[0]["task"]), (Some(1), &"run.command".into()), "{kept}");
    let (_, out, _) = run(&["gc", "--dry-run", "--older-than", "0", "--unused-for", "0", "--json"]);
    let dry: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((dry["runs"].as_array().map(Vec::len), &dry["cache_entries"]), (Some(4), &1.into()), "{dry}");
    assert_eq!(run(&["cache", "drop", "--all"]).0, Some(0));
    assert_eq!(run(&["cache", "list", "--json"]).1.trim(), "[]");
    assert_eq!(run(&["cancel", id]).0, Some(2), "it has ended");
    let (_, out, _) = run(&["doctor"]);
    assert!(out.contains("postgres://keeper@127.0.0.1"), "{out}");
    assert_eq!(run(&["check"]).0, Some(0));
    assert_eq!(run(&["gc", "--older-than", "0", "--unused-for", "0"]).0, Some(0));
    assert_eq!(run(&["runs", "--json"]).1.trim(), "[]");
    assert_eq!(run(&["check", "--lease", "0s"]).0, Some(2));
    let (code, _, err) = place.run(&["runs", "--store", &url.replace("hush-hush", "hush-wrong")]);
    assert_eq!((code, err.contains("[E102]")), (Some(1), true), "{err}");
    said.push_str(&err);
    // In the environment it is no more to be seen.
    let output = place.swath(&["runs", "--help"]).env("SWATH_STORE", &url).output().unwrap();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("SWATH_STORE") && !said.contains("hush"), "{said}");
    // Nothing of it is in a file, and there is no file of the other kind of store.
    assert!(!place.home().join("swath.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_gone_on_with_and_cancelled_by_other_processes_on_the_store() {
    let (place, url) = (Place::new(FLOW), POSTGRES.create_database());
    let serving = Serving::start(&place, &["--store", &url]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let ids = in_the_middle(&place, &mut runs, 2, "8").await;
    let asked = |verb: &str, id: &str| {
        let (code, _, told) = place.run(&[verb, id, "--store", &url]);
        assert_eq!(code, Some(0), "{told}");
        told
    };
    for id in &ids {
        assert!(asked("pause", id).contains("is paused"));
    }
    let store = PostgresStore::open(&url, Access::Read, swath_store::LEASE).await.unwrap();
    for id in &ids {
        until("the step in the middle ends", || async {
            let events = store.load_events(id, 0, u32::MAX).await.unwrap();
            events.iter().filter(|event| event.kind == "succeeded").count() == 2
        })
        .await;
    }
    // Time for it to do what it should not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ledger(&place).len(), 2, "the steps in the middle have ended, and nothing has started");
    assert!(asked("resume", &ids[0]).contains("is "));
    assert!(asked("cancel", &ids[1]).contains("is cancelled"));
    completed(&mut runs, &ids[..1]).await;
    is_sound(&place, &url);
}
