//! What traces and metrics show of requests, by OpenTelemetry's conventions. Nothing is made or sent where the program sends
//! no traces: the propagator and the meter of `opentelemetry` do nothing then.

use std::sync::OnceLock;

use opentelemetry::metrics::Counter;
use opentelemetry::propagation::Injector;
use opentelemetry::{Context, global};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use swath_task::TaskError;
use tracing::Span;
use tracing::field::Empty;
use url::Url;

use crate::redact;

/// The span of a request with its redirects and its body; none outside of what is traced.
pub(crate) fn request(method: &Method, url: &Url) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::debug_span!(
        target: "swath::http",
        "request",
        otel.name = method.as_str(),
        otel.kind = "client",
        http.request.method = method.as_str(),
        server.address = url.host_str(),
        server.port = url.port_or_known_default().map(i64::from),
        url.full = %redact(url.as_str()),
        http.response.status_code = Empty,
        http.response.body.size = Empty,
        error.r#type = Empty,
        otel.status_code = Empty,
    )
}

/// Records how a request ended: with a status and so many bytes, or not at all.
pub(crate) fn answered(span: &Span, answer: Result<(StatusCode, usize), &TaskError>) {
    match answer {
        Ok((status, size)) => {
            received(size as u64);
            span.record("http.response.status_code", i64::from(status.as_u16()));
            span.record("http.response.body.size", size as i64);
            if status.is_client_error() || status.is_server_error() {
                span.record("error.type", status.as_str());
                span.record("otel.status_code", "ERROR");
            }
        }
        Err(error) => {
            let code = match error {
                TaskError::Transient { fault, .. } | TaskError::Permanent(fault) => fault.code.as_ref(),
                TaskError::Cancelled => "cancelled",
            };
            span.record("error.type", code);
            span.record("otel.status_code", "ERROR");
        }
    }
}

fn received(bytes: u64) {
    static RECEIVED: OnceLock<Counter<u64>> = OnceLock::new();
    let made = || {
        let meter = global::meter("swath");
        let counter = meter.u64_counter("swath.http.received").with_unit("By");
        counter.with_description("Bytes of the bodies that servers answered with").build()
    };
    RECEIVED.get_or_init(made).add(bytes, &[]);
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, name: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Adds where in its trace this request is made (`traceparent`).
pub(crate) fn inject(headers: &mut HeaderMap) {
    global::get_text_map_propagator(|propagator| propagator.inject_context(&Context::current(), &mut Headers(headers)));
}
