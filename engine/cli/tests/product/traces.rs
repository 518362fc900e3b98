//! What a real collector receives: one trace a run, whatever drives it and however often it is cut off.

pub mod collector;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use swath_testkit::http::{Reply, Server};

use self::collector::{Collector, Span};
use crate::common::{Place, signal};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A step that fails once, one whose result is kept, a sub-flow, and a search at an address with a signature.
fn flow(catalogue: &str) -> String {
    format!(
        "flow: traced
params:
  mark: {{ type: path, default: mark }}
steps:
  flaky:
    task: run.command
    with:
      command: [sh, -c, 'echo \"place=$TRACEPARENT\"; test -e $0 || {{ touch $0; echo \"see https://a.example/x?sig=geheim\"; exit 75; }}', \"${{params.mark}}\"]
      purity: effect
    retry: {{ times: 2, wait: 50ms }}
  kept:
    task: run.command
    after: flaky
    with: {{ command: [sh, -c, 'echo kept > $0', '{{outputs.file}}'], outputs: {{ file: artifact.file }}, purity: pure }}
  below:
    flow: inner.yaml
    after: kept
  search:
    task: stac.search
    after: below
    with: {{ catalog: \"{catalogue}\", allow_empty: true }}
"
    )
}

const INNER: &str = "flow: inner
steps:
  deep:
    task: run.command
    with: { command: ['true'], purity: effect }
";

/// The command, sending to a collector by `protocol`.
fn sending(place: &Place, arguments: &[&str], endpoint: &str, protocol: &str) -> Command {
    let mut swath = place.swath(arguments);
    swath.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    swath.env("OTEL_BSP_SCHEDULE_DELAY", "100").env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test");
    swath
}

/// Runs it to its end: exit code, and the document that `--json` prints.
fn ended(mut command: Command) -> (Option<i32>, Value) {
    let output = command.arg("--json").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{told}")))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "`{name}` among {spans:#?}");
    found[0]
}

#[test]
fn a_run_is_one_trace_with_retries_sub_flows_and_reused_steps_when_it_is_resumed_too() {
    static OPEN: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|_| match OPEN.load(Ordering::Relaxed) {
        false => Reply::status(403),
        true => Reply::json(&json!({ "type": "FeatureCollection", "features": [] })),
    });
    let place = Place::new(&flow(&server.url("/items.json?sig=geheim")));
    std::fs::write(place.path().join("inner.yaml"), INNER).unwrap();
    let collector = Collector::start();
    let swath = |arguments: &[&str]| sending(&place, arguments, &collector.grpc, "grpc");

    let mut first = swath(&["run", "flow.yaml"]);
    let (code, told) = ended({
        first.env("TRACEPARENT", CALLER);
        first
    });
    assert_eq!((code, &told["state"]), (Some(1), &"failed".into()), "{told}");
    let run = told["run"].as_str().unwrap().to_owned();
    OPEN.store(true, Ordering::Relaxed);
    let (code, told) = ended(swath(&["resume", &run]));
    assert_eq!((code, &told["state"]), (Some(0), &"completed".into()), "{told}");

    let spans = collector.spans_when(|spans| named(spans, "drive").len() == 3);
    let root = one(&spans, "run traced");
    assert!(spans.iter().all(|span| span.trace == root.trace), "one trace: {spans:#?}");
    assert_eq!((root.parent.as_str(), root.at("swath.run.id")), ("", run.as_str()));
    assert_eq!((root.at("swath.flow"), root.at("swath.run.steps")), ("traced", "4"));
    assert_eq!(root.links, ["0af7651916cd43dd8448eb211c80319c"], "who asked for it is linked");

    let flaky = named(&spans, "flaky");
    let told: Vec<_> = flaky
        .iter()
        .map(|span| (span.at("swath.step.attempt"), span.at("swath.step.state"), span.status.as_str()))
        .collect();
    assert_eq!(told, [("1", "failed", "ERROR"), ("2", "succeeded", "UNSET")]);
    assert!(flaky.iter().all(|span| span.parent == root.id && span.at("swath.task") == "run.command"));
    assert_eq!(flaky[0].at("error.type"), "C103");
    assert!(flaky[0].message.contains("exit code 75"), "{:?}", flaky[0]);
    let retry = flaky[0].events.iter().find(|event| event.name == "retry").expect("an event of the retry");
    assert!(retry.attributes["swath.wait_ms"].parse::<u64>().unwrap() <= 200, "{retry:?}");
    let kept = one(&spans, "kept");
    let commits = named(&spans, "commit an artifact");
    assert!(commits.iter().any(|made| made.parent == kept.id && made.at("swath.artifact.size") == "5"), "{commits:?}");

    let inner = one(&spans, "run inner");
    assert_eq!((inner.parent.as_str(), one(&spans, "deep").parent.as_str()), (root.id.as_str(), inner.id.as_str()));
    let below = one(&spans, "below");
    assert_eq!((below.parent.as_str(), below.at("swath.task")), (root.id.as_str(), "flow"));

    let searches = named(&spans, "search");
    assert_eq!(searches.iter().map(|span| span.status.as_str()).collect::<Vec<_>>(), ["ERROR", "UNSET"]);
    let requests = named(&spans, "GET");
    assert_eq!(requests[0].at("http.response.status_code"), "403");
    assert_eq!((requests[0].kind.as_str(), requests[0].status.as_str()), ("CLIENT", "ERROR"));
    assert_eq!(requests[0].at("server.address"), "127.0.0.1");
    let place_of = |span: &Span| format!("00-{}-{}-01", span.trace, span.id);
    for (request, sent) in requests.iter().zip(server.requests()) {
        assert_eq!(sent.header("traceparent"), Some(place_of(request).as_str()), "the server can go on with it");
        assert!(searches.iter().any(|search| search.id == request.parent), "{request:?}");
    }
    let drives: Vec<_> = named(&spans, "drive").into_iter().filter(|span| span.parent == root.id).collect();
    let states: Vec<_> = drives.iter().map(|span| (span.at("swath.run.state"), span.status.as_str())).collect();
    assert_eq!(states, [("failed", "ERROR"), ("completed", "UNSET")]);
    assert!(drives.iter().any(|drive| named(&spans, "append to the journal").iter().any(|s| s.parent == drive.id)));

    // The program below the attempt knows its place, and so does what it said.
    let (_, lines, _) = place.run(&["logs", &run, "flaky"]);
    for attempt in &flaky {
        assert!(lines.contains(&format!("place={}", place_of(attempt))), "{lines}");
        assert!(
            lines.contains(&format!("\"trace_id\":\"{}\",\"span_id\":\"{}\"", attempt.trace, attempt.id)),
            "{lines}"
        );
    }

    let (_, told) = ended(swath(&["run", "flow.yaml"]));
    let again = told["run"].as_str().unwrap();
    let spans = collector.spans_when(|spans| named(spans, "drive").len() == 5);
    let spans: Vec<Span> = spans.into_iter().filter(|span| span.trace != root.trace).collect();
    assert_eq!(one(&spans, "run traced").at("swath.run.id"), again);
    let kept = one(&spans, "kept");
    assert_eq!((kept.at("swath.step.state"), kept.at("swath.reused_from")), ("reused", run.as_str()));
    assert_eq!(kept.parent, one(&spans, "run traced").id);

    let received = collector.text();
    for metric in ["swath.step.duration", "swath.step.retries", "swath.cache.hits", "swath.http.received"] {
        assert!(received.contains(&format!("-> Name: {metric}\n")), "{metric}");
    }
    assert!(received.contains("deployment.environment: Str(test)") && received.contains("service.name: Str(swath)"));
    assert!(received.contains("sig=REDACTED") && !received.contains("geheim"), "I19: no secret leaves");
}

/// A server that sends what it does to a collector.
pub struct Serving {
    child: Child,
    pub address: String,
    _out: BufReader<ChildStdout>,
}

impl Serving {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        let told: Value = loop {
            assert!(out.read_line(&mut text).unwrap() > 0, "the server has ended: {text}");
            if let Ok(told) = serde_json::from_str(&text) {
                break told;
            }
        };
        Self { child, address: told["listening"].as_str().unwrap().to_owned(), _out: out }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_run_of_a_server_shows_while_it_lives_and_stays_in_its_trace_when_the_server_is_killed() {
    let place = Place::new(
        "flow: long
params:
  go: { type: path, default: go }
steps:
  first: { task: run.command, with: { command: ['true'], purity: effect } }
  wait:
    task: run.command
    after: first
    with: { command: [sh, -c, 'until test -e $0; do sleep 0.05; done', \"${params.go}\"], purity: effect }
",
    );
    let collector = Collector::start();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--json"];
    let serve = || Serving::start(sending(&place, &arguments, &collector.http, "http/protobuf"));
    let serving = serve();
    let url = format!("http://{}", serving.address);
    let mut follower = place.swath(&["run", "flow.yaml", "--server", &url]);
    let mut follower = follower.env("TRACEPARENT", CALLER).spawn().unwrap();

    let live = collector.spans_when(|spans| !named(spans, "first").is_empty());
    let root = one(&live, "run long");
    assert_eq!((one(&live, "first").parent.as_str(), root.links.len()), (root.id.as_str(), 1), "while it runs");
    signal(&serving.child, "KILL");
    drop(serving);
    follower.wait().unwrap();
    let _serving = serve();
    std::fs::write(place.path().join("go"), "").unwrap();
    let spans = collector.spans_when(|spans| !named(spans, "drive").is_empty());
    one(&spans, "run long");
    one(&spans, "first");
    let wait = one(&spans, "wait");
    assert_eq!((wait.trace.as_str(), wait.parent.as_str()), (root.trace.as_str(), root.id.as_str()));
    assert_eq!((one(&spans, "drive").at("swath.run.state"), &one(&spans, "drive").trace), ("completed", &root.trace));
}

#[test]
fn work_on_pixels_is_seen_below_the_attempts_that_do_it_in_processes_of_their_own_too() {
    let flow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flows/season.yaml");
    for isolate in ["none", "all"] {
        let place = Place::new("");
        let collector = Collector::start();
        let arguments = ["run", flow.to_str().unwrap(), "--out", "results", "--isolate", isolate];
        let (code, told) = ended(sending(&place, &arguments, &collector.grpc, "grpc"));
        assert_eq!(code, Some(0), "{told}");
        let spans = collector.spans_when(|spans| !named(spans, "drive").is_empty());
        let attempt = |name| one(&spans, name).id.as_str();
        let below = |name, parent: &str| named(&spans, name).iter().filter(|span| span.parent == parent).count();
        // The composite reads with threads of its own.
        assert!(below("open a raster", attempt("composite")) > 10 && below("read a raster", attempt("composite")) > 10);
        assert_eq!(
            (below("write a COG", attempt("composite")), below("commit an artifact", attempt("picture"))),
            (1, 1)
        );
        assert!(below("read a raster", attempt("greenness")) > 0);
        let told = one(&spans, "composite").events.iter().filter(|event| event.name == "progress").count();
        assert!((1..=10).contains(&told), "progress is told {told} times");
        let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
        let (roots, others): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| span.parent.is_empty());
        assert_eq!(roots.len(), 1, "{roots:?}");
        assert!(spans.iter().all(|span| span.trace == roots[0].trace), "one trace: {spans:#?}");
        let lost: Vec<_> = others.iter().filter(|span| !known.contains(span.parent.as_str())).collect();
        assert!(lost.is_empty(), "{isolate}: {lost:?}");
    }
}

#[test]
fn a_collector_that_is_gone_is_told_of_once_and_costs_a_run_nothing() {
    let place = Place::new(
        "flow: short
steps:
  one: { task: run.command, with: { command: ['true'], purity: effect } }
  two: { task: run.command, after: one, with: { command: [sleep, '1.5'], purity: effect } }
",
    );
    for protocol in ["grpc", "http/protobuf"] {
        let output = sending(&place, &["run", "flow.yaml"], "http://127.0.0.1:1", protocol).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.matches("cannot be sent").count(), 1, "{told}");
        let took = told.split("completed in ").nth(1).and_then(|rest| rest.split(" s").next()).unwrap();
        assert!(took.parse::<f64>().unwrap() < 5.0, "{told}");
    }
    let output = sending(&place, &["run", "flow.yaml"], "http://127.0.0.1:1", "carrier-pigeon").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `carrier-pigeon`: it can be `grpc`"), "{told}");
    assert_eq!(output.status.code(), Some(0), "{told}");
    let mut off = sending(&place, &["run", "flow.yaml"], "http://127.0.0.1:1", "grpc");
    let output = off.env("OTEL_SDK_DISABLED", "true").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !told.contains("cannot be sent"), "{told}");
}

/// Waits for something that comes soon.
pub fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = std::time::Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}
