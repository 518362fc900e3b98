//! `swath workers`: the servers on a store, and what they drive.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_control::v1;
use swath_control::v1::worker_service_client::WorkerServiceClient;

use crate::arguments::{At, Global};
use crate::failure::Failure;
use crate::server::{connect, refused};
use crate::style;

pub(crate) fn run(global: &Global, command: At) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let workers = match command.server {
            Some(server) => {
                let mut service = WorkerServiceClient::new(connect(&server).await?);
                service.list_workers(v1::ListWorkersRequest {}).await.map_err(refused)?.into_inner().workers
            }
            None => swath_control::workers(super::reader(global).await?.as_ref()).await?,
        };
        if global.json {
            let shown: Vec<Value> = workers.iter().map(document).collect();
            super::print_json(&shown)?;
        } else if workers.is_empty() {
            tell!("no server lives on this store; `swath serve` starts one");
        } else {
            let header = ["SERVER", "HOST", "PID", "VERSION", "LISTENS", "STARTED", "SLOTS", "APART", "RUNS"];
            let rows: Vec<_> = workers.iter().map(row).collect();
            super::print(&style::table(&header, &rows, false))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn started(worker: &v1::Worker) -> Option<i64> {
    swath_control::millis(worker.started_at.as_ref())
}

fn row(worker: &v1::Worker) -> Vec<String> {
    let runs = match (worker.run_ids.len(), worker.draining) {
        (count, false) => count.to_string(),
        (count, true) => format!("{count}, about to stop"),
    };
    let slots: Vec<String> = worker.slots.iter().filter(|slot| slot.capacity > 0.0).map(slot).collect();
    vec![
        worker.id.clone(),
        worker.host.clone(),
        worker.pid.to_string(),
        worker.version.clone(),
        worker.address.clone(),
        started(worker).map(style::time).unwrap_or_default(),
        slots.join(" "),
        worker.isolated.to_string(),
        runs,
    ]
}

/// `cpu 1.5/8`, memory in GiB.
fn slot(slot: &v1::Slot) -> String {
    let unit = if slot.name == "memory" { (1_u64 << 30) as f64 } else { 1.0 };
    let rounded = |value: f64| (value / unit * 10.0).round() / 10.0;
    format!("{} {}/{}", slot.name, rounded(slot.used), rounded(slot.capacity))
}

fn document(worker: &v1::Worker) -> Value {
    let slots = worker.slots.iter();
    let slots: Vec<Value> =
        slots.map(|slot| json!({ "name": slot.name, "used": slot.used, "capacity": slot.capacity })).collect();
    json!({
        "id": worker.id, "host": worker.host, "pid": worker.pid, "version": worker.version, "address": worker.address,
        "started_at": started(worker), "seen_at": swath_control::millis(worker.seen_at.as_ref()), "slots": slots,
        "isolated": worker.isolated, "runs": worker.run_ids, "draining": worker.draining,
    })
}
