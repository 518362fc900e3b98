//! Who drives what on a store: as its servers tell, and as they are found to be gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_control::v1::worker_service_client::WorkerServiceClient;

use crate::common::{Place, signal};
use crate::serve::{FLOW, Serving, start};

/// Asks again until it is so.
fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come about");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn listed(place: &Place) -> Vec<Value> {
    let (code, told) = place.json(&["workers"]);
    assert_eq!(code, Some(0), "{told}");
    told.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_tell_what_they_drive_and_one_that_has_gone_is_told_of_no_more() {
    let place = Place::new(FLOW);
    let mut first = Serving::start(&place, &["--cpus", "2", "--limit", "stac=4", "--isolate", "all", "--grace", "0s"]);
    let mut runs = RunServiceClient::new(first.channel().await);
    let id = runs.start_run(start(&place, "600", "")).await.unwrap().into_inner().run.unwrap().id;
    let mut workers = WorkerServiceClient::new(first.channel().await);
    // Until the step that waits has its slots and its process.
    let told = loop {
        let told = workers.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
        assert_eq!(told.len(), 1);
        let held = told[0].slots.iter().any(|slot| slot.name == "cpu" && slot.used > 0.0);
        if held && told[0].isolated > 0 {
            break told.into_iter().next().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!((told.host.as_str(), told.pid), (host.trim(), first.child.id()));
    assert_eq!((told.version.as_str(), told.address.as_str()), (env!("CARGO_PKG_VERSION"), first.address.as_str()));
    assert_eq!((told.run_ids.as_slice(), told.draining), ([id.clone()].as_slice(), false));
    let capacity = |name: &str| told.slots.iter().find(|slot| slot.name == name).unwrap().capacity;
    assert_eq!((capacity("cpu"), capacity("stac")), (2.0, 4.0));
    let (started, seen) = (told.started_at.unwrap().seconds, told.seen_at.unwrap().seconds);
    assert!(started > 1_700_000_000 && seen >= started, "{started} {seen}");

    let second = Serving::start(&place, &[]);
    eventually(|| listed(&place).len() == 2);
    let told = listed(&place);
    assert_eq!(told[0]["runs"], json!([id]), "the oldest first");
    assert_eq!((&told[1]["runs"], &told[1]["pid"]), (&json!([]), &json!(second.child.id())));
    let url = format!("http://{}", second.address);
    let (code, table, _) = place.run(&["workers", "--server", &url]);
    assert!(code == Some(0) && table.contains("stac 0/4") && table.contains(&first.address), "{table}");

    // One that is told to stop says so; one that is killed cannot, and is missed.
    signal(&first.child, "TERM");
    first.ends(Duration::from_secs(30));
    assert_eq!(listed(&place).len(), 1);
    signal(&second.child, "KILL");
    eventually(|| listed(&place).is_empty());
    let (code, _, said) = place.run(&["workers"]);
    assert!(code == Some(0) && said.contains("no server lives on this store"), "{said}");
}
