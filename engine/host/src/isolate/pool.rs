//! Workers that wait for another attempt.
//!
//! A worker waits only when its attempt succeeded and it has not grown, and takes attempts of the task it has run before
//! only: what one native library leaves in a process never meets another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use swath_task::Bytes;

use super::process::Worker;

/// How long a worker waits before it is ended.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most memory that a worker which waits may hold.
const MOST_MEMORY: Bytes = Bytes::mib(256);

/// Workers that wait, the one that waits longest first.
pub(crate) struct Pool {
    most: usize,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    task: String,
    worker: Worker,
    since: Instant,
}

impl Pool {
    /// Of at most so many workers.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, idle: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker that has run this task.
    pub fn take(&self, task: &str) -> Option<Worker> {
        loop {
            let mut idle = self.lock();
            // The one that has waited least: its memory is warm, and the others may come to their end.
            let at = idle.iter().rposition(|idle| idle.task == task)?;
            let mut worker = idle.remove(at).worker;
            drop(idle);
            if worker.lives() {
                return Some(worker);
            }
        }
    }

    /// Lets a worker wait whose attempt of this task has succeeded.
    pub fn put(self: &Arc<Self>, task: &str, mut worker: Worker) {
        if worker.memory.used() > MOST_MEMORY || self.most == 0 {
            return;
        }
        let mut idle = self.lock();
        let evicted = (idle.len() >= self.most).then(|| idle.remove(0));
        idle.push(Idle { task: task.to_owned(), worker, since: Instant::now() });
        drop(idle);
        drop(evicted);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(LONGEST_WAIT).await;
            let Some(pool) = pool.upgrade() else { return };
            let (ended, kept) = pool.lock().drain(..).partition(|idle| idle.since.elapsed() >= LONGEST_WAIT);
            *pool.lock() = kept;
            drop::<Vec<Idle>>(ended);
        });
    }
}
