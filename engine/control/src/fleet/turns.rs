//! Whose turn it is: runs that wait for a place, and those that other servers left.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::Duration;

use futures::FutureExt;
use swath_host::ask;
use swath_run::RunState;
use swath_store::{Error, RunFilter, RunRow, Term};
use tokio::time::Instant;

use super::{Fleet, goes_on};
use crate::convert::LIVE;
use crate::places::Place;

/// How often runs to go on with are looked for. One that stopped again waits twice as long each time, and never longer than
/// the other.
const ADOPTING: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How often is looked whether a run that was asked to pause has.
const PAUSING: Duration = Duration::from_millis(100);

impl Fleet {
    /// Does what was asked of a run while its lease was held without a drive that would have heard it.
    pub(super) async fn honour(&self, term: &Term) {
        let (store, run) = (self.0.store.as_ref(), term.run());
        let done = if term.cancel_asked().now_or_never().is_some() {
            ask::cancel(store, run).await
        } else if *term.pause_asked().borrow() == Some(true) {
            ask::pause(store, run).await
        } else {
            return;
        };
        if let Err(refusal) = done {
            tracing::warn!("run `{run}` does not do what it was asked for before it began: {refusal}");
        }
    }

    /// Comes true when a run that is driven has been paused: it needs its place no longer, and to go on it needs none.
    pub(super) async fn is_paused(&self, term: &Term) {
        let mut wish = term.pause_asked();
        loop {
            if wish.wait_for(|pause| *pause == Some(true)).await.is_err() {
                return std::future::pending().await;
            }
            if let Ok(row) = self.0.store.run_row(term.run()).await
                && row.state == RunState::Paused.name()
            {
                return;
            }
            // It is about to, or somebody thought better of it.
            let _ = tokio::time::timeout(PAUSING, wish.changed()).await;
        }
    }

    /// Has a run that nobody drives wait for a place.
    pub(super) fn line_up(&self, id: &str) {
        self.0.places.line_up(id);
        // One may have become free meanwhile.
        self.fill();
    }

    /// Gives free places to those that wait.
    pub(super) fn fill(&self) {
        while !self.is_draining()
            && let Some((id, place)) = self.0.places.next()
        {
            let fleet = self.clone();
            tokio::spawn(async move {
                if !fleet.take_its_turn(&id, place).await {
                    // Its place is free again.
                    fleet.fill();
                }
            });
        }
    }

    /// Goes on with a run that nobody drives, if it still is to be driven.
    async fn take_its_turn(&self, id: &str, place: Place) -> bool {
        if !self.is_idle(id).await || self.waits(id) {
            return false;
        }
        match self.take_up(id, false, Some(place)).await {
            Ok(_) => return true,
            // Another server was faster, or it was cancelled or paused.
            Err(status) if !self.is_idle(id).await => tracing::debug!("{}", status.message()),
            Err(status) => tracing::warn!("run `{id}` is not gone on with: {}", status.message()),
        }
        false
    }

    /// Goes on with the runs that other servers left, and with those that this one could not drive on. Returns how many.
    pub async fn adopt(&self) -> Result<usize, Error> {
        let states = LIVE.map(str::to_owned).to_vec();
        // A run of a sub-flow is gone on with by the run above it.
        let filter = RunFilter { states, served: true, without_sub_flows: true, ..RunFilter::default() };
        let rows = self.0.store.list_runs(&filter).await?;
        // Who waits in line here has been found already.
        let found = |row: &&RunRow| goes_on(row) && !self.0.places.is_waiting(&row.id);
        let ids: Vec<String> = rows.iter().filter(found).map(|row| row.id.clone()).collect();
        let driven = if ids.is_empty() { HashMap::new() } else { self.0.store.holders(&ids).await? };
        let live: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| live.contains(id.as_str()));
        let mut adopted = 0;
        for row in rows.iter().rev().filter(found) {
            if self.is_draining() || driven.contains_key(&row.id) {
                continue;
            }
            match self.0.places.take() {
                Some(place) => adopted += usize::from(self.take_its_turn(&row.id, place).await),
                // What had begun goes on before others begin.
                None if row.state != RunState::Pending.name() => self.0.places.line_up_first(&row.id),
                None => self.0.places.line_up(&row.id),
            }
        }
        // Somebody may have lined up for a place of which nothing came.
        self.fill();
        Ok(adopted)
    }

    /// Whether a run that stopped again and again is left alone now. If not, it will be for a while.
    fn waits(&self, id: &str) -> bool {
        let mut tried = self.0.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (wait, until) = tried.entry(id.to_owned()).or_insert((ADOPTING / 2, now));
        if now < *until {
            return true;
        }
        *wait = (*wait * 2).min(LONGEST_WAIT);
        *until = now + *wait;
        false
    }

    /// Whether a run is to go on, and nobody drives it.
    async fn is_idle(&self, id: &str) -> bool {
        match self.0.store.run_row(id).await {
            Ok(row) if goes_on(&row) => !matches!(self.0.store.run_holder(id).await, Ok(Some(_))),
            Ok(_) | Err(Error::NoRun(_)) => false,
            // Whoever wants to drive it will see.
            Err(_) => true,
        }
    }

    /// Looks for runs to go on with, again and again, until the fleet drains.
    pub async fn keep_adopting(&self) {
        while !self.is_draining() {
            tokio::time::sleep(ADOPTING).await;
            if let Err(error) = self.adopt().await {
                tracing::warn!("the store could not be looked through for runs to go on with: {error}");
            }
        }
    }
}
