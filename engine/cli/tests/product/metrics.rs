//! What operators see: a real Prometheus with the configuration that ships asks a server, and every expression of the
//! dashboards and alerts is put to it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use swath_testkit::http::{Reply, Server};

use crate::common::Place;
use crate::traces::collector::free_address;
use crate::traces::{Serving, soon};

/// A step that is tried again, one whose result is kept, and a search that tells figures.
const FLOW: &str = "flow: watched
params:
  mark: { type: path, default: mark }
steps:
  flaky:
    task: run.command
    with: { command: [sh, -c, 'test -e $0 || { touch $0; exit 75; }', \"${params.mark}\"], purity: effect }
    retry: { times: 2, wait: 10ms }
  kept:
    task: run.command
    after: flaky
    with: { command: [sh, -c, 'echo kept > $0', '{outputs.file}'], outputs: { file: artifact.file }, purity: pure }
  read:
    task: run.command
    in: { file: kept.file }
    with: { command: [cat, '{inputs.file}'], inputs: { file: artifact.file }, purity: effect }
  search:
    task: stac.search
    after: read
    with: { catalog: \"CATALOGUE\", allow_empty: true }
  fails:
    task: run.command
    after: search
    with: { command: ['false'], purity: effect }
";

/// No schedule has started anything.
const ABSENT: [&str; 1] = ["swath_schedule_lag_seconds"];

struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

fn infra() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra")
}

/// A program of Prometheus that `make setup` unpacks.
fn program(name: &str) -> PathBuf {
    let named = std::env::var_os("SWATH_PROMETHEUS").map(PathBuf::from);
    named.unwrap_or_else(|| infra().join("../.tools/prometheus/usr/bin")).join(name)
}

fn promtool(arguments: &[&str]) {
    let output = Command::new(program("promtool")).args(arguments).current_dir(infra().join("prometheus")).output();
    let output = output.expect("promtool starts: run `make setup`");
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
}

impl Prometheus {
    /// With the configuration that ships, but for whom it asks and how often.
    fn asks(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shipped = std::fs::read_to_string(infra().join("prometheus/prometheus.yml")).unwrap();
        assert!(shipped.contains("127.0.0.1:7475") && shipped.contains("interval: 15s"));
        let config = shipped.replace("127.0.0.1:7475", server).replace("interval: 15s", "interval: 1s");
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        std::fs::copy(infra().join("prometheus/alerts.yml"), folder.path().join("alerts.yml")).unwrap();
        let address = free_address();
        let mut prometheus = Command::new(program("prometheus"));
        prometheus.arg("--config.file").arg(folder.path().join("prometheus.yml"));
        prometheus.arg("--storage.tsdb.path").arg(folder.path().join("data"));
        prometheus.arg(format!("--web.listen-address={address}"));
        let child = prometheus.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("prometheus starts: run `make setup`");
        let started = Self { child, address, _folder: folder };
        soon("Prometheus", || TcpStream::connect(address).ok());
        started
    }

    /// The result of an expression; what is wrong with it fails the test.
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = get(&self.address.to_string(), &format!("/api/v1/query?query={encoded}"));
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(answer["status"], "success", "`{expression}`: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    fn number(&self, expression: &str) -> Option<f64> {
        self.query(expression).first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It is there for this test only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the answer to a plain HTTP request.
fn get(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Every `expr` in a document, wherever it stands.
fn expressions(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// Names of our metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("swath_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

#[test]
fn a_real_prometheus_finds_every_metric_that_dashboards_and_alerts_ask_for() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
    let catalogue = Server::start(|_| Reply::json(&json!({ "type": "FeatureCollection", "features": [] })));
    let place = Place::new(&FLOW.replace("CATALOGUE", &catalogue.url("/items.json")));
    let serving = Serving::start(place.swath(&["serve", "--listen", "127.0.0.1:0", "--json", "--limit", "gate=3"]));
    let prometheus = Prometheus::asks(&serving.address);
    let url = format!("http://{}", serving.address);
    let run = || {
        let (code, ended) = place.json(&["run", "flow.yaml", "--server", &url]);
        assert_eq!((code, &ended["state"]), (Some(1), &"failed".into()), "{ended}");
    };
    run();
    // A rate is that of a series which has been seen before.
    let ended = |runs: f64| {
        let told = prometheus.number(r#"swath_runs_ended_total{flow="watched", state="failed"}"#);
        told.filter(|told| *told == runs)
    };
    soon("the first figures", || ended(1.0));
    run();
    soon("the second run", || ended(2.0));
    soon("that no run is there", || prometheus.number("count(swath_runs) or vector(0)").filter(|runs| *runs == 0.0));

    let expect = |expression: &str, value: f64| assert_eq!(prometheus.number(expression), Some(value), "{expression}");
    expect("swath_runs_started_total", 2.0);
    expect(r#"swath_step_retries_total{task="run.command"}"#, 1.0);
    expect(r#"swath_cache_hits_total{task="run.command"}"#, 1.0);
    expect(r#"swath_cache_misses_total{task="run.command"}"#, 1.0);
    expect(r#"swath_artifact_written_bytes_total{task="run.command"}"#, 5.0);
    expect(r#"swath_artifact_read_bytes_total{task="run.command"}"#, 10.0);
    expect(r#"swath_step_duration_seconds_count{task="run.command", state="failed"}"#, 3.0);
    expect(r#"sum(swath_step_wait_seconds_count{task="run.command"})"#, 8.0);
    expect(r#"swath_slots_capacity{limit="gate"}"#, 3.0);
    expect("sum(swath_queue_depth)", 0.0);
    expect(r#"swath_task_figures_total{task="stac.search", figure="scenes"}"#, 0.0);
    assert!(prometheus.number("process_memory_usage_bytes").unwrap() > 1e6);
    assert!(prometheus.number("swath_http_received_bytes_total").unwrap() > 20.0);
    let page = get(&serving.address, "/metrics");
    let run_id = place.newest().unwrap();
    assert!(page.contains("# TYPE swath_step_duration_seconds histogram") && !page.contains(&run_id), "{page}");

    assert!(catalogue.requests().iter().all(|request| request.header("traceparent").is_none()), "nothing is traced");

    let mut asked = Vec::new();
    let dashboard = std::fs::read_to_string(infra().join("grafana/dashboards/swath.json")).unwrap();
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut asked);
    let panels = asked.len();
    assert!(panels > 20, "{asked:?}");
    for expression in &asked {
        let expression = expression.replace("$__rate_interval", "1m");
        let found = !prometheus.query(&expression).is_empty();
        let absent = names(&expression).iter().any(|name| ABSENT.contains(&name.as_str()));
        // No run is live any more.
        assert!(found || absent || expression.contains("(swath_runs)"), "`{expression}` finds nothing");
    }
    let rules: Value = serde_json::from_str(&get(&prometheus.address.to_string(), "/api/v1/rules")).unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() >= 6 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    asked.extend(rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned()));
    let told: Value =
        serde_json::from_str(&get(&prometheus.address.to_string(), "/api/v1/label/__name__/values")).unwrap();
    let known: BTreeSet<&str> = told["data"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for name in asked.iter().flat_map(|expression| names(expression)) {
        let exists = known.contains(name.as_str()) || ABSENT.contains(&name.as_str()) || name == "swath_runs";
        assert!(exists, "there is no metric `{name}`");
    }
    let firing =
        soon("the alert", || Some(prometheus.query(r#"ALERTS{alertname="SwathRunsFail"}"#)).filter(|a| !a.is_empty()));
    assert_eq!(firing[0]["metric"]["flow"], "watched");
}
