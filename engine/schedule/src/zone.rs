//! From the clock on the wall to instants: a zone is a row of spans of constant offset, and within each the two run
//! alike. What is special happens where one span meets the next.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cron::Cron;

/// What becomes of a time that the clock leaves out (in spring, mostly).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It is due as if the clock had not been set: 02:30 becomes 03:30.
    #[default]
    Shift,
    /// It is left out.
    Skip,
}

/// What becomes of a time that the clock shows twice (in autumn, mostly).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is due the first time.
    First,
    /// It is due the second time.
    Last,
    /// It is due both times.
    Both,
}

/// A time zone with its rules for what a clock leaves out or shows twice.
#[derive(Clone, Debug)]
pub struct Zone {
    pub zone: TimeZone,
    pub gap: Gap,
    pub overlap: Overlap,
}

/// A span of constant offset.
struct Span {
    offset: Offset,
    /// Where it begins, with the offset before it.
    begin: Option<(Timestamp, Offset)>,
    /// Where it ends, with the offset after it.
    end: Option<(Timestamp, Offset)>,
}

impl Zone {
    /// The first instant after `after` at which `cron` is due.
    pub fn next(&self, cron: &Cron, after: Timestamp) -> Option<Timestamp> {
        let mut after = after;
        let mut span = self.span(after);
        loop {
            if let Some(at) = self.first_in(&span, cron, after) {
                return Some(at);
            }
            let (end, _) = span.end?;
            after = after.max(end.checked_sub(SignedDuration::from_nanos(1)).ok()?);
            span = self.span(end);
        }
    }

    /// The last instant before `before` at which `cron` is due.
    pub fn previous(&self, cron: &Cron, before: Timestamp) -> Option<Timestamp> {
        let mut before = before;
        let mut span = self.span(before.checked_sub(SignedDuration::from_nanos(1)).ok()?);
        loop {
            if let Some(at) = self.last_in(&span, cron, before) {
                return Some(at);
            }
            let (begin, _) = span.begin?;
            before = before.min(begin);
            span = self.span(begin.checked_sub(SignedDuration::from_nanos(1)).ok()?);
        }
    }

    fn span(&self, at: Timestamp) -> Span {
        let offset = self.zone.to_offset(at);
        // A change of name or of what counts as summer is none of the clock.
        let end = self.zone.following(at).find(|change| change.offset() != offset);
        let end = end.map(|change| (change.timestamp(), change.offset()));
        let mut begin = None;
        let mut later = at.checked_add(SignedDuration::from_nanos(1)).unwrap_or(at);
        while let Some(change) = self.zone.preceding(later).next() {
            later = change.timestamp();
            let just_before = later.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(later);
            let earlier = self.zone.to_offset(just_before);
            if earlier != offset {
                begin = Some((later, earlier));
                break;
            }
        }
        Span { offset, begin, end }
    }

    /// From when on, and until when, the clock of a span counts: less than the span where it shows times twice.
    fn bounds(&self, span: &Span) -> (Option<Timestamp>, Option<Timestamp>) {
        let twice = |earlier: Offset, later: Offset| {
            let seconds = i64::from(earlier.seconds()) - i64::from(later.seconds());
            (seconds > 0).then(|| SignedDuration::from_secs(seconds))
        };
        let begin = span.begin.map(|(begin, before)| match twice(before, span.offset) {
            Some(width) if self.overlap == Overlap::First => begin.checked_add(width).unwrap_or(begin),
            _ => begin,
        });
        let end = span.end.map(|(end, after)| match twice(span.offset, after) {
            Some(width) if self.overlap == Overlap::Last => end.checked_sub(width).unwrap_or(end),
            _ => end,
        });
        (begin, end)
    }

    /// The offset before the span and the width of the gap at its beginning, where its times are to be shifted.
    fn shifted(&self, span: &Span) -> Option<(Timestamp, Offset, SignedDuration)> {
        let (begin, before) = span.begin.filter(|_| self.gap == Gap::Shift)?;
        let seconds = i64::from(span.offset.seconds()) - i64::from(before.seconds());
        (seconds > 0).then(|| (begin, before, SignedDuration::from_secs(seconds)))
    }

    fn first_in(&self, span: &Span, cron: &Cron, after: Timestamp) -> Option<Timestamp> {
        let (begin, end) = self.bounds(span);
        let first = |offset: Offset, begin: Option<Timestamp>, end: Option<Timestamp>| {
            let (from, inclusive) = match begin {
                Some(begin) if begin > after => (begin, true),
                _ => (after, false),
            };
            let at = instant(cron.next(offset.to_datetime(from), inclusive)?, offset)?;
            end.is_none_or(|end| at < end).then_some(at)
        };
        let plain = first(span.offset, begin, end);
        let shifted = self
            .shifted(span)
            .and_then(|(begin, before, width)| first(before, Some(begin), begin.checked_add(width).ok()));
        [plain, shifted].into_iter().flatten().min()
    }

    fn last_in(&self, span: &Span, cron: &Cron, before: Timestamp) -> Option<Timestamp> {
        let (begin, end) = self.bounds(span);
        let last = |offset: Offset, begin: Option<Timestamp>, end: Option<Timestamp>| {
            let to = end.map_or(before, |end| end.min(before));
            let to = offset.to_datetime(to);
            // Expressions know whole seconds: within one, its beginning has passed.
            let at = instant(cron.previous(to, to.subsec_nanosecond() > 0)?, offset)?;
            begin.is_none_or(|begin| at >= begin).then_some(at)
        };
        let plain = last(span.offset, begin, end);
        let shifted = self
            .shifted(span)
            .and_then(|(begin, earlier, width)| last(earlier, Some(begin), begin.checked_add(width).ok()));
        [plain, shifted].into_iter().flatten().max()
    }
}

fn instant(civil: DateTime, offset: Offset) -> Option<Timestamp> {
    offset.to_timestamp(civil).ok()
}
