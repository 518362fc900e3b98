//! What is refused, and what a server does wrong: it is away, slow or another one, its model is not that of the manifest or is
//! exchanged, its answers are wrong. Each is told by its code, and whether it may pass.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_infer::Segment;
use swath_task::Task;
use swath_testkit::closed::Closed;
use swath_testkit::triton::Triton;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::servers::{ONE, TRAINED, TRITON, counts, fault, on, served};
use crate::support::{Bench, input};

#[tokio::test]
async fn what_is_served_is_held_against_the_manifest_before_any_tile() {
    let bench = Bench::new();
    for (served, code, words) in [
        ("gone", "M121", "`gone`"),
        ("other_name", "M122", "its output is called `y`, not `logits`"),
        ("other_type", "M122", "its output `logits` is of type FP64, not FP32"),
        ("other_channels", "M122", "its input `image` has shape [-1, 4, -1, -1]"),
        ("other_size", "M122", "its input `image` has shape [-1, 1, 100, 100]"),
        ("two_outputs", "M122", "it has 2 outputs (`logits`, `more`), not one"),
        ("other_digest", "M122", "its network has the digest `blake3:00`"),
    ] {
        let model = bench.model("identity", |m| m["name"] = json!(served));
        for url in [TRITON.grpc(), TRITON.http()] {
            let (fault, transient) = fault(&bench, on(&url, &model, json!({ "overlap": 16 })), "one").await;
            assert!(fault.code == code && fault.message.contains(words) && !transient, "{served}: {fault}");
            assert!(fault.message.contains(&url) && fault.help.is_some(), "{fault}");
        }
    }
    let later = bench.model("identity", |m| m["version"] = json!(4));
    for url in [TRITON.grpc(), TRITON.http()] {
        let (fault, _) = fault(&bench, on(&url, &later, json!({ "overlap": 16 })), "one").await;
        assert!(fault.code == "M121" && fault.message.contains("has version 3 of `identity`"), "{fault}");
        assert!(fault.message.contains("of version 4"), "{fault}");
    }
    let model = bench.model("identity", |_| {});
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16, "batch": 5 })), "one").await;
    assert!(told.code == "M115" && told.message.contains("takes 4 tiles at once, not 5"), "{told}");
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "unnamed").await;
    assert_eq!(told.code, "M108");
    // Where the network lies beside the manifest it must be the one told of; where it does not, the server's counts.
    std::fs::write(model.join("1/model.onnx"), std::fs::read(input("sqrt.onnx")).unwrap()).unwrap();
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await;
    assert_eq!(told.code, "M103");
    std::fs::remove_file(model.join("1/model.onnx")).unwrap();
    bench.run(on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await.unwrap();
    std::fs::remove_file(model.join("manifest.json")).unwrap();
    let (told, _) = fault(&bench, on(&TRITON.grpc(), &model, json!({ "overlap": 16 })), "one").await;
    assert_eq!(told.code, "M101");
}

#[tokio::test]
async fn a_wrong_answer_a_failure_and_a_late_answer_are_told_apart() {
    let bench = Bench::new();
    for (served, patience, code, words, may_pass) in [
        ("half", 60, "M123", "`logits` has shape [1, 1, 32, 64], not [1, 1, 64, 64]", false),
        ("breaks", 60, "M125", "out of memory, so to say", false),
        ("slow", 5, "M124", "no answer within 5 s", true),
    ] {
        let model = bench.model("identity", |m| m["name"] = json!(served));
        for url in [TRITON.grpc(), TRITON.http()] {
            let with = json!({ "overlap": 16, "batch": 1, "triton": { "request_timeout": patience, "requests": 2 } });
            let (fault, transient) = fault(&bench, on(&url, &model, with), "one").await;
            assert!(fault.code == code && fault.message.contains(words), "{served}: {fault}");
            assert_eq!(transient, may_pass, "{fault}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for_and_then_told() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let closed = Closed::take();
    for scheme in ["grpc", "http"] {
        let url = format!("{scheme}://{}", closed.address());
        let with = json!({ "overlap": 16, "triton": { "patience": 1 } });
        let (fault, transient) = fault(&bench, on(&url, &model, with), "one").await;
        assert!(fault.code == "M120" && transient, "{fault}");
        assert!(fault.message.contains(&url) && fault.message.contains("asked "), "{fault}");
        let help = fault.help.unwrap();
        assert!(help.contains("grpc://host:8001") && help.contains("http://host:8000"), "{help}");
        // The next address is taken where the first is closed.
        let both = format!("{url}, {}", TRITON.http());
        bench.run(on(&both, &model, json!({ "overlap": 16 })), "one").await.unwrap();
    }
    // The wrong port of the right server, either way round.
    for url in [TRITON.http().replace("http:", "grpc:"), TRITON.grpc().replace("grpc:", "http:")] {
        let with = json!({ "overlap": 16, "triton": { "patience": 0 } });
        let (fault, _) = fault(&bench, on(&url, &model, with), "one").await;
        assert!(fault.code.starts_with("M12") && fault.message.contains(&url), "{fault}");
        let help = fault.help.unwrap();
        assert!(help.contains("grpc://host:8001") && help.contains("http://host:8000"), "{help}");
    }
}

#[tokio::test]
async fn what_is_no_model_server_is_told_without_its_pages() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let page = "<!doctype html><title>404 Not Found</title>";
    for (status, body) in [("404 Not Found", page), ("200 OK", page), ("302 Found", ""), ("405 Method Not Allowed", "")]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let server = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (mut asked, mut part) = (Vec::new(), [0; 1024]);
                while !asked.ends_with(b"\r\n\r\n") {
                    let read = socket.read(&mut part).await.unwrap();
                    asked.extend_from_slice(&part[..read]);
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let (fault, transient) = fault(&bench, on(&url, &model, json!({ "overlap": 16 })), "one").await;
        server.abort();
        assert!(fault.code == "M126" && !transient && fault.message.contains("KServe"), "{status}: {fault}");
        assert!(fault.message.contains(&url) && !fault.message.contains('<'), "{fault}");
        let help = fault.help.unwrap();
        assert!(help.contains("port 8000") && help.contains("port 8001"), "{help}");
    }
}

/// A port at which nobody takes up connections: what one finds of a machine that is off, or behind a firewall.
async fn silent() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>, std::net::SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(500), connecting).await {
            Ok(connection) => waiting.push(connection.unwrap()),
            Err(_) => return (listener, waiting, address),
        }
    }
    panic!("{} connections were taken up", waiting.len());
}

#[tokio::test]
async fn a_machine_that_says_nothing_at_all_is_away_and_not_slow() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    let (_listener, _waiting, address) = silent().await;
    for scheme in ["grpc", "http"] {
        let with = json!({ "overlap": 16, "triton": { "patience": 2, "request_timeout": 2 } });
        let (fault, transient) = fault(&bench, on(&format!("{scheme}://{address}"), &model, with), "one").await;
        assert!(fault.code == "M120" && transient && fault.message.contains("(asked "), "{scheme}: {fault}");
    }
}

#[tokio::test]
async fn a_server_that_says_that_it_is_not_ready_is_waited_for() {
    let bench = Bench::new();
    let (folder, network) = (tempfile::tempdir().unwrap(), input("identity.onnx"));
    served("identity", &network, ONE, "max_batch_size: 4").write(folder.path());
    let triton = Triton::start(folder.path(), &["--model-control-mode=explicit", "--load-model=identity"]);
    let model = bench.model("identity", |_| {});
    // With a model that it was told to load and cannot, the server as a whole is not ready.
    let broken = triton.repository().join("broken");
    std::fs::create_dir_all(broken.join("3")).unwrap();
    std::fs::write(broken.join("3/model.py"), "raise RuntimeError('no such network')").unwrap();
    std::fs::copy(triton.repository().join("identity/config.pbtxt"), broken.join("config.pbtxt")).unwrap();
    let config = std::fs::read_to_string(broken.join("config.pbtxt")).unwrap().replace("\"identity\"", "\"broken\"");
    std::fs::write(broken.join("config.pbtxt"), config).unwrap();
    let told = triton.post("/v2/repository/models/broken/load", "{}");
    assert!(!told.0.contains(" 200 "), "{told:?}");
    for url in [triton.grpc(), triton.http()] {
        let with = json!({ "overlap": 16, "triton": { "patience": 1 } });
        let (fault, transient) = fault(&bench, on(&url, &model, with), "one").await;
        assert!(fault.code == "M120" && transient && fault.message.contains("not ready"), "{url}: {fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_exchanged_or_taken_away_meanwhile_is_noticed() {
    let bench = Bench::new();
    let (folder, network) = (tempfile::tempdir().unwrap(), input("identity.onnx"));
    // It takes minutes in all, so that what happens meanwhile is not too late.
    let config = "max_batch_size: 4\nparameters { key: \"delay_ms\" value { string_value: \"1000\" } }";
    served("identity", &network, ONE, config).write(folder.path());
    let triton = Triton::start(folder.path(), &["--model-control-mode=explicit", "--load-model=identity"]);
    let model = bench.model("identity", |_| {});
    let with = on(&triton.grpc(), &model, json!({ "overlap": 56, "triton": { "requests": 2, "patience": 5 } }));
    let load = |parameters: Value| {
        let ends = |name: &str| json!([{ "name": name, "data_type": "TYPE_FP32", "dims": [1, -1, -1] }]);
        let config = json!({
            "backend": "python", "max_batch_size": 4, "input": ends("image"), "output": ends("logits"),
            "parameters": parameters
        });
        json!({ "parameters": { "config": config.to_string() } })
    };
    let first = load(json!({ "delay_ms": { "string_value": "1000" } }));
    let other = load(json!({ "delay_ms": { "string_value": "1" }, "digest": { "string_value": "blake3:11" } }));
    for (path, body, codes) in [
        ("load", other, ["M123", "M123"]),
        // Whether it is still on its way out or gone.
        ("unload", json!({}), ["M120", "M121"]),
    ] {
        let load = triton.post("/v2/repository/models/identity/load", &first.to_string());
        assert!(load.0.contains(" 200 "), "{load:?}");
        let start = counts(&triton, "identity").0;
        let meanwhile = async {
            // Loaded anew, it may count from 0 again.
            let deadline = Instant::now() + Duration::from_secs(60);
            while counts(&triton, "identity").0 == start {
                assert!(Instant::now() < deadline, "no tile came");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (triton, body) = (&triton, body.to_string());
            let told =
                tokio::task::block_in_place(|| triton.post(&format!("/v2/repository/models/identity/{path}"), &body));
            assert!(told.0.contains(" 200 "), "{told:?}");
        };
        let (result, ()) = tokio::join!(bench.run(with.clone(), "constant"), meanwhile);
        let error = result.unwrap_err();
        assert!(codes.iter().any(|code| error.to_string().contains(code)), "{path}: {error}");
    }
}

#[tokio::test]
async fn weights_that_do_not_fit_the_manifest_are_refused() {
    let bench = Bench::new();
    let without = bench.model("wide", |_| {});
    for (model, code, words) in [
        (without, "M127", "tells of no weights"),
        (TRAINED.model(&bench, |m| m["checkpoint"]["digest"] = m["digest"].clone()), "M103", "the weights `"),
        (
            TRAINED.model(&bench, |m| m["checkpoint"]["network"]["classes"] = json!(1)),
            "M127",
            "3 channels in and 1 out",
        ),
        (TRAINED.model(&bench, |m| m["checkpoint"]["network"]["width"] = json!(16)), "M127", "do not fit this network"),
        (TRAINED.model(&bench, |m| m["checkpoint"]["network"] = json!({ "architecture": "vgg" })), "M127", "`vgg`"),
        (
            TRAINED.model(&bench, |m| {
                m["checkpoint"]["network"] = json!({ "architecture": "convnext", "in_channels": 3, "classes": 2 });
            }),
            "M127",
            "whole images",
        ),
    ] {
        let (fault, _) = fault(&bench, json!({ "model": model, "overlap": 16, "backend": "burn" }), "large").await;
        assert!(fault.code == code && fault.message.contains(words), "{fault}");
        // ONNX Runtime would refuse these, too.
        let ort_fails = words.contains("in and") || words.contains("whole images");
        assert!(!ort_fails || !fault.help.as_ref().unwrap().contains("backend: ort"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_gpu_that_is_not_there_is_told() {
    let bench = Bench::new();
    let model = bench.model("identity", |_| {});
    for device in ["cuda:0", "tensorrt:0"] {
        let with = json!({ "model": model, "overlap": 16, "backend": "ort", "device": device });
        let (fault, _) = fault(&bench, with, "one").await;
        assert!(fault.code == "M128" && fault.message.contains(device), "{fault}");
    }
    let why = if cfg!(feature = "cuda") { "NVIDIA" } else { "built without CUDA" };
    for (device, why) in [("cuda:77", why), ("tensorrt:0", "TensorRT is ONNX Runtime's")] {
        let with = json!({ "model": model, "overlap": 16, "backend": "burn", "device": device });
        let (fault, _) = fault(&bench, with, "one").await;
        assert!(fault.code == "M128" && fault.message.contains(device) && fault.message.contains(why), "{fault}");
    }
    bench.run(json!({ "model": model, "overlap": 16, "backend": "ort", "device": "auto" }), "one").await.unwrap();
}

#[test]
fn what_is_no_server_is_found_before_anything_runs() {
    for (with, at) in [
        (json!({ "triton": { "url": "ftp://a" } }), "/triton/url"),
        (json!({ "triton": { "requests": 0 } }), "/triton/requests"),
        (json!({ "triton": { "request_timeout": 0 } }), "/triton/request_timeout"),
        (json!({ "triton": { "patience": 100_000 } }), "/triton/patience"),
        // It would compute elsewhere than it was told to.
        (json!({ "backend": "triton", "device": "cpu" }), "/device"),
    ] {
        let segment: Segment = serde_json::from_value(with.clone()).unwrap();
        let problems = segment.check().unwrap_err();
        assert_eq!(problems.iter().map(|problem| &*problem.at).collect::<Vec<_>>(), [at], "{with}");
    }
    let told = serde_json::from_value::<Segment>(json!({ "device": "gpu" })).unwrap_err().to_string();
    assert!(told.contains("`cuda:N`"), "{told}");
    assert!(serde_json::from_value::<Segment>(json!({ "triton": { "adress": "a" } })).is_err());
}
