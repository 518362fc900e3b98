//! Composites of files behind HTTP: what fails is tried again or told, and only the bytes asked for become pixels.

#[path = "support/stack.rs"]
mod stack;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stack::{Stack, message};
use swath_task::{Fault, TaskError};
use swath_testkit::http::{Reply, Request, Server};

/// A stack whose files lie behind `server`. Its list on this machine serves the oracle.
struct Remote {
    stack: Stack,
    server: Server,
    local: serde_json::Value,
}

impl Remote {
    /// Serves the files of `case` as `reply` makes answers of requests and contents.
    fn new(case: &'static str, reply: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> Self {
        let stack = Stack::new(case);
        let folder = stack.folder.path().to_owned();
        let server =
            Server::start(move |request| match std::fs::read(folder.join(request.path().trim_start_matches('/'))) {
                Ok(file) => reply(request, &file),
                Err(_) => Reply::status(404),
            });
        let local = stack.scenes();
        let mut scenes = local.clone();
        for scene in scenes["scenes"].as_array_mut().unwrap() {
            for asset in scene["assets"].as_object_mut().unwrap().values_mut() {
                let file = asset["href"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
                asset["href"] = server.url(&format!("/{file}?sig=SECRET")).into();
            }
        }
        stack.write(&scenes);
        Self { stack, server, local }
    }

    fn params(&self) -> serde_json::Value {
        match self.stack.case {
            "fmask" => serde_json::json!({ "bands": ["red"], "mask": { "asset": "qa", "clear": [0, 1] } }),
            _ => serde_json::json!({ "bands": ["B04", "B11"] }),
        }
    }

    /// The composite is what numpy makes of the files.
    fn agrees(self) {
        let (cog, ..) = self.stack.run(self.params()).unwrap();
        self.stack.write(&self.local);
        self.stack.agree(&cog);
    }

    fn fails(&self) -> TaskError {
        let error = self.stack.run(self.params()).unwrap_err();
        assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
        error
    }
}

/// First byte that a request asks for.
fn first(request: &Request) -> usize {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    range.expect("a range")
}

#[test]
fn a_server_that_fails_now_and_then_costs_time_and_no_pixel() {
    let asked = AtomicUsize::new(0);
    let flaky = move |request: &Request, file: &[u8]| match asked.fetch_add(1, Ordering::Relaxed) % 7 {
        6 => Reply::status(503),
        _ => Reply::ranged(request, file),
    };
    Remote::new("fmask", flaky).agrees();
}

#[test]
fn a_signing_service_that_fails_for_a_moment_costs_time_and_no_composite() {
    struct Flaky(AtomicUsize);
    impl swath_access::SignHref for Flaky {
        fn sign(&self, href: &str) -> Result<String, TaskError> {
            if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
                let asked = Some(Duration::from_millis(700));
                return Err(Fault::new("S104", "the token endpoint answered 503").transient(asked));
            }
            Ok(href.to_owned())
        }
    }
    swath_access::register_signing("flaky", Arc::new(Flaky(AtomicUsize::new(0))));
    let remote = Remote::new("fmask", Reply::ranged);
    let mut scenes = remote.stack.scenes();
    scenes["signing"] = serde_json::json!({ "custom": "flaky" });
    remote.stack.write(&scenes);
    remote.agrees();
}

/// Signs by a number that rises whenever a signature was refused.
#[derive(Default)]
struct Numbered(AtomicUsize);

impl swath_access::SignHref for Numbered {
    fn sign(&self, href: &str) -> Result<String, TaskError> {
        Ok(format!("{href}&n={}", self.0.load(Ordering::Relaxed)))
    }

    fn forget(&self, _: &str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_signature_that_expires_while_a_file_is_read_is_renewed() {
    for (name, lifetime) in [("long", 9), ("none", 0)] {
        swath_access::register_signing(name, Arc::new(Numbered::default()));
        // Each signature is good for some requests, and after three other failures too.
        let asked = AtomicUsize::new(0);
        let remote = Remote::new("raw", move |request, file| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let signature = request.query().rsplit('=').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
            match number {
                2..5 => Reply::status(503),
                _ if lifetime == 0 || number / lifetime > signature + 1 => Reply::status(403),
                _ => Reply::ranged(request, file),
            }
        });
        let mut scenes = remote.stack.scenes();
        scenes["signing"] = serde_json::json!({ "custom": name });
        remote.stack.write(&scenes);
        if lifetime > 0 {
            remote.agrees();
        } else {
            let error = remote.fails();
            assert!(matches!(&error, TaskError::Transient { .. }) && message(&error).0 == "S105", "{error:?}");
        }
    }
}

#[test]
fn what_a_server_once_mixed_up_is_asked_for_again() {
    type Wrong = fn(&Request, &[u8]) -> Reply;
    let cases: [(&str, Wrong); 5] = [
        // Another part, honestly told.
        ("range", |request, file| {
            let (from, end) = (first(request) + 100, (first(request) + 65_636).min(file.len()));
            let range = format!("bytes {from}-{}/{}", end - 1, file.len());
            Reply::status(206).header("Content-Range", &range).body(&file[from..end])
        }),
        ("zeros", |request, file| Reply::ranged(request, &vec![0; file.len()])),
        ("short", |request, file| {
            let (from, end) = (first(request), (first(request) + 65_536).min(file.len()));
            let range = format!("bytes {from}-{}/{}", end - 1, file.len());
            Reply::status(206).header("Content-Range", &range).body(&file[from..(from + end) / 2])
        }),
        ("untold", |request, file| Reply::status(206).body(&file[first(request)..])),
        ("cut", |request, file| Reply::ranged(request, file).cut_after(1000)),
    ];
    for (case, wrong) in cases {
        eprintln!("{case}");
        // Each later part of a file comes wrong the first time. The pixels are not compressed: all bytes are pixels.
        let asked = std::sync::Mutex::new(BTreeSet::new());
        let remote = Remote::new("raw", move |request, file| {
            let part = (request.target.clone(), first(request));
            let early = first(request) == 0 || !request.path().starts_with("/0_");
            match !early && asked.lock().unwrap().insert(part) {
                true => wrong(request, file),
                false => Reply::ranged(request, file),
            }
        });
        remote.agrees();
    }
}

#[test]
fn what_will_not_pass_is_told_at_once() {
    type Wrong = fn(&Request, &[u8]) -> Reply;
    let cases: [(&str, Wrong); 10] = [
        ("S116", |_, file| Reply::content("image/tiff", file)),
        ("S110", |_, _| Reply::content("text/html; charset=utf-8", "<html>sign in</html>")),
        ("S108", |request, _| Reply::redirect(302, &request.target)),
        ("S106", |_, _| Reply::status(404)),
        ("S118", |_, _| Reply::status(416).header("Content-Range", "bytes */0")),
        ("S107", |_, _| Reply::status(400)),
        ("S105", |_, _| Reply::status(403)),
        ("S116", |request, file| Reply::ranged(request, file).header("Content-Encoding", "gzip")),
        ("S116", |_, file| Reply::status(206).header("Content-Range", "bytes 0-9/*").body(&file[..10])),
        ("S118", |_, _| Reply::status(206).header("Content-Range", "bytes 0-0/0")),
    ];
    for (code, wrong) in cases {
        let remote = Remote::new("fmask", wrong);
        let started = Instant::now();
        let error = remote.fails();
        assert!(matches!(error, TaskError::Permanent(_)), "{error:?}");
        let (told, text) = message(&error);
        assert!(told == code && text.contains(".tif"), "{code}: {error:?}");
        // Who tries again as after what may pass pauses for more than 20 seconds in all.
        assert!(started.elapsed() < Duration::from_secs(15), "{code}: {:?}", started.elapsed());
    }
}

#[test]
fn a_silent_server_does_not_hold_up_a_step_that_is_told_to_stop() {
    let remote = Remote::new("fmask", |request, file| match first(request) {
        _ if request.path().contains("1_red") => Reply::hang(),
        _ => Reply::ranged(request, file),
    });
    let started = Instant::now();
    let stopped = remote.stack.run_for(Duration::from_secs(1), remote.params());
    assert!(matches!(stopped, Err(TaskError::Cancelled)), "{stopped:?}");
    // Whoever waits for the server waits for half a minute at least.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_file_that_is_replaced_while_it_is_read_never_becomes_pixels() {
    let (asked, after) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(usize::MAX)));
    let limit = after.clone();
    let remote = Remote::new("shared", move |request, file| {
        let first = asked.fetch_add(1, Ordering::Relaxed) < limit.load(Ordering::Relaxed);
        Reply::ranged(request, file).header("ETag", if first { "\"first\"" } else { "\"second\"" })
    });
    remote.stack.run(remote.params()).unwrap();
    // Which parts of 64 KiB were sent: what is asked for twice, and what together, depends on who else reads meanwhile.
    let parts = |requests: &[Request]| -> BTreeSet<(String, usize)> {
        let of = |request: &Request| {
            let last = request.header("range").and_then(|range| range.split('-').next_back()?.parse::<usize>().ok());
            let target = request.target.clone();
            ((first(request) >> 16)..=(last.expect("a range") >> 16)).map(move |part| (target.clone(), part))
        };
        requests.iter().flat_map(of).collect()
    };
    let first_run = remote.server.requests();
    let needed = first_run.len();
    // Replaced after it was opened and before all of it was read.
    after.store(needed + needed * 2 / 3, Ordering::Relaxed);
    let error = remote.fails();
    assert!(matches!(error, TaskError::Transient { .. }), "{error:?}");
    let (code, text) = message(&error);
    assert_eq!(code, "R114");
    assert!(text.contains("changed while it was read: its entity tag was `\"first\"` and is `\"second\"`"), "{text}");
    // The next attempt reads the new files from the server, whatever this process had kept of the old ones.
    let before = remote.server.requests().len();
    remote.stack.run(remote.params()).unwrap();
    let (needed, again) = (parts(&first_run), parts(&remote.server.requests()[before..]));
    assert!(needed.intersection(&again).count() * 10 >= needed.len() * 9, "{needed:?}, and then {again:?}");
}
