//! Requests carry their place in the trace: Triton's own spans, which it sends by OTLP, stand below ours.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::json;
use swath_testkit::http::{Reply, Server};
use swath_testkit::triton::Triton;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use crate::servers::{ONE, on, served};
use crate::support::{Bench, input};

#[tokio::test]
async fn spans_of_the_server_stand_below_those_of_the_step() {
    let told = Arc::new(Mutex::new(Vec::<u8>::new()));
    let collector = Server::start({
        let told = told.clone();
        move |request| {
            told.lock().unwrap().extend_from_slice(&request.body);
            Reply::status(200)
        }
    });
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());

    let folder = tempfile::tempdir().unwrap();
    served("identity", &input("identity.onnx"), ONE, "max_batch_size: 4").write(folder.path());
    let url = format!("--trace-config=opentelemetry,url={}", collector.url("/v1/traces"));
    let options = [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
        "--trace-config=opentelemetry,bsp_schedule_delay=100",
        &url,
    ];
    let triton = Triton::start(folder.path(), &options);
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    for address in [triton.grpc(), triton.http()] {
        let attempt = tracing::info_span!("attempt");
        let trace = attempt.context().span().span_context().trace_id().to_string();
        bench.run(on(&address, &model, json!({ "overlap": 16 })), "one").instrument(attempt).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !told.lock().unwrap().windows(trace.len()).any(|part| part == trace.as_bytes()) {
            assert!(Instant::now() < deadline, "the server tells of no span in this trace: {}", triton.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
