//! Periods: ISO 8601 intervals, also relative to now, resolved to two instants in UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// An end of an interval as it was written.
enum Side {
    Open,
    Instants(Timestamp, Timestamp),
    Length(Span),
}

/// Resolves a period to `START/END` in RFC 3339, both inclusive, `..` where it is open. Days, months and years are
/// whole and in UTC; their last instant is the last second. `now` is what `now` means.
///
/// Forms: `2024-01-01/2024-06-30`, `2024-06`, `2024-01-01T10:00:00Z/2024-01-02T00:00:00Z`, `../2024-06-30`,
/// `2024-01-01/..`, `2024-01-01/P3M`, `P90D/2024-06-30`, `P90D/now`.
pub fn resolve_period(text: &str, now: Timestamp) -> Result<String, String> {
    let text = text.trim();
    let (start, end) = match text.split_once('/') {
        Some((start, end)) => (side(start, now)?, side(end, now)?),
        None => match side(text, now)? {
            Side::Instants(start, end) => (Side::Instants(start, start), Side::Instants(end, end)),
            Side::Length(_) => return Err(format!("`{text}` has no end: write `{text}/now`")),
            Side::Open => return Err("a period open on both sides is none: leave it out".to_owned()),
        },
    };
    let (from, to) = match (start, end) {
        (Side::Open, Side::Open) => return Err("a period open on both sides is none: leave it out".to_owned()),
        (Side::Length(_), Side::Length(_) | Side::Open) | (Side::Open, Side::Length(_)) => {
            return Err(format!("`{text}` has a length and no instant to count it from"));
        }
        (Side::Instants(from, _), Side::Instants(_, to)) => (Some(from), Some(to)),
        (Side::Instants(from, _), Side::Open) => (Some(from), None),
        (Side::Open, Side::Instants(_, to)) => (None, Some(to)),
        (Side::Instants(from, _), Side::Length(length)) => (Some(from), Some(shift(from, length, text)?)),
        (Side::Length(length), Side::Instants(_, to)) => (Some(shift(to, -length, text)?), Some(to)),
    };
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        return Err(format!("`{text}` ends before it begins"));
    }
    let show = |at: Option<Timestamp>| at.map_or_else(|| "..".to_owned(), |at| at.to_string());
    Ok(format!("{}/{}", show(from), show(to)))
}

fn shift(from: Timestamp, length: Span, text: &str) -> Result<Timestamp, String> {
    let shifted = from.to_zoned(TimeZone::UTC).checked_add(length);
    shifted.map(|at: Zoned| at.timestamp()).map_err(|_| format!("`{text}` reaches beyond the calendar"))
}

fn side(text: &str, now: Timestamp) -> Result<Side, String> {
    let text = text.trim();
    if text.is_empty() || text == ".." {
        return Ok(Side::Open);
    }
    if text == "now" {
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        return Ok(Side::Instants(whole, whole));
    }
    if text.starts_with(['P', 'p']) {
        let length: Span =
            text.parse().map_err(|_| format!("`{text}` is not a length of time (`P90D`, `P3M`, `PT12H`)"))?;
        return Ok(Side::Length(length));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Side::Instants(at, at));
    }
    let wrong =
        || format!("`{text}` is not a day, a month, a year, an instant or a length (`2024-06-30`, `P90D`, `now`)");
    let digits = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    let (first, next) = match parts.as_slice() {
        [year] if digits(year, 4) => {
            let year: i16 = year.parse().map_err(|_| wrong())?;
            (Date::new(year, 1, 1), Date::new(year.saturating_add(1), 1, 1))
        }
        [year, month] if digits(year, 4) && digits(month, 2) => {
            let first = format!("{text}-01").parse::<Date>();
            let first = first.map_err(|_| format!("`{text}` is not a month of the calendar"))?;
            (Ok(first), first.checked_add(jiff::ToSpan::months(1)))
        }
        [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            let day: Date = text.parse().map_err(|_| format!("`{text}` is not a day of the calendar"))?;
            (Ok(day), day.tomorrow())
        }
        _ => return Err(wrong()),
    };
    let instant = |date: Result<Date, jiff::Error>| {
        let zoned = date.and_then(|date| date.to_zoned(TimeZone::UTC));
        zoned.map(|zoned| zoned.timestamp()).map_err(|_| wrong())
    };
    let last = instant(next)?.checked_sub(SignedDuration::from_secs(1)).map_err(|_| wrong())?;
    Ok(Side::Instants(instant(first)?, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_become_two_instants() {
        let now: Timestamp = "2024-08-15T10:20:30.5Z".parse().unwrap();
        for (text, resolved) in [
            ("2024-01-01/2024-06-30", "2024-01-01T00:00:00Z/2024-06-30T23:59:59Z"),
            ("2024-02", "2024-02-01T00:00:00Z/2024-02-29T23:59:59Z"),
            ("2023/2024", "2023-01-01T00:00:00Z/2024-12-31T23:59:59Z"),
            ("2024-03-05", "2024-03-05T00:00:00Z/2024-03-05T23:59:59Z"),
            ("P90D/now", "2024-05-17T10:20:30Z/2024-08-15T10:20:30Z"),
            ("2024-01-31/P1M", "2024-01-31T00:00:00Z/2024-02-29T00:00:00Z"),
            ("../2024-06-30", "../2024-06-30T23:59:59Z"),
            ("2024-06-30/..", "2024-06-30T00:00:00Z/.."),
            ("2024-01-01T10:00:00+02:00/now", "2024-01-01T08:00:00Z/2024-08-15T10:20:30Z"),
        ] {
            assert_eq!(resolve_period(text, now).as_deref(), Ok(resolved), "{text}");
        }
        for bad in [
            "2024-02-30",
            "2024-13",
            "2024-06-30/2024-01-01",
            "../..",
            "P90D",
            "P1D/P1D",
            "soon",
            "",
            "P9999999Y/now",
            "2023-02-29/now",
        ] {
            assert!(resolve_period(bad, now).is_err(), "{bad}");
        }
    }
}
