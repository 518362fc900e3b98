//! One trace a run, found without state.
//!
//! 1. The trace id is made of the id of the run, that of a sub-flow's run of the one at the top: a run that goes on after a
//!    restart, on another server or in a child process stays in its trace.
//! 2. The root span has no length, its id is made of the run's id too, and it is sent when the run begins: whoever looks
//!    at a run that takes days sees its attempts below it as they end.
//! 3. Below the root of a run are the spans of its attempts, the roots of its sub-flows, and one `drive` for each process
//!    that drove it, which tells how that ended.
//! 4. Whoever asked for a run is linked to its root, not its parent: the trace is the run's own.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Config, IdGenerator, RandomIdGenerator, SamplingDecision, SdkTracer, ShouldSample};
use swath_host::{Observer, Update};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::attempt::TARGET;
use crate::{FAULTS, QUIET};

/// The target of events that are for traces only.
pub(crate) const TRACE: &str = "swath::trace";

/// Set when traces are sent.
static TRACING: OnceLock<Tracing> = OnceLock::new();

/// What makes spans.
#[derive(Clone, Debug)]
pub(crate) struct Tracing {
    tracer: SdkTracer,
    sampler: Box<dyn ShouldSample>,
}

impl Tracing {
    /// With the sampler of `OTEL_TRACES_SAMPLER`.
    pub fn new(tracer: SdkTracer) -> Self {
        Self { tracer, sampler: Config::default().sampler }
    }

    /// Makes it the one of this program, and the layer that turns `tracing` spans into sent ones.
    pub fn install<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_error_events_to_status(false)
            .with_error_events_to_exceptions(false);
        // A second set-up is refused: the first stays.
        let _ = TRACING.set(self);
        let libraries = QUIET.iter().map(|name| (*name, LevelFilter::OFF));
        let spans = Targets::new().with_default(Level::INFO).with_target("swath", Level::DEBUG).with_targets(libraries);
        layer.with_filter(spans.and(filter_fn(is_shown)))
    }

    /// The place directly below the root of a run.
    fn below(&self, run: &str) -> Context {
        let trace = trace_of(run);
        let sampled = self.sampler.should_sample(None, trace, ROOT, &SpanKind::Internal, &[], &[]);
        let sampled = sampled.decision == SamplingDecision::RecordAndSample;
        let flags = TraceFlags::default().with_sampled(sampled);
        Context::new().with_remote_span_context(SpanContext::new(trace, root_of(run), flags, true, TraceState::NONE))
    }

    /// Sends the root of a run that begins.
    fn begin(&self, run: &str, flow: &str, steps: usize, above: Option<&str>, caller: Option<SpanContext>) {
        let now = SystemTime::now();
        let mut builder = self.tracer.span_builder(format!("{ROOT} {flow}")).with_start_time(now);
        builder = builder.with_attributes([
            KeyValue::new("swath.run.id", run.to_owned()),
            KeyValue::new("swath.flow", flow.to_owned()),
            KeyValue::new("swath.run.steps", steps as i64),
        ]);
        if let Some(caller) = caller {
            builder = builder.with_links(vec![Link::with_context(caller)]);
        }
        let parent = above.map_or_else(Context::new, |above| self.below(above));
        NEXT.set(Some((trace_of(run), root_of(run))));
        let mut root = builder.start_with_context(&self.tracer, &parent);
        NEXT.set(None);
        root.end_with_timestamp(now);
    }
}

const ROOT: &str = "run";

/// Which events a span shows: warnings, and what is for traces. The fault that ended an attempt is its status.
fn is_shown(metadata: &Metadata<'_>) -> bool {
    let said = *metadata.level() <= Level::WARN && metadata.target() != FAULTS;
    metadata.is_span() || said || metadata.target() == TRACE
}

/// The trace that a run and those of its sub-flows are in.
fn trace_of(run: &str) -> TraceId {
    // The id of a sub-flow's run is that of the run above, a dot, and the step.
    let top = run.split('.').next().unwrap_or(run);
    TraceId::from_bytes(digest("trace", top))
}

fn root_of(run: &str) -> SpanId {
    SpanId::from_bytes(digest("root", run))
}

fn digest<const N: usize>(what: &str, id: &str) -> [u8; N] {
    let mut bytes = [0; N];
    blake3::Hasher::new().update(what.as_bytes()).update(&[0]).update(id.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Sets a new span below the root of its run.
pub(crate) fn place(span: &Span, run: &str) {
    if let Some(tracing) = TRACING.get() {
        // It fails where the span is filtered away.
        let _ = span.set_parent(tracing.below(run));
    }
}

/// Where this thread is in its trace, for a process of an attempt; empty where traces are not sent.
pub fn carrier() -> BTreeMap<String, String> {
    let mut carrier = HashMap::new();
    if TRACING.get().is_some() {
        TraceContextPropagator::new().inject_context(&Context::current(), &mut carrier);
    }
    carrier.into_iter().collect()
}

/// Gives a new span the ids of the one that `carrier` tells of: what happens below it is in the place of that one.
pub(crate) fn stand_for(span: &Span, carrier: &BTreeMap<String, String>) {
    let carrier: HashMap<String, String> = carrier.clone().into_iter().collect();
    let place = TraceContextPropagator::new().extract(&carrier);
    let ids = place.span().span_context().clone();
    if TRACING.get().is_none() || !ids.is_valid() || span.set_parent(place).is_err() {
        return;
    }
    NEXT.set(Some((ids.trace_id(), ids.span_id())));
    // It gets its ids now.
    let _ = span.context();
    NEXT.set(None);
}

/// The span of the time in which this process drives a run; none when traces are not sent.
pub fn drive_span(run: &str) -> Span {
    if TRACING.get().is_none() {
        return Span::none();
    }
    let empty = tracing::field::Empty;
    let span = tracing::error_span!(
        target: TARGET,
        "drive",
        swath.run.id = run,
        swath.run.state = empty,
        swath.run.ran = empty,
        swath.run.reused = empty,
        otel.status_code = empty,
        otel.status_description = empty,
    );
    place(&span, run);
    span
}

/// Where in its trace this thread is, as fields of a log line; none outside of a span that is sent.
pub(crate) fn ids() -> Option<(String, String)> {
    TRACING.get()?;
    let here = Context::current();
    let here = here.span().span_context().clone();
    here.is_valid().then(|| (here.trace_id().to_string(), here.span_id().to_string()))
}

thread_local! {
    /// Ids of the next root that this thread makes.
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Ids of roots are made of the runs' own, all others are random.
#[derive(Debug, Default)]
pub(crate) struct RunIds(RandomIdGenerator);

impl IdGenerator for RunIds {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

/// Sends the roots of runs.
#[derive(Default)]
pub(crate) struct Traces {
    /// Who asked for runs that have not begun.
    callers: Mutex<HashMap<String, SpanContext>>,
}

impl Traces {
    fn callers(&self) -> MutexGuard<'_, HashMap<String, SpanContext>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Traces {
    fn update(&self, run: &str, update: &Update) {
        let Some(tracing) = TRACING.get() else { return };
        match update {
            Update::Asked { traceparent } => {
                let carrier = HashMap::from([("traceparent".to_owned(), traceparent.clone())]);
                let caller = TraceContextPropagator::new().extract(&carrier).span().span_context().clone();
                if caller.is_valid() {
                    self.callers().insert(run.to_owned(), caller);
                }
            }
            Update::RunStarted { flow, steps, above, resumed, .. } => {
                let caller = self.callers().remove(run);
                if !resumed {
                    tracing.begin(run, flow, *steps, above.as_deref(), caller);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_a_run_is_that_of_its_sub_flows_and_of_no_other_run() {
        let run = "detect-20260101-120000-1a2b3c";
        assert_eq!(trace_of(run), trace_of(&format!("{run}.tiles.3.inner")));
        assert_ne!(trace_of(run), trace_of("detect-20260101-120000-1a2b3d"));
        assert_ne!(root_of(run), root_of(&format!("{run}.tiles.3")));
        // What is in the collectors of operators must be found by the next version too.
        assert_eq!(trace_of(run).to_string(), "557ef3eea638347db0ef973b3e2cf6c9");
    }
}
