//! Spans of attempts in processes of their own: told to the engine's process, which sends them with its own.
//!
//! 1. A process of an attempt needs no way to the collector, and holds no key for it that it did not have anyway.
//! 2. Inside it the span of the attempt has the ids that it has in the engine: what happens below it is in its place. The
//!    engine alone sends that span.
//! 3. A span is told when it ends: those of a process that is killed later are sent.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, Context, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use serde::{Deserialize, Serialize};

/// Where the engine's process gives spans that are to be sent. Set where traces are.
static SENT: OnceLock<Sent> = OnceLock::new();

/// Sends spans of this process, and what others have told it.
#[derive(Clone, Debug)]
pub(crate) struct Sent(std::sync::Arc<BatchSpanProcessor>);

impl Sent {
    pub fn new(processor: BatchSpanProcessor) -> Self {
        let sent = Self(std::sync::Arc::new(processor));
        // A second set-up is refused: the first stays.
        let _ = SENT.set(sent.clone());
        sent
    }
}

impl SpanProcessor for Sent {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }
    fn on_end(&self, span: SpanData) {
        self.0.on_end(span);
    }
    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }
}

/// Tells spans instead of sending them.
pub(crate) struct Relay<T>(pub T);

impl<T> Debug for Relay<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}

impl<T: Fn(String) + Send + Sync> SpanProcessor for Relay<T> {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // That of the attempt stands for the engine's: it is its own parent here.
        if span.parent_span_id != span.span_context.span_id()
            && let Ok(text) = serde_json::to_string(&Told::from(span))
        {
            (self.0)(text);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends a span that a process of an attempt has told of. What is no span is dropped.
pub fn take_span(text: &str) {
    let Some(sent) = SENT.get() else { return };
    match serde_json::from_str::<Told>(text).ok().and_then(|told| told.span(crate::export::SCOPE)) {
        Some(span) => sent.on_end(span),
        None => tracing::debug!("a process of a step told of something that is no span"),
    }
}

/// A span on its way. Links stay behind: nothing that happens in an attempt has any.
#[derive(Serialize, Deserialize)]
struct Told {
    trace: String,
    id: String,
    parent: String,
    kind: Kind,
    name: String,
    /// Nanoseconds since 1970.
    began: u64,
    ended: u64,
    attributes: BTreeMap<String, Plain>,
    events: Vec<ToldEvent>,
    status: ToldStatus,
}

#[derive(Serialize, Deserialize)]
struct ToldEvent {
    name: String,
    at: u64,
    attributes: BTreeMap<String, Plain>,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    Client,
    Server,
    Producer,
    Consumer,
    Internal,
}

#[derive(Serialize, Deserialize)]
enum ToldStatus {
    Unset,
    Ok,
    Error(String),
}

/// The values that attributes of ours have.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Plain {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
}

impl From<SpanData> for Told {
    fn from(span: SpanData) -> Self {
        let event = |event: Event| ToldEvent {
            name: event.name.into_owned(),
            at: nanoseconds(event.timestamp),
            attributes: plain(event.attributes),
        };
        Self {
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            kind: match span.span_kind {
                SpanKind::Client => Kind::Client,
                SpanKind::Server => Kind::Server,
                SpanKind::Producer => Kind::Producer,
                SpanKind::Consumer => Kind::Consumer,
                SpanKind::Internal => Kind::Internal,
            },
            name: span.name.into_owned(),
            began: nanoseconds(span.start_time),
            ended: nanoseconds(span.end_time),
            attributes: plain(span.attributes),
            events: span.events.events.into_iter().map(event).collect(),
            status: match span.status {
                Status::Unset => ToldStatus::Unset,
                Status::Ok => ToldStatus::Ok,
                Status::Error { description } => ToldStatus::Error(description.into_owned()),
            },
        }
    }
}

impl Told {
    /// `None` when its ids are none.
    fn span(self, scope: &'static str) -> Option<SpanData> {
        let trace = TraceId::from_hex(&self.trace).ok()?;
        let id = SpanId::from_hex(&self.id).ok()?;
        let mut events = SpanEvents::default();
        let event = |told: ToldEvent| Event::new(told.name, time(told.at), values(told.attributes), 0);
        events.events = self.events.into_iter().map(event).collect();
        Some(SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: SpanId::from_hex(&self.parent).ok()?,
            parent_span_is_remote: false,
            span_kind: match self.kind {
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
                Kind::Internal => SpanKind::Internal,
            },
            name: self.name.into(),
            start_time: time(self.began),
            end_time: time(self.ended),
            attributes: values(self.attributes),
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: match self.status {
                ToldStatus::Unset => Status::Unset,
                ToldStatus::Ok => Status::Ok,
                ToldStatus::Error(description) => Status::error(description),
            },
            instrumentation_scope: InstrumentationScope::builder(scope).build(),
        })
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn plain(attributes: Vec<KeyValue>) -> BTreeMap<String, Plain> {
    let value = |value: Value| match value {
        Value::Bool(value) => Plain::Bool(value),
        Value::I64(value) => Plain::Integer(value),
        // JSON has no others.
        Value::F64(value) if value.is_finite() => Plain::Float(value),
        Value::Array(Array::String(texts)) => Plain::Texts(texts.into_iter().map(String::from).collect()),
        other => Plain::Text(other.to_string()),
    };
    attributes.into_iter().map(|pair| (pair.key.to_string(), value(pair.value))).collect()
}

fn values(attributes: BTreeMap<String, Plain>) -> Vec<KeyValue> {
    let value = |plain| match plain {
        Plain::Bool(value) => Value::Bool(value),
        Plain::Integer(value) => Value::I64(value),
        Plain::Float(value) => Value::F64(value),
        Plain::Text(text) => Value::String(text.into()),
        Plain::Texts(texts) => Value::Array(Array::String(texts.into_iter().map(StringValue::from).collect())),
    };
    attributes.into_iter().map(|(name, plain)| KeyValue::new(name, value(plain))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_arrives_as_it_was() {
        let mut events = SpanEvents::default();
        let at = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        events.events = vec![Event::new("retry", at, vec![KeyValue::new("swath.wait_ms", 7)], 0)];
        let span = SpanData {
            span_context: SpanContext::new(
                TraceId::from(7),
                SpanId::from(8),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: SpanId::from(9),
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: "GET".into(),
            start_time: at,
            end_time: at + Duration::from_nanos(1),
            attributes: vec![
                KeyValue::new("a", true),
                KeyValue::new("b", 3.0),
                KeyValue::new("c", i64::MAX),
                KeyValue::new("d", "x"),
                KeyValue::new("e", Value::Array(vec![StringValue::from("y")].into())),
            ],
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: Status::error("HTTP 503"),
            instrumentation_scope: InstrumentationScope::builder("swath").build(),
        };
        let text = serde_json::to_string(&Told::from(span.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Told>(&text).unwrap().span("swath"), Some(span));
    }
}
