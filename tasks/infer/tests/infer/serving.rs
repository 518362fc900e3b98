//! The same networks on a real Triton Inference Server, over gRPC and REST, and in burn; and a server that is restarted, or whose
//! answers are cut off on their way.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_infer::{Classify, Segment, model_server};
use swath_task::{Digest, Task, TaskError};
use swath_testkit::triton::Triton;

use crate::relay::{Cut, Relay};
use crate::servers::{THREE, TRAINED, TRITON, counts, counts_when, on, served};
use crate::support::{Bench, case, input};

#[tokio::test]
async fn probabilities_over_grpc_and_rest_agree_with_numpy_and_onnxruntime() {
    let bench = Bench::new();
    let (wide, fixed) = (bench.model("wide", |_| {}), bench.model("fixed", |_| {}));
    let settings: &[(&Path, Value, Option<u32>)] = &[
        (&wide, json!({ "overlap": 16 }), None),
        (&wide, json!({ "overlap": 16, "batch": 3, "triton": { "requests": 3 } }), None),
        (&wide, json!({ "overlap": 24, "blend": "smooth", "edges": "reflected", "triton": { "requests": 1 } }), None),
        (&fixed, json!({ "overlap": 16 }), Some(4)),
    ];
    for url in [TRITON.grpc(), TRITON.http()] {
        let mut cases = Vec::new();
        for (model, with, fixed_batch) in settings {
            let with = on(&url, model, with.clone());
            let (output, tiles) = bench.run(with.clone(), "large").await.unwrap();
            assert!(tiles > 10);
            cases.push(case(model, "large", &output, &with, *fixed_batch));
        }
        for (seen, (_, with, _)) in bench.compare(&cases).iter().zip(settings) {
            assert!(seen["off"].as_f64().unwrap() <= 1e-6, "{url} {with}: {seen}");
            assert!(seen["spread"].as_f64().unwrap() > 0.01, "{seen}");
            assert_eq!((&seen["same_nodata"], &seen["same_grid"]), (&json!(true), &json!(true)), "{url} {with}");
        }
    }
}

#[tokio::test]
async fn onnx_runtime_triton_and_burn_give_the_same_raster() {
    let bench = Bench::new();
    let model = TRAINED.model(&bench, |_| {});
    let with = |edit: Value| {
        let mut with = json!({ "model": model, "overlap": 16 });
        edit.as_object().unwrap().iter().for_each(|(key, value)| with[key] = value.clone());
        with
    };
    let all = [
        with(json!({ "backend": "ort" })),
        with(json!({ "backend": "ort", "device": "cpu", "batch": 4 })),
        with(json!({ "backend": "burn" })),
        with(json!({ "backend": "burn", "batch": 3, "threads": 1 })),
        with(json!({ "backend": "triton", "triton": { "url": TRITON.grpc() } })),
        with(json!({ "backend": "triton", "triton": { "url": TRITON.http() } })),
    ];
    let mut cases = Vec::new();
    for with in &all {
        let (output, tiles) = bench.run(with.clone(), "large").await.unwrap();
        assert_eq!(tiles, 35, "{with}");
        cases.push(case(&model, "large", &output, with, None));
    }
    for (seen, with) in bench.compare(&cases).iter().zip(&all) {
        let off = seen["off"].as_f64().unwrap();
        println!("{}: off by {off:.1e}", with["backend"]);
        // Of the same reference: at most twice as much of each other.
        assert!(off <= 5e-5, "{with}: off by {off}");
        assert!(seen["spread"].as_f64().unwrap() > 1e-3, "{seen}");
        assert_eq!(seen["same_nodata"], json!(true));
    }
}

#[tokio::test]
async fn several_requests_in_flight_fill_the_servers_batches() {
    let bench = Bench::new();
    let model = bench.model("identity", |m| m["name"] = json!("gathered"));
    let before = counts(&TRITON, "gathered");
    let (_, tiles) = bench.run(on(&TRITON.grpc(), &model, json!({ "overlap": 32 })), "constant").await.unwrap();
    let after = counts_when(&TRITON, "gathered", before.0 + tiles).await;
    let (asked, ran) = (after.0 - before.0, after.1 - before.1);
    assert_eq!(asked, tiles);
    assert!(ran * 2 <= asked, "{asked} tiles in {ran} runs: they were not gathered");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_costs_nothing() {
    let bench = Bench::new();
    let (folder, network) = (tempfile::tempdir().unwrap(), input("wide.onnx"));
    let config = "max_batch_size: 4\nparameters { key: \"delay_ms\" value { string_value: \"10\" } }";
    served("wide", &network, THREE, config).write(folder.path());
    let mut triton = Triton::start(folder.path(), &[]);
    let model = bench.model("wide", |_| {});
    let with =
        |url: &str| on(url, &model, json!({ "overlap": 48, "batch": 1, "triton": { "patience": 900, "requests": 3 } }));
    for url in [triton.grpc(), triton.http()] {
        let (whole, tiles) = bench.run(with(&url), "large").await.unwrap();
        let before = counts(&triton, "wide").0;
        let cut = bench.run(with(&url), "large");
        let kills = async {
            let mut alive = triton;
            while counts(&alive, "wide").0 < before + 10 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::spawn_blocking(move || {
                alive.kill();
                alive.restart();
                alive
            })
            .await
            .unwrap()
        };
        let (result, alive) = tokio::join!(cut, kills);
        triton = alive;
        let (again, tiles_again) = result.unwrap();
        assert_eq!(tiles_again, tiles);
        // The new server has not seen all of them: it was cut off indeed.
        let rest = counts(&triton, "wide").0;
        assert!(rest > 0 && rest < tiles, "{rest} of {tiles}");
        let digest = |path: &Path| Digest::of(&std::fs::read(path).unwrap());
        assert_eq!(digest(&whole), digest(&again), "{url}");
    }
}

#[tokio::test]
async fn a_wish_to_stop_is_heard_while_the_server_says_nothing() {
    let bench = Bench::new();
    let model = bench.model("identity", |m| m["name"] = json!("slow"));
    for url in [TRITON.grpc(), TRITON.http()] {
        let cancel = tokio_util::sync::CancellationToken::new();
        let ctx = bench.host.cancellable(1, cancel.clone());
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cancel.cancel();
            Instant::now()
        };
        let with = on(&url, &model, json!({ "overlap": 16 }));
        let (result, stopped) = tokio::join!(bench.run_in(with, "one", None, &ctx), stopping);
        assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
        // The server takes 30 s a run.
        assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
    }
}

/// Set for the copy of this program whose environment names a server.
const NAMED: &str = "SWATH_INFER_NAMED";

#[tokio::test]
async fn a_server_that_the_environment_names_is_taken() {
    if std::env::var_os(NAMED).is_some() {
        // As `swath doctor` does it: on a thread without a runtime.
        let told = std::thread::spawn(model_server).join().unwrap().expect("TRITON_URL is set").unwrap();
        assert!(told.starts_with("triton 2."), "{told}");
        let bench = Bench::new();
        let model = bench.model("identity", |m| m["name"] = json!("named"));
        let (_, tiles) = bench.run(json!({ "model": model, "overlap": 16 }), "one").await.unwrap();
        println!("\ntiles {tiles}");
        return;
    }
    assert!(model_server().is_none(), "TRITON_URL is set");
    for url in [TRITON.grpc(), TRITON.http()] {
        let before = counts(&TRITON, "named").0;
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "serving::a_server_that_the_environment_names_is_taken", "--nocapture"]);
        let output = child.env(NAMED, "1").env("TRITON_URL", &url).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let tiles = said.lines().find_map(|line| line.strip_prefix("tiles ")?.parse::<u64>().ok()).unwrap();
        let after = counts_when(&TRITON, "named", before + tiles).await.0;
        assert_eq!(after, before + tiles, "the server was asked");
    }
}

#[test]
fn a_step_that_only_waits_for_a_server_needs_one_core() {
    let needs = |with: Value| serde_json::from_value::<Segment>(with).unwrap().needs();
    assert_eq!(needs(json!({ "backend": "triton" })).cpu, 1.0);
    assert_eq!(needs(json!({ "triton": { "url": "grpc://a" } })).cpu, 1.0);
    assert!(needs(json!({ "backend": "ort" })).cpu > 1.0);
    assert!(needs(json!({ "triton": { "url": "grpc://a" }, "device": "cpu" })).cpu > 1.0);
}

#[test]
fn the_server_that_the_environment_names_is_part_of_the_key_where_it_computes() {
    let variables = |with: Value| serde_json::from_value::<Segment>(with).unwrap().variables();
    for with in [json!({}), json!({ "backend": "triton" })] {
        assert_eq!(variables(with.clone()), ["TRITON_URL"], "{with}");
    }
    for with in [
        json!({ "backend": "ort" }),
        json!({ "backend": "burn" }),
        json!({ "device": "cpu" }),
        json!({ "backend": "triton", "triton": { "url": "grpc://a" } }),
    ] {
        assert!(variables(with.clone()).is_empty(), "{with}");
    }
    assert_eq!(serde_json::from_value::<Classify>(json!({})).unwrap().variables(), ["TRITON_URL"]);
}

#[tokio::test]
async fn answers_that_are_cut_off_in_the_middle_are_asked_for_again() {
    let bench = Bench::new();
    let model = bench.model("wide", |_| {});
    let with = |url: &str| on(url, &model, json!({ "overlap": 16, "batch": 1, "triton": { "requests": 2 } }));
    for url in [TRITON.grpc(), TRITON.http()] {
        let (whole, tiles) = bench.run(with(&url), "large").await.unwrap();
        let before = counts(&TRITON, "wide").0;
        // An answer is two classes of 64 x 64 numbers, 32 KiB: the head of the third is the last that comes through.
        let relay = Relay::cutting(&url, Cut { connections: 4, after: 70_000 });
        let scheme = url.split_once("://").unwrap().0;
        let (again, tiles_again) =
            bench.run(with(&format!("{scheme}://127.0.0.1:{}", relay.port())), "large").await.unwrap();
        assert_eq!((relay.cut(), tiles_again), (4, tiles));
        // What was on its way was computed twice.
        let asked = counts_when(&TRITON, "wide", before + tiles + 1).await.0 - before;
        assert!(asked > tiles, "{url}: nothing was cut off");
        let digest = |path: &Path| Digest::of(&std::fs::read(path).unwrap());
        assert_eq!(digest(&whole), digest(&again), "{url}");
    }
}
