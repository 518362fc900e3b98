//! Between training and server stands one that misbehaves: answers that get lost, that come late, that are none.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use swath_testkit::http::{Reply, Request, Server};
use swath_tracking::{Credentials, Pace, State, Tracking};

use crate::support::{
    SERVER, SeenModel, assert_all_sent, assert_trained, hasty, look, only_run, pace, settings, train,
};

/// Asks the real server, and gives its answer.
fn forward(request: &Request) -> Reply {
    let url = SERVER.url();
    let host = url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(host).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "host" | "connection" | "content-length" | "accept-encoding") {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head += &format!("Content-Length: {}\r\n\r\n", request.body.len());
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&request.body).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    Reply::status(status).header("Content-Type", "application/json").body(&answer[end + 4..])
}

#[test]
fn answers_that_get_lost_double_nothing() {
    // Everything is done, and of each request that changes something the first answer is lost.
    let seen = Mutex::new(HashSet::new());
    let front = Server::start(move |request| {
        let key = (request.method.clone(), request.target.clone(), request.body.clone());
        let answer = forward(request);
        if request.method != "GET" && seen.lock().unwrap().insert(key) { Reply::close() } else { answer }
    });
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(model.join("model.onnx"), b"network").unwrap();
    let spool = folder.path().join("spool");
    let tracking = Tracking::open(settings(&front.url(""), "lost answers"), "lost", &spool, &[]).unwrap();
    tracking.params([("lr", "0.1")]);
    train(&tracking, 0..1100);
    tracking.artifact(&model.join("model.onnx"), "model.onnx");
    assert_eq!(tracking.register_model("lost answers", &model, &["champion"]), Some(1));
    assert_all_sent(&tracking.finish(State::Finished));

    let seen = only_run(&SERVER.url(), "lost answers");
    assert_trained(&seen, 1100);
    assert_eq!((seen.status.as_str(), seen.artifacts.len()), ("FINISHED", 2));
    let model: SeenModel = look("model", &SERVER.url(), "lost answers");
    assert_eq!((model.versions.len(), model.aliases["champion"]), (1, 1));
    let created = front.requests().iter().filter(|request| request.path().ends_with("runs/create")).count();
    assert_eq!(created, 1, "the run was looked for before it would have been made again");
}

#[test]
fn whatever_a_server_in_trouble_answers_is_lived_through() {
    // Each request meets all of this before it is answered.
    let counts = Mutex::new(HashMap::new());
    let front = Server::start(move |request| {
        let key = (request.method.clone(), request.target.clone(), request.body.clone());
        let count = *counts.lock().unwrap().entry(key).and_modify(|count| *count += 1).or_insert(0);
        match count {
            0 => Reply::status(500).body("Internal Server Error"),
            1 => Reply::status(503).header("Retry-After", "0"),
            2 => Reply::status(429).header("Retry-After", "99999"),
            3 => Reply::content("text/html", "<html>Bad gateway</html>"),
            4 => Reply::json(&serde_json::json!({ "run": {} })).claim_length(5000).cut_after(5),
            5 => Reply::status(502).body("<html>Bad gateway</html>"),
            6 if request.path().ends_with("log-batch") => Reply::hang(),
            _ => forward(request),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let pace = Pace { answer: Duration::from_secs(10), longest_pause: Duration::from_millis(80), ..pace() };
    let told = settings(&front.url(""), "trouble").pace(pace.clone());
    let tracking = Tracking::open(told, "trouble", folder.path(), &[]).unwrap();
    train(&tracking, 0..300);
    // A web page in place of an answer is a log-in page: it is not waited for at the end, but sent on later.
    drop(tracking.finish(State::Finished));
    let mut report = Tracking::send(folder.path(), Credentials::None, pace.clone()).unwrap();
    for _ in 0..20 {
        if report.waiting == 0 {
            break;
        }
        report = Tracking::send(folder.path(), Credentials::None, pace.clone()).unwrap();
    }
    assert_all_sent(&report);
    assert_trained(&only_run(&SERVER.url(), "trouble"), 300);
}

#[test]
fn a_server_that_hangs_holds_up_nothing() {
    let front = Server::start(|_| Reply::hang());
    let folder = tempfile::tempdir().unwrap();
    let tracking =
        Tracking::open(settings(&front.url(""), "hangs").pace(hasty()), "hangs", folder.path(), &[]).unwrap();
    // An answer would take a minute to be given up: that these calls come back says that none was waited for.
    train(&tracking, 0..5000);
    tracking.artifact(&folder.path().join("tracking.json"), "head.json");
    tracking.artifact(&folder.path().join("not there"), "nothing");
    assert_eq!(tracking.register_model("hangs", &folder.path().join("not there"), &[]), None);
    assert_eq!(tracking.register_model("hangs", &folder.path().join("files"), &[]), None);
    let report = tracking.finish(State::Killed);
    assert_eq!((report.sent, report.waiting, report.lost), (0, 5004, 2), "{report:#?}");
    assert!(front.requests().len() <= 2, "{:?}", front.requests());
}

#[test]
fn trouble_is_told_once_and_so_is_its_end() {
    let open = Arc::new(AtomicBool::new(false));
    let front = Server::start({
        let open = open.clone();
        move |request| if open.load(Ordering::SeqCst) { forward(request) } else { Reply::status(401) }
    });
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let listener = tracing_subscriber::fmt().with_writer(Arc::new(std::fs::File::create(&log).unwrap())).finish();
    let pace = Pace { longest_pause: Duration::from_millis(30), ..pace() };
    // While one listener lives alone, a message that a thread without one tells first is told to nobody from then on.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    // What the sending thread tells goes where the training's thread tells.
    tracing::subscriber::with_default(listener, || {
        let told = settings(&front.url(""), "told once").pace(pace);
        let tracking = Tracking::open(told, "told once", folder.path(), &[]).unwrap();
        train(&tracking, 0..10);
        while front.requests().len() < 5 {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(tracking.report().trouble.unwrap().code, "K106");
        open.store(true, Ordering::SeqCst);
        assert_all_sent(&tracking.finish(State::Finished));
    });
    let log = std::fs::read_to_string(log).unwrap();
    let lines = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    assert_eq!((lines("WARN"), lines("[K106]"), lines("tracking goes on")), (1, 1, 1), "{log}");
    assert_trained(&only_run(&SERVER.url(), "told once"), 10);
}

#[test]
fn what_is_no_mlflow_server_is_called_so() {
    for reply in [
        Reply::status(404).body("not found"),
        Reply::content("text/html", "<html>Welcome</html>"),
        Reply::content("text/plain", "1.2.3"),
    ] {
        let front = Server::start(move |request| match request.path() {
            "/version" => reply.clone(),
            _ => Reply::status(404),
        });
        let error = Tracking::health(&settings(&front.url(""), "x")).unwrap_err();
        assert_eq!(error.code(), "K110", "{error}");
    }
}

#[test]
fn credentials_go_to_the_server_and_nowhere_else() {
    let other = Server::start(|_| Reply::status(500));
    let elsewhere = other.url("/api");
    let front = Server::start(move |_| Reply::redirect(307, &elsewhere));
    let folder = tempfile::tempdir().unwrap();
    let told = settings(&front.url("").replace("http://", "http://me:SECRET@"), "secret").pace(hasty());
    let tracking = Tracking::open(told, "secret", folder.path(), &[]).unwrap();
    train(&tracking, 0..5);
    while other.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let report = tracking.finish(State::Finished);
    let sent = front.requests();
    // `printf me:SECRET | base64`
    assert_eq!(sent[0].header("authorization"), Some("Basic bWU6U0VDUkVU"));
    assert!(other.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(!format!("{report:?}").contains("SECRET"));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            assert!(!std::fs::read_to_string(&path).unwrap().contains("SECRET"), "{}", path.display());
        }
    }
}
