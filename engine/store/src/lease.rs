//! The right to drive a run (I5), whatever proves that its holder lives.
//!
//! Each lease of a run has an epoch higher than the one before. Whoever writes to the run says by which epoch: a process
//! that was suspended, and whose run another one has taken over meanwhile, is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The right to drive a run. Given back when dropped.
pub struct RunLease {
    term: Term,
    terms: Arc<Terms>,
    give_back: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl RunLease {
    /// The run.
    pub fn run(&self) -> &str {
        self.term.run()
    }

    /// Rises with every lease of the run.
    pub fn epoch(&self) -> u64 {
        self.term.epoch()
    }

    /// What whoever drives by this lease watches.
    pub fn term(&self) -> &Term {
        &self.term
    }
}

impl Drop for RunLease {
    fn drop(&mut self) {
        self.terms.end(&self.term);
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
    }
}

impl std::fmt::Debug for RunLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunLease").field("run", &self.run()).field("epoch", &self.epoch()).finish()
    }
}

/// The time for which a lease is held, and what is heard meanwhile. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Term(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: String,
    epoch: u64,
    cancel: CancellationToken,
    pause: watch::Sender<Option<bool>>,
    lost: CancellationToken,
}

/// What somebody asks of a run, of whoever drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The run.
    pub run: String,
    /// That it ends soon.
    pub cancel: bool,
    /// That it starts nothing new, or goes on.
    pub pause: Option<bool>,
}

impl Term {
    /// The run.
    pub fn run(&self) -> &str {
        &self.0.run
    }

    /// The epoch of the lease.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Comes true when somebody, in this process or another, asks to cancel the run.
    pub async fn cancel_asked(&self) {
        self.0.cancel.cancelled().await;
    }

    /// The newest wish about a pause: `true` to start nothing new, `false` to go on, `None` when nobody has told any.
    pub fn pause_asked(&self) -> watch::Receiver<Option<bool>> {
        self.0.pause.subscribe()
    }

    /// Comes true when the lease is lost: another process may drive the run now.
    pub async fn lost(&self) {
        self.0.lost.cancelled().await;
    }

    /// Whether the lease is lost.
    pub fn is_lost(&self) -> bool {
        self.0.lost.is_cancelled()
    }

    /// The error of a drive that stops because its lease is lost.
    pub fn loss(&self) -> Error {
        Error::LeaseLost { run: self.0.run.clone(), epoch: self.0.epoch }
    }

    /// Tells whoever drives by this lease that it is lost.
    pub fn lose(&self) {
        self.0.lost.cancel();
    }

    fn hear(&self, wish: &Wish) {
        if wish.cancel {
            self.0.cancel.cancel();
        }
        if wish.pause.is_some() {
            self.0.pause.send_if_modified(|pause| std::mem::replace(pause, wish.pause) != *pause);
        }
    }
}

/// The leases that this process has of one store: for those who implement [`crate::Store`].
#[derive(Debug, Default)]
pub struct Terms(Mutex<HashMap<String, Live>>);

#[derive(Debug)]
struct Live {
    term: Term,
    /// When it began, or was last told directly what is asked of the run: what was read before is out of date.
    since: Instant,
}

impl Terms {
    /// Begins a lease; `give_back` is called when it is dropped.
    pub fn begin(
        self: &Arc<Self>,
        run: &str,
        epoch: u64,
        give_back: impl FnOnce() + Send + Sync + 'static,
    ) -> RunLease {
        let inner = Inner {
            run: run.to_owned(),
            epoch,
            cancel: CancellationToken::new(),
            pause: watch::Sender::new(None),
            lost: CancellationToken::new(),
        };
        let term = Term(Arc::new(inner));
        self.lock().insert(run.to_owned(), Live { term: term.clone(), since: Instant::now() });
        RunLease { term, terms: self.clone(), give_back: Some(Box::new(give_back)) }
    }

    fn end(&self, term: &Term) {
        let mut terms = self.lock();
        if terms.get(term.run()).is_some_and(|live| live.term.epoch() == term.epoch()) {
            terms.remove(term.run());
        }
    }

    /// The leases that are live.
    pub fn live(&self) -> Vec<Term> {
        self.lock().values().map(|live| &live.term).filter(|term| !term.is_lost()).cloned().collect()
    }

    /// Tells who drives this run, if it is this process, what has just been asked of it.
    pub fn tell(&self, wish: &Wish) {
        let mut terms = self.lock();
        let Some(live) = terms.get_mut(&wish.run) else { return };
        live.since = Instant::now();
        live.term.hear(wish);
    }

    /// Tells who drives these runs, if it is this process, what a read of the store found that began at `asked`. A run whose lease
    /// began later, or that was told something directly since, is left out: it knows better, or hears of it with the next read.
    pub fn tell_read(&self, asked: Instant, wishes: &[Wish]) {
        let terms = self.lock();
        for wish in wishes {
            if let Some(live) = terms.get(&wish.run).filter(|live| live.since < asked) {
                live.term.hear(wish);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_read_before_a_wish_was_told_does_not_take_it_back() {
        let (terms, before) = (Arc::new(Terms::default()), Instant::now());
        let lease = terms.begin("r", 1, || {});
        let asked = lease.term().pause_asked();
        let wish = |pause| Wish { run: "r".to_owned(), cancel: false, pause: Some(pause) };
        let soon = || Instant::now() + Duration::from_millis(1);
        terms.tell_read(before, &[wish(true)]);
        assert_eq!(*asked.borrow(), None, "a wish for who had the run before");
        terms.tell_read(soon(), &[wish(true)]);
        assert_eq!(*asked.borrow(), Some(true));
        let reading = Instant::now();
        terms.tell(&wish(false));
        terms.tell_read(reading, &[wish(true)]);
        assert_eq!(*asked.borrow(), Some(false));
        terms.tell_read(soon(), &[wish(true)]);
        assert_eq!(*asked.borrow(), Some(true), "a wish of another process");
    }
}
