//! What must never be stored is taken out here, and long texts are cut: errors, log lines and summaries pass through it.

use std::borrow::Cow;

/// The longest stored error or log line, in bytes (I20).
pub const LONGEST_TEXT: usize = 64 * 1024;

/// What stands in a text in place of a secret.
pub const REDACTED: &str = "REDACTED";

/// Query parameters and header-like words whose values are secrets, in lower case.
const SECRET_NAMES: &[&str] = &[
    "sig",
    "signature",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "api_key",
    "apikey",
    "api-key",
    "subscription-key",
    "key",
    "secret",
    "client_secret",
    "password",
    "passwd",
    "pwd",
    "credential",
    "awsaccesskeyid",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
    "googleaccessid",
    "ske",
    "skoid",
    "sktid",
    "skt",
    "sks",
    "skv",
];

/// Names that are secret even outside a query string (`password=...` in a message). `key=` alone is not: people write
/// `key=value` in logs.
const SECRET_ANYWHERE: &[&str] = &[
    "sig",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "api_key",
    "apikey",
    "client_secret",
    "password",
    "passwd",
    "aws_secret_access_key",
    "aws_session_token",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
];

/// Takes out secret values of query strings (`sig=`, `token=`, `X-Amz-Signature=`, ...), passwords in addresses
/// (`https://user:password@host`) and bearer tokens. Texts without any are returned as they are (I19).
pub fn redact(text: &str) -> Cow<'_, str> {
    let spans = secrets(text);
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut from = 0;
    for (start, end) in spans {
        if start < from {
            continue;
        }
        clean.push_str(&text[from..start]);
        clean.push_str(REDACTED);
        from = end;
    }
    clean.push_str(&text[from..]);
    Cow::Owned(clean)
}

/// Cuts a text to [`LONGEST_TEXT`] bytes, telling how much is gone (I20).
pub fn bounded(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_TEXT {
        return Cow::Borrowed(text);
    }
    let mut end = LONGEST_TEXT - 64;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{} ... ({} bytes cut)", &text[..end], text.len() - end))
}

/// Redacted and bounded: what may be stored. NUL, which ends texts early in other programs, is replaced.
pub fn storable(text: &str) -> String {
    // A secret that the cut would tear in two is found first; a text of gigabytes is not searched whole.
    let mut head = text.len().min(4 * LONGEST_TEXT);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let clean = redact(&text[..head]);
    let cut = bounded(&clean);
    if cut.contains('\0') { cut.replace('\0', "\u{fffd}") } else { cut.into_owned() }
}

/// Byte ranges of secret values, in order.
fn secrets(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut spans = Vec::new();
    // Behind the last `://` so far, and behind the first colon there.
    let mut authority: Option<Option<usize>> = None;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'=' => {
                let (name_start, name) = word_before(text, at);
                // `sig%3D` never gets here; an encoded `&` before the name ends the word as `%26sig` does.
                let name = name.rsplit_once("%26").map_or(name, |(_, last)| last).to_ascii_lowercase();
                let in_query = name_start > 0 && matches!(bytes[name_start - 1], b'?' | b'&' | b';');
                let names = if in_query { SECRET_NAMES } else { SECRET_ANYWHERE };
                if names.contains(&name.as_str()) {
                    push(&mut spans, at + 1, value_end(bytes, at + 1));
                }
            }
            b'/' if text[..at].ends_with(":/") => authority = Some(None),
            // It ends with what no user's name holds.
            b'/' | b'?' | b'#' | b'\t' | b'\n' | b'\r' => authority = None,
            b':' if authority == Some(None) => authority = Some(Some(at + 1)),
            b'@' => {
                // user:password@ between `://` and the first `/`
                if let Some(Some(password)) = authority {
                    push(&mut spans, password, at);
                }
            }
            b' ' => {
                authority = None;
                let (_, name) = word_before(text, at);
                if name.eq_ignore_ascii_case("bearer") && bytes.get(at + 1).is_some_and(|b| !b.is_ascii_whitespace()) {
                    let end = value_end(bytes, at + 1);
                    // `bearer token is missing` is a sentence, not a token.
                    if end - (at + 1) >= 16 {
                        push(&mut spans, at + 1, end);
                    }
                }
            }
            _ => {}
        }
    }
    spans.sort_unstable();
    spans
}

fn push(spans: &mut Vec<(usize, usize)>, start: usize, end: usize) {
    if end > start {
        spans.push((start, end));
    }
}

fn word_before(text: &str, at: usize) -> (usize, &str) {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'%');
    let start = at - text.as_bytes()[..at].iter().rev().take_while(|b| part(b)).count();
    (start, &text[start..at])
}

/// The end of a value: at `&`, a space, a quote, a bracket, a comma or a control character.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let stop =
        |b: &u8| *b <= b' ' || matches!(b, b'&' | b'"' | b'\'' | b'`' | b'<' | b'>' | b')' | b']' | b'}' | b',' | b';');
    bytes[start..].iter().position(stop).map_or(bytes.len(), |n| start + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_addresses_lose_their_signatures_and_nothing_else() {
        for (text, clean) in [
            (
                "GET https://a.blob.core.windows.net/c/B04.tif?st=2024&se=2025&sp=rl&sig=aB%2Fc%3D: 403",
                "GET https://a.blob.core.windows.net/c/B04.tif?st=2024&se=2025&sp=rl&sig=REDACTED 403",
            ),
            (
                "`https://b.s3/x?X-Amz-Credential=AK/1&X-Amz-Signature=ff00`, again",
                "`https://b.s3/x?X-Amz-Credential=REDACTED&X-Amz-Signature=REDACTED`, again",
            ),
            ("s3://user:pa55@host:9000/b, token=abc.def", "s3://user:REDACTED@host:9000/b, token=REDACTED"),
            ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.x", "Authorization: Bearer REDACTED"),
            (r#"{"href":"https://h/x?token=t0k"}"#, r#"{"href":"https://h/x?token=REDACTED"}"#),
            ("/vsicurl/https%3A%2F%2Fh%3Fa=1%26sig=s", "/vsicurl/https%3A%2F%2Fh%3Fa=1%26sig=REDACTED"),
            ("ключ?SIG=тайна конец", "ключ?SIG=REDACTED конец"),
        ] {
            assert_eq!(redact(text), clean);
        }
    }

    #[test]
    fn ordinary_texts_are_returned_as_they_are() {
        for text in [
            "key=value, design=blue, assign=1, bearer token missing",
            "mail someone@example.org about a/b?c=d&page=2",
            "tokens=5 keys=7 signal=9",
            "",
            "token=",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn stored_texts_are_bounded_at_a_character() {
        let long = "ü".repeat(LONGEST_TEXT);
        let cut = storable(&format!("{long}?sig=x"));
        assert!(cut.len() <= LONGEST_TEXT, "{}", cut.len());
        assert!(cut.ends_with("bytes cut)"));
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }
}
