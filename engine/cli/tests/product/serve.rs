//! `swath serve` over gRPC: from this client, from Python's, and from a terminal that kills it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use swath_control::v1;
use swath_control::v1::flow_service_client::FlowServiceClient;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_control::v1::system_service_client::SystemServiceClient;
use swath_control::v1::task_service_client::TaskServiceClient;
use swath_testkit::python;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::{Place, python, signal};

pub const FLOW: &str = "flow: work
params:
  seconds: { type: number, default: 0 }
  word: { type: string, default: hello }
  ledger: { type: path, default: ledger }
steps:
  first:
    task: run.command
    with: { command: [sh, -c, 'echo \"first $0\" >> $1; echo told: $0', \"${params.word}\", \"${params.ledger}\"], purity: effect }
  wait:
    task: run.command
    after: first
    with: { command: [sleep, \"${string(params.seconds)}\"], purity: effect }
  last:
    task: run.command
    after: wait
    with: { command: [sh, -c, 'echo last >> $0', \"${params.ledger}\"], purity: effect }
outputs:
  word: ${params.word}
";

pub struct Serving {
    pub child: Child,
    pub address: String,
    pub adopted: u64,
    _out: BufReader<ChildStdout>,
}

impl Serving {
    /// A server on the store of `place`, unless `more` says another, ready.
    pub fn start(place: &Place, more: &[&str]) -> Self {
        Self::start_with(place, more, &[])
    }

    /// With variables of its own.
    pub fn start_with(place: &Place, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let here: &[&str] = if more.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let arguments = [&["serve", "--json"], here, more].concat();
        let mut serve = place.swath(&arguments);
        let mut child = serve.envs(variables.iter().copied()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        let told: Value = loop {
            assert!(out.read_line(&mut text).unwrap() > 0, "the server has ended: {text}");
            if let Ok(told) = serde_json::from_str(&text) {
                break told;
            }
        };
        let address = told["listening"].as_str().unwrap().to_owned();
        Self { child, address, adopted: told["adopted"].as_u64().unwrap(), _out: out }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// The answer to a plain HTTP request.
    fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn ends(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server has not ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn start(place: &Place, seconds: &str, key: &str) -> v1::StartRunRequest {
    v1::StartRunRequest {
        flow_text: FLOW.to_owned(),
        source: place.path().join("flow.yaml").display().to_string(),
        parameters: [("seconds".to_owned(), seconds.to_owned())].into(),
        idempotency_key: key.to_owned(),
        parameter_folder: String::new(),
        interval: String::new(),
    }
}

pub fn ledger(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path().join("ledger")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Events of a run from `after` on, until it has ended.
pub async fn watched(runs: &mut RunServiceClient<Channel>, id: &str, after: u64) -> Vec<v1::RunEvent> {
    let mut stream = runs.watch_run(v1::WatchRunRequest { id: id.to_owned(), after }).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        events.push(answer.event.unwrap());
    }
    events
}

pub async fn state_of(runs: &mut RunServiceClient<Channel>, id: &str) -> v1::RunState {
    runs.get_run(v1::GetRunRequest { id: id.to_owned() }).await.unwrap().into_inner().run.unwrap().state()
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("refused").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_watched_listed_and_read() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let answer = runs.start_run(start(&place, "0.2", "once")).await.unwrap().into_inner();
    let run = answer.run.unwrap();
    assert!(answer.started && run.flow == "work", "{run:?}");

    let events = watched(&mut runs, &run.id, 0).await;
    assert!(events.iter().enumerate().all(|(at, event)| event.number == at as u64 + 1), "each once, in order");
    assert_eq!(events.last().unwrap().kind, "ended");
    let later = watched(&mut runs, &run.id, 3).await;
    assert_eq!(later, events[3..], "from any number on");

    let told = runs.get_run(v1::GetRunRequest { id: run.id.clone() }).await.unwrap().into_inner();
    assert_eq!(told.run.as_ref().unwrap().state(), v1::RunState::Completed);
    assert_eq!(told.outputs_json, r#"{"word":"hello"}"#);
    assert!(told.parameters_json.contains(r#""seconds":0.2"#), "{}", told.parameters_json);
    assert!(events.iter().any(|event| event.kind == "succeeded" && event.instance == Some(0)), "{events:?}");
    assert_eq!(ledger(&place), ["first hello", "last"]);

    // The same request starts nothing; another one of its key is refused.
    let again = runs.start_run(start(&place, "0.2", "once")).await.unwrap().into_inner();
    assert!(!again.started && again.run.unwrap().id == run.id);
    assert_eq!(code(runs.start_run(start(&place, "0.3", "once")).await), Code::AlreadyExists);
    let other =
        v1::StartRunRequest { flow_text: FLOW.replace("flow: work", "flow: play"), ..start(&place, "0.2", "once") };
    assert_eq!(code(runs.start_run(other).await), Code::AlreadyExists);
    assert_eq!(ledger(&place).len(), 2);

    let mut lines = runs
        .read_logs(v1::ReadLogsRequest { run_id: run.id.clone(), follow: true, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut said = Vec::new();
    while let Some(line) = lines.message().await.unwrap() {
        said.push(line);
    }
    assert!(said.iter().any(|line| line.step == "first" && line.message == "told: hello"), "{said:?}");

    for _ in 0..4 {
        runs.start_run(start(&place, "0", "")).await.unwrap();
    }
    let page = |token: &str, page_size| v1::ListRunsRequest {
        page_size,
        page_token: token.to_owned(),
        flow: "work".to_owned(),
        ..Default::default()
    };
    let first = runs.list_runs(page("", 3)).await.unwrap().into_inner();
    let second = runs.list_runs(page(&first.next_page_token, 3)).await.unwrap().into_inner();
    assert_eq!((first.runs.len(), second.runs.len(), second.next_page_token.as_str()), (3, 2, ""));
    assert_eq!(second.runs.last().unwrap().id, run.id, "the newest first");

    let info = SystemServiceClient::new(serving.channel().await).get_info(v1::GetInfoRequest {}).await.unwrap();
    assert!(!info.into_inner().draining);
    let tasks = TaskServiceClient::new(serving.channel().await).list_tasks(v1::ListTasksRequest {}).await.unwrap();
    assert!(tasks.into_inner().tasks.iter().any(|task| task.name == "raster.composite" && !task.about.is_empty()));
    assert!(serving.http("/healthz").starts_with("HTTP/1.1 200"), "{}", serving.http("/healthz"));
    assert!(serving.http("/readyz").ends_with("ready\n"));
    let doctor = serving.http("/doctor");
    assert!(doctor.starts_with("HTTP/1.1 200") && doctor.contains("Triton         not used"), "{doctor}");
    // What the server ran is there for the command line too.
    let (_, shown) = place.json(&["show", &run.id]);
    assert_eq!(shown["run"]["state"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_and_harms_nobody() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let canary = runs.start_run(start(&place, "2", "")).await.unwrap().into_inner().run.unwrap().id;

    let mut wrong = start(&place, "0", "");
    wrong.flow_text = FLOW.replace("run.command", "run.comand");
    let refused = runs.start_run(wrong.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), 3, "all mistakes at once: {violations:?}");
    assert!(violations[0].field.starts_with("flow_text:8:"), "{violations:?}");
    assert!(violations[0].description.contains("`run.command`"), "{violations:?}");
    let mut flows = FlowServiceClient::new(serving.channel().await);
    let request = v1::ValidateFlowRequest { flow_text: wrong.flow_text, source: wrong.source, ..Default::default() };
    let told = flows.validate_flow(request).await.unwrap().into_inner().diagnostics;
    assert_eq!((told.len(), told[0].line, told[0].code.is_empty()), (3, 8, false), "{told:?}");

    let unknown = || "nobody-20200101-000000-0000".to_owned();
    let id = || unknown();
    assert_eq!(code(runs.get_run(v1::GetRunRequest { id: id() }).await), Code::NotFound);
    assert_eq!(code(runs.watch_run(v1::WatchRunRequest { id: id(), after: 0 }).await), Code::NotFound);
    assert_eq!(code(runs.cancel_run(v1::CancelRunRequest { id: id() }).await), Code::NotFound);
    assert_eq!(code(runs.resume_run(v1::ResumeRunRequest { id: id() }).await), Code::NotFound);
    for bad in ["", "../../etc/passwd", "a/b", "\0"] {
        let answer = code(runs.cancel_run(v1::CancelRunRequest { id: bad.to_owned() }).await);
        assert!(matches!(answer, Code::InvalidArgument | Code::NotFound), "{bad:?}: {answer:?}");
    }
    let list = |page_size, page_token: &str, states: Vec<i32>| v1::ListRunsRequest {
        page_size,
        page_token: page_token.to_owned(),
        states,
        ..Default::default()
    };
    for request in [list(-1, "", vec![]), list(5000, "", vec![]), list(0, "x", vec![]), list(0, "", vec![77])] {
        assert_eq!(code(runs.list_runs(request).await), Code::InvalidArgument);
    }
    let after = v1::WatchRunRequest { id: canary.clone(), after: 1_000_000 };
    assert_eq!(code(runs.watch_run(after).await), Code::InvalidArgument);
    let relative = v1::StartRunRequest { source: "flow.yaml".to_owned(), ..start(&place, "0", "") };
    assert_eq!(code(runs.start_run(relative).await), Code::InvalidArgument);
    let mut large = RunServiceClient::new(serving.channel().await).max_encoding_message_size(usize::MAX);
    let huge = v1::StartRunRequest { flow_text: "x".repeat(20 << 20), ..start(&place, "0", "") };
    assert_eq!(code(large.start_run(huge).await), Code::OutOfRange);
    // What is no gRPC at all.
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    stream.write_all(b"\x00\x01\x02 nonsense\r\n\r\n").unwrap();
    drop(stream);

    watched(&mut runs, &canary, 0).await;
    assert_eq!(state_of(&mut runs, &canary).await, v1::RunState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_cancelled_and_resumed() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let id = runs.start_run(start(&place, "600", "")).await.unwrap().into_inner().run.unwrap().id;
    while ledger(&place).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let resumed = runs.resume_run(v1::ResumeRunRequest { id: id.clone() }).await.unwrap_err();
    assert_eq!(resumed.code(), Code::FailedPrecondition, "it is live: {resumed:?}");
    let asked = Instant::now();
    runs.cancel_run(v1::CancelRunRequest { id: id.clone() }).await.unwrap();
    watched(&mut runs, &id, 0).await;
    // Who hears nothing is given 15 seconds.
    assert!(asked.elapsed() < Duration::from_secs(14), "{:?}", asked.elapsed());
    assert_eq!(state_of(&mut runs, &id).await, v1::RunState::Cancelled);
    // To cancel it once more changes nothing.
    let again = runs.cancel_run(v1::CancelRunRequest { id: id.clone() }).await.unwrap().into_inner().run.unwrap();
    assert_eq!(again.state(), v1::RunState::Cancelled);
    runs.resume_run(v1::ResumeRunRequest { id: id.clone() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state_of(&mut runs, &id).await, v1::RunState::Running);
    assert_eq!(ledger(&place), ["first hello"], "what had finished is not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_goes_on_when_it_starts_again() {
    let place = Place::new(FLOW);
    let mut serving = Serving::start(&place, &[]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let mut ids = Vec::new();
    // Each holds a core while it waits.
    for _ in 0..2 {
        ids.push(runs.start_run(start(&place, "10", "")).await.unwrap().into_inner().run.unwrap().id);
    }
    // What a step has written is not what the journal has heard: the first steps have ended when the next ones run.
    for id in &ids {
        while place.json(&["show", id]).1["steps"][1]["state"] != "running" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    signal(&serving.child, "KILL");
    serving.ends(Duration::from_secs(5));
    let (_, listed) = place.json(&["runs"]);
    assert!(listed.as_array().unwrap().iter().all(|run| run["shown_state"] == "interrupted"), "{listed}");

    let serving = Serving::start(&place, &[]);
    assert_eq!(serving.adopted, 2);
    let mut runs = RunServiceClient::new(serving.channel().await);
    for id in &ids {
        watched(&mut runs, id, 0).await;
        assert_eq!(state_of(&mut runs, id).await, v1::RunState::Completed);
    }
    let told = ledger(&place);
    assert_eq!(told.iter().filter(|line| line.starts_with("first")).count(), 2, "no finished step ran again: {told:?}");
    assert_eq!(told.iter().filter(|line| *line == "last").count(), 2, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_drains_and_leaves_the_rest_resumable() {
    let place = Place::new(FLOW);
    let mut serving = Serving::start(&place, &["--grace", "10s"]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let short = runs.start_run(start(&place, "1", "")).await.unwrap().into_inner().run.unwrap().id;
    let long = runs.start_run(start(&place, "600", "")).await.unwrap().into_inner().run.unwrap().id;
    while ledger(&place).len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let watch = v1::WatchRunRequest { id: long.clone(), after: 0 };
    let mut open = runs.watch_run(watch).await.unwrap().into_inner();
    let mut unread = runs
        .read_logs(v1::ReadLogsRequest { run_id: long.clone(), follow: true, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    signal(&serving.child, "TERM");
    let told = Instant::now();
    while !serving.http("/readyz").starts_with("HTTP/1.1 503") {
        assert!(told.elapsed() < Duration::from_secs(60), "it was told to stop");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code(runs.start_run(start(&place, "0", "")).await), Code::Unavailable);
    assert_eq!(serving.ends(Duration::from_secs(60)), Some(0), "whoever still listens");
    let ended = loop {
        match open.message().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(ended.is_ok() || ended.is_err_and(|status| status.code() == Code::Unavailable));
    // It is there for its lines only.
    let _ = unread.message().await;
    let (_, shown) = place.json(&["show", &short]);
    assert_eq!(shown["run"]["state"], "completed", "it ended within the grace");
    let (_, shown) = place.json(&["show", &long]);
    assert_eq!(shown["shown_state"], "interrupted");
    let serving = Serving::start(&place, &[]);
    assert_eq!(serving.adopted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_drives_is_cancelled_without_being_begun_again() {
    let place = Place::new(FLOW);
    let mut child = place.swath(&["run", "flow.yaml", "-p", "seconds=600"]).spawn().unwrap();
    while ledger(&place).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    signal(&child, "KILL");
    child.wait().unwrap();
    let serving = Serving::start(&place, &[]);
    assert_eq!(serving.adopted, 0, "it is a person's own");
    let id = place.newest().unwrap();
    let mut runs = RunServiceClient::new(serving.channel().await);
    assert_eq!(state_of(&mut runs, &id).await, v1::RunState::Interrupted);
    let run = runs.cancel_run(v1::CancelRunRequest { id }).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.state(), v1::RunState::Cancelled);
    assert_eq!(ledger(&place).len(), 1);
}

#[test]
fn a_web_page_cannot_start_anything() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let ask = |host: &str, head: &str| {
        let mut stream = TcpStream::connect(&serving.address).unwrap();
        write!(stream, "{head}\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let here = serving.address.as_str();
    let start = "POST /swath.v1.RunService/StartRun HTTP/1.1";
    for head in [start.to_owned(), format!("{start}\r\nContent-Type: application/grpc\r\nOrigin: http://evil.example")]
    {
        assert!(ask(here, &head).starts_with("HTTP/1.1 415"), "{}", ask(here, &head));
    }
    assert!(ask("evil.example:7475", "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 403"));
    assert!(ask("localhost:7475", "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_address_that_cannot_be_listened_on_is_refused_and_one_that_others_reach_without_tls() {
    let place = Place::new(FLOW);
    let (code, _, told) = place.run(&["serve", "--listen", "0.0.0.0:7475"]);
    assert!(code == Some(2) && told.contains("can be reached from other machines"), "{told}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, told) = place.run(&["serve", "--listen", &address]);
    assert!(code == Some(2) && told.contains("cannot listen on") && told.contains("--listen"), "{told}");
}

#[test]
fn the_command_line_lists_and_shows_the_runs_of_a_server_as_those_of_a_store() {
    let bad = "flow: bad\nsteps:\n  each: { each: [1, 2, 3], task: run.command, on_failure: continue, \
               with: { command: [sh, -c, 'exit ${item - 1}'] } }\n";
    let place = Place::new("flow: good\nsteps: { say: { task: run.command, with: { command: [echo, hello] } } }\n");
    std::fs::write(place.path().join("bad.yaml"), bad).unwrap();
    let serving = Serving::start(&place, &[]);
    let url = format!("http://{}", serving.address);
    for flow in ["flow.yaml", "bad.yaml"] {
        place.json(&["run", flow, "--server", &url]);
    }
    for command in [&["runs"][..], &["runs", "--flow", "bad"], &["runs", "--state", "completed", "--limit", "1"]] {
        let here = place.run(command);
        assert!(here.1.lines().count() > 1, "{here:?}");
        let there = place.swath(command).env("SWATH_SERVER", &url).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&there.stdout), here.1, "{command:?}");
    }
    let (_, listed) = place.json(&["runs", "--server", &url]);
    for run in listed.as_array().unwrap() {
        let id = run["run"]["id"].as_str().unwrap();
        let (here, there) = (place.run(&["show", id]), place.run(&["show", id, "--server", &url]));
        assert_eq!((here.0, &here.1), (Some(0), &there.1), "{} {}", here.2, there.2);
    }
    let bad = listed.as_array().unwrap().iter().find(|run| run["run"]["flow"] == "bad").unwrap();
    let (_, shown) = place.json(&["show", bad["run"]["id"].as_str().unwrap(), "--server", &url]);
    assert_eq!((&shown["steps"][0]["id"], shown["faults"].as_array().unwrap().len()), (&"each".into(), 2));
    let (code, _, told) = place.run(&["show", "nothing", "--server", &url]);
    assert_eq!((code, told.contains("nothing")), (Some(1), true), "{told}");
}

#[test]
fn the_command_line_starts_runs_on_a_server_and_follows_them() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let url = format!("http://{}", serving.address);
    let (code, ended) = place.json(&["run", "flow.yaml", "--server", &url, "-p", "word=servus"]);
    assert_eq!((code, &ended["state"], &ended["outputs"]["word"]), (Some(0), &"completed".into(), &"servus".into()));
    let (code, _, told) = place.run(&["run", "flow.yaml", "--server", &url, "-p", "seconds=0.1"]);
    assert!(code == Some(0) && told.contains("first: done") && told.contains("completed"), "{told}");
    std::fs::write(place.path().join("flow.yaml"), FLOW.replace("[sleep", "[/no/such/program")).unwrap();
    let (code, _, told) = place.run(&["run", "flow.yaml", "--server", &url]);
    assert!(code == Some(1) && told.contains("wait: failed") && told.contains("failed"), "{told}");
    std::fs::write(place.path().join("flow.yaml"), FLOW.replace("run.command", "run.comand")).unwrap();
    let (code, _, told) = place.run(&["run", "flow.yaml", "--server", &url]);
    assert!(code == Some(2) && told.contains("did you mean `run.command`"), "{told}");
    std::fs::write(place.path().join("flow.yaml"), FLOW).unwrap();
    drop(serving);
    let (code, _, told) = place.run(&["run", "flow.yaml", "--server", &url]);
    assert!(code == Some(1) && told.contains("no server answers at"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_client_drives_a_run() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = here.join("tests/product/serve.py");
    let proto = here.join("../control/proto");
    let told = python(&script, &[serving.address.as_ref(), proto.as_os_str(), place.path().as_os_str()]);
    assert_eq!(told, "driven");
    assert_eq!(ledger(&place), ["first servus", "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_of_the_manual_deploys_a_scan_and_follows_it() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (protos, client) = (root.join("engine/control/proto"), place.path().join("client"));
    std::fs::create_dir(&client).unwrap();
    let mut generate = Command::new(python::interpreter());
    generate.args(["-m", "grpc_tools.protoc", "-I"]).arg(&protos);
    generate.arg(format!("--python_out={0}", client.display())).arg(format!("--grpc_python_out={}", client.display()));
    for file in std::fs::read_dir(protos.join("swath/v1")).unwrap() {
        generate.arg(file.unwrap().path());
    }
    assert!(generate.status().unwrap().success());
    let mut scan = Command::new(python::interpreter());
    scan.env("PYTHONPATH", &client).arg(root.join("docs/examples/python/scan.py")).arg(&serving.address);
    let told = scan.arg(root.join("flows/scan.yaml")).arg(place.path().join("results")).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}{errors}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "deployed   scan-from-python, version 1");
    assert!(lines[1..4].iter().all(|line| line.starts_with("due ") && line.ends_with("T06:00:00Z")), "{out}");
    assert_eq!(lines[4..6], ["cancelled  RUN_STATE_CANCELLED", "retried    RUN_STATE_COMPLETED"]);
    let (log, last) = lines[6..].split_at(lines.len() - 7);
    assert!(log.iter().any(|line| line.starts_with("log        nothing_new: no new scene from ")), "{out}");
    assert!(log.iter().any(|line| line.starts_with("log        search: ")), "{out}");
    assert_eq!(last, ["triggered  RUN_STATE_COMPLETED {\"new_scenes\":0}"]);
    assert!(place.path().join("results/scans.gpkg").exists(), "the look that was retried has stored what it found");
}
