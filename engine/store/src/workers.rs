//! Servers that say of themselves, again and again, that they live. What a run belongs to does not follow from this: its
//! lease says that.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::deployments::{Tables, statement};
use crate::error::Error;
use crate::read::{Ask, Columns};

/// Servers on a store.
///
/// # Contract
/// - How long a server has been silent is told by the clock of the database, whatever those of its machine and ours say.
/// - To announce oneself again changes what is known of oneself, and removes those who have been silent for long.
#[async_trait]
pub trait Workers: Send + Sync + 'static {
    /// Notes that a server lives, and how it is.
    async fn announce(&self, worker: Worker) -> Result<(), Error>;

    /// A server goes.
    async fn retire(&self, id: &str) -> Result<(), Error>;

    /// Servers that have spoken within so many milliseconds, the oldest first.
    async fn workers(&self, within: i64) -> Result<Vec<WorkerRow>, Error>;
}

/// After which silence nothing is known of a server any more, milliseconds.
const FORGOTTEN_AFTER: i64 = 3_600_000;

/// A server, as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What tells it from all others, also from one of the same machine and process id.
    pub id: String,
    /// Name of its machine.
    pub host: String,
    /// Number of its process there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Where it listens.
    pub address: String,
    /// When it started, by its own clock.
    pub started_at: i64,
    /// How it is, opaque to the store.
    pub state: String,
}

/// A server that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRow {
    /// What it tells of itself.
    pub worker: Worker,
    /// When it last did, by the clock of the database.
    pub seen_at: i64,
}

fn worker(row: &impl Columns) -> Result<WorkerRow, Error> {
    let worker = Worker {
        id: row.text(0)?,
        host: row.text(1)?,
        pid: u32::try_from(row.integer(2)?).unwrap_or_default(),
        version: row.text(3)?,
        address: row.text(4)?,
        started_at: row.integer(5)?,
        state: row.text(6)?,
    };
    Ok(WorkerRow { worker, seen_at: row.integer(7)? })
}

#[async_trait]
impl<D: Tables> Workers for D {
    async fn announce(&self, new: Worker) -> Result<(), Error> {
        // `seen_at` is the time of the database: the default of its column.
        let announced = statement!(
            "INSERT INTO worker (id, host, pid, version, address, started_at, state) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, seen_at = excluded.seen_at",
            new.id.as_str(),
            new.host.as_str(),
            i64::from(new.pid),
            new.version.as_str(),
            new.address.as_str(),
            new.started_at,
            new.state.as_str(),
        );
        let forgotten = statement!(
            "DELETE FROM worker WHERE n IN (SELECT n FROM worker_silence WHERE silent > $1)",
            FORGOTTEN_AFTER,
        );
        self.alter(vec![announced, forgotten]).await.map(drop)
    }

    async fn retire(&self, id: &str) -> Result<(), Error> {
        self.alter(vec![statement!("DELETE FROM worker WHERE id = $1", id)]).await.map(drop)
    }

    async fn workers(&self, within: i64) -> Result<Vec<WorkerRow>, Error> {
        let text = "SELECT id, host, pid, version, address, started_at, state, seen_at FROM worker \
                    JOIN worker_silence s ON s.n = worker.n WHERE s.silent <= $1 ORDER BY started_at, id";
        self.reads().ask(text, &[within.into()]).await?.iter().map(worker).collect()
    }
}
