//! Servers that say that they live: the contract of [`swath_store::Workers`], on both databases.

use std::sync::Arc;
use std::time::Duration;

use swath_store::{Access, LEASE, PostgresStore, SqliteStore, Store, Worker};

use crate::support::POSTGRES;

type Shared = Arc<dyn Store>;

conformance! {
    who_speaks_again_is_known_by_the_newest_and_who_goes_not_at_all
    who_is_silent_is_not_told_of_by_the_clock_of_the_database
}

fn worker(id: &str, started_at: i64) -> Worker {
    Worker {
        id: id.to_owned(),
        host: "north".to_owned(),
        pid: u32::MAX,
        version: "1.2.3".to_owned(),
        address: "127.0.0.1:7475".to_owned(),
        started_at,
        state: "{}".to_owned(),
    }
}

async fn who_speaks_again_is_known_by_the_newest_and_who_goes_not_at_all(store: Shared) {
    assert!(store.workers(60_000).await.unwrap().is_empty());
    store.announce(worker("b", 20)).await.unwrap();
    store.announce(worker("a", 30)).await.unwrap();
    store.announce(Worker { state: r#"{"runs":1}"#.to_owned(), ..worker("b", 20) }).await.unwrap();
    let told: Vec<Worker> = store.workers(60_000).await.unwrap().into_iter().map(|row| row.worker).collect();
    assert_eq!(told, [Worker { state: r#"{"runs":1}"#.to_owned(), ..worker("b", 20) }, worker("a", 30)]);
    store.retire("b").await.unwrap();
    store.retire("nobody").await.unwrap();
    assert_eq!(store.workers(60_000).await.unwrap().len(), 1);
}

async fn who_is_silent_is_not_told_of_by_the_clock_of_the_database(store: Shared) {
    // What a server says of its own time counts for nothing.
    store.announce(worker("a", 0)).await.unwrap();
    store.announce(worker("b", i64::MAX)).await.unwrap();
    let first = store.workers(60_000).await.unwrap();
    assert!(first.iter().all(|row| row.seen_at > 1_700_000_000_000), "{first:?}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(store.workers(20).await.unwrap().is_empty());
    store.announce(worker("a", 0)).await.unwrap();
    let again = store.workers(60_000).await.unwrap();
    assert!(again[0].seen_at > first[0].seen_at && again[1].seen_at == first[1].seen_at, "{again:?}");
}
