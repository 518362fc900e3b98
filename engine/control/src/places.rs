//! Places: how many runs this process drives at a time, and the line of those that wait for one.
//!
//! The line is a memory of this process. A run that waits in it is pinned and marked in the store, where this server after
//! a restart, or another one, finds it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place, until dropped.
pub type Place = OwnedSemaphorePermit;

/// The places of a process.
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    ids: VecDeque<String>,
    known: HashSet<String>,
}

impl Places {
    /// All free.
    pub fn new(most: usize) -> Self {
        Self { most, free: Arc::new(Semaphore::new(most)), line: Mutex::default() }
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A place for somebody who has not waited: none while others wait.
    pub fn take(&self) -> Option<Place> {
        let line = self.line();
        line.ids.is_empty().then(|| self.free.clone().try_acquire_owned().ok()).flatten()
    }

    /// Puts a run at the end of the line, unless it stands in it.
    pub fn line_up(&self, run: &str) {
        let mut line = self.line();
        if line.known.insert(run.to_owned()) {
            line.ids.push_back(run.to_owned());
        }
    }

    /// Puts a run at the head of the line, unless it stands in it.
    pub fn line_up_first(&self, run: &str) {
        let mut line = self.line();
        if line.known.insert(run.to_owned()) {
            line.ids.push_front(run.to_owned());
        }
    }

    /// The first in line, and its place.
    pub fn next(&self) -> Option<(String, Place)> {
        let mut line = self.line();
        line.ids.front()?;
        let place = self.free.clone().try_acquire_owned().ok()?;
        let run = line.ids.pop_front()?;
        line.known.remove(&run);
        Some((run, place))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.line().ids.len()
    }

    /// Whether a run stands in the line.
    pub fn is_waiting(&self, run: &str) -> bool {
        self.line().known.contains(run)
    }

    /// How many are before a run in the line; `None` when it does not stand there.
    pub fn before(&self, run: &str) -> Option<usize> {
        let line = self.line();
        line.known.contains(run).then(|| line.ids.iter().position(|id| id == run)).flatten()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_is_next_and_nobody_passes_the_line() {
        let places = Places::new(1);
        let first = places.take().unwrap();
        assert!(places.take().is_none() && places.next().is_none());
        places.line_up("b");
        places.line_up("c");
        places.line_up("b");
        assert_eq!((places.waiting(), places.before("c"), places.before("a")), (2, Some(1), None));
        assert!(places.next().is_none(), "there is no place yet");
        drop(first);
        assert!(places.take().is_none(), "others wait");
        let (run, place) = places.next().unwrap();
        assert_eq!(run, "b");
        assert!(places.next().is_none());
        places.line_up_first("a");
        drop(place);
        assert_eq!(places.next().unwrap().0, "a");
        assert!(!places.is_waiting("a") && places.is_waiting("c"));
        assert_eq!(places.next().unwrap().0, "c");
        assert!(places.take().is_some());
    }
}
