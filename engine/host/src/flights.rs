//! Equal work is done once: who computes a cache key now, so that others of this process wait for its result.
//!
//! Processes do not see each other's flights: two of them may compute one key, and the later result stands.

use std::collections::HashMap;
use std::sync::Arc;

use swath_task::Digest;

use crate::{Engine, lock};

/// Keys that are being computed, and by which run.
pub(crate) type Flights = HashMap<Digest, String>;

/// The computation of a key. Over when dropped, however it ended: its result, if there is one, is durable by then.
pub(crate) struct Flight {
    engine: Arc<Engine>,
    key: Digest,
}

impl Engine {
    /// The run that computes this key now.
    pub(crate) fn in_flight(&self, key: &Digest) -> Option<String> {
        lock(&self.flights).get(key).cloned()
    }

    /// Begins to compute a key. `None` when somebody does already.
    pub(crate) fn take_off(self: &Arc<Self>, key: Digest, run: &str) -> Option<Flight> {
        let mut flights = lock(&self.flights);
        if flights.contains_key(&key) {
            return None;
        }
        flights.insert(key, run.to_owned());
        Some(Flight { engine: self.clone(), key })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.engine.flights).remove(&self.key);
        // Those who wait for it wait as for slots.
        self.engine.freed.notify_waiters();
    }
}
