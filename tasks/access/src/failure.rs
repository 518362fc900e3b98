//! What a failed request means: may it pass by itself, and how is it told.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use swath_task::{Fault, TaskError};

use crate::redact;

/// A server that asks for a longer pause than this is answered with this: a step must not sleep for a year.
pub const MAXIMUM_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

const DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// The pause a server asks for, from seconds or an HTTP date, at most [`MAXIMUM_RETRY_AFTER`]. A date in the past is
/// no pause; what cannot be read is none asked for.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are still a wish to wait long.
        return Some(text.parse().map_or(MAXIMUM_RETRY_AFTER, Duration::from_secs).min(MAXIMUM_RETRY_AFTER));
    }
    // The day's name is of no use, right or wrong.
    let date = DATES.parse_timestamp(text).ok()?;
    let seconds = date.as_second().saturating_sub(now.as_second()).max(0);
    Some(Duration::from_secs(seconds.unsigned_abs()).min(MAXIMUM_RETRY_AFTER))
}

/// The error of an answer that is not a success. `said` is the beginning of its body.
pub(crate) fn status_error(status: StatusCode, headers: &HeaderMap, address: &str, said: &str) -> TaskError {
    let place = redact(address);
    let said = excerpt(said);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let told = format!("`{place}` answered {status}{said}");
    match status {
        StatusCode::TOO_MANY_REQUESTS => Fault::new("S103", told)
            .help("the server limits how often it is asked: give the step `retry`, or fewer steps at once by a named limit")
            .transient(retry_after(headers, Timestamp::now())),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            Fault::new("S104", told).transient(retry_after(headers, Timestamp::now()))
        }
        _ if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => Fault::new("S104", told)
            .help("the server has a problem of its own: give the step `retry`")
            .transient(retry_after(headers, Timestamp::now())),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::new("S105", told)
            .help("the address needs a key or a signature, or the signature has expired")
            .permanent(),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Fault::new("S106", told).help("check the address; it may have moved").permanent()
        }
        _ => Fault::new("S107", told).permanent(),
    }
}

/// The error of a request that got no answer, or of a body that broke off.
pub(crate) fn transport_error(error: &reqwest::Error, address: &str) -> TaskError {
    let place = redact(address);
    let cause = root_cause(error);
    if error.is_timeout() {
        return Fault::new("S102", format!("`{place}` did not answer in time: {cause}")).transient(None);
    }
    if error.is_builder() {
        return Fault::new("S113", format!("`{place}` is not an address that can be asked: {cause}")).permanent();
    }
    let what = if error.is_connect() { "cannot be reached" } else { "broke off" };
    Fault::new("S101", format!("`{place}` {what}: {cause}"))
        .help("check the network, the host name and the proxy; `retry` on the step covers short outages")
        .transient(None)
}

/// The deepest cause, without the address that the outer layers repeat.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    // Some layers print the whole address, signature included.
    if text.contains("://") { "connection failed".to_owned() } else { text }
}

/// One line of at most 160 characters of what a server said, or nothing for markup.
pub(crate) fn excerpt(text: &str) -> String {
    let trimmed = text.trim_start();
    if trimmed.starts_with('<') {
        return String::new();
    }
    let words = trimmed.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        let now: Timestamp = "2024-05-01T12:00:00Z".parse().unwrap();
        for (text, pause) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("99999999999999999999999999", Some(900)),
            ("Wed, 01 May 2024 12:00:30 GMT", Some(30)),
            ("Wed, 01 May 2024 11:00:00 GMT", Some(0)),
            ("Mon, 01 May 2034 12:00:00 GMT", Some(900)),
            ("Sun, 01 May 2024 12:00:30 GMT", Some(30)),
            ("soon", None),
            ("-5", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), pause.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
