//! What traces show of a model server, by OpenTelemetry's conventions. Nothing is made or sent where the program sends
//! none.

use opentelemetry::propagation::Injector;
use opentelemetry::{Context, global};
use tracing::Span;
use tracing::field::Empty;

use super::address::{Address, Protocol};
use super::retry::Kind;

/// The span of a request with all its tries; none outside of what is traced.
pub(crate) fn request(address: &Address, model: &str, version: &str, tiles: usize) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    let (system, name) = match address.protocol {
        Protocol::Grpc => ("grpc", "inference.GRPCInferenceService/ModelInfer"),
        Protocol::Rest => ("http", "POST infer"),
    };
    tracing::debug_span!(
        target: "swath::triton",
        "infer",
        otel.name = name,
        otel.kind = "client",
        rpc.system = system,
        server.address = address.authority.as_str(),
        model.name = model,
        model.version = version,
        tiles,
        error.r#type = Empty,
        otel.status_code = Empty,
    )
}

/// Records that a request came to nothing.
pub(crate) fn failed(span: &Span, kind: Kind) {
    span.record("error.type", format!("{kind:?}").to_lowercase().as_str());
    span.record("otel.status_code", "ERROR");
}

/// Tells where in its trace this is (`traceparent`).
pub(crate) fn inject(into: &mut dyn Injector) {
    global::get_text_map_propagator(|propagator| propagator.inject_context(&Context::current(), into));
}
