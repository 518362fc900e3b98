//! Cron expressions over civil time: what a clock on the wall shows, without any zone.

use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;

/// A cron expression of five fields, or six with seconds first, or a name such as `@daily`.
#[derive(Clone, Debug)]
pub struct Cron(Box<croner::Cron>);

/// The names that stand for expressions.
const NAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

impl Cron {
    /// Reads an expression; why not, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let fields = text.split_whitespace().count();
        if text.starts_with('@') {
            if !NAMES.contains(&text.to_ascii_lowercase().as_str()) {
                return Err(format!("`{text}` is none of {}", NAMES.join(", ")));
            }
        } else if !(5..=6).contains(&fields) {
            return Err(format!(
                "a cron expression has 5 fields (minute, hour, day of month, month, day of week), or 6 with seconds \
                 first; this has {fields}"
            ));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| {
            let told = error.to_string();
            let told =
                told.strip_prefix("Component error: ").or(told.strip_prefix("Invalid pattern: ")).unwrap_or(&told);
            format!("`{text}` is no cron expression: {}", told.trim_end_matches('.'))
        })?;
        let cron = Self(Box::new(cron));
        // A leap day comes within eight years whatever the century.
        match cron.next(DateTime::constant(2000, 1, 1, 0, 0, 0, 0), true) {
            Some(_) => Ok(cron),
            None => Err("no date fits it: it would never be due".to_owned()),
        }
    }

    /// The first time that fits from `from` on.
    pub fn next(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        self.0.find_next_occurrence(&from, inclusive).ok()
    }

    /// The last time that fits up to `to`.
    pub fn previous(&self, to: DateTime, inclusive: bool) -> Option<DateTime> {
        self.0.find_previous_occurrence(&to, inclusive).ok()
    }

    /// Whether each hour of the day is named: then it goes round the clock, and is not a time of day.
    pub fn is_round_the_clock(&self) -> bool {
        (0..24).all(|hour| self.0.pattern.hour_match(hour).unwrap_or(false))
    }
}
