//! Tells watchers that something happened in some run.

use swath_host::{Observer, Update};
use tokio::sync::watch;

/// An observer of all runs of an engine that wakes whoever waits for a change.
pub struct Changes {
    count: watch::Sender<u64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { count: watch::Sender::new(0) }
    }
}

impl Changes {
    /// Wakes all who wait.
    pub fn happened(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What changes from here on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}

impl Observer for Changes {
    fn update(&self, update: &Update) {
        // Progress is no event of a journal, and comes often.
        if !matches!(update, Update::Progress { .. }) {
            self.happened();
        }
    }
}
