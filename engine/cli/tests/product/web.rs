//! The server as web pages see it: gRPC-Web frames over HTTP/1.1, and which pages may send them.

use std::collections::BTreeMap;

use prost::Message;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Certificate, Client, Method, Response, Version};
use swath_control::v1;

use crate::access::{certificates, token};
use crate::common::Place;
use crate::serve::{FLOW, Serving, start};

const LIST: &str = "/swath.v1.RunService/ListRuns";
/// Marks the last frame of an answer, which holds what HTTP has no place for.
const TRAILERS: u8 = 0x80;

fn client() -> Client {
    // Whoever was first has installed one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().http1_only().build().unwrap()
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
}

/// Sends a message as a browser does.
async fn sent(serving: &Serving, path: &str, message: &impl Message, headers: &[(&str, &str)]) -> Response {
    let mut request = client()
        .post(format!("http://{}{path}", serving.address))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(framed(message)).send().await.unwrap()
}

/// The whole frames at the beginning of some bytes: flags and content.
fn frames(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while let Some((head, after)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let Some((content, after)) = after.split_at_checked(length) else { break };
        frames.push((head[0], content));
        rest = after;
    }
    frames
}

/// The messages of an answer, and its trailers: where there is no message they may be headers.
async fn read<T: Message + Default>(answer: Response) -> (Vec<T>, BTreeMap<String, String>) {
    assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
    let in_head = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    let bytes = answer.bytes().await.unwrap();
    if let Some(status) = in_head {
        assert!(bytes.is_empty());
        return (Vec::new(), [("grpc-status".to_owned(), status)].into());
    }
    let frames = frames(&bytes);
    assert_eq!(frames.iter().map(|(_, content)| content.len() + 5).sum::<usize>(), bytes.len(), "nothing is left over");
    let ((flags, trailers), messages) = frames.split_last().unwrap();
    assert_eq!(*flags, TRAILERS);
    assert!(messages.iter().all(|(flags, _)| *flags == 0));
    let lines = std::str::from_utf8(trailers).unwrap().lines().filter_map(|line| line.split_once(':'));
    let trailers = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    (messages.iter().map(|(_, content)| T::decode(*content).unwrap()).collect(), trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_starts_a_run_watches_it_and_is_told_what_is_wrong() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let answer = sent(&serving, "/swath.v1.RunService/StartRun", &start(&place, "0", ""), &[]).await;
    let (started, trailers) = read::<v1::StartRunResponse>(answer).await;
    assert_eq!((started.len(), trailers["grpc-status"].as_str()), (1, "0"));
    let id = started[0].run.as_ref().unwrap().id.clone();
    let watch = v1::WatchRunRequest { id: id.clone(), after: 0 };
    let answer = sent(&serving, "/swath.v1.RunService/WatchRun", &watch, &[]).await;
    let (events, trailers) = read::<v1::WatchRunResponse>(answer).await;
    let events: Vec<v1::RunEvent> = events.into_iter().map(|answer| answer.event.unwrap()).collect();
    assert!(events.iter().enumerate().all(|(at, event)| event.number == at as u64 + 1), "each once, in order");
    assert_eq!((events.last().unwrap().kind.as_str(), trailers["grpc-status"].as_str()), ("ended", "0"));
    let wrong = v1::StartRunRequest { flow_text: FLOW.replace("run.command", "run.comand"), ..start(&place, "0", "") };
    let answer = sent(&serving, "/swath.v1.RunService/StartRun", &wrong, &[]).await;
    let details = answer.headers().contains_key("grpc-status-details-bin");
    let (messages, trailers) = read::<v1::StartRunResponse>(answer).await;
    assert!(messages.is_empty() && trailers["grpc-status"] == "3" && details, "{trailers:?}");
    // Native gRPC, on the same port, sees the same run.
    let mut runs = v1::run_service_client::RunServiceClient::new(serving.channel().await);
    let told = runs.get_run(v1::GetRunRequest { id }).await.unwrap().into_inner();
    assert_eq!(told.run.unwrap().state(), v1::RunState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_as_it_happens() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &[]);
    let answer = sent(&serving, "/swath.v1.RunService/StartRun", &start(&place, "600", ""), &[]).await;
    let (mut started, _) = read::<v1::StartRunResponse>(answer).await;
    let id = started.remove(0).run.unwrap().id;
    let mut answer = sent(&serving, "/swath.v1.RunService/WatchRun", &v1::WatchRunRequest { id, after: 0 }, &[]).await;
    let mut bytes = Vec::new();
    // The run does not end while this is read.
    loop {
        bytes.extend_from_slice(&answer.chunk().await.unwrap().expect("it goes on"));
        let events = frames(&bytes);
        assert!(events.iter().all(|(flags, _)| *flags == 0), "no trailers yet");
        let steps = events.iter().map(|(_, event)| v1::WatchRunResponse::decode(*event).unwrap().event.unwrap());
        if steps.filter(|event| event.kind == "started").any(|event| event.step == "wait") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_needs_a_token_that_reaches_far_enough() {
    let place = Place::new(FLOW);
    let reader = format!("Bearer {}", token(&place, "reader", &["--scope", "read"]));
    let runner = format!("Bearer {}", token(&place, "runner", &["--scope", "run"]));
    let serving = Serving::start(&place, &["--tokens"]);
    let code = async |path: &str, token: Option<&str>| {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let answer = sent(&serving, path, &start(&place, "0", ""), &headers).await;
        read::<v1::StartRunResponse>(answer).await.1["grpc-status"].clone()
    };
    let begin = "/swath.v1.RunService/StartRun";
    assert_eq!(code(begin, None).await, "16");
    assert_eq!(code(begin, Some("Bearer swath_x_y")).await, "16");
    assert_eq!(code(begin, Some(&reader)).await, "7");
    assert_eq!(code("/swath.v1.RunService/New", Some(&runner)).await, "7");
    assert_eq!(code(begin, Some(&runner)).await, "0");
    let answer = sent(&serving, LIST, &v1::ListRunsRequest::default(), &[("authorization", &reader)]).await;
    assert_eq!(read::<v1::ListRunsResponse>(answer).await.0[0].runs.len(), 1);
}

/// What a browser asks before it lets a page of `origin` ask.
async fn preflight(serving: &Serving, origin: &str) -> Response {
    let request = client().request(Method::OPTIONS, format!("http://{}{LIST}", serving.address));
    let request = request.header("origin", origin).header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,content-type,x-grpc-web").send().await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name)).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_came_over_tls_asks_over_tls_in_either_version_of_http() {
    let place = Place::new(FLOW);
    certificates(place.path());
    let serving = Serving::start(&place, &["--tls-cert", "server.pem", "--tls-key", "server.key"]);
    let root = Certificate::from_pem(&std::fs::read(place.path().join("root.pem")).unwrap()).unwrap();
    // It installs a provider of ciphers as well.
    drop(client());
    for (builder, version) in [(Client::builder().http1_only(), Version::HTTP_11), (Client::builder(), Version::HTTP_2)]
    {
        let client = builder.tls_certs_only([root.clone()]).build().unwrap();
        let request = client.post(format!("https://{}{LIST}", serving.address));
        let request = request.header("content-type", "application/grpc-web+proto");
        let request = request.header("origin", format!("https://{}", serving.address));
        let answer = request.body(framed(&v1::ListRunsRequest::default())).send().await.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 200));
        assert_eq!(read::<v1::ListRunsResponse>(answer).await.1["grpc-status"], "0");
    }
}

const ALLOWED: &str = "access-control-allow-origin";

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_ask_where_the_operator_lets_them() {
    let place = Place::new(FLOW);
    let nothing = v1::ListRunsRequest::default();
    let ask = async |serving: &Serving, origin: &str| sent(serving, LIST, &nothing, &[("origin", origin)]).await;
    // Nobody was let in: the server's own pages alone.
    let serving = Serving::start(&place, &[]);
    let own = format!("http://{}", serving.address);
    let answer = ask(&serving, &own).await;
    assert_eq!((answer.status().as_u16(), header(answer.headers(), ALLOWED)), (200, None));
    assert_eq!(read::<v1::ListRunsResponse>(answer).await.1["grpc-status"], "0");
    for origin in ["https://maps.example.com", "http://127.0.0.1:1", "null", ""] {
        let answer = ask(&serving, origin).await;
        assert_eq!((answer.status().as_u16(), header(answer.headers(), ALLOWED)), (403, None), "{origin}");
        let told = preflight(&serving, origin).await;
        assert!(!told.status().is_success() && header(told.headers(), ALLOWED).is_none(), "{origin}: {told:?}");
    }
    drop(serving);
    // A browser asks first without a token.
    let maps = "https://maps.example.com";
    let reader = format!("Bearer {}", token(&place, "reader", &["--scope", "read"]));
    let arguments = ["--tokens", "--web-origin", maps, "--web-origin", "http://localhost:5173"];
    let serving = Serving::start(&place, &arguments);
    for origin in [maps, "http://localhost:5173"] {
        let told = preflight(&serving, origin).await;
        let headers = told.headers();
        assert_eq!((told.status().as_u16(), header(headers, ALLOWED)), (200, Some(origin)));
        assert_eq!(header(headers, "access-control-allow-methods"), Some("POST"));
        let may_send = header(headers, "access-control-allow-headers").unwrap();
        assert!(["authorization", "content-type", "x-grpc-web"].iter().all(|name| may_send.contains(name)));
        assert_eq!(header(headers, "access-control-allow-credentials"), None);
        let answer = sent(&serving, LIST, &nothing, &[("origin", origin), ("authorization", &reader)]).await;
        assert_eq!(header(answer.headers(), ALLOWED), Some(origin));
        assert!(header(answer.headers(), "access-control-expose-headers").unwrap().contains("grpc-status"));
        assert_eq!(read::<v1::ListRunsResponse>(answer).await.1["grpc-status"], "0");
        // What is refused can be read by the page, too.
        let refused = sent(&serving, LIST, &nothing, &[("origin", origin)]).await;
        assert_eq!(header(refused.headers(), ALLOWED), Some(origin));
        assert_eq!(read::<v1::ListRunsResponse>(refused).await.1["grpc-status"], "16");
    }
    for origin in ["https://evil.example", "https://maps.example.com.evil.example", "http://maps.example.com"] {
        assert_eq!(header(preflight(&serving, origin).await.headers(), ALLOWED), None, "{origin}");
        let answer = sent(&serving, LIST, &nothing, &[("origin", origin), ("authorization", &reader)]).await;
        assert_eq!((answer.status().as_u16(), header(answer.headers(), ALLOWED)), (403, None), "{origin}");
    }
    for wrong in ["*", "maps.example.com", "https://maps.example.com/"] {
        let (code, _, told) = place.run(&["serve", "--web-origin", wrong]);
        assert!(code == Some(2) && told.contains("it is no origin"), "{told}");
    }
}
