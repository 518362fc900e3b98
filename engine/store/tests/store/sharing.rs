//! What every [`Store`] must do for those who share it: leases, wishes, pages, audits. Part of `conformance.rs`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{all_events, append, new_run, record, result};
use swath_store::{Append, Error, RunFilter, RunUpdate, Store, Vocabulary};

type Shared = Arc<dyn Store>;

pub async fn a_run_has_one_lease_and_its_epoch_rises(store: Shared) {
    assert_eq!(store.run_holder("r").await.unwrap(), None);
    let mut last = 0;
    // Before it is pinned, and after.
    for round in 0..4 {
        let lease = store.lease_run("r").await.unwrap();
        assert!(lease.epoch() > last, "{} after {last}", lease.epoch());
        assert_eq!((lease.run(), lease.term().is_lost()), ("r", false));
        last = lease.epoch();
        let refused = store.lease_run("r").await.unwrap_err();
        assert!(matches!(&refused, Error::RunHeld { run, .. } if run == "r"), "{refused:?}");
        let holder = store.run_holder("r").await.unwrap().unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        let others = ["q".to_owned(), "r".to_owned()];
        assert_eq!(store.holders(&others).await.unwrap().into_keys().collect::<Vec<_>>(), ["r"]);
        if round == 1 {
            store.create_run(new_run("r")).await.unwrap();
        }
        if round > 0 {
            let seq = store.run_row("r").await.unwrap().seq;
            store.append(Append { epoch: lease.epoch(), ..append("r", seq, 2) }).await.unwrap();
        }
    }
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 6);
    for id in ["", "../x", "a/b"] {
        assert!(matches!(store.lease_run(id).await, Err(Error::NoRun(_))), "{id}");
    }
}

pub async fn what_is_written_by_an_older_lease_is_refused_and_counted(store: Shared) {
    let first = store.lease_run("r").await.unwrap();
    store.create_run(new_run("r")).await.unwrap();
    let stale = first.epoch();
    store.append(Append { epoch: stale, ..append("r", 0, 2) }).await.unwrap();
    drop(first);
    let second = store.lease_run("r").await.unwrap();
    // Events, results, and an update alone; together with writes of others that are good.
    let state = RunUpdate { state: Some("stolen".into()), ..RunUpdate::default() };
    let writes = [
        append("r", 2, 3),
        Append { results: vec![result("a", "")], ..append("r", 2, 0) },
        Append { update: Some(state), ..append("r", 2, 0) },
        Append { transition: Some("t".into()), ..append("r", 2, 1) },
    ];
    let others: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let run = format!("other-{n}");
                store.create_run(new_run(&run)).await.unwrap();
                store.append(append(&run, 0, 3)).await.unwrap()
            })
        })
        .collect();
    for (count, write) in writes.into_iter().enumerate() {
        for epoch in [stale, 0, second.epoch() + 1] {
            let refused = store.append(Append { epoch, ..write.clone() }).await;
            assert!(
                matches!(&refused, Err(Error::LeaseLost { run, epoch: e }) if run == "r" && *e == epoch),
                "{refused:?}"
            );
        }
        assert_eq!(store.refused("r").await.unwrap(), 3 * (count as u64 + 1));
    }
    for other in others {
        assert_eq!(other.await.unwrap(), 3);
    }
    assert_eq!(all_events(store.as_ref(), "r").await.len(), 2);
    assert!(store.results("r", None).await.unwrap().is_empty());
    assert_eq!(store.run_row("r").await.unwrap().state, "scheduled");
    assert_eq!(store.append(Append { epoch: second.epoch(), ..append("r", 2, 1) }).await.unwrap(), 3);
    assert_eq!((store.refused("r").await.unwrap(), store.refused("none").await.unwrap()), (12, 0));
}

pub async fn sixty_four_leased_writers_lose_and_double_nothing(store: Shared) {
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                // Eight a run: who has the lease writes once, then lets go.
                let run = format!("run-{}", writer % 8);
                store.create_run(new_run(&run)).await.unwrap();
                let mut written = 0;
                while written < 5 {
                    let lease = match store.lease_run(&run).await {
                        Ok(lease) => lease,
                        Err(Error::RunHeld { .. }) => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            continue;
                        }
                        Err(error) => panic!("{error:?}"),
                    };
                    let seq = store.run_row(&run).await.unwrap().seq;
                    let mut one = Append { epoch: lease.epoch(), ..append(&run, seq, 1) };
                    one.events[0].payload = format!("{writer}");
                    store.append(one).await.unwrap();
                    written += 1;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for run in 0..8 {
        let events = all_events(store.as_ref(), &format!("run-{run}")).await;
        assert_eq!(events.len(), 40);
        for writer in (0..64).filter(|writer| writer % 8 == run) {
            assert_eq!(events.iter().filter(|event| event.payload == writer.to_string()).count(), 5);
        }
        assert_eq!(store.refused(&format!("run-{run}")).await.unwrap(), 0);
    }
}

pub async fn a_wish_to_cancel_or_pause_reaches_who_drives_the_run_then(store: Shared) {
    store.create_run(new_run("r")).await.unwrap();
    store.ask_to_cancel("r").await.unwrap();
    let (lease, other) = (store.lease_run("r").await.unwrap(), store.lease_run("q").await.unwrap());
    let asked = |lease: &swath_store::RunLease, millis| {
        let term = lease.term().clone();
        async move { tokio::time::timeout(Duration::from_millis(millis), term.cancel_asked()).await.is_ok() }
    };
    assert!(!asked(&lease, 1_000).await, "that was meant for who had it before");
    store.ask_to_cancel("r").await.unwrap();
    assert!(asked(&lease, 5_000).await);
    assert!(!asked(&other, 500).await, "another run");
    // The newest wish about a pause counts, and is heard once.
    store.ask_to_pause("q", true).await.unwrap();
    drop(other);
    let other = store.lease_run("q").await.unwrap();
    let mut pause = other.term().pause_asked();
    assert_eq!(*pause.borrow_and_update(), None, "that was meant for who had it before");
    for wish in [true, true, false] {
        store.ask_to_pause("q", wish).await.unwrap();
        let heard = pause.wait_for(|heard| *heard == Some(wish));
        tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(!pause.has_changed().unwrap());
}

pub async fn what_is_noted_beside_a_run_is_found_again(store: Shared) {
    for id in ["early", "plain", "late", "early.below"] {
        if id == "early" {
            // A server marks a run before it is pinned.
            store.mark_served(id, "digest").await.unwrap();
        }
        store.create_run(new_run(id)).await.unwrap();
    }
    store.mark_served("late", "").await.unwrap();
    store.mark_served("gone", "x").await.unwrap();
    assert_eq!(store.served_by("early").await.unwrap().as_deref(), Some("digest"));
    assert_eq!(store.served_by("late").await.unwrap().as_deref(), Some(""));
    assert_eq!((store.served_by("plain").await.unwrap(), store.served_by("none").await.unwrap()), (None, None));
    let served = RunFilter { served: true, ..RunFilter::default() };
    let served: Vec<_> = store.list_runs(&served).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(served, ["late", "early"]);
    use std::os::unix::ffi::OsStrExt;
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xff results"));
    for folder in [Path::new("/srv/results"), odd] {
        store.keep_outputs("plain", folder).await.unwrap();
        assert_eq!(store.outputs_of("plain").await.unwrap().as_deref(), Some(folder));
    }
    assert_eq!(store.outputs_of("early").await.unwrap(), None);
    // A lease takes nothing of it away.
    drop(store.lease_run("early").await.unwrap());
    assert_eq!(store.served_by("early").await.unwrap().as_deref(), Some("digest"));
}

pub async fn pages_of_runs_stay_in_place_whatever_comes_between(store: Shared) {
    let make = |n: i64, at: i64| {
        let store = store.clone();
        async move {
            let run = swath_store::NewRun { created_at: at, ..new_run(&format!("r{n:02}")) };
            store.create_run(run).await.unwrap();
            store
                .create_run(swath_store::NewRun { created_at: at, ..new_run(&format!("r{n:02}.below")) })
                .await
                .unwrap();
        }
    };
    // Three were created in each moment.
    for n in 0..20 {
        make(n, 100 + n / 3).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let filter = RunFilter { after, limit: Some(7), without_sub_flows: true, ..RunFilter::default() };
        let page = store.list_runs(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        seen.extend(page.iter().map(|row| row.id.clone()));
        // Newer ones, and one of a moment that has been passed.
        make(20 + seen.len() as i64, 1_000).await;
    }
    let due: Vec<_> = (0..20).rev().map(|n| format!("r{n:02}")).collect();
    assert_eq!(seen, due);
}

pub async fn an_audit_finds_nothing_where_nothing_is_wrong(store: Shared) {
    let vocabulary = Vocabulary {
        ended_states: vec!["completed".into()],
        result_kinds: vec!["succeeded".into()],
        begin_kinds: vec!["started".into()],
        end_kinds: vec!["succeeded".into()],
    };
    for id in ["a", "b", "b.below"] {
        let lease = store.lease_run(id).await.unwrap();
        store.create_run(new_run(id)).await.unwrap();
        let outputs = serde_json::json!({ "raster": record(b"x") }).to_string();
        let made = swath_store::NewResult { artifacts: vec![record(b"x")], outputs, ..result("s", "") };
        let update = Some(RunUpdate { state: Some("completed".into()), ended_at: Some(5), ..RunUpdate::default() });
        let whole = Append { results: vec![made], update, epoch: lease.epoch(), ..append(id, 0, 1) };
        store.append(whole).await.unwrap();
    }
    store.create_run(new_run("begun")).await.unwrap();
    assert_eq!(store.audit(&vocabulary).await.unwrap(), []);
    // The same rows, with words that mean something else.
    let others =
        Vocabulary { result_kinds: vec!["x".into()], begin_kinds: vec!["succeeded".into()], ..vocabulary.clone() };
    let broken = store.audit(&Vocabulary { end_kinds: Vec::new(), ..others }).await.unwrap();
    let found: Vec<_> = broken.iter().map(|broken| (broken.run.as_str(), broken.rule.as_str())).collect();
    assert_eq!(found, [("a", "I6"), ("a", "I8"), ("b", "I6"), ("b", "I8"), ("b.below", "I6"), ("b.below", "I8")]);
    assert_eq!(broken[1].what, "it is completed, and of its 1 attempts 0 have ended");
}
