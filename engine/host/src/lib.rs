//! The event loop: workers, timers, slots, heartbeats.
