//! Deployments, their fires and what hooks are told: the contract of [`swath_store::Deployments`], on both databases.

use std::sync::Arc;

use swath_store::{
    Access, Append, Error, FireChange, FireFilter, Follows, LEASE, Looked, NewFire, NewTelling, NewVersion,
    PostgresStore, Retention, RunUpdate, SqliteStore, Store, fire_state,
};

use crate::support::{POSTGRES, append, new_run};

type Shared = Arc<dyn Store>;

conformance! {
    a_version_never_changes_and_equal_content_makes_no_new_one
    a_deployment_has_one_fire_of_each_key
    a_look_at_what_is_not_the_newest_version_adds_nothing
    the_number_of_a_fire_that_is_gone_is_not_given_again
    of_two_who_take_a_fire_one_gets_it
    no_more_are_started_at_once_than_may_be_live
    what_follows_from_an_end_is_stored_once_and_told_until_it_is_heard
    who_deploys_at_once_makes_versions_one_after_the_other
    fires_that_were_acted_on_long_ago_are_collected_but_the_newest
}

fn version(name: &str, content: &str, now: i64) -> NewVersion {
    NewVersion {
        name: name.to_owned(),
        flow: "flow".to_owned(),
        source: format!("/flows/{content}.yaml"),
        spec: "{}".to_owned(),
        content: content.to_owned(),
        paused: false,
        rescheduled: true,
        now,
    }
}

fn fire(key: &str, at: i64) -> NewFire {
    NewFire {
        key: key.to_owned(),
        cause: "schedule".to_owned(),
        since: Some(at - 10),
        at,
        due: at,
        params: "{}".to_owned(),
        created_at: at,
    }
}

/// A look at the schedule of a deployment that came at 0.
fn looked(up_to: i64, version: u32) -> Option<Looked> {
    Some(Looked { up_to, version, created_at: 0 })
}

fn change(state: &'static str, run: Option<&str>) -> FireChange {
    FireChange { state, run: run.map(str::to_owned), ..FireChange::default() }
}

fn all() -> FireFilter {
    FireFilter::default()
}

async fn a_version_never_changes_and_equal_content_makes_no_new_one(store: Shared) {
    let first = store.deploy(version("scan", "one", 100)).await.unwrap();
    assert_eq!((first.version, first.handled, first.paused), (1, 100, false));
    let same = store.deploy(version("scan", "one", 200)).await.unwrap();
    assert_eq!(same, first);
    let second = store.deploy(version("scan", "two", 300)).await.unwrap();
    assert_eq!((second.version, second.handled, second.created_at), (2, 300, 100));
    // Going back to what was before is a version of its own.
    assert_eq!(store.deploy(version("scan", "one", 400)).await.unwrap().version, 3);
    let versions = store.versions("scan").await.unwrap();
    let sources: Vec<(u32, &str)> = versions.iter().map(|one| (one.version, one.source.as_str())).collect();
    assert_eq!(sources, [(3, "/flows/one.yaml"), (2, "/flows/two.yaml"), (1, "/flows/one.yaml")]);
    assert_eq!(versions[0].digest, versions[2].digest);
    assert_eq!(store.content("scan", 2).await.unwrap().as_deref(), Some("two"));
    assert_eq!(store.content("scan", 4).await.unwrap(), None);
    assert_eq!(store.content("scna", 1).await.unwrap(), None);
    assert!(matches!(store.deployment("scna").await, Err(Error::NoDeployment(name)) if name == "scna"));
    assert!(matches!(store.versions("scna").await, Err(Error::NoDeployment(_))));
    store.delete_deployment("scan").await.unwrap();
    assert!(matches!(store.delete_deployment("scan").await, Err(Error::NoDeployment(_))));
    assert!(store.deployments().await.unwrap().is_empty());
}

async fn a_deployment_has_one_fire_of_each_key(store: Shared) {
    store.deploy(version("scan", "one", 0)).await.unwrap();
    store.deploy(version("other", "one", 0)).await.unwrap();
    assert_eq!(store.add_fires("scan", vec![fire("a", 10), fire("b", 20)], looked(20, 1)).await.unwrap(), 2);
    assert_eq!(store.add_fires("scan", vec![fire("b", 20), fire("c", 30)], looked(15, 1)).await.unwrap(), 1);
    assert_eq!(store.add_fires("other", vec![fire("a", 10)], None).await.unwrap(), 1);
    assert_eq!(store.deployment("scan").await.unwrap().handled, 20, "it never goes back");
    let keys = |fires: Vec<swath_store::FireRow>| fires.into_iter().map(|one| one.key).collect::<Vec<_>>();
    let of_scan = FireFilter { deployment: Some("scan".into()), ..all() };
    assert_eq!(keys(store.fires(&of_scan).await.unwrap()), ["c", "b", "a"], "the newest first");
    assert_eq!(keys(store.fires(&FireFilter { limit: Some(1), ..of_scan.clone() }).await.unwrap()), ["c"]);
    // Paused: nothing is added, and what was due meanwhile is left out.
    store.set_paused("scan", true, 40).await.unwrap();
    assert_eq!(store.add_fires("scan", vec![fire("d", 45)], looked(45, 1)).await.unwrap(), 0);
    let resumed = store.set_paused("scan", false, 60).await.unwrap();
    assert_eq!((resumed.handled, resumed.paused), (60, false));
    assert_eq!(store.add_fires("nobody", vec![fire("d", 45)], None).await.unwrap(), 0);
}

async fn a_look_at_what_is_not_the_newest_version_adds_nothing(store: Shared) {
    store.deploy(version("scan", "one", 0)).await.unwrap();
    store.deploy(version("scan", "two", 5)).await.unwrap();
    assert_eq!(store.add_fires("scan", vec![fire("a", 10)], looked(10, 1)).await.unwrap(), 0);
    assert_eq!(store.deployment("scan").await.unwrap().handled, 5);
    assert_eq!(store.add_fires("scan", vec![fire("a", 10)], looked(10, 2)).await.unwrap(), 1);
    // One of its name that came later is another.
    store.delete_deployment("scan").await.unwrap();
    store.deploy(version("scan", "one", 20)).await.unwrap();
    assert_eq!(store.add_fires("scan", vec![fire("b", 30)], looked(30, 1)).await.unwrap(), 0);
    assert_eq!(
        store
            .add_fires("scan", vec![fire("b", 30)], Some(Looked { up_to: 30, version: 1, created_at: 20 }))
            .await
            .unwrap(),
        1
    );
    assert_eq!(store.fires(&all()).await.unwrap()[0].deployed_at, 20);
}

async fn the_number_of_a_fire_that_is_gone_is_not_given_again(store: Shared) {
    store.deploy(version("scan", "one", 0)).await.unwrap();
    store.add_fires("scan", vec![fire("a", 10)], None).await.unwrap();
    let gone = store.fires(&all()).await.unwrap()[0].id;
    store.delete_deployment("scan").await.unwrap();
    store.deploy(version("scan", "one", 20)).await.unwrap();
    store.add_fires("scan", vec![fire("a", 30)], None).await.unwrap();
    let took = change(fire_state::STARTED, Some("of the one that is gone"));
    assert!(!store.change_fire(gone, fire_state::DUE, took).await.unwrap());
    assert!(store.fires(&all()).await.unwrap()[0].id > gone);
}

async fn of_two_who_take_a_fire_one_gets_it(store: Shared) {
    store.deploy(version("scan", "one", 0)).await.unwrap();
    store.add_fires("scan", vec![fire("a", 10), fire("b", 20)], None).await.unwrap();
    let fires = store.fires(&all()).await.unwrap();
    let (b, a) = (&fires[0], &fires[1]);
    let took = change(fire_state::STARTED, Some("scan-1"));
    assert!(store.change_fire(a.id, fire_state::DUE, took.clone()).await.unwrap());
    assert!(!store.change_fire(a.id, fire_state::DUE, took).await.unwrap());
    assert!(store.change_fire(b.id, fire_state::DUE, change(fire_state::SKIPPED, None)).await.unwrap());
    let open = store.fires(&FireFilter { open: true, ..all() }).await.unwrap();
    assert_eq!(open.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["a"], "what was left out is over");
    assert_eq!((open[0].run.as_deref(), open[0].run_state.as_deref()), (Some("scan-1"), None));
    let of_run = store.fires(&FireFilter { run: Some("scan-1".into()), ..all() }).await.unwrap();
    assert_eq!(of_run.len(), 1);
    store.settle(a.id, Follows { ended: Some("completed".into()), ..Follows::default() }).await.unwrap();
    assert!(store.fires(&FireFilter { open: true, ..all() }).await.unwrap().is_empty());
    // Its run was taken up again: the next end counts too.
    store.unsettle("scan-1").await.unwrap();
    assert_eq!(store.fires(&FireFilter { open: true, ..all() }).await.unwrap().len(), 1);
}

async fn no_more_are_started_at_once_than_may_be_live(store: Shared) {
    store.deploy(version("scan", "one", 0)).await.unwrap();
    store.deploy(version("other", "one", 0)).await.unwrap();
    for name in ["scan", "other"] {
        let fires = (0..16).map(|n| fire(&format!("{n}"), n)).collect();
        store.add_fires(name, fires, None).await.unwrap();
    }
    let fires = store.fires(&FireFilter { deployment: Some("scan".into()), ..all() }).await.unwrap();
    let start = |id: i64| {
        let (store, run) = (store.clone(), format!("scan-{id}"));
        let took = FireChange { most: Some(2), ..change(fire_state::STARTED, Some(&run)) };
        tokio::spawn(async move { store.change_fire(id, fire_state::DUE, took).await.unwrap() })
    };
    let mut started = Vec::new();
    for (id, starting) in fires.iter().map(|one| (one.id, start(one.id))).collect::<Vec<_>>() {
        started.extend(starting.await.unwrap().then_some(id));
    }
    assert_eq!(started.len(), 2, "the runs need not be there yet");
    let first = format!("scan-{}", started[0]);
    store.create_run(new_run(&first)).await.unwrap();
    let waiting = fires.iter().map(|one| one.id).find(|id| !started.contains(id)).unwrap();
    assert!(!start(waiting).await.unwrap(), "a run that has not ended is live");
    let ended = RunUpdate { state: Some("failed".into()), ended_at: Some(9), ..RunUpdate::default() };
    store.append(Append { update: Some(ended), ..append(&first, 0, 1) }).await.unwrap();
    assert!(start(waiting).await.unwrap());
}

async fn what_follows_from_an_end_is_stored_once_and_told_until_it_is_heard(store: Shared) {
    for name in ["scan", "after", "paused"] {
        store.deploy(version(name, "one", 0)).await.unwrap();
    }
    store.set_paused("paused", true, 1).await.unwrap();
    store.add_fires("scan", vec![fire("a", 10)], None).await.unwrap();
    let id = store.fires(&all()).await.unwrap()[0].id;
    let telling = |happening: &'static str| NewTelling { hook: 0, happening, message: "{\"sig\": 1}".into(), at: 100 };
    let follows = || Follows {
        fires: ["after", "paused", "gone"].map(|name| (name.to_owned(), fire("after:scan-1", 100))).into(),
        tellings: vec![telling("completed")],
        ended: Some("completed".into()),
    };
    // A server that died after the commit does it again.
    store.settle(id, follows()).await.unwrap();
    store.settle(id, follows()).await.unwrap();
    let followed = store.fires(&FireFilter { open: true, ..all() }).await.unwrap();
    assert_eq!(followed.iter().map(|one| one.deployment.as_str()).collect::<Vec<_>>(), ["after"]);
    assert!(store.tellings(99, 10).await.unwrap().is_empty(), "not yet");
    let due = store.tellings(100, 10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].deployment.as_str(), due[0].happening.as_str(), due[0].attempts), ("scan", "completed", 0));
    assert!(store.tellings(101, 10).await.unwrap().is_empty(), "somebody else is at it");
    assert_eq!(store.tellings(200_000, 10).await.unwrap().len(), 1, "who took it may have died");
    store.told(due[0].id, 300_000, Some("refused".into()), Some(400_000)).await.unwrap();
    assert!(store.tellings(399_999, 10).await.unwrap().is_empty());
    let again = store.tellings(400_000, 10).await.unwrap();
    assert_eq!(again[0].attempts, 1);
    store.told(again[0].id, 400_001, None, None).await.unwrap();
    assert!(store.tellings(i64::MAX, 10).await.unwrap().is_empty());
}

async fn who_deploys_at_once_makes_versions_one_after_the_other(store: Shared) {
    let deploying = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.deploy(version("scan", &format!("content {}", n % 4), n)).await.unwrap() })
    });
    for one in deploying.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let versions = store.versions("scan").await.unwrap();
    let newest = store.deployment("scan").await.unwrap().version;
    let numbers: Vec<u32> = versions.iter().map(|one| one.version).rev().collect();
    assert_eq!(numbers, (1..=newest).collect::<Vec<_>>());
    assert!(versions.windows(2).all(|pair| pair[0].digest != pair[1].digest), "equal content makes no new one");
}

async fn fires_that_were_acted_on_long_ago_are_collected_but_the_newest(store: Shared) {
    for name in ["scan", "other"] {
        store.deploy(version(name, "one", 0)).await.unwrap();
    }
    store
        .add_fires("scan", vec![fire("old", 10), fire("told", 20), fire("open", 30), fire("new", 90)], None)
        .await
        .unwrap();
    store.add_fires("other", vec![fire("old", 10)], None).await.unwrap();
    for one in store.fires(&all()).await.unwrap() {
        let telling = NewTelling { hook: 0, happening: "completed", message: "{}".into(), at: 0 };
        let tellings = if one.key == "told" { vec![telling] } else { Vec::new() };
        store
            .settle(
                one.id,
                Follows { tellings, ended: (one.key != "open").then(|| "completed".to_owned()), ..Follows::default() },
            )
            .await
            .unwrap();
    }
    let retention = Retention {
        runs_ended_before: 50,
        ended_states: vec!["completed".into()],
        keep_runs: Vec::new(),
        cache_used_before: 0,
        now: 100,
        dry_run: false,
    };
    store.collect(&retention).await.unwrap();
    let left: Vec<String> = store.fires(&all()).await.unwrap().into_iter().map(|one| one.key).collect();
    assert_eq!(left, ["old", "new", "open", "told"], "that of the other is its newest");
}
