//! Clients that mean no good: what they open is closed, and takes no room from those who ask.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use swath_control::v1;
use swath_control::v1::system_service_client::SystemServiceClient;
use tonic::Request;

use crate::access::{certificates, token};
use crate::common::Place;
use crate::serve::{FLOW, Serving};

/// A client says this and no more.
fn says(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may have been closed already.
    let _ = stream.write_all(bytes);
    stream
}

/// Reads until the server closes.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

/// Asks over a connection that stays, and reads the head of the answer.
fn asks(stream: &mut TcpStream, path: &str, token: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) {
            return Ok(head.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_are_closed_and_take_no_room_from_those_who_ask() {
    let place = Place::new(FLOW);
    let token = token(&place, "canary", &["--scope", "read"]);
    let serving = Serving::start(&place, &["--tokens", "--patience", "3s", "--max-strangers", "100"]);
    let info = |channel| {
        let mut request = Request::new(v1::GetInfoRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        async move { SystemServiceClient::new(channel).get_info(request).await }
    };
    let early = serving.channel().await;
    info(early.clone()).await.unwrap();
    let mut kept = says(&serving.address, b"");
    assert!(asks(&mut kept, "/metrics", &token).unwrap().contains("200"));

    let begun = Instant::now();
    let mut hostile = Vec::new();
    for _ in 0..100 {
        hostile
            .push(says(&serving.address, b"POST /swath.v1.RunService/StartRun HTTP/1.1\r\nHost: 127.0.0.1\r\nConte"));
        hostile.push(says(&serving.address, b""));
        // HTTP/2 begins, with empty settings, and nothing is asked for.
        hostile.push(says(&serving.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"));
        info(early.clone()).await.unwrap();
    }
    // While all seats of strangers are taken, one more comes in.
    info(serving.channel().await).await.unwrap();
    for stream in &mut hostile {
        assert!(is_closed(stream), "after {:?}", begun.elapsed());
    }
    info(early).await.unwrap();
    // Whoever was let in may be silent for as long as that.
    while begun.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(asks(&mut kept, "/metrics", &token).unwrap().contains("200"));
}

#[test]
fn three_hundred_half_sent_requests_are_closed_in_time_where_there_is_room_for_them() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &["--patience", "2s", "--max-strangers", "400"]);
    let half = b"POST /swath.v1.RunService/StartRun HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: appl";
    let mut hostile: Vec<TcpStream> = (0..300).map(|_| says(&serving.address, half)).collect();
    let mut canary = says(&serving.address, b"");
    assert!(asks(&mut canary, "/healthz", "").unwrap().contains("200"));
    assert!(hostile.iter_mut().all(is_closed));
    assert!(asks(&mut canary, "/healthz", "").unwrap().contains("200"));
}

#[test]
fn one_connection_more_than_there_is_room_for_is_closed_and_room_comes_back() {
    let place = Place::new(FLOW);
    let serving = Serving::start(&place, &["--max-connections", "8"]);
    let mut known = Vec::new();
    for _ in 0..8 {
        let mut stream = says(&serving.address, b"");
        assert!(asks(&mut stream, "/healthz", "").unwrap().contains("200"));
        known.push(stream);
    }
    assert!(is_closed(&mut says(&serving.address, b"")));
    assert!(asks(&mut known[0], "/healthz", "").unwrap().contains("200"), "who is there stays");
    known.pop();
    let deadline = Instant::now() + Duration::from_secs(20);
    while asks(&mut says(&serving.address, b""), "/healthz", "").is_err() {
        assert!(Instant::now() < deadline, "the seat is free");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_closed() {
    let place = Place::new(FLOW);
    certificates(place.path());
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--patience", "2s"];
    let serving = Serving::start(&place, &tls);
    // The first bytes of a record that never comes.
    let mut hostile: Vec<TcpStream> =
        (0..20).map(|_| says(&serving.address, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])).collect();
    assert!(hostile.iter_mut().all(is_closed));
    let url = format!("https://{}", serving.address);
    let output = place.swath(&["run", "flow.yaml", "--server", &url]).env("SWATH_TLS_CA", "root.pem").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
