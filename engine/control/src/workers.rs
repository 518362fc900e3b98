//! The servers on a store: what this one tells of itself, and what all of them have told.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use swath_store::{Error, Store, Worker, WorkerRow};
use tonic::{Request, Response, Status};

use crate::convert::{refused, time};
use crate::fleet::Fleet;
use crate::v1;

/// How often a server tells of itself.
const BEAT: Duration = Duration::from_secs(5);
/// How long a server that goes waits for a database that does not answer.
const GOODBYE: Duration = Duration::from_secs(2);
/// Whoever has said nothing for longer is gone: a few beats may be lost. Milliseconds.
const SILENT_FOR: i64 = 20_000;

/// How a server is, as it is stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// Name, used, capacity.
    slots: Vec<(String, f64, f64)>,
    isolated: u32,
    runs: Vec<String>,
    draining: bool,
}

/// Tells of this server.
#[derive(Clone)]
pub struct Herald {
    fleet: Fleet,
    me: Worker,
}

impl Herald {
    /// Of a server that drives `fleet` and listens at `address`.
    pub fn new(fleet: Fleet, address: SocketAddr, started: Timestamp) -> Self {
        let me = Worker {
            id: format!("{:016x}", rand::random::<u64>()),
            host: swath_store::this_machine().unwrap_or_default(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: address.to_string(),
            started_at: started.as_millisecond(),
            state: String::new(),
        };
        Self { fleet, me }
    }

    /// Tells how the server is now.
    async fn tell(&self) -> Result<(), Error> {
        let slots = self.fleet.slots().into_iter().map(|slot| (slot.name, slot.used, slot.capacity));
        let state = State {
            slots: slots.collect(),
            isolated: self.fleet.isolated(),
            runs: self.fleet.live_runs(),
            draining: self.fleet.is_draining(),
        };
        let state = serde_json::to_string(&state).unwrap_or_default();
        self.fleet.store().announce(Worker { state, ..self.me.clone() }).await
    }

    /// Tells how the server is, again and again.
    pub async fn keep_telling(&self) {
        loop {
            if let Err(error) = self.tell().await {
                tracing::warn!("other servers are not told that this one lives: {error}");
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Tells that the server goes.
    pub async fn leave(&self) {
        // Nothing is lost where it cannot be told: the silence is heard soon.
        if let Ok(Err(error)) = tokio::time::timeout(GOODBYE, self.fleet.store().retire(&self.me.id)).await {
            tracing::warn!("other servers are not told that this one goes: {error}");
        }
    }
}

/// The worker service.
pub struct WorkerService {
    pub herald: Herald,
}

#[tonic::async_trait]
impl v1::worker_service_server::WorkerService for WorkerService {
    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        // Of the one that is asked the newest is told, where the store can be written to.
        if let Err(error) = self.herald.tell().await {
            tracing::warn!("this server cannot tell how it is: {error}");
        }
        let workers = workers(self.herald.fleet.store().as_ref()).await.map_err(refused)?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }
}

/// The servers that live on a store, the oldest first.
pub async fn workers(store: &dyn Store) -> Result<Vec<v1::Worker>, Error> {
    store.workers(SILENT_FOR).await?.into_iter().map(worker).collect()
}

fn worker(row: WorkerRow) -> Result<v1::Worker, Error> {
    let WorkerRow { worker, seen_at } = row;
    let state: State = serde_json::from_str(&worker.state)
        .map_err(|error| Error::Record { what: format!("server `{}`", worker.id), reason: error.to_string() })?;
    let slot = |(name, used, capacity)| v1::Slot { name, used, capacity };
    Ok(v1::Worker {
        id: worker.id,
        host: worker.host,
        pid: worker.pid,
        version: worker.version,
        address: worker.address,
        started_at: Some(time(worker.started_at)),
        seen_at: Some(time(seen_at)),
        slots: state.slots.into_iter().map(slot).collect(),
        isolated: state.isolated,
        run_ids: state.runs,
        draining: state.draining,
    })
}
