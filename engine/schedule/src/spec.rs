//! Schedules as people write them.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cron::Cron;
use crate::policy::CatchUp;
use crate::zone::{Gap, Overlap, Zone};
use crate::{Rule, Schedule};

/// When a deployment is due. Exactly one of `cron`, `every` and `at` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Minute, hour, day of month, month, day of week (Monday is 1 or MON), with seconds first where there are six; or
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// A length of time from one to the next, such as `6h` or `7d`, counted from `start`, or else from 1970-01-01T00:00Z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// Instants, such as `2025-03-01T06:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Vec<String>>,
    /// The IANA name of the zone whose clock `cron` goes by, such as `Europe/Berlin`; UTC where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What becomes of a time that the zone's clock leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// What becomes of a time that the zone's clock shows twice. Where none is given: `both` for a `cron` that goes round the
    /// clock, `first` for times of day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Nothing is due before this instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Nothing is due after this instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Each run starts up to this much later, such as `10m`, so that not all ask their servers at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// What becomes of runs that were due while no server ran.
    pub catch_up: CatchUp,
}

/// What is wrong with a schedule or a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: the fields that lead there, as a JSON pointer (`/schedule/cron`).
    pub at: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

/// The longest jitter.
const LONGEST_JITTER: SignedDuration = SignedDuration::from_hours(24);
/// The shortest time from one run to the next.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);

/// A length of time as people write it: `90s`, `15m`, `6h` or `7d`.
pub(crate) fn length(text: &str) -> Result<SignedDuration, String> {
    let told = || format!("`{text}` is no length of time: write `90s`, `15m`, `6h` or `7d`");
    let unit = text.trim().chars().next_back().unwrap_or_default();
    let number = text.trim().strip_suffix(unit).unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(told()),
    };
    let number: i64 = number.trim().parse().map_err(|_| told())?;
    number.checked_mul(seconds).filter(|seconds| *seconds >= 0).map(SignedDuration::from_secs).ok_or_else(told)
}

impl ScheduleSpec {
    /// The schedule, or everything that is wrong with it.
    pub fn compile(&self) -> Result<Schedule, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: String| problems.push(Problem { at: format!("/{field}"), message });
        let instant = |text: &str| {
            text.parse::<Timestamp>().map_err(|_| format!("`{text}` is no instant: write `2025-03-01T06:00:00Z`"))
        };
        let mut optional = |field, text: &Option<String>| {
            let parsed = text.as_deref().map(instant)?;
            parsed.map_err(|message| problem(field, message)).ok()
        };
        let (start, end) = (optional("start", &self.start), optional("end", &self.end));
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            problem("end", format!("{end} lies before the start, {start}"));
        }
        let jitter = self.jitter.as_deref().map(length).transpose();
        let jitter = jitter.unwrap_or_else(|message| {
            problem("jitter", message);
            None
        });
        if jitter.is_some_and(|jitter| jitter > LONGEST_JITTER) {
            problem("jitter", "it is longer than a day".to_owned());
        }
        let zone = match self.zone.as_deref() {
            None => Some(TimeZone::UTC),
            Some(name) => TimeZone::get(name).ok(),
        };
        if let (None, Some(name)) = (&zone, &self.zone) {
            problem("zone", format!("`{name}` is no time zone: write its IANA name, such as `Europe/Berlin` or `UTC`"));
        }
        let mut rules = Vec::new();
        if let Some(text) = &self.cron {
            match Cron::parse(text) {
                Ok(cron) => {
                    let usual = if cron.is_round_the_clock() { Overlap::Both } else { Overlap::First };
                    let (gap, overlap) = (self.gap.unwrap_or_default(), self.overlap.unwrap_or(usual));
                    let zone = Zone { zone: zone.unwrap_or(TimeZone::UTC), gap, overlap };
                    rules.push(Some(Rule::Cron(cron, zone)));
                }
                Err(message) => {
                    problem("cron", message);
                    rules.push(None);
                }
            }
        } else {
            for (field, given) in
                [("zone", self.zone.is_some()), ("gap", self.gap.is_some()), ("overlap", self.overlap.is_some())]
            {
                if given {
                    problem(field, "it means something for `cron` only".to_owned());
                }
            }
        }
        if let Some(text) = &self.every {
            match length(text) {
                Ok(every) if every >= SHORTEST => {
                    let from = start.unwrap_or(Timestamp::UNIX_EPOCH);
                    rules.push(Some(Rule::Every { every, from }));
                }
                Ok(_) => {
                    problem("every", format!("`{text}` is too short: at least `1s`"));
                    rules.push(None);
                }
                Err(message) => {
                    problem("every", message);
                    rules.push(None);
                }
            }
        }
        if let Some(texts) = &self.at {
            let mut instants = Vec::new();
            for text in texts {
                match instant(text) {
                    Ok(instant) => instants.push(instant),
                    Err(message) => problem("at", message),
                }
            }
            if texts.is_empty() {
                problem("at", "it names no instant".to_owned());
            }
            instants.sort_unstable();
            instants.dedup();
            rules.push(Some(Rule::At(instants)));
        }
        if rules.len() != 1 {
            let found = if rules.is_empty() { "none is given" } else { "more than one is given" };
            problem("cron", format!("a schedule has one of `cron`, `every` and `at`: {found}"));
        }
        match rules.pop().flatten() {
            Some(rule) if problems.is_empty() => {
                let jitter = jitter.map_or(Duration::ZERO, |jitter| jitter.unsigned_abs());
                Ok(Schedule { rule, start, end, jitter })
            }
            _ => Err(problems),
        }
    }
}
