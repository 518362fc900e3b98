//! When a deployment is due, and what then happens to its runs. Pure: instants come in as arguments.
//!
//! Invariants:
//! 1. A schedule fires at instants that strictly rise; the same schedule gives the same instants for ever.
//! 2. What a clock does in spring and autumn is settled by [`Gap`] and [`Overlap`], never by a library's habit.
//! 3. Each fire covers the time since the one before it: the intervals of a schedule meet and never overlap.
//! 4. Fields of cron count as POSIX says: Sunday is 0 (and 7), Monday is 1; a day is due when the day of the month or
//!    the day of the week fits, where both are given.

mod cron;
mod deployment;
mod policy;
mod spec;
mod zone;

pub use deployment::{DeploymentSpec, Happening, Hook, RunEnding, Trigger};
pub use policy::{Admission, CatchUp, Concurrency, Missed, admit, missed};
pub use spec::{Problem, ScheduleSpec};
pub use zone::{Gap, Overlap};

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use cron::Cron;
use zone::Zone;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    jitter: Duration,
}

#[derive(Clone, Debug)]
enum Rule {
    Cron(Cron, Zone),
    Every { every: SignedDuration, from: Timestamp },
    At(Vec<Timestamp>),
}

/// One time at which a schedule is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fire {
    /// The instant, without jitter: what tells one fire of a schedule from another.
    pub at: Timestamp,
    /// Where the interval that it covers begins: the instant before it. It ends at `at`, and neither belongs to two.
    pub since: Timestamp,
}

impl Schedule {
    /// The first fire after an instant; `None` when there is none any more.
    pub fn next(&self, after: Timestamp) -> Option<Fire> {
        let after = match self.start {
            // The start itself may be due.
            Some(start) if start > after => start.checked_sub(SignedDuration::from_nanos(1)).ok()?,
            _ => after,
        };
        let at = self.rule.next(after).filter(|at| self.end.is_none_or(|end| *at <= end))?;
        Some(Fire { at, since: self.rule.previous(at).unwrap_or(at) })
    }

    /// All fires after `from` and up to `to`, in order.
    pub fn fires(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Fire> + '_ {
        std::iter::successors(self.next(from), |fire| self.next(fire.at)).take_while(move |fire| fire.at <= to)
    }

    /// The last fire after `from` and up to `to`.
    pub fn latest(&self, from: Timestamp, to: Timestamp) -> Option<Fire> {
        let end = self.end.map_or(to, |end| end.min(to));
        let just_after = end.checked_add(SignedDuration::from_nanos(1)).unwrap_or(end);
        let at = self.rule.previous(just_after)?;
        let first = self.next(from)?;
        (first.at <= at).then(|| Fire { at, since: self.rule.previous(at).unwrap_or(at) })
    }

    /// What a run that somebody starts at `now` covers: the time since the last fire.
    pub fn since_last(&self, now: Timestamp) -> Fire {
        Fire { at: now, since: self.rule.previous(now).unwrap_or(now) }
    }

    /// When a fire really starts: up to the jitter later, always the same for the same `seed` and fire.
    pub fn starts(&self, fire: &Fire, seed: u64) -> Timestamp {
        let width = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        if width == 0 {
            return fire.at;
        }
        let drawn = mix(seed ^ fire.at.as_millisecond() as u64) % width.saturating_add(1);
        fire.at.checked_add(Duration::from_millis(drawn)).unwrap_or(fire.at)
    }
}

impl Rule {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron, zone) => zone.next(cron, after),
            Self::Every { every, from } => {
                let (step, past) = (every.as_nanos(), after.as_nanosecond() - from.as_nanosecond());
                let steps = past.div_euclid(step) + 1;
                Timestamp::from_nanosecond(from.as_nanosecond().checked_add(steps.max(0).checked_mul(step)?)?).ok()
            }
            Self::At(instants) => instants.get(instants.partition_point(|instant| *instant <= after)).copied(),
        }
    }

    fn previous(&self, before: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron, zone) => zone.previous(cron, before),
            Self::Every { every, from } => {
                let (step, past) = (every.as_nanos(), before.as_nanosecond() - from.as_nanosecond());
                let steps = (past + step - 1).div_euclid(step) - 1;
                Timestamp::from_nanosecond(from.as_nanosecond().checked_add(steps.checked_mul(step)?)?).ok()
            }
            Self::At(instants) => instants[..instants.partition_point(|instant| *instant < before)].last().copied(),
        }
    }
}

/// A well-mixed number (splitmix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
