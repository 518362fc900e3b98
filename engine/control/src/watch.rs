//! Tells watchers that something happened in their run.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use swath_host::{Observer, Update};
use tokio::sync::watch;

/// An observer of all runs of an engine that wakes whoever waits for a change of one of them.
#[derive(Default)]
pub struct Changes {
    /// The runs that somebody watches, or has watched until their last change.
    watched: Mutex<HashMap<String, watch::Sender<()>>>,
}

impl Changes {
    /// Wakes those who wait for a change of `run`.
    pub fn happened(&self, run: &str) {
        let mut watched = self.lock();
        let Some(watchers) = watched.get(run) else { return };
        if watchers.receiver_count() == 0 {
            watched.remove(run);
        } else {
            watchers.send_replace(());
        }
    }

    /// What changes in `run` from here on.
    pub fn subscribe(&self, run: &str) -> watch::Receiver<()> {
        self.lock().entry(run.to_owned()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Changes {
    fn update(&self, run: &str, update: &Update) {
        // Progress is no event of a journal, and comes often.
        if !matches!(update, Update::Progress { .. }) {
            self.happened(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_watch_a_run_are_woken_and_nothing_is_kept_of_others() {
        let changes = Changes::default();
        let (mut one, other) = (changes.subscribe("one"), changes.subscribe("other"));
        changes.happened("one");
        changes.happened("nobody's");
        assert!(one.has_changed().unwrap() && !other.has_changed().unwrap());
        one.mark_unchanged();
        drop(other);
        changes.happened("other");
        assert_eq!(changes.lock().len(), 1);
        assert!(!one.has_changed().unwrap());
    }
}
