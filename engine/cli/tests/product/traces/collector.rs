//! A real collector (rotel), and the spans it says it received.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use swath_testkit::python;

use super::soon;

/// A span as the collector received it.
#[derive(Clone, Debug, Default)]
pub struct Span {
    pub trace: String,
    pub parent: String,
    pub id: String,
    pub name: String,
    /// `INTERNAL`, `CLIENT`, ...
    pub kind: String,
    /// `UNSET`, `OK`, `ERROR`.
    pub status: String,
    pub message: String,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<Event>,
    /// Traces that it is linked to.
    pub links: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Event {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, empty when there is none.
    pub fn at(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// The collector, with what it prints in a file.
pub struct Collector {
    child: Child,
    folder: tempfile::TempDir,
    pub grpc: String,
    pub http: String,
}

impl Collector {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = program();
        let (grpc, http) = (free_address(), free_address());
        let out = std::fs::File::create(folder.path().join("out")).unwrap();
        let mut rotel = Command::new(program);
        rotel.args(["start", "--exporter", "blackhole", "--batch-timeout", "100ms"]);
        rotel.args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log-verbosity", "detailed"]);
        rotel.args(["--otlp-grpc-endpoint", &grpc.to_string(), "--otlp-http-endpoint", &http.to_string()]);
        rotel.arg("--pid-file").arg(folder.path().join("pid")).arg("--log-file").arg(folder.path().join("log"));
        let child = rotel.stdout(out).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        soon("the collector", || TcpStream::connect(grpc).and(TcpStream::connect(http)).ok());
        Self { child, folder, grpc: format!("http://{grpc}"), http: format!("http://{http}") }
    }

    /// All it has printed.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    /// The spans that have come, in the order of their starts, once `enough` of them have.
    pub fn spans_when(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        soon("what the collector was to receive", || Some(spans(&self.text())).filter(|spans| enough(spans)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It is there for this test only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The program that the Python package of the collector brings.
fn program() -> PathBuf {
    let script = "import pathlib, rotel; print(pathlib.Path(rotel.__file__).with_name('rotel-agent'))";
    python::run(&python::interpreter(), ["-c", script]).into()
}

/// Reads the spans out of what the collector prints.
fn spans(text: &str) -> Vec<Span> {
    let mut spans: Vec<(u64, Span)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let content = line.trim();
        if let Some(heading) =
            content.strip_suffix(|c: char| c.is_ascii_digit()).map(|text| text.trim_end_matches(char::is_numeric))
        {
            match heading {
                "Span #" => {
                    spans.push(Default::default());
                    inside = true;
                }
                "ResourceSpans #" | "ResourceMetrics #" | "Metric #" => inside = false,
                _ => {}
            }
        }
        let Some((start, span)) = spans.last_mut().filter(|_| inside) else { continue };
        let (name, value) = content.split_once(": ").unwrap_or((content.trim_end_matches(':'), ""));
        match (name.trim_end(), line.starts_with("     ->"), line.starts_with("          ->")) {
            ("Trace ID", ..) => span.trace = value.to_owned(),
            ("Parent ID", ..) => span.parent = value.to_owned(),
            ("ID", ..) => span.id = value.to_owned(),
            ("Name", ..) => span.name = value.to_owned(),
            ("Kind", ..) => span.kind = value.trim_start_matches("SPAN_KIND_").to_owned(),
            ("Start time", ..) => *start = value.parse().unwrap(),
            ("Status code", ..) => span.status = value.trim_start_matches("STATUS_CODE_").to_owned(),
            ("Status message", ..) => span.message = value.to_owned(),
            ("-> Trace ID", ..) => span.links.push(value.to_owned()),
            ("-> Name", ..) => span.events.push(Event { name: value.to_owned(), ..Event::default() }),
            (name, _, true) => {
                if let Some(event) = span.events.last_mut() {
                    event.attributes.insert(attribute(name), typed(value));
                }
            }
            (name, true, _) => drop(span.attributes.insert(attribute(name), typed(value))),
            _ => {}
        }
    }
    spans.sort_by_key(|(start, _)| *start);
    spans.into_iter().map(|(_, span)| span).filter(|span| !span.status.is_empty()).collect()
}

fn attribute(name: &str) -> String {
    name.trim_start_matches("-> ").to_owned()
}

/// `Str(a)` and `Int(4)` without what they are.
fn typed(value: &str) -> String {
    value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(value).to_owned()
}
