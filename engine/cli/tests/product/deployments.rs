//! Flows that go by themselves: schedules through a crash, backfill, policies, versions, triggers, webhooks and hooks.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use swath_control::v1;
use swath_control::v1::deployment_service_client::DeploymentServiceClient;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{Place, signal};
use crate::serve::Serving;

/// Writes what it covers into `ledger`, then takes `seconds`.
pub const SCAN: &str = "flow: scan
params:
  seconds: { type: number, default: 0 }
  found: { type: integer, default: 0 }
  ledger: { type: path, default: ledger }
steps:
  look:
    task: run.command
    with:
      command: [sh, -c, 'echo \"$0 $1\" >> $2; sleep $3', $schedule.start, $schedule.end, $ledger, \"${string(params.seconds)}\"]
      purity: effect
outputs:
  found: ${params.found}
";

pub fn with_deployment(deployment: &str) -> String {
    SCAN.replace("params:\n", &format!("deployment: {deployment}\nparams:\n"))
}

pub fn lines(place: &Place, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(place.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn done(place: &Place, arguments: &[&str]) -> String {
    let (code, _, err) = place.run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    err
}

/// States of the fires of a deployment, the oldest first: that of the run, where there is one.
pub fn states(place: &Place, name: &str) -> Vec<String> {
    let (_, shown) = place.json(&["deployments", "show", name]);
    let state = |fire: &Value| fire["run_state"].as_str().or(fire["state"].as_str()).unwrap().to_owned();
    shown["fires"].as_array().unwrap().iter().rev().map(state).collect()
}

#[test]
fn the_intervals_of_a_schedule_meet_through_the_death_of_its_server() {
    let place = Place::new(&with_deployment("{ schedule: { every: 1s } }"));
    let told = done(&place, &["deploy", "flow.yaml"]);
    assert!(told.contains("next due") && told.contains("no server runs on this store"), "{told}");
    let mut serving = Serving::start(&place, &[]);
    until("three runs", || lines(&place, "ledger").len() >= 3);
    signal(&serving.child, "KILL");
    serving.child.wait().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let before = lines(&place, "ledger").len();
    let _serving = Serving::start(&place, &[]);
    until("three more", || lines(&place, "ledger").len() >= before + 3);
    done(&place, &["deployments", "pause", "scan"]);
    let goes_on = |state: &String| ["started", "pending", "running"].contains(&state.as_str());
    until("the last to end", || !states(&place, "scan").iter().any(goes_on));
    let mut covered = lines(&place, "ledger");
    // A step that was cut off has run twice.
    covered.dedup();
    let covered: Vec<(&str, &str)> = covered.iter().map(|line| line.split_once(' ').unwrap()).collect();
    for pair in covered.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "{covered:?}");
    }
    let long = |(start, end): &(&str, &str)| {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        at(end).duration_since(at(start)).as_secs()
    };
    assert!(covered.iter().any(|one| long(one) >= 3), "one run makes up for those that were missed: {covered:?}");
    // Paused: nothing more comes.
    let count = lines(&place, "ledger").len();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(lines(&place, "ledger").len(), count);
}

#[test]
fn a_backfill_runs_what_was_not_run_once_and_in_order() {
    let place = Place::new(&with_deployment("{ schedule: { cron: '0 6 * * *' } }"));
    done(&place, &["deploy", "flow.yaml"]);
    let backfill = ["backfill", "scan", "--from", "2024-02-27", "--to", "2024-03-02"];
    assert!(done(&place, &backfill).contains("5 runs are asked for"));
    let _serving = Serving::start(&place, &[]);
    until("five runs", || lines(&place, "ledger").len() == 5);
    let day = |day: &str| format!("2024-{day}T06:00:00Z");
    let days = ["02-26", "02-27", "02-28", "02-29", "03-01", "03-02"].map(day);
    let want: Vec<String> = days.windows(2).map(|pair| format!("{} {}", pair[0], pair[1])).collect();
    assert_eq!(lines(&place, "ledger"), want, "one at a time, the oldest first, whatever the policy");
    let (_, again) = place.json(&["backfill", "scan", "--from", "2024-03-01", "--to", "2024-03-03"]);
    assert_eq!((again["fires"].as_u64(), again["added"].as_u64()), (Some(3), Some(1)), "two were run before");
    until("one more", || lines(&place, "ledger").len() == 6);
    let (_, forced) = place.json(&["backfill", "scan", "--from", "2024-03-01", "--to", "2024-03-01", "--again"]);
    assert_eq!(forced["added"], 1);
    until("and once more", || lines(&place, "ledger").len() == 7);
    for (arguments, told) in [
        (["--from", "2024-03-02", "--to", "2024-03-01"], "does not lie after"),
        (["--from", "2024-03-02", "--to", "2999-03-01"], "asked for"),
        (["--from", "1024-03-02", "--to", "2024-03-01"], "more than 10000"),
        (["--from", "monday", "--to", "2024-03-01"], "`monday`"),
    ] {
        let (code, _, err) = place.run(&[&["backfill", "scan"][..], &arguments].concat());
        match told {
            // A day that lies ahead is cut at the present.
            "asked for" => assert_eq!(code, Some(0), "{err}"),
            told => assert!(code == Some(2) && err.contains(told), "{arguments:?}: {err}"),
        }
    }
    done(&place, &["deployments", "delete", "scan"]);
    let (code, _, err) = place.run(&["deployments", "show", "scan"]);
    assert!(code == Some(1) && err.contains("there is no deployment `scan`"), "{err}");
    assert!(place.newest().is_some(), "its runs stay");
}

#[test]
fn runs_that_meet_are_treated_by_the_policy() {
    for (policy, want) in [
        ("skip", ["completed", "skipped", "skipped"]),
        ("queue", ["completed", "completed", "skipped"]),
        ("allow", ["completed", "completed", "completed"]),
        // The second is cancelled while it runs, or left out while it still waits for the first to end.
        ("cancel", ["cancelled", "cancelled", "completed"]),
    ] {
        // Runs that take until they are let go.
        let flow = with_deployment(&format!("{{ while_running: {policy} }}"));
        let flow = flow.replace("sleep $3", "until test -e $2.go; do sleep 0.05; done");
        let place = Place::new(&flow);
        done(&place, &["deploy", "flow.yaml"]);
        let _serving = Serving::start(&place, &[]);
        done(&place, &["deployments", "trigger", "scan"]);
        until("the first to begin", || lines(&place, "ledger").len() == 1);
        for decided in [2, 3] {
            done(&place, &["deployments", "trigger", "scan"]);
            let is_open = |state: &String| state == "due";
            until("it to be decided", || {
                let states = states(&place, "scan");
                states.len() == decided && !states.iter().any(is_open)
            });
        }
        std::fs::write(place.path().join("ledger.go"), "").unwrap();
        let ended = |state: &String| ["completed", "cancelled", "skipped"].contains(&state.as_str());
        until("all to end", || states(&place, "scan").iter().all(ended));
        let mut states = states(&place, "scan");
        if policy == "cancel" && states[1] == "skipped" {
            states[1] = "cancelled".to_owned();
        }
        assert_eq!(states, want, "{policy}");
    }
}

#[test]
fn what_was_deployed_is_what_runs_until_it_is_deployed_again() {
    let above = "flow: above\nsteps: { below: { flow: below.yaml } }\n";
    let below = |word: &str| {
        format!(
            "flow: below\nsteps: {{ say: {{ task: run.command, with: {{ command: [sh, -c, 'echo {word} >> $0', $$LEDGER], purity: effect }} }} }}\n"
        )
    };
    let place = Place::new(above);
    let ledger = place.path().join("ledger");
    let write = |word: &str| {
        let text = below(word).replace("$$LEDGER", ledger.to_str().unwrap());
        std::fs::write(place.path().join("below.yaml"), text).unwrap();
    };
    write("one");
    done(&place, &["deploy", "flow.yaml", "--name", "pinned"]);
    let _serving = Serving::start(&place, &[]);
    write("two");
    done(&place, &["deployments", "trigger", "pinned"]);
    until("a run", || lines(&place, "ledger") == ["one"]);
    std::fs::remove_file(place.path().join("below.yaml")).unwrap();
    done(&place, &["deployments", "trigger", "pinned"]);
    until("another", || lines(&place, "ledger") == ["one", "one"]);
    write("two");
    assert!(done(&place, &["deploy", "flow.yaml", "--name", "pinned"]).contains("version 2"));
    assert!(done(&place, &["deploy", "flow.yaml", "--name", "pinned"]).contains("as it was"));
    done(&place, &["deployments", "trigger", "pinned"]);
    until("the second version", || lines(&place, "ledger") == ["one", "one", "two"]);
    let (_, shown) = place.json(&["deployments", "show", "pinned"]);
    assert_eq!(shown["versions"].as_array().unwrap().len(), 2);
    // What is wrong is told before anything is deployed.
    std::fs::write(place.path().join("flow.yaml"), "flow: above\nsteps: { a: { task: run.comand } }\n").unwrap();
    let (code, _, err) = place.run(&["deploy", "flow.yaml", "--name", "pinned"]);
    assert!(code == Some(2) && err.contains("did you mean `run.command`?"), "{err}");
    let (code, _, err) = place.run(&["deploy", "below.yaml", "--every", "soon", "--name", "a b"]);
    assert!(code != Some(0) && err.contains("no length of time"), "{err}");
    assert_eq!(place.json(&["deployments", "show", "pinned"]).1["version"], 2);
}

pub fn post(address: &str, path: &str, body: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// As `openssl` signs.
fn signed(place: &Place, body: &str) -> String {
    std::fs::write(place.path().join("body"), body).unwrap();
    let arguments = ["dgst", "-sha256", "-hmac", "open sesame", "body"];
    let mut signing = Command::new("openssl").args(arguments).current_dir(place.path()).output().unwrap();
    signing.stdout.truncate(signing.stdout.trim_ascii_end().len());
    let digits = String::from_utf8(signing.stdout).unwrap().rsplit(' ').next().unwrap().to_owned();
    format!("X-Hub-Signature-256: sha256={digits}\r\n")
}

#[test]
fn runs_start_others_webhooks_start_runs_and_hooks_are_told_until_they_hear() {
    let place = Place::new(SCAN);
    let folder = place.path().to_str().unwrap().to_owned();
    let after = SCAN.replace(
        "flow: scan",
        "flow: after\ndeployment: { triggers: [{ after: scan, output: found }], while_running: queue }",
    );
    let failed =
        SCAN.replace("flow: scan", "flow: sorry\ndeployment: { triggers: [{ after: scan, states: [failed] }] }");
    // It does not hear the first time.
    let hook = format!(
        "[sh, -c, 'test -e {folder}/heard || {{ touch {folder}/heard; exit 1; }}; cat > {folder}/told.$SWATH_DELIVERY']"
    );
    let scan = with_deployment(&format!(
        "{{ triggers: [{{ webhook: SCAN_SECRET }}], late_after: 10s, hooks: [{{ on: [completed, failed, late], command: {hook} }}] }}"
    ));
    for (name, text) in [("flow", &scan), ("after", &after), ("sorry", &failed)] {
        std::fs::write(place.path().join(format!("{name}.yaml")), text).unwrap();
    }
    done(&place, &["deploy", "flow.yaml"]);
    done(&place, &["deploy", "after.yaml", "-p", "ledger=after"]);
    done(&place, &["deploy", "sorry.yaml", "-p", "ledger=sorry"]);
    // The secret is the server's own.
    let mut serving = Serving::start_with(&place, &[], &[("SCAN_SECRET", "open sesame")]);
    let address = serving.address.clone();
    let ask = |body: &str, headers: &str| post(&address, "/hooks/scan", body, headers);
    for (body, headers, status) in [
        ("{}", "", "401"),
        ("{}", "Webhook-Signature: v1,AAAA\r\n", "401"),
        ("{\"found\": 2}", signed(&place, "{\"found\": 3}").as_str(), "401"),
        ("[]", &signed(&place, "[]"), "400"),
        ("{\"fuond\": 2}", &signed(&place, "{\"fuond\": 2}"), "400"),
        ("{\"found\": \"two\"}", &signed(&place, "{\"found\": \"two\"}"), "400"),
    ] {
        let answer = ask(body, headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{body}: {answer}");
    }
    assert!(post(&address, "/hooks/after", "{}", "").starts_with("HTTP/1.1 404"));
    assert!(post(&address, "/hooks/nobody", "{}", "").starts_with("HTTP/1.1 404"));
    assert!(lines(&place, "ledger").is_empty());

    // Nothing was found: nothing follows. The same delivery again starts nothing.
    for _ in 0..2 {
        let headers = format!("{}X-GitHub-Delivery: d1\r\n", signed(&place, "{\"found\": 0}"));
        assert!(ask("{\"found\": 0}", &headers).starts_with("HTTP/1.1 202"));
    }
    until("the run of the webhook", || states(&place, "scan") == ["completed"]);
    let body = "{\"found\": 2, \"seconds\": 12}";
    assert!(ask(body, &signed(&place, body)).starts_with("HTTP/1.1 202"));
    until("what follows it", || states(&place, "after") == ["completed"]);
    assert_eq!(lines(&place, "ledger").len(), 2);
    // What follows covers what was covered.
    assert_eq!(lines(&place, "after"), lines(&place, "ledger")[1..]);
    // A run that cannot even start has failed, and says why.
    done(&place, &["deployments", "trigger", "scan", "-p", "seconds=-1"]);
    until("the failure and what follows it", || states(&place, "sorry") == ["completed"]);
    let tellings = || -> Vec<String> {
        let files = std::fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path());
        let told = files.filter(|path| path.file_stem().is_some_and(|stem| stem == "told"));
        let read = |path: std::path::PathBuf| {
            let told: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).ok()?;
            Some(told["happening"].as_str()?.to_owned())
        };
        told.filter_map(read).collect()
    };
    until("the hook to hear", || tellings().len() >= 4);
    let mut told = tellings();
    told.sort();
    assert_eq!(told, ["completed", "completed", "failed", "late"]);
    signal(&serving.child, "TERM");
    assert!(serving.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_are_managed_over_grpc_and_what_is_wrong_is_told() {
    let place = Place::new(SCAN);
    let serving = Serving::start(&place, &[]);
    let mut deployments = DeploymentServiceClient::new(serving.channel().await);
    let request = || v1::DeployFlowRequest {
        flow_text: SCAN.to_owned(),
        source: place.path().join("flow.yaml").display().to_string(),
        schedule: Some(v1::Schedule { cron: "30 6 * * 1".into(), zone: "Europe/Berlin".into(), ..Default::default() }),
        ..Default::default()
    };
    let deployed = deployments.deploy_flow(request()).await.unwrap().into_inner().deployment.unwrap();
    assert_eq!((deployed.name.as_str(), deployed.version), ("scan", 1));
    let next = v1::ListNextFiresRequest { name: "scan".into(), count: 3 };
    let fires = deployments.list_next_fires(next.clone()).await.unwrap().into_inner().fires;
    let monday = |at: &prost_types::Timestamp| {
        let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap().in_tz("Europe/Berlin").unwrap();
        (at.weekday(), at.hour(), at.minute()) == (jiff::civil::Weekday::Monday, 6, 30)
    };
    assert!(fires.len() == 3 && fires.iter().all(monday), "{fires:?}");

    let trigger = |key: &str| v1::TriggerDeploymentRequest {
        name: "scan".into(),
        idempotency_key: key.into(),
        ..Default::default()
    };
    let first = deployments.trigger_deployment(trigger("k")).await.unwrap().into_inner().fire.unwrap();
    let again = deployments.trigger_deployment(trigger("k")).await.unwrap().into_inner().fire.unwrap();
    assert_eq!(first.key, again.key);
    let get = v1::GetDeploymentRequest { name: "scan".into() };
    loop {
        let told = deployments.get_deployment(get.clone()).await.unwrap().into_inner();
        assert_eq!(told.fires.len(), 1);
        if told.fires[0].run_state() == v1::RunState::Completed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let paused = v1::PauseDeploymentRequest { name: "scan".into() };
    assert!(deployments.pause_deployment(paused).await.unwrap().into_inner().deployment.unwrap().paused);
    assert!(deployments.list_next_fires(next).await.unwrap().into_inner().fires.is_empty());
    let refused = deployments.trigger_deployment(trigger("l")).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("resume"), "{refused:?}");

    let wrong =
        v1::Schedule { cron: "61 * * * *".into(), every: "1d".into(), jitter: "x".into(), ..Default::default() };
    let wrong = v1::DeployFlowRequest { schedule: Some(wrong), ..request() };
    let status = deployments.deploy_flow(wrong).await.unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields: Vec<&str> = violations.iter().map(|one| one.field.as_str()).collect();
    assert!(fields.contains(&"schedule.cron") && fields.contains(&"schedule.jitter"), "{fields:?}");
    for (request, code) in [
        (v1::DeployFlowRequest { flow_text: String::new(), ..request() }, Code::InvalidArgument),
        (v1::DeployFlowRequest { source: "flow.yaml".into(), ..request() }, Code::InvalidArgument),
        (v1::DeployFlowRequest { unscheduled: true, ..request() }, Code::InvalidArgument),
        (v1::DeployFlowRequest { name: "../x".into(), ..request() }, Code::FailedPrecondition),
        (v1::DeployFlowRequest { flow_text: "flow: x\n".into(), ..request() }, Code::InvalidArgument),
        (v1::DeployFlowRequest { parameters: [("n".into(), "1".into())].into(), ..request() }, Code::InvalidArgument),
    ] {
        assert_eq!(deployments.deploy_flow(request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    let nobody = v1::GetDeploymentRequest { name: "nobody".into() };
    assert_eq!(deployments.get_deployment(nobody).await.unwrap_err().code(), Code::NotFound);
    for count in [-1, 1001] {
        let next = v1::ListNextFiresRequest { name: "scan".into(), count };
        assert_eq!(deployments.list_next_fires(next).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    let backfill = v1::BackfillDeploymentRequest { name: "scan".into(), from: Some(far), to: Some(far), again: false };
    assert_eq!(deployments.backfill_deployment(backfill).await.unwrap_err().code(), Code::InvalidArgument);
    // The command line asks the server as well.
    let url = format!("http://{}", serving.address);
    let (_, listed) = place.json(&["deployments", "--server", &url]);
    assert_eq!((listed[0]["name"].as_str(), listed[0]["version"].as_u64()), (Some("scan"), Some(1)));
    done(&place, &["deployments", "delete", "scan", "--server", &url]);
    assert!(
        deployments.list_deployments(v1::ListDeploymentsRequest {}).await.unwrap().into_inner().deployments.is_empty()
    );
}

#[test]
fn the_shipped_scan_does_nothing_when_nothing_is_new_and_maps_what_is() {
    let place = Place::new(SCAN);
    let flow = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flows/scan.yaml");
    done(&place, &["deploy", flow.to_str().unwrap(), "-p", "results=found"]);
    // One scene, of 2017-02-16: in the third of four weeks.
    done(&place, &["backfill", "scan", "--from", "2017-02-06", "--to", "2017-02-27"]);
    let _serving = Serving::start(&place, &[]);
    until("four looks", || states(&place, "scan") == ["completed"; 4]);
    let (_, shown) = place.json(&["deployments", "show", "scan"]);
    for (fire, want) in shown["fires"].as_array().unwrap().iter().zip([0, 1, 0, 0]) {
        let (_, run) = place.json(&["show", fire["run"].as_str().unwrap()]);
        let composite = run["steps"].as_array().unwrap().iter().find(|step| step["id"] == "composite").unwrap();
        assert_eq!(composite["state"], if want == 1 { "succeeded" } else { "skipped" }, "{fire}");
    }
    let (_, quiet) = place.json(&["deployments", "show", "scan"]);
    // Lines are carried into the store a few times a second.
    until("the word that there was nothing", || {
        let (_, logs, _) = place.run(&["logs", quiet["fires"][0]["run"].as_str().unwrap(), "nothing_new"]);
        logs.contains("no new scene from 2017-02-20T06:00:00Z to 2017-02-27T06:00:00Z")
    });
    let asked = ["-so", "found/scans.gpkg", "water"];
    let lakes = Command::new("ogrinfo").args(asked).current_dir(place.path()).output().unwrap();
    let lakes = String::from_utf8(lakes.stdout).unwrap();
    let count = lakes.lines().find_map(|line| line.strip_prefix("Feature Count: ")).unwrap();
    assert!(count.parse::<u32>().unwrap() > 20, "{lakes}");
}

#[test]
fn two_servers_on_one_store_run_each_occasion_once_and_no_more_at_a_time_than_may_be() {
    let flow = |name: &str| {
        SCAN.replace("flow: scan", &format!("flow: {name}\ndeployment: {{ schedule: {{ every: 1d }} }}"))
            .replace("sleep $3", "sleep 0.2; echo \"end $1\" >> $2")
    };
    let place = Place::new(SCAN);
    for name in ["one", "two", "three"] {
        std::fs::write(place.path().join("flow.yaml"), flow(name)).unwrap();
        done(&place, &["deploy", "flow.yaml", "-p", &format!("ledger={name}")]);
        done(&place, &["backfill", name, "--from", "2024-01-01", "--to", "2024-01-08"]);
    }
    let _servers = [Serving::start(&place, &[]), Serving::start(&place, &[])];
    for name in ["one", "two", "three"] {
        until("all its runs", || states(&place, name) == ["completed"; 8]);
        // Each begins when the one before it has ended.
        let told = lines(&place, name);
        let days: Vec<String> = (1..=8).map(|day| format!("2024-01-0{day}T00:00:00Z")).collect();
        let ends: Vec<&str> = told.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
        let want: Vec<&str> = days.iter().flat_map(|day| [day.as_str(), day.as_str()]).collect();
        assert_eq!(ends, want, "{name}");
        assert!(told.iter().skip(1).step_by(2).all(|line| line.starts_with("end ")), "{name}: {told:?}");
    }
}

#[test]
fn an_occasion_that_cannot_be_started_is_told_and_the_next_covers_it_and_others_go_on() {
    let flow = with_deployment("{ schedule: { every: 1s } }");
    let flow = flow.replace("  found:", "  key: { type: secret, default: THE_KEY }\n  found:");
    let flow = flow.replace("purity: effect", "secret_env: { KEY: $key }\n      purity: effect");
    let place = Place::new(&flow);
    std::fs::write(
        place.path().join("other.yaml"),
        with_deployment("{ schedule: { every: 1s } }").replace("flow: scan", "flow: other"),
    )
    .unwrap();
    done(&place, &["deploy", "flow.yaml"]);
    done(&place, &["deploy", "other.yaml", "-p", "ledger=others"]);
    let variable = [("THE_KEY_FILE", "key")];
    let _serving = Serving::start_with(&place, &[], &variable);
    until("some to be refused", || states(&place, "scan").iter().filter(|state| *state == "refused").count() >= 2);
    // Before many more are: only the newest are shown.
    let (_, shown) = place.json(&["deployments", "show", "scan"]);
    let refused = shown["fires"].as_array().unwrap().iter().rfind(|fire| fire["state"] == "refused").unwrap();
    assert!(refused["note"].as_str().unwrap().contains("`THE_KEY_FILE` gives no secret"), "{refused}");
    let first = refused["start"].as_str().unwrap().to_owned();
    until("the others", || lines(&place, "others").len() >= 2);
    std::fs::write(place.path().join("key"), "k").unwrap();
    until("a run", || !lines(&place, "ledger").is_empty());
    assert!(lines(&place, "ledger")[0].starts_with(&first), "{first}: {:?}", lines(&place, "ledger"));
}

#[test]
fn a_deployment_that_is_slow_to_start_keeps_no_other_and_its_runs_begin_in_order() {
    let slow = with_deployment("{ while_running: allow }");
    let slow = slow.replace("  found:", "  key: { type: secret, default: THE_KEY }\n  found:");
    let slow = slow.replace("purity: effect", "secret_env: { KEY: $key }\n      purity: effect");
    let place = Place::new(&slow);
    std::fs::write(place.path().join("other.yaml"), SCAN.replace("flow: scan", "flow: other")).unwrap();
    done(&place, &["deploy", "flow.yaml"]);
    done(&place, &["deploy", "other.yaml", "-p", "ledger=others"]);
    // Whoever reads it waits until somebody writes.
    let made = Command::new("mkfifo").arg("key").current_dir(place.path()).status().unwrap();
    assert!(made.success());
    let _serving = Serving::start_with(&place, &[], &[("THE_KEY_FILE", "key")]);
    for _ in 0..3 {
        done(&place, &["deployments", "trigger", "scan"]);
    }
    until("the first to be taken", || states(&place, "scan").contains(&"started".to_owned()));
    for count in 1..=2 {
        done(&place, &["deployments", "trigger", "other"]);
        until("the other, meanwhile", || lines(&place, "others").len() == count);
    }
    assert_eq!(states(&place, "scan"), ["started", "due", "due"], "one after the other");
    // Between two of them there is nobody who writes: the reader sees the end.
    let writes = "while test -p key; do echo k > key; sleep 0.2; done";
    let mut writing = Command::new("sh").args(["-c", writes]).current_dir(place.path()).spawn().unwrap();
    until("all three", || states(&place, "scan") == ["completed"; 3]);
    writing.kill().unwrap();
    writing.wait().unwrap();
    assert_eq!(lines(&place, "ledger").len(), 3, "each once");
    let (_, shown) = place.json(&["deployments", "show", "scan"]);
    let begun = |fire: &Value| {
        let (_, run) = place.json(&["show", fire["run"].as_str().unwrap()]);
        run["run"]["created_at"].as_i64().unwrap()
    };
    let begun: Vec<i64> = shown["fires"].as_array().unwrap().iter().rev().map(begun).collect();
    assert!(begun.is_sorted(), "{begun:?}");
}

#[test]
fn deployments_that_would_start_each_other_for_ever_are_refused() {
    let after = |name: &str, before: &str| {
        SCAN.replace("flow: scan", &format!("flow: {name}\ndeployment: {{ triggers: [{{ after: {before} }}] }}"))
    };
    let place = Place::new(&after("one", "one"));
    let deploy = |text: &str| {
        std::fs::write(place.path().join("flow.yaml"), text).unwrap();
        place.run(&["deploy", "flow.yaml"])
    };
    let (code, _, told) = deploy(&after("one", "one"));
    assert!(code == Some(2) && told.contains("its trigger `after` is itself"), "{told}");
    // What it waits for need not be there yet, and ways that meet are no cycle.
    for (name, before) in [("two", "one"), ("three", "two"), ("four", "two")] {
        let (code, _, told) = deploy(&after(name, before));
        assert_eq!(code, Some(0), "{told}");
    }
    let both = after("five", "three").replace("[{ after: three }]", "[{ after: three }, { after: four }]");
    assert_eq!(deploy(&both).0, Some(0));
    let (code, _, told) = deploy(&after("one", "three"));
    let cycle = "`one` runs after `three`, `three` runs after `two`, `two` runs after `one`";
    assert!(code == Some(2) && told.contains(cycle), "{told}");
    let (_, listed) = place.json(&["deployments"]);
    assert_eq!(listed.as_array().unwrap().len(), 4, "it was not deployed");
    // Without the link in the middle it may.
    assert_eq!(deploy(&after("three", "nobody")).0, Some(0));
    assert_eq!(deploy(&after("one", "three")).0, Some(0));
}
