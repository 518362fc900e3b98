//! Workers that wait for another attempt.
//!
//! A worker waits only when its attempt succeeded and it has not grown, and takes attempts of the task it has run before
//! only: what one native library leaves in a process never meets another.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use swath_task::Bytes;

use super::Isolation;
use super::process::{Alive, Worker};
use crate::lock;

/// How long a worker waits before it is ended.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most memory that a worker which waits may hold.
const MOST_MEMORY: Bytes = Bytes::mib(256);

/// Workers: those that wait, and how many there are.
pub(crate) struct Pool {
    most: usize,
    waiting: Mutex<Waiting>,
    alive: Arc<AtomicU32>,
}

#[derive(Default)]
struct Waiting {
    /// The one that waits longest first.
    idle: Vec<Idle>,
    /// Somebody looks who has waited too long.
    swept: bool,
}

struct Idle {
    task: String,
    worker: Worker,
    since: Instant,
}

impl Pool {
    /// Of at most so many workers.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default(), alive: Arc::default() })
    }

    /// A new worker. `secret` names environment variables that it must not see.
    pub async fn start(&self, isolation: &Isolation, secret: &[String]) -> io::Result<Worker> {
        Worker::start(isolation, secret, Alive::new(&self.alive)).await
    }

    /// How many there are: those that work and those that wait.
    pub fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// A worker that has run this task.
    pub fn take(&self, task: &str) -> Option<Worker> {
        loop {
            let mut waiting = lock(&self.waiting);
            // The one that has waited least: its memory is warm, and the others may come to their end.
            let at = waiting.idle.iter().rposition(|idle| idle.task == task)?;
            let mut worker = waiting.idle.remove(at).worker;
            drop(waiting);
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
        let mut waiting = lock(&self.waiting);
        let evicted = (waiting.idle.len() >= self.most).then(|| waiting.idle.remove(0));
        waiting.idle.push(Idle { task: task.to_owned(), worker, since: Instant::now() });
        if !std::mem::replace(&mut waiting.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        // Killed when nobody waits for this any more.
        drop(waiting);
        drop(evicted);
    }
}

/// Ends workers that have waited too long, until none waits.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(LONGEST_WAIT / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut waiting = lock(&pool.waiting);
        let young = waiting.idle.iter().position(|idle| idle.since.elapsed() < LONGEST_WAIT);
        let young = young.unwrap_or(waiting.idle.len());
        let ended: Vec<Idle> = waiting.idle.drain(..young).collect();
        waiting.swept = !waiting.idle.is_empty();
        let done = !waiting.swept;
        drop(waiting);
        drop(ended);
        if done {
            return;
        }
    }
}
