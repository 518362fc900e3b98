//! What happens to the runs of a schedule: those that come while another is live, and those that were missed.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Fire, Schedule};

/// What happens when a run is due while as many of the same deployment are live as may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// The new one is left out.
    #[default]
    Skip,
    /// One new one waits for the earlier; more are left out.
    Queue,
    /// Both run.
    Allow,
    /// The earlier one is cancelled, and the new one starts when that has ended.
    Cancel,
}

/// What is to be done with a run that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Start it.
    Start,
    /// Leave it out, and say so.
    Skip,
    /// Keep it until those that are live have ended.
    Wait,
    /// Cancel those that are live and wait, and keep it until they have ended.
    CancelOthers,
}

/// What becomes of a run that is due while `live` runs of the same deployment are live, of `most` that may be, and
/// `waiting` ones wait.
pub fn admit(policy: Concurrency, live: usize, waiting: usize, most: usize) -> Admission {
    match policy {
        Concurrency::Allow => Admission::Start,
        _ if live < most && waiting == 0 => Admission::Start,
        Concurrency::Skip => Admission::Skip,
        Concurrency::Queue if waiting == 0 => Admission::Wait,
        Concurrency::Queue => Admission::Skip,
        Concurrency::Cancel => Admission::CancelOthers,
    }
}

/// What becomes of fires that passed while nobody watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are left out.
    None,
    /// One run makes up for all of them: it covers the whole time.
    #[default]
    Last,
    /// Each runs.
    All,
}

/// The fires to run at `now` for those after `handled`, the last instant that was looked at.
pub fn missed(schedule: &Schedule, policy: CatchUp, handled: Timestamp, now: Timestamp) -> Missed<'_> {
    let next = match policy {
        CatchUp::None => None,
        CatchUp::All => schedule.next(handled),
        CatchUp::Last => schedule.latest(handled, now).map(|last| {
            let since = schedule.next(handled).map_or(last.since, |first| first.since);
            Fire { at: last.at, since }
        }),
    };
    Missed { schedule, next: next.filter(|fire| fire.at <= now), all: policy == CatchUp::All, now }
}

/// Fires that were missed, in order: however many they are, one is made at a time.
#[derive(Debug)]
pub struct Missed<'a> {
    schedule: &'a Schedule,
    next: Option<Fire>,
    all: bool,
    now: Timestamp,
}

impl Iterator for Missed<'_> {
    type Item = Fire;

    fn next(&mut self) -> Option<Fire> {
        let fire = self.next.take()?;
        if self.all {
            self.next = self.schedule.next(fire.at).filter(|next| next.at <= self.now);
        }
        Some(fire)
    }
}
