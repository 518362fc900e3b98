//! Periods as flows and STAC write them: `2024-01-01/2024-06-30`, RFC 3339 instants, `..` for an open end.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// From `start` to `end`, both inclusive; `None` is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
}

impl Period {
    /// Reads an interval, an instant or a day. A day without a time means all of it (UTC).
    pub fn parse(text: &str) -> Result<Self, String> {
        let (start, end) = match text.split_once('/') {
            Some((start, end)) => (bound(start, false)?, bound(end, true)?),
            None => (bound(text, false)?, bound(text, true)?),
        };
        if start.is_none() && end.is_none() {
            return Err(format!("`{text}` is open on both sides: leave the period out instead"));
        }
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(format!("`{text}` ends before it begins"));
        }
        Ok(Self { start, end })
    }

    /// Whether what lasted from `start` to `end` shares an instant with it.
    pub fn meets(&self, start: Timestamp, end: Timestamp) -> bool {
        self.start.is_none_or(|from| end >= from) && self.end.is_none_or(|until| start <= until)
    }

    /// As the `datetime` member of a STAC search.
    pub fn to_stac(self) -> String {
        let side = |bound: Option<Timestamp>| bound.map_or_else(|| "..".to_owned(), |at| at.to_string());
        format!("{}/{}", side(self.start), side(self.end))
    }
}

fn bound(text: &str, ends: bool) -> Result<Option<Timestamp>, String> {
    let text = text.trim();
    if text.is_empty() || text == ".." {
        return Ok(None);
    }
    let civil = |at: DateTime| TimeZone::UTC.to_timestamp(at).map_err(|error| error.to_string());
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Some(at));
    }
    if text.len() == 10 {
        let day: Date = text.parse().map_err(|error| format!("`{text}` is not a day: {error}"))?;
        if !ends {
            return civil(day.to_datetime(Time::midnight())).map(Some);
        }
        // To the millisecond: finer fractions are refused by some servers.
        let next = day.tomorrow().map_err(|error| error.to_string())?;
        let midnight = civil(next.to_datetime(Time::midnight()))?;
        return midnight.checked_sub(SignedDuration::from_millis(1)).map(Some).map_err(|error| error.to_string());
    }
    let naive: DateTime = text.parse().map_err(|_| {
        format!(
            "`{text}` is not a date, an instant or `..` (write `2024-01-01/2024-06-30` or `2024-01-01T00:00:00Z/..`)"
        )
    })?;
    civil(naive).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_in_every_form() {
        for (text, stac) in [
            ("2024-01-01/2024-06-30", "2024-01-01T00:00:00Z/2024-06-30T23:59:59.999Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z/2024-02-29T23:59:59.999Z"),
            ("2024-01-01T00:00:00Z/..", "2024-01-01T00:00:00Z/.."),
            ("/2024-01-01T02:00:00+02:00", "../2024-01-01T00:00:00Z"),
            ("2024-01-01T10:00:00/2024-01-02", "2024-01-01T10:00:00Z/2024-01-02T23:59:59.999Z"),
        ] {
            assert_eq!(Period::parse(text).unwrap().to_stac(), stac, "{text}");
        }
        for text in ["", "../..", "2024-06-30/2024-01-01", "2023-02-29", "P90D/now", "last spring", "1/2/3"] {
            assert!(Period::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_meets_a_period_when_they_share_an_instant() {
        let period = Period::parse("2024-01-10/2024-01-20").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(period.meets(at("2024-01-01T00:00:00Z"), at("2024-01-10T00:00:00Z")));
        assert!(period.meets(at("2024-01-20T23:59:59Z"), at("2024-02-10T00:00:00Z")));
        assert!(!period.meets(at("2024-01-21T00:00:00Z"), at("2024-01-21T00:00:00Z")));
        assert!(!period.meets(at("2024-01-09T23:59:59Z"), at("2024-01-09T23:59:59Z")));
    }
}
