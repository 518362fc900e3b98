//! Messages between this server and others: signed as Standard Webhooks has it, good once and for a while, both ways.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;

use crate::common::Place;
use crate::deployments::{SCAN, done, lines, post, states, until, with_deployment};
use crate::serve::Serving;

const SECRET: &str = "open sesame";

/// The signature of a message, as `openssl` makes it.
fn signed(id: &str, time: i64, body: &str) -> String {
    let script = r#"printf %s "$0" | openssl dgst -sha256 -hmac "$1" -binary | base64"#;
    let signing = Command::new("sh").args(["-c", script, &format!("{id}.{time}.{body}"), SECRET]).output().unwrap();
    format!("v1,{}", String::from_utf8(signing.stdout).unwrap().trim())
}

fn headers(id: &str, time: i64, signature: &str) -> String {
    format!("Webhook-Id: {id}\r\nWebhook-Timestamp: {time}\r\nWebhook-Signature: {signature}\r\n")
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[test]
fn a_message_starts_one_run_however_often_it_is_sent_and_not_under_another_id_or_much_later() {
    let place = Place::new(&with_deployment("{ triggers: [{ webhook: SCAN_SECRET }], while_running: allow }"));
    done(&place, &["deploy", "flow.yaml"]);
    let serving = Serving::start_with(&place, &[], &[("SCAN_SECRET", SECRET)]);
    let body = "{\"found\": 1}";
    let ask = |headers: &str| {
        let answer = post(&serving.address, "/hooks/scan", body, headers);
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let time = now();
    let good = signed("msg_1", time, body);
    for _ in 0..2 {
        assert_eq!(ask(&headers("msg_1", time, &good)), 202);
    }
    assert_eq!(ask(&headers("msg_1", time, &format!("v1,AAAA {good}"))), 202, "one of several keys");
    let (early, late) = (now() + 600, now() - 600);
    for (what, headers) in [
        ("another id", headers("msg_2", time, &good)),
        ("another time", headers("msg_1", time + 1, &good)),
        ("what was taken down long ago", headers("msg_3", late, &signed("msg_3", late, body))),
        ("what is not yet", headers("msg_3", early, &signed("msg_3", early, body))),
        ("no id", format!("Webhook-Timestamp: {time}\r\nWebhook-Signature: {good}\r\n")),
        ("an id that is too long", headers(&"m".repeat(201), time, &signed(&"m".repeat(201), time, body))),
        // The better signature counts where there are two.
        (
            "a body as GitHub signs it beside",
            format!("{}X-Hub-Signature-256: sha256=00\r\n", headers("msg_2", time, &good)),
        ),
    ] {
        assert_eq!(ask(&headers), 401, "{what}");
    }
    assert_eq!(ask(&headers("msg_2", time, &signed("msg_2", time, body))), 202);
    until("both runs", || states(&place, "scan") == ["completed"; 2]);
    assert_eq!(lines(&place, "ledger").len(), 2);
}

#[test]
fn the_command_that_prints_a_secret_is_not_run_for_each_request() {
    let place = Place::new(&with_deployment("{ triggers: [{ webhook: SCAN_SECRET }], while_running: allow }"));
    done(&place, &["deploy", "flow.yaml"]);
    let command = format!("echo once >> asked; echo '{SECRET}'");
    let serving = Serving::start_with(&place, &[], &[("SCAN_SECRET_COMMAND", &command)]);
    let ask = |headers: &str| post(&serving.address, "/hooks/scan", "{}", headers);
    for _ in 0..5 {
        assert!(ask("").starts_with("HTTP/1.1 401"));
    }
    assert!(lines(&place, "asked").is_empty(), "nobody said that he has it");
    std::thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || {
                let (id, time) = (format!("msg_{number}"), now());
                let good = headers(&id, time, &signed(&id, time, "{}"));
                assert!(ask(&headers(&id, time, "v1,AAAA")).starts_with("HTTP/1.1 401"));
                assert!(ask(&good).starts_with("HTTP/1.1 202"));
            });
        }
    });
    assert_eq!(lines(&place, "asked"), ["once"]);
}

/// One request to a listener, and what it is answered.
fn heard(listener: &TcpListener, answer: &str) -> (BTreeMap<String, String>, String) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    (headers, String::from_utf8(body).unwrap())
}

#[test]
fn a_hook_is_told_by_signed_requests_of_one_id_until_it_hears() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/told", listener.local_addr().unwrap());
    let place = Place::new(&SCAN.replace(
        "params:\n",
        &format!("deployment: {{ hooks: [{{ on: [completed], url: '{url}', secret: HOOK_SECRET }}] }}\nparams:\n"),
    ));
    done(&place, &["deploy", "flow.yaml"]);
    let _serving = Serving::start_with(&place, &[], &[("HOOK_SECRET", SECRET)]);
    done(&place, &["deployments", "trigger", "scan"]);
    let told = ["503 Service Unavailable", "204 No Content"].map(|answer| heard(&listener, answer));
    for (headers, body) in &told {
        let (id, time) = (&headers["webhook-id"], headers["webhook-timestamp"].parse().unwrap());
        assert_eq!(headers["webhook-signature"], signed(id, time, body));
        assert!((now() - time).abs() < 300);
        assert!(body.contains("\"happening\":\"completed\""), "{body}");
    }
    assert_eq!((&told[0].0["webhook-id"], &told[0].1), (&told[1].0["webhook-id"], &told[1].1));
    let (first, again) = (&told[0].0["webhook-timestamp"], &told[1].0["webhook-timestamp"]);
    assert_ne!(first, again, "each try has a time of its own");
}
