//! Every way a server can fail to answer ends soon, in bounded memory, with a code and the address, and says whether
//! trying again can help.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use swath_access::{Client, Limits, MAXIMUM_RETRY_AFTER, Request};
use swath_task::{Bytes, Fault, TaskError};
use swath_testkit::closed::Closed;
use swath_testkit::http::{Reply, Server};

/// What is read and followed at most. Time is no matter.
fn limits() -> Limits {
    let long = Duration::from_secs(60);
    Limits {
        connect: long,
        first_byte: long,
        idle: long,
        total: long,
        body: Bytes(1 << 20),
        redirects: 4,
        ..Limits::default()
    }
}

fn client() -> Client {
    Client::new(limits()).unwrap()
}

/// For servers that keep others waiting.
fn impatient() -> Client {
    Client::new(Limits {
        first_byte: Duration::from_millis(300),
        idle: Duration::from_millis(400),
        total: Duration::from_millis(1200),
        ..limits()
    })
    .unwrap()
}

/// The failure of `GET`, whether it may pass, and the pause asked for.
async fn failure(reply: Reply) -> (Fault, bool, Option<Duration>) {
    failure_of(&client(), reply).await
}

async fn failure_of(client: &Client, reply: Reply) -> (Fault, bool, Option<Duration>) {
    let server = Server::start(move |_| reply.clone());
    let started = Instant::now();
    let request = Request::get(&server.url("/page?sig=SECRET")).unwrap();
    let error = match client.fetch(request).await {
        Ok(body) => body.json::<serde_json::Value>().unwrap_err(),
        Err(error) => error,
    };
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let (fault, transient, pause) = match error {
        TaskError::Transient { fault, retry_after } => (fault, true, retry_after),
        TaskError::Permanent(fault) => (fault, false, None),
        TaskError::Cancelled => panic!("cancelled"),
    };
    assert!(!format!("{fault:?}").contains("SECRET"), "{fault}");
    assert!(fault.message.contains("/page"), "the place is told: {fault}");
    (fault, transient, pause)
}

#[tokio::test]
async fn each_failure_has_its_code_and_class() {
    let whole = br#"{"type": "FeatureCollection", "features": []}"#.to_vec();
    for (reply, code, transient) in [
        (Reply::close(), "S101", true),
        (Reply::content("application/json", whole.clone()).cut_after(20), "S101", true),
        (Reply::hang(), "S102", true),
        (Reply::content("application/json", whole.clone()).stall_after(20), "S102", true),
        (Reply::content("application/json", vec![b' '; 500]).drip(Duration::from_millis(100)), "S102", true),
        (Reply::status(429), "S103", true),
        (Reply::status(500), "S104", true),
        (Reply::status(503).body("down for maintenance"), "S104", true),
        (Reply::status(408), "S104", true),
        (Reply::status(401), "S105", false),
        (Reply::status(403).body("Signature not valid in the specified time frame"), "S105", false),
        (Reply::status(404), "S106", false),
        (Reply::status(400).body(r#"{"code": "BadRequest"}"#), "S107", false),
        (Reply::status(501), "S107", false),
        (Reply::redirect(302, "/page?sig=SECRET"), "S108", false),
        (Reply::redirect(302, "ftp://elsewhere/x"), "S108", false),
        (Reply::content("application/json", vec![b' '; 2 << 20]), "S109", false),
        (Reply::gzip_bomb(), "S109", false),
        (Reply::content("text/html", "<!DOCTYPE html><title>Log in</title>"), "S110", false),
        (Reply::content("application/json", "hello"), "S110", false),
        (Reply::content("application/json", &whole[..30]), "S111", true),
        (Reply::content("application/json", ""), "S111", true),
    ] {
        let shown = format!("{reply:?}").chars().take(120).collect::<String>();
        let client = if code == "S102" { impatient() } else { client() };
        let (fault, may_pass, _) = failure_of(&client, reply).await;
        assert_eq!((fault.code.as_ref(), may_pass), (code, transient), "{shown}: {fault}");
    }
}

#[tokio::test]
async fn the_pause_a_server_asks_for_is_kept_within_reason() {
    let of = |pause: &str| Reply::status(429).header("Retry-After", pause);
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(600);
    let date = ahead.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (reply, low, high) in [
        (of("7"), Some(7), Some(7)),
        (of(&date), Some(500), Some(600)),
        (of("315360000"), Some(MAXIMUM_RETRY_AFTER.as_secs()), Some(MAXIMUM_RETRY_AFTER.as_secs())),
        (of("soon"), None, None),
        (Reply::status(429), None, None),
        (Reply::status(503).header("Retry-After", "3"), Some(3), Some(3)),
    ] {
        let (_, transient, pause) = failure(reply).await;
        let seconds = pause.map(|pause| pause.as_secs());
        assert!(transient && seconds >= low && seconds <= high, "{pause:?} for {low:?} to {high:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_may_come_back() {
    let down = Closed::take();
    let request = Request::get(&format!("http://{}/x", down.address())).unwrap();
    let error = client().fetch(request).await.unwrap_err();
    assert!(matches!(&error, TaskError::Transient { fault, .. } if fault.code == "S101"), "{error}");
}

#[tokio::test]
async fn what_the_server_said_is_told_in_one_short_line() {
    let (fault, ..) = failure(Reply::status(400).body(format!("bad\n\u{7}  bbox {}", "x".repeat(5000)))).await;
    assert!(fault.message.contains("bad bbox xxx") && fault.message.len() < 300, "{fault}");
    let (fault, ..) = failure(Reply::status(502).body("<html>nginx</html>")).await;
    assert!(!fault.message.contains("html"), "{fault}");
}

#[tokio::test]
async fn keys_do_not_follow_a_redirect_to_another_origin() {
    let other = Server::start(|_| Reply::json(&serde_json::json!({})));
    let elsewhere = other.url("/there");
    let server = Server::start(move |request| match request.path() {
        "/a" => Reply::redirect(307, "/b"),
        "/b" => Reply::redirect(307, &elsewhere),
        _ => Reply::status(404),
    });
    let request = Request::post(&server.url("/a"), &serde_json::json!({"limit": 1})).unwrap();
    let request = request.header("X-API-Key", "SECRET").unwrap().header("Range", "bytes=0-0").unwrap();
    client().fetch(request).await.unwrap();
    assert!(server.requests().iter().all(|request| request.header("x-api-key") == Some("SECRET")));
    let there = &other.requests()[0];
    assert_eq!((there.method.as_str(), there.header("x-api-key")), ("POST", None));
    assert_eq!(there.header("range"), Some("bytes=0-0"), "what is asked for goes along");
    assert_eq!(there.json()["limit"], 1, "307 keeps method and body");
}

#[tokio::test]
async fn a_file_is_put_whole_also_after_a_redirect() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
    let path = std::env::temp_dir().join(format!("swath-access-put-{}", std::process::id()));
    std::fs::write(&path, &content).unwrap();
    let server = Server::start(|request| match request.path() {
        "/a" => Reply::redirect(307, "/b"),
        _ => Reply::json(&serde_json::json!({})),
    });
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let request = Request::put(&server.url("/a"), file, content.len() as u64).unwrap();
    client().fetch(request.clone()).await.unwrap();
    client().fetch(request).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        assert_eq!((request.method.as_str(), request.header("content-length")), ("PUT", Some("3000000")));
        assert!(request.body == content, "{}", request.path());
    }
}

#[tokio::test]
async fn a_bomb_is_stopped_long_before_it_is_unpacked() {
    let bomb = Reply::gzip_bomb();
    let server = Server::start(move |_| bomb.clone());
    let error = client().fetch(Request::get(&server.url("/")).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("S109"), "{error}");
    // Socket buffers hold a few megabytes of the compressed stream at most.
    assert!(server.bytes_sent() < 64 << 20, "{}", server.bytes_sent());
}

#[test]
fn what_is_no_http_address_is_refused() {
    for address in ["s3://bucket/x", "/data/x", "https://", "nonsense"] {
        let error = Request::get(address).unwrap_err();
        assert!(error.to_string().contains("S113"), "{address}: {error}");
    }
}

mod signing {
    use super::*;
    use swath_access::Signer;
    use swath_kinds::Signing;

    const HREF: &str = "https://acc.blob.core.windows.net/con/a/b.tif";

    /// A token endpoint whose tokens live `life` seconds and are numbered.
    fn tokens(life: i64) -> (Server, Signer) {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| {
            std::thread::sleep(Duration::from_millis(50));
            let expiry = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(life);
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            Reply::json(&serde_json::json!({"msft:expiry": expiry.to_string(), "token": format!("sv=1&sig={number}")}))
        });
        let signing = Signing::PlanetaryComputer { endpoint: server.url("/api/sas/v1/") };
        let signer = Signer::new(&signing).unwrap();
        (server, signer)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_token_serves_all_who_ask_for_a_container() {
        let (server, signer) = tokens(3600);
        let asked = futures::future::join_all((0..16).map(|_| signer.sign(HREF))).await;
        assert!(asked.iter().all(|href| href.as_ref().unwrap() == &format!("{HREF}?sv=1&sig=1")), "{asked:?}");
        let from_threads = tokio::task::spawn_blocking({
            let signer = signer.clone();
            move || {
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..4)
                        .map(|_| scope.spawn(|| signer.sign_blocking("https://acc.blob.core.windows.net/other/x.tif")))
                        .collect();
                    threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
                })
            }
        });
        assert!(from_threads.await.unwrap().iter().all(|href| href.ends_with("other/x.tif?sv=1&sig=2")));
        let paths: Vec<String> = server.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(paths, ["/api/sas/v1/token/acc/con", "/api/sas/v1/token/acc/other"]);
    }

    #[test]
    fn threads_without_a_runtime_are_served_too() {
        let (_server, signer) = tokens(3600);
        assert_eq!(signer.sign_blocking(HREF).unwrap(), format!("{HREF}?sv=1&sig=1"));
        assert_eq!(signer.sign_blocking(HREF).unwrap(), format!("{HREF}?sv=1&sig=1"));
    }

    #[tokio::test]
    async fn a_token_is_renewed_before_it_ends_and_when_it_is_refused() {
        let (_server, signer) = tokens(2);
        assert!(signer.sign(HREF).await.unwrap().ends_with("sig=1"));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(signer.sign(HREF).await.unwrap().ends_with("sig=2"), "half of a short life is over");
        signer.forget(HREF);
        assert!(signer.sign(HREF).await.unwrap().ends_with("sig=3"));
    }

    #[tokio::test]
    async fn what_needs_no_signature_is_left_alone() {
        let (server, signer) = tokens(3600);
        for href in [
            "/data/B02.tif",
            "s3://bucket/B02.tif",
            "https://elsewhere.example/B02.tif",
            "https://acc.blob.core.windows.net/con/x.tif?sv=1&sig=MINE",
            "https://ai4edatasetspublicassets.blob.core.windows.net/assets/x.png",
        ] {
            assert_eq!(signer.sign(href).await.unwrap(), href);
            assert_eq!(Signer::new(&Signing::None).unwrap().sign_blocking(href).unwrap(), href);
        }
        assert!(server.requests().is_empty());
    }

    #[tokio::test]
    async fn a_token_endpoint_that_fails_is_told() {
        for (reply, code) in [
            (Reply::status(503), "S104"),
            (Reply::status(403), "S105"),
            (Reply::json(&serde_json::json!({"token": "x"})), "S110"),
            (Reply::json(&serde_json::json!({"token": "x", "msft:expiry": "2001-01-01T00:00:00Z"})), "S112"),
            (Reply::content("text/html", "<html>"), "S110"),
        ] {
            let server = Server::start(move |_| reply.clone());
            let signer = Signer::new(&Signing::PlanetaryComputer { endpoint: server.url("") }).unwrap();
            let error = signer.sign(HREF).await.unwrap_err();
            assert!(error.to_string().contains(code), "{code}: {error}");
            let error = tokio::task::spawn_blocking(move || signer.sign_blocking(HREF)).await.unwrap().unwrap_err();
            assert!(error.to_string().contains(code), "{code}: {error}");
        }
    }

    #[tokio::test]
    async fn a_binary_brings_its_own_signing_by_name() {
        struct Append;
        impl swath_access::SignHref for Append {
            fn sign(&self, href: &str) -> Result<String, TaskError> {
                Ok(format!("{href}?key=1"))
            }
        }
        swath_access::register_signing("append", std::sync::Arc::new(Append));
        let signer = Signer::new(&Signing::Custom("append".into())).unwrap();
        assert_eq!(signer.sign("https://x/y.tif").await.unwrap(), "https://x/y.tif?key=1");
        assert_eq!(signer.sign_blocking("https://x/y.tif").unwrap(), "https://x/y.tif?key=1");
        let error = Signer::new(&Signing::Custom("apend".into())).unwrap_err();
        assert!(error.to_string().contains("`apend`") && error.to_string().contains("S115"), "{error}");
    }
}
