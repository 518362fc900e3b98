//! The log of an attempt: what happens inside its span, kept in order and bounded.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::text::Said;
use crate::{RELAYED, Redact, trace};

/// Name and target of the spans that [`attempt_span`] makes.
const NAME: &str = "step";
pub(crate) const TARGET: &str = "swath::step";

/// The span of one attempt, in the trace of its run where traces are sent. What is told inside it (and inside
/// `Context::blocking`, which carries it over) is the attempt's log; threads that a task starts by itself enter
/// `Span::current()` of their parent to belong to it.
pub fn attempt_span(run: &str, step: &str, instance: &str, attempt: u32) -> Span {
    let empty = tracing::field::Empty;
    // `error`: no filter of levels may take the span away, only what is told inside it.
    let span = tracing::error_span!(
        target: TARGET,
        parent: None,
        NAME,
        otel.name = step,
        swath.run.id = run,
        swath.step.id = step,
        swath.step.instance = instance,
        swath.step.attempt = i64::from(attempt),
        swath.step.state = empty,
        swath.task = empty,
        swath.reused_from = empty,
        error.r#type = empty,
        otel.status_code = empty,
        otel.status_description = empty,
    );
    trace::place(&span, run);
    span
}

/// [`attempt_span`] in a process of the attempt's own: it stands for the one in the engine, which `carrier` tells of
/// ([`crate::carrier`]).
pub fn worker_span(run: &str, step: &str, instance: &str, attempt: u32, carrier: &BTreeMap<String, String>) -> Span {
    let span = attempt_span(run, step, instance, attempt);
    trace::stand_for(&span, carrier);
    span
}

/// Whose log a line belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptKey {
    /// Id of the run.
    pub run: String,
    /// Step id.
    pub step: String,
    /// Instance, empty when the step is not lifted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Attempt, from 1.
    pub attempt: u32,
}

impl AttemptKey {
    /// Keeps the key with the span, when it is the span of an attempt.
    pub(crate) fn remember<S>(attributes: &Attributes<'_>, id: &Id, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let metadata = attributes.metadata();
        if metadata.name() != NAME || metadata.target() != TARGET {
            return;
        }
        if let Some(span) = context.span(id) {
            let mut extensions = span.extensions_mut();
            // Both layers ask for it; the first one to come has done it.
            if extensions.get_mut::<Arc<Self>>().is_none() {
                let mut key = Self::default();
                attributes.record(&mut key);
                extensions.insert(Arc::new(key));
            }
        }
    }

    /// The attempt inside which an event happened.
    pub(crate) fn of<S>(event: &Event<'_>, context: &Context<'_, S>) -> Option<Arc<Self>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        context.event_scope(event)?.find_map(|span| span.extensions().get::<Arc<Self>>().cloned())
    }
}

impl Visit for AttemptKey {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "swath.run.id" => value.clone_into(&mut self.run),
            "swath.step.id" => value.clone_into(&mut self.step),
            "swath.step.instance" => value.clone_into(&mut self.instance),
            _ => {}
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "swath.step.attempt" {
            self.attempt = u32::try_from(value).unwrap_or(u32::MAX);
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// One line of an attempt's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Whose it is.
    #[serde(flatten)]
    pub of: AttemptKey,
    /// Milliseconds since 1970 UTC.
    pub at: i64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Where it came from: a module, or what the task gave as `target`.
    pub target: String,
    /// The text: redacted, bounded, without escape sequences.
    pub message: String,
    /// Structured fields as a JSON object; empty when there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fields: String,
}

impl LogRecord {
    /// Bytes it takes, about.
    fn size(&self) -> usize {
        128 + self.message.len() + self.fields.len()
    }
}

/// Takes the lines of attempts.
///
/// # Contract
/// `write` is called from any thread, inside whatever the task is doing: it neither blocks nor fails nor panics, and
/// does not itself use `tracing` inside an attempt's span.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line.
    fn write(&self, record: LogRecord);
}

impl<T: LogSink> LogSink for Arc<T> {
    fn write(&self, record: LogRecord) {
        T::write(self, record);
    }
}

/// Hands what happens inside attempts' spans to a sink.
pub struct AttemptLogs<K> {
    sink: K,
    redact: Redact,
}

impl<K: LogSink> AttemptLogs<K> {
    /// Lines to `sink`, after `redact`.
    pub fn new(sink: K, redact: Redact) -> Self {
        Self { sink, redact }
    }
}

impl<S, K> Layer<S> for AttemptLogs<K>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    K: LogSink,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        AttemptKey::remember(attributes, id, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(of) = AttemptKey::of(event, &context) else { return };
        let mut said = Said::default();
        event.record(&mut said);
        let mut target = event.metadata().target().to_owned();
        if target == RELAYED {
            target = said.relayed().unwrap_or(target);
        }
        let mut said = said.clean(self.redact);
        said.say_where();
        let fields = match said.fields.is_empty() {
            true => String::new(),
            false => serde_json::Value::Object(said.fields).to_string(),
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.sink.write(LogRecord {
            of: (*of).clone(),
            at: i64::try_from(at).unwrap_or(i64::MAX),
            level: event.metadata().level().as_str().to_ascii_lowercase(),
            target,
            message: said.message,
            fields,
        });
    }
}

/// Lines of one attempt that wait to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Whose they are.
    pub of: AttemptKey,
    /// The lines, in order.
    pub lines: Vec<LogRecord>,
    /// How many lines before these were dropped because the buffer was full.
    pub dropped: u64,
}

/// A sink that keeps lines until the host takes them, bounded for each attempt. When it is full the oldest lines go:
/// the newest say why something failed.
pub struct Buffer {
    lines: usize,
    bytes: usize,
    waiting: Mutex<BTreeMap<AttemptKey, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<LogRecord>,
    bytes: usize,
    dropped: u64,
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new(10_000, 4 << 20)
    }
}

impl Buffer {
    /// Keeps at most so many lines and bytes an attempt (one line at least).
    pub fn new(lines: usize, bytes: usize) -> Self {
        Self { lines: lines.max(1), bytes, waiting: Mutex::default() }
    }

    /// Takes all that waits, in order within each attempt. Call it a few times a second.
    pub fn take(&self) -> Vec<Batch> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        waiting.into_iter().map(|(of, waiting)| batch(of, waiting)).collect()
    }
}

fn batch(of: AttemptKey, waiting: Waiting) -> Batch {
    Batch { of, lines: waiting.lines.into(), dropped: waiting.dropped }
}

impl LogSink for Buffer {
    fn write(&self, record: LogRecord) {
        let mut attempts = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !attempts.contains_key(&record.of) {
            attempts.insert(record.of.clone(), Waiting::default());
        }
        let Some(waiting) = attempts.get_mut(&record.of) else { return };
        waiting.bytes += record.size();
        waiting.lines.push_back(record);
        while waiting.lines.len() > self.lines || (waiting.bytes > self.bytes && waiting.lines.len() > 1) {
            if let Some(oldest) = waiting.lines.pop_front() {
                waiting.bytes -= oldest.size();
                waiting.dropped += 1;
            }
        }
    }
}
