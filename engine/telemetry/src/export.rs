//! What leaves the program for a collector: set up by OpenTelemetry's own environment variables, and by nothing else.
//!
//! Without `OTEL_EXPORTER_OTLP_ENDPOINT` (or its variant for traces or metrics) nothing is made, and nothing is asked at
//! run time. What is sent goes out from threads of its own: a collector that is slow or gone costs what it was to be sent.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Status, TracerProvider};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SdkTracerProvider, SpanData,
    SpanExporter as ExportSpans, SpanProcessor,
};
use swath_host::Observer;

use crate::metrics::Metrics;
use crate::relay::{Relay, Sent};
use crate::text::clean;
use crate::trace::{RunIds, Traces, Tracing};
use crate::{Redact, SetupError};

/// How long the end of the program waits for a collector to take what is left, and how often it looks whether there is one.
const GOODBYE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// Spans that wait to be sent, where the environment does not say otherwise: those of a few thousand short steps.
const WAITING: usize = 16_384;

pub(crate) const SCOPE: &str = "swath";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What is exported: traces, metrics, both or nothing. [`Exporting::finish`] sends what is left.
#[derive(Default)]
pub struct Exporting {
    pub(crate) tracing: Option<Tracing>,
    metrics: Option<Arc<Metrics>>,
    page: Option<prometheus::Registry>,
    spans: Option<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
    reached: Arc<Reached>,
}

impl Exporting {
    /// What the environment asks for. With `page` metrics are kept for [`Exporting::page`] too, whatever it asks for.
    /// Within a tokio runtime, which is to outlive it.
    ///
    /// # Errors
    /// [`SetupError::Export`]: a variable cannot be understood.
    pub fn from_environment(redact: Redact, page: bool) -> Result<Self, SetupError> {
        let mut exporting = Self::default();
        let (traces, metrics) = match is_disabled() {
            true => (false, false),
            false => (wanted("TRACES")?, wanted("METRICS")?),
        };
        if traces || metrics {
            install_crypto();
        }
        if traces {
            exporting.export_traces(redact)?;
        }
        if metrics || page {
            exporting.collect_metrics(metrics, page)?;
        }
        Ok(exporting)
    }

    /// Of a process of attempts: tells its spans, each as a text for [`crate::take_span`], where the environment asks for
    /// traces.
    pub fn relaying(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        let mut exporting = Self::default();
        // What is wrong with a variable has been told by the engine, which then sends nothing.
        if !is_disabled() && wanted("TRACES").unwrap_or(false) {
            exporting.trace_by(Relay(tell));
        }
        exporting
    }

    /// Sends nothing, whatever the environment says; with `page` as above.
    pub fn nothing(page: bool) -> Self {
        let mut exporting = Self::default();
        if page && let Err(error) = exporting.collect_metrics(false, true) {
            tracing::warn!("there are no metrics: {error}");
        }
        exporting
    }

    /// Those who turn what happens in runs into traces and metrics; none when nothing is exported.
    pub fn observers(&self) -> Vec<Arc<dyn Observer>> {
        let traces = self.tracing.as_ref().map(|_| Arc::new(Traces::default()) as Arc<dyn Observer>);
        let metrics = self.metrics.clone().map(|metrics| metrics as Arc<dyn Observer>);
        traces.into_iter().chain(metrics).collect()
    }

    /// The instruments, if anybody reads them.
    pub fn metrics(&self) -> Option<&Arc<Metrics>> {
        self.metrics.as_ref()
    }

    /// Writes all metrics in Prometheus' text format.
    pub fn page(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let registry = self.page.clone();
        move || {
            let families = registry.as_ref().map(prometheus::Registry::gather).unwrap_or_default();
            let mut text = String::new();
            if let Err(error) = prometheus::TextEncoder::new().encode_utf8(&families, &mut text) {
                tracing::warn!(%error, "metrics could not be written");
            }
            text
        }
    }

    /// Sends what is left. Blocks for three seconds at most, and no longer than it takes to see that there is no collector.
    pub fn finish(self) {
        let Self { spans, meters, reached, .. } = self;
        if spans.is_none() && meters.is_none() {
            return;
        }
        let (done, ended) = channel();
        std::thread::spawn(move || {
            // What cannot be sent has been told by then.
            let _ = spans.map(|spans| spans.shutdown_with_timeout(GOODBYE));
            let _ = meters.map(|meters| meters.shutdown_with_timeout(GOODBYE));
            let _ = done.send(());
        });
        let until = Instant::now() + GOODBYE;
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout)
            && Instant::now() < until
            && !reached.lost.load(Ordering::Relaxed)
        {}
    }

    fn export_traces(&mut self, redact: Redact) -> Result<(), SetupError> {
        let exporter = SpanExporter::builder().build().map_err(|error| SetupError::Export(error.to_string()))?;
        let exporter = Careful { inner: exporter, redact, reached: self.reached.clone() };
        let mut batches = BatchConfigBuilder::default();
        if set("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
            batches = batches.with_max_queue_size(WAITING);
        }
        let mut batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        batches.set_resource(&resource());
        self.trace_by(Sent::new(batches));
        Ok(())
    }

    fn trace_by(&mut self, processor: impl SpanProcessor + 'static) {
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_id_generator(RunIds::default())
            .with_span_processor(processor)
            .build();
        // Tasks put their place in the trace into what they send by this, and into nothing when it is not set.
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        self.tracing = Some(Tracing::new(provider.tracer(SCOPE)));
        self.spans = Some(provider);
    }

    fn collect_metrics(&mut self, sent: bool, page: bool) -> Result<(), SetupError> {
        let mut provider = SdkMeterProvider::builder().with_resource(resource());
        if sent {
            let exporter = MetricExporter::builder().build().map_err(|error| SetupError::Export(error.to_string()))?;
            let exporter = Careful { inner: exporter, redact: |text| text.into(), reached: self.reached.clone() };
            provider = provider.with_reader(PeriodicReader::builder(exporter).build());
        }
        if page {
            let registry = prometheus::Registry::new();
            let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
            provider = provider.with_reader(reader.build().map_err(|error| SetupError::Export(error.to_string()))?);
            self.page = Some(registry);
        }
        let provider = provider.build();
        opentelemetry::global::set_meter_provider(provider.clone());
        self.metrics = Some(Arc::new(Metrics::new(provider.meter(SCOPE))));
        self.meters = Some(provider);
        Ok(())
    }
}

/// A variable that says something.
fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.trim().is_empty())
}

fn is_disabled() -> bool {
    set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// Whether a signal (`TRACES`, `METRICS`) is to be sent.
fn wanted(signal: &str) -> Result<bool, SetupError> {
    let of_signal = |what: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
    if set(&of_signal("ENDPOINT")).or_else(|| set(ENDPOINT)).is_none() {
        return Ok(false);
    }
    let exporter = format!("OTEL_{signal}_EXPORTER");
    match set(&exporter).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(false),
        Some(other) => {
            return Err(SetupError::Export(format!("`{exporter}` is `{other}`: it can be `otlp` or `none`")));
        }
    }
    for variable in [of_signal("PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()] {
        if let Some(other) = set(&variable).filter(|protocol| !["grpc", "http/protobuf"].contains(&protocol.as_str())) {
            let what = format!("`{variable}` is `{other}`: it can be `grpc` or `http/protobuf`");
            return Err(SetupError::Export(what));
        }
    }
    Ok(true)
}

/// What is said of the program itself; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` add to it and win.
fn resource() -> Resource {
    static RESOURCE: OnceLock<Resource> = OnceLock::new();
    let made = || {
        let told = set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let told = |name: &str| told.split(',').any(|pair| pair.trim().starts_with(&format!("{name}=")));
        let own = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            // Two processes that count the same are two sums.
            KeyValue::new("service.instance.id", RandomIdGenerator::default().new_trace_id().to_string()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        let own = own.into_iter().filter(|pair| !told(pair.key.as_str()));
        let builder = Resource::builder().with_attributes(own);
        match set("OTEL_SERVICE_NAME").is_some() || told("service.name") {
            true => builder.build(),
            false => builder.with_service_name(SCOPE).build(),
        }
    };
    RESOURCE.get_or_init(made).clone()
}

/// rustls is built without a default provider, so that none is linked twice: ring it is.
fn install_crypto() {
    // An error says that one is installed already: that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Whether the collector took what was sent to it.
#[derive(Debug, Default)]
struct Reached {
    lost: AtomicBool,
    told: AtomicBool,
}

impl Reached {
    /// Says once that nothing comes through; the kit, which would say it again and again, is told that all is well.
    fn heard(&self, what: &str, result: OTelSdkResult) {
        self.lost.store(result.is_err(), Ordering::Relaxed);
        if let Err(error) = result
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{what} cannot be sent, and are dropped until they can: {error}; see `{ENDPOINT}`");
        }
    }
}

/// Sends what holds no secrets, and never fails.
#[derive(Debug)]
struct Careful<E> {
    inner: E,
    redact: Redact,
    reached: Arc<Reached>,
}

impl<E: ExportSpans> ExportSpans for Careful<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(|span| clean_span(span, self.redact));
        self.reached.heard("traces", self.inner.export(batch).await);
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Careful<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.reached.heard("metrics", self.inner.export(metrics).await);
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

/// Every text of a span, made fit to leave (I19).
fn clean_span(span: &mut SpanData, redact: Redact) {
    clean_attributes(&mut span.attributes, redact);
    for event in &mut span.events.events {
        event.name = clean(&event.name, redact).into();
        clean_attributes(&mut event.attributes, redact);
    }
    if let Status::Error { description } = &mut span.status {
        *description = clean(description, redact).into();
    }
}

fn clean_attributes(attributes: &mut Vec<KeyValue>, redact: Redact) {
    // A field that turned out to have nothing to say.
    attributes.retain(|pair| !matches!(&pair.value, Value::String(text) if text.as_str().is_empty()));
    let clean = |text: &StringValue| StringValue::from(clean(text.as_str(), redact));
    for pair in attributes {
        match &mut pair.value {
            Value::String(text) => *text = clean(text),
            Value::Array(Array::String(texts)) => texts.iter_mut().for_each(|text| *text = clean(text)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::{Span as _, Tracer};

    use super::*;

    /// Keeps what it is to send.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl ExportSpans for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn no_text_of_a_span_takes_a_secret_along() {
        let kept = Kept::default();
        let exporter = Careful { inner: kept.clone(), redact: swath_store::redact, reached: Arc::default() };
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter).build();
        let address = "https://a.example/B04.tif?sp=r&sig=geheim";
        let mut span = provider.tracer(SCOPE).start("request");
        span.set_attribute(KeyValue::new("url.full", address));
        span.set_attribute(KeyValue::new("all", Value::Array(vec![StringValue::from(address)].into())));
        span.set_attribute(KeyValue::new("empty", ""));
        span.add_event(address, vec![KeyValue::new("again", address)]);
        span.set_status(Status::error(format!("{address} answered 500")));
        span.end();
        let sent = format!("{:?}", kept.0.lock().unwrap());
        assert_eq!((sent.matches("sig=REDACTED").count(), sent.contains("geheim")), (5, false), "{sent}");
        assert!(sent.contains("sp=r") && !sent.contains("empty"), "{sent}");
    }
}
