//! What every [`Store`] must do. Each check takes a store that may hold other runs; a new backend adds itself to
//! `conformance!` below.

use std::sync::Arc;
use std::time::Duration;

use crate::sharing::*;
use crate::support::{POSTGRES, all_events, append, key, new_run, record, result};
use swath_store::{
    Access, Append, CacheFilter, CacheTerms, Error, LEASE, LONGEST_TEXT, LogBatch, LogFilter, LogLine, Metric,
    NewEvent, PostgresStore, Retention, RunFilter, RunUpdate, SqliteStore, Store, Vocabulary,
};
use swath_task::Digest;

type Shared = Arc<dyn Store>;

macro_rules! conformance {
    ($($check:ident)*) => {
        mod sqlite {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    let home = tempfile::tempdir().unwrap();
                    let store = SqliteStore::open(home.path(), Access::Exclusive).await.unwrap();
                    super::$check(Arc::new(store)).await;
                }
            )*
        }

        mod postgres {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    let database = POSTGRES.create_database();
                    let store = PostgresStore::open(&database, Access::Exclusive, LEASE).await.unwrap();
                    super::$check(Arc::new(store)).await;
                }
            )*
        }
    };
}

conformance! {
    a_run_is_pinned_and_read_back
    events_are_dense_and_in_order
    an_append_is_a_compare_and_set
    a_repeated_transition_gets_the_stored_answer
    an_append_is_stored_whole_or_not_at_all
    concurrent_writers_of_one_run_never_lose_or_double_an_event
    runs_do_not_disturb_each_other
    one_bad_append_does_not_spoil_those_it_waits_with
    a_dropped_append_leaves_the_journal_whole
    results_are_set_once
    a_run_row_follows_its_updates
    runs_are_listed_newest_first_and_filtered
    the_cache_gives_what_is_valid
    key_history_tells_what_ran_before
    lineage_names_makers_and_users
    logs_are_ordered_bounded_and_redacted
    metrics_are_kept_in_order
    collection_keeps_what_is_referenced
    a_thousand_results_in_one_append
    unknown_runs_are_told
    a_closed_store_says_so
    a_run_has_one_lease_and_its_epoch_rises
    what_is_written_by_an_older_lease_is_refused_and_counted
    sixty_four_leased_writers_lose_and_double_nothing
    a_wish_to_cancel_or_pause_reaches_who_drives_the_run_then
    what_is_noted_beside_a_run_is_found_again
    pages_of_runs_stay_in_place_whatever_comes_between
    an_audit_finds_nothing_where_nothing_is_wrong
}

async fn a_run_is_pinned_and_read_back(store: Shared) {
    let run = new_run("brave-otter");
    store.create_run(run.clone()).await.unwrap();
    let stored = store.get_run("brave-otter").await.unwrap();
    assert_eq!((stored.text, stored.text_digest), (run.text.to_string(), run.text_digest));
    assert_eq!((stored.params, stored.plan), (run.params.clone(), run.plan.to_string()));
    assert_eq!((stored.row.seq, stored.row.state.as_str(), stored.row.created_at), (0, "scheduled", 1_000));
    assert_eq!(store.run_row("brave-otter").await.unwrap(), stored.row);
    assert_eq!((stored.row.started_at, stored.row.ended_at, stored.row.error), (None, None, None));
    assert!(matches!(store.run_row("nobody").await, Err(Error::NoRun(id)) if id == "nobody"));
    // The same again is the same run; other content under its id is not.
    store.create_run(run.clone()).await.unwrap();
    let other = swath_store::NewRun { plan: "{}".into(), ..run.clone() };
    assert!(matches!(store.create_run(other).await, Err(Error::RunExists(id)) if id == "brave-otter"));
    for id in ["", "../x", "a/b", ".hidden", "a b", &"x".repeat(241)] {
        let refused = store.create_run(swath_store::NewRun { id: id.into(), ..run.clone() }).await;
        assert!(matches!(refused, Err(Error::Record { .. })), "{id:?}: {refused:?}");
    }
    assert_eq!(store.list_runs(&RunFilter::default()).await.unwrap().len(), 1);
}

async fn events_are_dense_and_in_order(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let mut seq = 0;
    for count in [1, 2, 0, 3, 300, 1] {
        let next = store.append(append("r", seq, count)).await.unwrap();
        assert_eq!(next, seq + count);
        seq = next;
    }
    let events = all_events(store.as_ref(), "r").await;
    assert_eq!(events.len() as u64, seq);
    for (index, stored) in events.iter().enumerate() {
        let n = index as u64 + 1;
        let given = crate::support::event(n);
        assert_eq!(stored.seq, n);
        assert_eq!((&stored.kind, &stored.step, &stored.payload), (&given.kind, &given.step, &given.payload));
    }
    assert_eq!(store.get_run("r").await.unwrap().row.seq, seq);
    assert_eq!(store.load_events("r", 3, 2).await.unwrap().iter().map(|e| e.seq).collect::<Vec<_>>(), [4, 5]);
    assert!(store.load_events("r", seq, 10).await.unwrap().is_empty());
    let nul =
        Append { events: vec![NewEvent { payload: "\0".into(), ..crate::support::event(1) }], ..append("r", seq, 0) };
    assert!(matches!(store.append(nul).await, Err(Error::Record { .. })));
    // Everything else that a text can hold comes back as it was.
    let odd = "\u{1}\u{7f}\"\\\u{2028}\u{10ffff}\r\n\t'; DROP TABLE event; --";
    let strange = NewEvent { kind: odd.into(), step: None, payload: odd.repeat(1000) };
    store.append(Append { events: vec![strange.clone()], ..append("r", seq, 0) }).await.unwrap();
    let read = &store.load_events("r", seq, 10).await.unwrap()[0];
    assert_eq!((&read.kind, &read.step, &read.payload), (&strange.kind, &strange.step, &strange.payload));
}

async fn an_append_is_a_compare_and_set(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    store.append(append("r", 0, 3)).await.unwrap();
    for expected in [0, 2, 4, 100] {
        let refused = store.append(append("r", expected, 1)).await;
        assert!(
            matches!(&refused, Err(Error::Conflict { run, expected: e, actual: 3 }) if run == "r" && *e == expected),
            "{refused:?}"
        );
        // Records without events are fenced too.
        let update = RunUpdate { state: Some("stolen".into()), ..RunUpdate::default() };
        let refused = store.append(Append { update: Some(update), ..append("r", expected, 0) }).await;
        assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 3);
    assert_eq!(store.get_run("r").await.unwrap().row.state, "scheduled");
    assert_eq!(store.append(append("r", 3, 1)).await.unwrap(), 4);
}

async fn a_repeated_transition_gets_the_stored_answer(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let first = Append { transition: Some("t1".into()), results: vec![result("a", "")], ..append("r", 0, 2) };
    assert_eq!(store.append(first.clone()).await.unwrap(), 2);
    store.append(append("r", 2, 1)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.append(first.clone()).await.unwrap(), 2);
    }
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 3);
    // The id is of the transition, not of the position.
    let moved = Append { transition: Some("t1".into()), ..append("r", 3, 1) };
    assert_eq!(store.append(moved).await.unwrap(), 2);
    // Another run may use the same id.
    store.create_run(new_run("q")).await.unwrap();
    assert_eq!(store.append(Append { transition: Some("t1".into()), ..append("q", 0, 1) }).await.unwrap(), 1);
}

async fn an_append_is_stored_whole_or_not_at_all(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    store.append(Append { results: vec![result("a", "")], ..append("r", 0, 1) }).await.unwrap();
    let cached = swath_store::NewResult { cache: CacheTerms::Keep, artifacts: vec![record(b"x")], ..result("b", "") };
    let mixed = Append {
        results: vec![cached, result("a", "")],
        metrics: vec![Metric { step: "b".into(), instance: String::new(), attempt: 1, name: "n".into(), value: 1.0 }],
        update: Some(RunUpdate { state: Some("running".into()), ..RunUpdate::default() }),
        ..append("r", 1, 5)
    };
    assert!(matches!(store.append(mixed).await, Err(Error::ResultExists { .. })));
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 1);
    assert_eq!(store.results("r", None).await.unwrap().len(), 1);
    assert!(store.metrics("r").await.unwrap().is_empty());
    assert!(store.cache_get(&key("{}").digest(), 0).await.unwrap().is_none());
    assert!(store.referenced().await.unwrap().is_empty());
    assert_eq!(store.get_run("r").await.unwrap().row.state, "scheduled");
}

async fn concurrent_writers_of_one_run_never_lose_or_double_an_event(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut seq, mut mine, mut conflicts) = (0, 0, 0);
                while mine < 25 {
                    let mut one = append("r", seq, 1);
                    one.events[0].payload = format!("{writer}");
                    match store.append(one).await {
                        Ok(next) => {
                            seq = next;
                            mine += 1;
                        }
                        Err(Error::Conflict { actual, .. }) => {
                            seq = actual;
                            conflicts += 1;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    let events = all_events(store.as_ref(), "r").await;
    assert_eq!(events.len(), 200);
    for writer in 0..8 {
        assert_eq!(events.iter().filter(|event| event.payload == writer.to_string()).count(), 25);
    }
    assert!(conflicts > 0, "the writers never met");
}

async fn runs_do_not_disturb_each_other(store: Shared) {
    let drivers: Vec<_> = (0..64)
        .map(|driver| {
            let store = store.clone();
            tokio::spawn(async move {
                let run = format!("run-{driver}");
                store.create_run(new_run(&run)).await.unwrap();
                let mut seq = 0;
                while seq < 30 {
                    seq = store.append(append(&run, seq, 1 + driver % 3)).await.unwrap();
                }
                (run, seq)
            })
        })
        .collect();
    for driver in drivers {
        let (run, seq) = driver.await.unwrap();
        assert_eq!(all_events(store.as_ref(), &run).await.len() as u64, seq);
    }
    assert_eq!(store.list_runs(&RunFilter::default()).await.unwrap().len(), 64);
}

async fn one_bad_append_does_not_spoil_those_it_waits_with(store: Shared) {
    for n in 0..20 {
        store.create_run(new_run(&format!("r{n}"))).await.unwrap();
        store.append(append(&format!("r{n}"), 0, 1)).await.unwrap();
    }
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            let expected = if n % 5 == 3 { 0 } else { 1 };
            tokio::spawn(async move { store.append(append(&format!("r{n}"), expected, 2)).await })
        })
        .collect();
    for (n, waiting) in waiting.into_iter().enumerate() {
        let answer = waiting.await.unwrap();
        let events = all_events(store.as_ref(), &format!("r{n}")).await.len();
        if n % 5 == 3 {
            assert!(matches!(answer, Err(Error::Conflict { actual: 1, .. })), "{n}: {answer:?}");
            assert_eq!(events, 1);
        } else {
            assert_eq!((answer.unwrap(), events), (3, 3), "{n}");
        }
    }
}

async fn a_dropped_append_leaves_the_journal_whole(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let mut seq = 0;
    for round in 0..40 {
        let attempt = append("r", seq, 3);
        let waited = tokio::time::timeout(Duration::from_micros(round * 20), store.append(attempt)).await;
        if waited.is_err() {
            // It may or may not have been committed; the store says which.
            store.append(append("r", u64::MAX >> 2, 0)).await.unwrap_err();
        }
        seq = store.get_run("r").await.unwrap().row.seq;
        assert_eq!(seq % 3, 0);
    }
    assert_eq!(all_events(store.as_ref(), "r").await.len() as u64, seq);
    assert!(seq > 0, "nothing was ever committed");
}

async fn results_are_set_once(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let results = vec![result("a", ""), result("b", "0"), result("b", "1/2")];
    store.append(Append { results, ..append("r", 0, 1) }).await.unwrap();
    let again = store.append(Append { results: vec![result("b", "1/2")], ..append("r", 1, 1) }).await;
    assert!(matches!(again, Err(Error::ResultExists { run }) if run == "r"));
    let twice = Append { results: vec![result("c", ""), result("c", "")], ..append("r", 1, 1) };
    assert!(matches!(store.append(twice).await, Err(Error::ResultExists { .. })));
    let stored = store.results("r", None).await.unwrap();
    let names: Vec<_> = stored.iter().map(|r| (r.step.as_str(), r.instance.as_str(), r.outputs.as_str())).collect();
    assert_eq!(
        names,
        [("a", "", r#"{"made_by":"a/"}"#), ("b", "0", r#"{"made_by":"b/0"}"#), ("b", "1/2", r#"{"made_by":"b/1/2"}"#)]
    );
    assert_eq!(stored[0].key, Some(key("{}").digest()));
    assert_eq!(stored[0].parts, Some(key("{}")));
    assert_eq!(store.results("r", Some("b")).await.unwrap().len(), 2);
    assert!(store.results("r", Some("z")).await.unwrap().is_empty());
}

async fn a_run_row_follows_its_updates(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let update = |update: RunUpdate, seq| Append { update: Some(update), ..append("r", seq, 1) };
    let running = RunUpdate { state: Some("running".into()), started_at: Some(5), ..RunUpdate::default() };
    store.append(update(running.clone(), 0)).await.unwrap();
    let failed = RunUpdate {
        state: Some("failed".into()),
        ended_at: Some(9),
        error: Some(format!("GET https://h/x?sig=abc {}", "long ".repeat(LONGEST_TEXT))),
        summary: Some("{}".into()),
        ..RunUpdate::default()
    };
    store.append(update(failed, 1)).await.unwrap();
    let row = store.get_run("r").await.unwrap().row;
    assert_eq!((row.state.as_str(), row.started_at, row.ended_at), ("failed", Some(5), Some(9)));
    let error = row.error.unwrap();
    assert!(error.starts_with("GET https://h/x?sig=REDACTED long"), "{}", &error[..60]);
    assert!(error.len() <= LONGEST_TEXT);
    // Resumed: it has neither ended nor failed, and its first start stays.
    store.append(update(RunUpdate { started_at: Some(20), ..running }, 2)).await.unwrap();
    let row = store.get_run("r").await.unwrap().row;
    assert_eq!((row.state.as_str(), row.started_at, row.ended_at, row.error), ("running", Some(5), None, None));
    assert_eq!((row.summary.as_deref(), row.updated_at), (Some("{}"), 2_002));
}

async fn runs_are_listed_newest_first_and_filtered(store: Shared) {
    for n in 0..10 {
        let flow = if n % 2 == 0 { "even" } else { "odd" };
        let state = if n < 3 { "failed" } else { "running" };
        let run = swath_store::NewRun {
            flow: flow.into(),
            state: state.into(),
            created_at: 100 + i64::from(n / 2),
            ..new_run(&format!("r{n}"))
        };
        store.create_run(run).await.unwrap();
    }
    let list = |filter: RunFilter| {
        let store = store.clone();
        async move { store.list_runs(&filter).await.unwrap().into_iter().map(|run| run.id).collect::<Vec<_>>() }
    };
    assert_eq!(list(RunFilter::default()).await, ["r9", "r8", "r7", "r6", "r5", "r4", "r3", "r2", "r1", "r0"]);
    assert_eq!(list(RunFilter { limit: Some(2), ..RunFilter::default() }).await, ["r9", "r8"]);
    let odd_failed =
        RunFilter { states: vec!["failed".into(), "x".into()], flow: Some("odd".into()), ..RunFilter::default() };
    assert_eq!(list(odd_failed).await, ["r1"]);
    let elsewhere = RunFilter { source: Some("other.yaml".into()), ..RunFilter::default() };
    assert!(list(elsewhere).await.is_empty());
}

async fn the_cache_gives_what_is_valid(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let kept = swath_store::NewResult {
        cache: CacheTerms::Keep,
        artifacts: vec![record(b"tiff")],
        key: Some(key(r#"{"a":1}"#)),
        ..result("a", "")
    };
    let until = swath_store::NewResult { cache: CacheTerms::Until(500), key: Some(key("[2]")), ..result("b", "") };
    let off = swath_store::NewResult { key: Some(key("[3]")), ..result("c", "") };
    let results = vec![kept.clone(), until, off];
    store.append(Append { results, ..append("r", 0, 1) }).await.unwrap();
    let one = key(r#"{"a":1}"#).digest();
    let entry = store.cache_get(&one, 499).await.unwrap().unwrap();
    assert_eq!((entry.run.as_str(), entry.step.as_str(), entry.outputs), ("r", "a", kept.outputs.clone()));
    assert_eq!((entry.artifacts, entry.created_at, entry.used_at), (vec![record(b"tiff")], 2_000, 2_000));
    let two = key("[2]").digest();
    assert!(store.cache_get(&two, 499).await.unwrap().is_some());
    assert!(store.cache_get(&two, 500).await.unwrap().is_none());
    assert!(store.cache_get(&key("[3]").digest(), 0).await.unwrap().is_none());
    store.cache_touch(&one, 10_000_000).await.unwrap();
    assert_eq!(store.cache_get(&one, 0).await.unwrap().unwrap().used_at, 10_000_000);
    // Made again (refresh): the newer result is the entry.
    store.create_run(new_run("q")).await.unwrap();
    let newer = swath_store::NewResult { outputs: r#"{"new":1}"#.into(), ..kept };
    store.append(Append { results: vec![newer], at: 2_500, ..append("q", 0, 1) }).await.unwrap();
    let entry = store.cache_get(&one, 0).await.unwrap().unwrap();
    assert_eq!((entry.run.as_str(), entry.outputs.as_str()), ("q", r#"{"new":1}"#));
    let listed = |filter: CacheFilter| {
        let store = store.clone();
        async move { store.cache_list(&filter).await.unwrap().into_iter().map(|row| row.step).collect::<Vec<_>>() }
    };
    let all = store.cache_list(&CacheFilter::default()).await.unwrap();
    let rows: Vec<_> = all.iter().map(|row| (row.run.as_str(), row.step.as_str(), row.bytes, row.expires_at)).collect();
    assert_eq!(rows, [("q", "a", 4, None), ("r", "b", 0, Some(500))], "newest first");
    assert!(all.iter().all(|row| row.task.as_deref() == Some("raster.indices")) && all[0].key == one);
    let (task, run) = (|task: &str| Some(task.to_owned()), |run: &str| Some(run.to_owned()));
    assert_eq!(listed(CacheFilter { task: task("raster.indices"), ..CacheFilter::default() }).await, ["a", "b"]);
    assert!(listed(CacheFilter { task: task("other"), ..CacheFilter::default() }).await.is_empty());
    assert_eq!(listed(CacheFilter { run: run("r"), ..CacheFilter::default() }).await, ["b"]);
    assert_eq!(listed(CacheFilter { step: Some("a".into()), ..CacheFilter::default() }).await, ["a"]);
    assert!(listed(CacheFilter { made_before: Some(2_000), ..CacheFilter::default() }).await.is_empty());
    store.cache_forget(&one).await.unwrap();
    assert!(store.cache_get(&one, 0).await.unwrap().is_none());
    store.cache_forget(&one).await.unwrap();
}

async fn key_history_tells_what_ran_before(store: Shared) {
    for (n, params) in [r#"{"eps":1}"#, r#"{"eps":2}"#].iter().enumerate() {
        let id = format!("r{n}");
        store.create_run(swath_store::NewRun { created_at: n as i64, ..new_run(&id) }).await.unwrap();
        let ran = swath_store::NewResult { key: Some(key(params)), ..result("merge", "") };
        store.append(Append { results: vec![ran], ..append(&id, 0, 1) }).await.unwrap();
    }
    let history = store.key_history("detect", "merge", "", 5).await.unwrap();
    let eps: Vec<_> = history.iter().map(|r| r.parts.clone().unwrap().params).collect();
    assert_eq!(eps, [r#"{"eps":2}"#, r#"{"eps":1}"#]);
    let changes = key(r#"{"eps":7}"#).differences(history[0].parts.as_ref().unwrap());
    assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["parameter `eps` was `2`, is `7`"]);
    assert_eq!(store.key_history("detect", "merge", "", 1).await.unwrap().len(), 1);
    assert!(store.key_history("other", "merge", "", 5).await.unwrap().is_empty());
    assert!(store.key_history("detect", "merge", "0", 5).await.unwrap().is_empty());
}

async fn lineage_names_makers_and_users(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    store.create_run(new_run("q")).await.unwrap();
    let made = swath_store::NewResult { artifacts: vec![record(b"t"), record(b"u")], ..result("a", "") };
    store.append(Append { results: vec![made.clone()], ..append("r", 0, 1) }).await.unwrap();
    let reused = swath_store::NewResult { attempt: 0, reused_from: Some("r".into()), ..made };
    store.append(Append { results: vec![reused], at: 9_000, ..append("q", 0, 1) }).await.unwrap();
    let lineage = store.lineage(&Digest::of(b"t")).await.unwrap();
    let named: Vec<_> = lineage.iter().map(|l| (l.run.as_str(), l.step.as_str(), l.attempt)).collect();
    assert_eq!(named, [("r", "a", 1), ("q", "a", 0)]);
    assert_eq!(lineage[0].record, record(b"t"));
    assert_eq!(store.results("q", None).await.unwrap()[0].reused_from.as_deref(), Some("r"));
    assert!(store.lineage(&Digest::of(b"v")).await.unwrap().is_empty());
}

fn line(n: i64, message: &str) -> LogLine {
    LogLine { at: n, level: "info".into(), target: "t".into(), message: message.into(), fields: String::new() }
}

async fn logs_are_ordered_bounded_and_redacted(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let batch = |step: &str, attempt, lines: Vec<LogLine>, dropped| LogBatch {
        run: "r".into(),
        step: step.into(),
        instance: String::new(),
        attempt,
        at: 77,
        lines,
        dropped,
    };
    for n in 0..50 {
        store.append_logs(batch("a", 1, vec![line(n * 2, "x"), line(n * 2 + 1, "y")], 0)).await.unwrap();
    }
    let secret = LogLine { fields: r#"{"url":"https://h?sig=s3"}"#.into(), ..line(5, "https://h?token=t0") };
    store.append_logs(batch("b", 2, vec![secret, line(6, &"z".repeat(LONGEST_TEXT * 2))], 7)).await.unwrap();
    store.append_logs(batch("b", 2, Vec::new(), 3)).await.unwrap();
    store.append_logs(batch("b", 2, Vec::new(), 0)).await.unwrap();
    let of = |step: &str| LogFilter { step: Some(step.into()), ..LogFilter::default() };
    let a = store.read_logs("r", &of("a")).await.unwrap();
    assert_eq!(a.iter().map(|l| l.line.at).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(a.windows(2).all(|pair| pair[0].id < pair[1].id));
    let b = store.read_logs("r", &of("b")).await.unwrap();
    assert_eq!(b[0].line.message, "https://h?token=REDACTED");
    assert_eq!(b[0].line.fields, r#"{"url":"https://h?sig=REDACTED"}"#);
    assert!(b[1].line.message.len() <= LONGEST_TEXT);
    assert_eq!(b.iter().map(|l| (l.attempt, l.dropped)).collect::<Vec<_>>(), [(2, 7), (2, 0), (2, 3)]);
    assert_eq!((b[2].line.message.as_str(), b[2].line.at), ("3 lines dropped", 77));
    let page = LogFilter { after: a[97].id, limit: Some(3), step: None };
    let page: Vec<_> = store.read_logs("r", &page).await.unwrap().into_iter().map(|l| l.line.at).collect();
    assert_eq!(page, [98, 99, 5]);
    let lost = LogBatch { run: "none".into(), ..batch("a", 1, vec![line(1, "x")], 0) };
    assert!(matches!(store.append_logs(lost).await, Err(Error::NoRun(_))));
}

async fn metrics_are_kept_in_order(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let metric =
        |name: &str, value| Metric { step: "a".into(), instance: "0".into(), attempt: 1, name: name.into(), value };
    let metrics = vec![metric("pixels", 4.0e6), metric("share", 0.25), metric("loss", f64::NAN), metric("n", 3.0)];
    store.append(Append { metrics: metrics.clone(), ..append("r", 0, 1) }).await.unwrap();
    let stored = store.metrics("r").await.unwrap();
    assert_eq!(stored[..2], metrics[..2]);
    assert!(stored[2].value.is_nan());
    assert_eq!(stored[3], metrics[3]);
}

async fn collection_keeps_what_is_referenced(store: Shared) {
    for (n, (id, state)) in
        [("old", "completed"), ("kept", "completed"), ("live", "running"), ("new", "completed")].into_iter().enumerate()
    {
        store.create_run(new_run(id)).await.unwrap();
        // A sub-flow's run that was left as it was, and one that has ended.
        for below in ["cut", "done.3"] {
            let id = format!("{id}.{below}");
            store.create_run(new_run(&id)).await.unwrap();
            let state = if below == "cut" { "running" } else { "completed" };
            let ended_at = (below != "cut").then_some(50);
            let update = Some(RunUpdate { state: Some(state.into()), ended_at, ..RunUpdate::default() });
            store.append(Append { update, at: 50, ..append(&id, 0, 1) }).await.unwrap();
        }
        let made = swath_store::NewResult {
            artifacts: vec![record(id.as_bytes())],
            key: Some(key(&format!("[{n}]"))),
            cache: if id == "old" { CacheTerms::Off } else { CacheTerms::Keep },
            ..result("a", "")
        };
        let ended_at = (state == "completed").then_some(if id == "new" { 900 } else { 100 });
        let update = Some(RunUpdate { state: Some(state.into()), ended_at, ..RunUpdate::default() });
        let at = if id == "new" { 900 } else { 100 };
        store.append(Append { results: vec![made], update, at, ..append(id, 0, 2) }).await.unwrap();
        let lines = vec![line(1, "x")];
        store
            .append_logs(LogBatch { run: id.into(), step: "a".into(), attempt: 1, lines, ..LogBatch::default() })
            .await
            .unwrap();
    }
    let retention = Retention {
        runs_ended_before: 500,
        ended_states: vec!["completed".into(), "failed".into()],
        keep_runs: vec!["kept".into()],
        cache_used_before: 500,
        now: 1_000,
        dry_run: false,
    };
    let dry = store.collect(&Retention { dry_run: true, ..retention.clone() }).await.unwrap();
    assert_eq!(store.list_runs(&RunFilter::default()).await.unwrap().len(), 12, "a dry run removes nothing");
    assert_eq!(store.cache_list(&CacheFilter::default()).await.unwrap().len(), 3);
    let collected = store.collect(&retention).await.unwrap();
    assert_eq!((&dry.runs, dry.cache_entries), (&collected.runs, collected.cache_entries));
    assert_eq!(
        (collected.runs, collected.cache_entries),
        (["old", "old.cut", "old.done.3"].map(str::to_owned).to_vec(), 2)
    );
    let mut left: Vec<_> = store.list_runs(&RunFilter::default()).await.unwrap().into_iter().map(|r| r.id).collect();
    left.sort_unstable();
    left.retain(|id| !id.contains('.'));
    assert_eq!(left, ["kept", "live", "new"]);
    let due: std::collections::HashSet<Digest> = ["kept", "live", "new"].map(|id| Digest::of(id.as_bytes())).into();
    assert_eq!(store.referenced().await.unwrap(), due);
    assert_eq!(dry.referenced, Some(due));
    assert!(matches!(store.load_events("old", 0, 10).await, Err(Error::NoRun(_))));
    assert!(matches!(store.append(append("old", 2, 1)).await, Err(Error::NoRun(_))));
    let nothing = Vocabulary {
        ended_states: vec!["completed".into()],
        result_kinds: vec!["none".into()],
        begin_kinds: Vec::new(),
        end_kinds: Vec::new(),
    };
    let left_behind = store.audit(&nothing).await.unwrap();
    assert!(left_behind.iter().all(|broken| broken.rule != "references"), "{left_behind:?}");
    assert_eq!(store.append(append("live", 2, 1)).await.unwrap(), 3);
    // Its id is free again, and nothing of the old run shows through.
    store.create_run(new_run("old")).await.unwrap();
    assert!(store.results("old", None).await.unwrap().is_empty());
    assert!(store.read_logs("old", &LogFilter::default()).await.unwrap().is_empty());
    // Nothing is left to collect.
    assert_eq!(store.collect(&retention).await.unwrap(), swath_store::Collected::default());
}

async fn a_thousand_results_in_one_append(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    let results = (0..1000).map(|n| result("each", &n.to_string())).collect();
    assert_eq!(store.append(Append { results, ..append("r", 0, 1000) }).await.unwrap(), 1000);
    assert_eq!(store.results("r", Some("each")).await.unwrap().len(), 1000);
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 1000);
}

async fn unknown_runs_are_told(store: Shared) {
    let is_unknown = |error: Error| matches!(&error, Error::NoRun(run) if run == "none") && error.code() == "E108";
    assert!(is_unknown(store.append(append("none", 0, 1)).await.unwrap_err()));
    assert!(is_unknown(store.load_events("none", 0, 1).await.unwrap_err()));
    assert!(is_unknown(store.get_run("none").await.unwrap_err()));
    assert!(is_unknown(store.results("none", None).await.unwrap_err()));
    assert!(is_unknown(store.metrics("none").await.unwrap_err()));
    assert!(is_unknown(store.read_logs("none", &LogFilter::default()).await.unwrap_err()));
    assert!(store.list_runs(&RunFilter::default()).await.unwrap().is_empty());
}

async fn a_closed_store_says_so(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    store.close().await;
    assert!(matches!(store.append(append("r", 0, 1)).await, Err(Error::Closed)));
    assert!(matches!(store.get_run("r").await, Err(Error::Closed)));
    store.close().await;
}
