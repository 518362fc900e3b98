//! Who may ask a server for what: every method with no token, a wrong one, a narrower one and the right one; and TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use prost_types::FileDescriptorSet;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::common::Place;
use crate::serve::Serving;

const FLOW: &str = "flow: quick\nsteps: { say: { task: run.command, with: { command: [echo, hello] } } }\n";

/// What each method needs, told apart from the code that decides it.
const NEEDS: [(&str, &[&str]); 3] = [
    (
        "read",
        &[
            "GetRun",
            "ListRuns",
            "WatchRun",
            "ReadLogs",
            "ListSteps",
            "ExplainStep",
            "ListDeployments",
            "GetDeployment",
            "ListNextFires",
            "ListTasks",
            "GetInfo",
            "ListArtifacts",
            "GetLineage",
            "ReadArtifact",
            "ListWorkers",
            "ServerReflectionInfo",
        ],
    ),
    ("run", &["ValidateFlow", "StartRun", "CancelRun", "PauseRun", "ResumeRun", "RerunRun", "TriggerDeployment"]),
    ("admin", &["DeployFlow", "PauseDeployment", "ResumeDeployment", "DeleteDeployment", "BackfillDeployment"]),
];

pub fn token(place: &Place, name: &str, more: &[&str]) -> String {
    let (code, out, err) = place.run(&[&["token", "create", name][..], more].concat());
    assert_eq!(code, Some(0), "{err}");
    out.trim().to_owned()
}

/// The code that an empty message to a method gets.
async fn asked(channel: &Channel, path: &str, streams: bool, token: Option<&str>) -> Code {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = path.parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let answered = match streams {
        true => client.server_streaming(request, path, codec).await.map(drop),
        false => client.unary(request, path, codec).await.map(drop),
    };
    answered.map_or_else(|status| status.code(), |()| Code::Ok)
}

fn http(address: &str, path: &str, token: Option<&str>) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_closed_to_those_whose_token_does_not_reach_it() {
    let place = Place::new(FLOW);
    let tokens = ["read", "run", "admin"].map(|scope| token(&place, scope, &["--scope", scope]));
    let serving = Serving::start(&place, &["--tokens"]);
    let channel = serving.channel().await;
    let descriptors: FileDescriptorSet = prost::Message::decode(swath_control::v1::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in descriptors.file.iter().filter(|file| file.package() == "swath.v1") {
        for service in &file.service {
            let path = |method: &str| format!("/swath.v1.{}/{method}", service.name());
            methods.extend(
                service.method.iter().map(|one| (path(one.name()), one.name().to_owned(), one.server_streaming())),
            );
        }
    }
    for version in ["v1", "v1alpha"] {
        let name = "ServerReflectionInfo".to_owned();
        methods.push((format!("/grpc.reflection.{version}.ServerReflection/{name}"), name, true));
    }
    assert!(methods.len() > 20);
    let wrong = format!("swath_{}_{}", "0".repeat(16), "0".repeat(64));
    let forged = format!("{}{}", &tokens[2][..23], "0".repeat(64));
    for (path, method, streams) in &methods {
        let needs = NEEDS.iter().position(|(_, methods)| methods.contains(&method.as_str()));
        let needs = needs.unwrap_or_else(|| panic!("{method}: who may call it?"));
        for bad in [None, Some(""), Some("swath_x_y"), Some(wrong.as_str()), Some(forged.as_str())] {
            assert_eq!(asked(&channel, path, *streams, bad).await, Code::Unauthenticated, "{path} with {bad:?}");
        }
        for (at, token) in tokens.iter().enumerate() {
            let code = asked(&channel, path, *streams, Some(token)).await;
            match at < needs {
                true => assert_eq!(code, Code::PermissionDenied, "{path} with {}", NEEDS[at].0),
                false => assert!(
                    ![Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented].contains(&code),
                    "{path} with {}: {code:?}",
                    NEEDS[at].0
                ),
            }
        }
    }
    assert_eq!(asked(&channel, "/swath.v1.RunService/New", false, Some(&tokens[1])).await, Code::PermissionDenied);
    assert_eq!(asked(&channel, "/grpc.health.v1.Health/Check", false, None).await, Code::Ok);
    for (path, none, read) in [
        ("/healthz", "200", "200"),
        ("/readyz", "200", "200"),
        ("/metrics", "401", "200"),
        ("/doctor", "401", "200"),
        ("/", "401", "403"),
        ("/swath.v1.RunService/ListRuns", "401", "415"),
    ] {
        assert!(http(&serving.address, path, None).contains(none), "{path}: {}", http(&serving.address, path, None));
        let answer = http(&serving.address, path, Some(&tokens[0]));
        assert!(answer.contains(read), "{path}: {answer}");
    }
    // The command line brings its token along, and names it as what is missing.
    let url = format!("http://{}", serving.address);
    let run = |token: Option<&str>| {
        let mut swath = place.swath(&["run", "flow.yaml", "--server", &url]);
        let output = swath.env("SWATH_TOKEN", token.unwrap_or_default()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = run(None);
    assert!(code == Some(1) && told.contains("SWATH_TOKEN"), "{told}");
    let (code, told) = run(Some(&tokens[0]));
    assert!(code == Some(1) && told.contains("allows `read`, and this needs `run`"), "{told}");
    assert_eq!(run(Some(&tokens[1])).0, Some(0));
    // Of a token nothing is kept that could be used, and what is revoked or over is good for nothing.
    let secret = tokens[2].rsplit('_').next().unwrap().as_bytes();
    for file in ["swath.db", "swath.db-wal"] {
        let bytes = std::fs::read(place.home().join(file)).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file}");
    }
    let path = "/swath.v1.RunService/ListRuns";
    let short = token(&place, "short", &["--scope", "read", "--expires", "8s"]);
    assert_eq!(asked(&channel, path, false, Some(&short)).await, Code::Ok);
    tokio::time::sleep(Duration::from_millis(8100)).await;
    assert_eq!(asked(&channel, path, false, Some(&short)).await, Code::Unauthenticated);
    let (_, listed) = place.json(&["token", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 4);
    assert!(listed[0].get("digest").is_none());
    let (code, _, told) = place.run(&["token", "create", "read", "--scope", "admin"]);
    assert!(code == Some(2) && told.contains("already"), "{told}");
    assert_eq!(place.run(&["token", "revoke", "read"]).0, Some(0));
    assert_eq!(asked(&channel, path, false, Some(&tokens[0])).await, Code::Unauthenticated);
    assert_eq!(place.run(&["token", "revoke", "read"]).0, Some(2));
}

/// A root, a server's certificate for 127.0.0.1 and a client's, as files.
pub fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("{new} -x509 -days 2 -subj /CN=root -keyout root.key -out root.pem"));
    for name in ["server", "client"] {
        openssl(&format!("{new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
        ));
    }
}

#[test]
fn a_server_that_others_can_reach_speaks_tls_and_knows_its_clients() {
    let place = Place::new(FLOW);
    certificates(place.path());
    let token = token(&place, "ci", &["--scope", "run"]);
    let (code, _, told) = place.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(code == Some(2) && told.contains("--tls-cert"), "{told}");
    std::fs::write(place.path().join("bad.pem"), "no certificate").unwrap();
    let (code, _, told) =
        place.run(&["serve", "--listen", "127.0.0.1:0", "--tls-cert", "bad.pem", "--tls-key", "server.key"]);
    assert!(code == Some(2) && told.contains("TLS"), "{told}");
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    let ask = |serving: &Serving, variables: &[(&str, &str)]| {
        let port = serving.address.rsplit(':').next().unwrap();
        let url = format!("https://127.0.0.1:{port}");
        let mut swath = place.swath(&["run", "flow.yaml", "--server", &url]);
        let output = swath.envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (root, bearer) = (("SWATH_TLS_CA", "root.pem"), ("SWATH_TOKEN", token.as_str()));
    let own = [("SWATH_TLS_CERT", "client.pem"), ("SWATH_TLS_KEY", "client.key")];
    let serving = Serving::start(&place, &[&["--listen", "0.0.0.0:0"][..], &tls].concat());
    assert_eq!(ask(&serving, &[root, bearer]).0, Some(0), "{}", ask(&serving, &[root, bearer]).1);
    let (code, told) = ask(&serving, &[root]);
    assert!(code == Some(1) && told.contains("a token is needed"), "{told}");
    let (code, told) = ask(&serving, &[bearer]);
    assert!(code == Some(1) && told.contains("no server answers"), "an unknown root: {told}");
    drop(serving);
    let serving = Serving::start(&place, &[&["--tls-client-ca", "root.pem"][..], &tls].concat());
    assert_eq!(ask(&serving, &[&[root][..], &own].concat()).0, Some(0));
    assert_eq!(ask(&serving, &[root]).0, Some(1), "without a certificate of its own");
}
