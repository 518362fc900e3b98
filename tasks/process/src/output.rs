//! What a program says: passed on line by line within bounds, its last lines kept for the fault.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line passed on, most lines a stream, and how many of the last are kept.
const LONGEST_LINE: usize = 4096;
const MOST_LINES: u64 = 20_000;
const KEPT_LINES: usize = 20;

/// The last lines of both streams, in the order they came.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(cut(line, 500).to_owned());
    }

    /// As one text, or nothing.
    pub fn text(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!lines.is_empty()).then(|| lines.iter().cloned().collect::<Vec<_>>().join("\n"))
    }
}

/// Texts that must not be repeated.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<Vec<String>>);

impl Secrets {
    /// Whole secrets and, as output is looked at line by line, each line of one (a key in PEM has many). What is shorter
    /// than four characters is no secret, and hiding it would spoil the text.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut parts = Vec::new();
        for secret in secrets {
            parts.extend(secret.split(['\n', '\r']).map(|line| line.trim().to_owned()));
            parts.push(secret);
        }
        parts.retain(|part| part.chars().count() >= 4);
        // The longest first: a line within another must not leave the rest of it.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.dedup();
        Self(Arc::new(parts))
    }

    fn hide(&self, line: &mut String) {
        for secret in self.0.iter() {
            if line.contains(secret.as_str()) {
                *line = line.replace(secret.as_str(), "***");
            }
        }
    }
}

/// Reads `stream` to its end and passes its lines on.
pub(crate) async fn follow(stream: impl AsyncRead + Unpin, name: &'static str, tail: Tail, secrets: Secrets) {
    let mut stream = stream;
    let mut buffer = vec![0; 8192];
    let mut line: Vec<u8> = Vec::new();
    let mut lines = 0_u64;
    let mut tell = |bytes: &mut Vec<u8>| {
        let mut text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        bytes.clear();
        if text.is_empty() {
            return;
        }
        secrets.hide(&mut text);
        tail.push(&text);
        lines += 1;
        if lines <= MOST_LINES {
            tracing::info!(stream = name, "{}", cut(&text, LONGEST_LINE));
        }
    };
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        for &byte in &buffer[..read] {
            // A carriage return redraws a progress bar: each drawing is a line.
            if matches!(byte, b'\n' | b'\r') {
                tell(&mut line);
            } else if line.len() < 2 * LONGEST_LINE {
                line.push(byte);
            }
        }
    }
    tell(&mut line);
    if lines > MOST_LINES {
        tracing::warn!(stream = name, "{} more lines were not logged", lines - MOST_LINES);
    }
}

fn cut(text: &str, longest: usize) -> &str {
    match text.char_indices().nth(longest) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
