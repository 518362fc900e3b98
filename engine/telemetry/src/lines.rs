//! Lines on the terminal: text for people, JSON for programs.

use std::fmt::Write as _;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value, json};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::attempt::AttemptKey;
use crate::text::Said;
use crate::{RELAYED, Redact};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `warn composite[3] #2: message key=value`.
    #[default]
    Text,
    /// One JSON object a line: `time`, `level`, `target`, `message`, `fields`, and `run`, `step`, `instance`, `attempt`
    /// inside an attempt. Where traces are sent, `fields` has `trace_id` and `span_id`.
    Json,
}

/// Writes every event as one line.
pub struct Lines<W> {
    format: Format,
    redact: Redact,
    writer: W,
}

impl<W> Lines<W> {
    /// Lines to what `writer` opens, for each line anew.
    pub fn new(format: Format, redact: Redact, writer: W) -> Self {
        Self { format, redact, writer }
    }
}

impl<S, W, O> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn() -> O + Send + Sync + 'static,
    O: Write,
{
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, id: &tracing::span::Id, context: Context<'_, S>) {
        AttemptKey::remember(attributes, id, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let mut target = event.metadata().target().to_owned();
        if target == RELAYED {
            target = said.relayed().unwrap_or(target);
        }
        let mut said = said.clean(self.redact);
        let attempt = AttemptKey::of(event, &context);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let line = match self.format {
            Format::Text => text(&level, attempt.as_deref(), said),
            Format::Json => {
                said.say_where();
                json_line(&level, &target, attempt.as_deref(), said)
            }
        };
        // In one write, so that lines of several threads do not mix. A terminal that is gone is no reason to fail.
        let _ = (self.writer)().write_all(line.as_bytes());
    }
}

fn text(level: &str, attempt: Option<&AttemptKey>, said: Said) -> String {
    let mut line = format!("{level:<5} ");
    if let Some(attempt) = attempt {
        let _ = write!(line, "{}", attempt.step);
        if !attempt.instance.is_empty() {
            let _ = write!(line, "[{}]", attempt.instance);
        }
        if attempt.attempt > 1 {
            let _ = write!(line, " #{}", attempt.attempt);
        }
        line.push_str(": ");
    }
    // Continuation lines are set in, so that they cannot be taken for lines of their own.
    line.push_str(&said.message.trim_end().replace('\n', "\n      "));
    for (name, value) in said.fields {
        let _ = match value {
            Value::String(text) if !text.contains(char::is_whitespace) => write!(line, " {name}={text}"),
            value => write!(line, " {name}={value}"),
        };
    }
    line.push('\n');
    line
}

fn json_line(level: &str, target: &str, attempt: Option<&AttemptKey>, said: Said) -> String {
    let mut line = json!({ "time": timestamp(), "level": level, "target": target, "message": said.message });
    if !said.fields.is_empty() {
        line["fields"] = Value::Object(said.fields);
    }
    if let Some(attempt) = attempt {
        line["run"] = attempt.run.as_str().into();
        line["step"] = attempt.step.as_str().into();
        if !attempt.instance.is_empty() {
            line["instance"] = attempt.instance.as_str().into();
        }
        line["attempt"] = attempt.attempt.into();
    }
    format!("{line}\n")
}

/// The present, as RFC 3339 in UTC.
fn timestamp() -> String {
    let mut text = String::new();
    match tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text,
        Err(_) => format!("{:?}", SystemTime::now()),
    }
}
