//! What may be asked of a run: each wish in every state of a run, by command line and over gRPC, does what it says or is
//! refused with a clear word.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_control::v1;
use swath_control::v1::run_service_client::RunServiceClient;
use swath_run::RunState;
use swath_store::{Access, NewRun, SqliteStore, Store};
use tonic::Status;

use crate::common::{Place, signal};
use crate::serve::Serving;

/// `wait` runs until the file `go` is there, and fails when `bad` is, too.
const FLOW: &str = r#"flow: probe
steps:
  first: { task: run.command, with: { command: [sh, -c, "echo first >> PLACE/ledger"], purity: effect } }
  wait:
    task: run.command
    after: first
    with: { command: [sh, -c, "trap '' TERM; until test -e PLACE/go; do sleep 0.02; done; test ! -e PLACE/bad"], purity: effect }
  below: { flow: below.yaml, after: first }
  last: { task: run.command, after: [wait, below], with: { command: ["true"] } }
"#;
const BELOW: &str = r#"flow: below
steps:
  inner: { task: run.command, with: { command: [sh, -c, "until test -e PLACE/go; do sleep 0.02; done"], purity: effect } }
"#;

/// A run in some state, and who drives it.
struct Situation {
    place: Place,
    run: String,
    child: Option<Child>,
    /// Who asked for something and waits for it.
    asking: Option<Child>,
}

impl Drop for Situation {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.asking].into_iter().flatten() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Situation {
    /// A run whose steps `wait` and `inner` run.
    fn running() -> Self {
        let place = Place::new("");
        let here = place.path().display().to_string();
        std::fs::write(place.path().join("flow.yaml"), FLOW.replace("PLACE", &here)).unwrap();
        std::fs::write(place.path().join("below.yaml"), BELOW.replace("PLACE", &here)).unwrap();
        let mut run = place.swath(&["run", "flow.yaml", "--cpus", "4"]);
        let child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut situation = Self { run: String::new(), place, child: Some(child), asking: None };
        let run = eventually(|| {
            let run = situation.place.newest()?;
            let run = run.split('.').next()?.to_owned();
            let (_, shown) = situation.place.json(&["show", &run]);
            let steps = shown["steps"].as_array()?;
            (steps.iter().filter(|step| step["state"] == "running").count() == 2).then_some(run)
        });
        eventually(|| situation.place.json(&["runs", "--all"]).1.as_array().filter(|runs| runs.len() == 2).map(drop));
        situation.run = run;
        situation
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.place.path().join(name), "").unwrap();
    }

    /// Waits until the run is in one of these states, which may last for seconds only: looks in the store itself, many times a
    /// second.
    fn wait_in_store(&self, states: &[&str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(self.place.home(), Access::Read).await.unwrap();
            let started = Instant::now();
            loop {
                let state = store.run_row(&self.run).await.unwrap().state;
                if states.contains(&state.as_str()) {
                    break;
                }
                assert_ne!(state, "cancelled", "it was over too soon to be seen");
                assert!(started.elapsed() < Duration::from_secs(300), "nobody heard it");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    fn state(&self) -> String {
        let (_, shown) = self.place.json(&["show", &self.run]);
        shown["shown_state"].as_str().unwrap().to_owned()
    }

    fn wait_for(&self, state: &str) {
        let seen = std::cell::RefCell::new(String::new());
        let met = within(|| {
            *seen.borrow_mut() = self.state();
            (*seen.borrow() == state).then_some(())
        });
        assert!(met.is_some(), "it is {}, not {state}", seen.borrow());
    }

    fn kill(mut self) -> Self {
        let child = self.child.as_mut().unwrap();
        signal(child, "KILL");
        child.wait().unwrap();
        self
    }

    fn ask(self, verb: &str) -> Self {
        let (code, _, said) = self.place.run(&[verb, &self.run]);
        assert_eq!(code, Some(0), "{said}");
        self
    }

    fn of(name: &str) -> Self {
        let ending = |state: &str, files: &[&str]| {
            let running = Self::running();
            files.iter().for_each(|file| running.touch(file));
            running.wait_for(state);
            running
        };
        match name {
            "running" => Self::running(),
            "paused" => Self::running().ask("pause"),
            "paused, and cut off" => Self::running().ask("pause").kill(),
            "interrupted" => Self::running().kill(),
            "completed" => ending("completed", &["go"]),
            "failed" => ending("failed", &["bad", "go"]),
            "cancelled" => {
                let running = Self::running();
                let asking = running.place.swath(&["cancel", &running.run]).spawn().unwrap();
                running.wait_in_store(&["cancelling", "cancelled"]);
                running.touch("go");
                assert!(asking.wait_with_output().unwrap().status.success());
                running.wait_for("cancelled");
                running
            }
            "cancelling" => {
                let mut running = Self::running();
                running.asking = Some(running.place.swath(&["cancel", &running.run]).spawn().unwrap());
                running.wait_in_store(&["cancelling"]);
                // It stays so while it is looked at.
                signal(running.child.as_ref().unwrap(), "STOP");
                running
            }
            "pending" => Self::running().kill().pending(),
            _ => {
                let mut running = Self::running();
                running.run.push_str(".below");
                running
            }
        }
    }

    /// A run that was pinned and never begun, as of a process that died in between.
    fn pending(mut self) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let run = format!("{}0", self.run);
        runtime.block_on(async {
            let store = SqliteStore::open(self.place.home(), Access::Write).await.unwrap();
            let of = store.get_run(&self.run).await.unwrap();
            let pinned = NewRun {
                id: run.clone(),
                flow: of.row.flow,
                source: of.row.source,
                text: of.text.into(),
                text_digest: of.text_digest,
                params: of.params,
                plan: of.plan.into(),
                state: RunState::Pending.name().to_owned(),
                created_at: of.row.created_at + 1,
            };
            store.create_run(pinned).await.unwrap();
            store.close().await;
        });
        self.run = run;
        self
    }
}

fn within<T>(mut work: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(done) = work() {
            return Some(done);
        }
        if started.elapsed() > Duration::from_secs(300) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn eventually<T>(work: impl FnMut() -> Option<T>) -> T {
    within(work).expect("it comes about")
}

/// What comes of a wish.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The run comes to this state.
    State(&'static str),
    /// Another run completes, and this one stays as it is.
    Another,
    /// It is refused with this word.
    Refused(&'static str),
}
use Then::{Another, Refused, State};

const VERBS: [&str; 4] = ["cancel", "pause", "resume", "rerun"];
const GOING: &str = "driven by";
const ENDED: &str = "has ended already";
const ENDING: &str = "is being cancelled";
const BELOW_RUN: &str = "is the run of a sub-flow";

/// Of each situation, what comes of each of [`VERBS`].
const TABLE: [(&str, [Then; 4]); 10] = [
    ("pending", [State("cancelled"), State("paused"), State("completed"), Another]),
    ("running", [State("cancelled"), State("paused"), Refused(GOING), Refused(GOING)]),
    ("paused", [State("cancelled"), State("paused"), State("completed"), Refused(GOING)]),
    ("paused, and cut off", [State("cancelled"), State("paused"), State("completed"), Another]),
    ("cancelling", [State("cancelled"), Refused(ENDING), Refused(ENDING), Refused(GOING)]),
    ("interrupted", [State("cancelled"), State("paused"), State("completed"), Another]),
    ("completed", [Refused(ENDED), Refused(ENDED), State("completed"), Another]),
    ("failed", [Refused(ENDED), Refused(ENDED), State("completed"), Another]),
    ("cancelled", [Refused(ENDED), Refused(ENDED), State("completed"), Another]),
    ("of a sub-flow", [Refused(BELOW_RUN), Refused(BELOW_RUN), Refused(BELOW_RUN), Refused(BELOW_RUN)]),
];

/// Asks, and returns what was said when it was refused.
type Ask = fn(&Situation, &str) -> Result<(), String>;

fn by_command_line(situation: &Situation, verb: &str) -> Result<(), String> {
    let (code, _, said) = situation.place.run(&[verb, &situation.run]);
    if code == Some(0) { Ok(()) } else { Err(said) }
}

fn over_grpc(situation: &Situation, verb: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serving = Serving::start(&situation.place, &[]);
    let id = situation.run.clone();
    runtime.block_on(async {
        let mut runs = RunServiceClient::new(serving.channel().await);
        let clear = |status: Status| status.message().to_owned();
        match verb {
            "cancel" => drop(runs.cancel_run(v1::CancelRunRequest { id }).await.map_err(clear)?),
            "pause" => drop(runs.pause_run(v1::PauseRunRequest { id }).await.map_err(clear)?),
            "resume" => drop(runs.resume_run(v1::ResumeRunRequest { id }).await.map_err(clear)?),
            _ => {
                let request = v1::RerunRunRequest { id, ..Default::default() };
                let run = runs.rerun_run(request).await.map_err(clear)?.into_inner().run.unwrap();
                let mut ended = false;
                while !ended {
                    let told = runs.get_run(v1::GetRunRequest { id: run.id.clone() }).await.unwrap().into_inner();
                    ended = told.run.unwrap().ended_at.is_some();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        }
        // What the server drives ends with the server.
        if verb == "resume" {
            let mut stream = runs.watch_run(v1::WatchRunRequest { id: situation.run.clone(), after: 0 }).await.unwrap();
            while let Ok(Some(_)) = stream.get_mut().message().await {}
        }
        Ok(())
    })
}

fn ask_everything(ask: Ask, table: &[(&'static str, [Then; 4])]) {
    std::thread::scope(|scope| {
        for (name, thens) in table {
            scope.spawn(move || {
                // Who is refused has changed nothing: the next wish finds the same.
                let mut situation = Situation::of(name);
                for (verb, then) in VERBS.into_iter().zip(thens) {
                    let before = situation.state();
                    if let ("resume" | "rerun", State(_) | Another) = (verb, then) {
                        situation.touch("go");
                        let _ = std::fs::remove_file(situation.place.path().join("bad"));
                    }
                    if (*name, verb) == ("cancelling", "cancel") {
                        signal(situation.child.as_ref().unwrap(), "CONT");
                    }
                    let asked = ask(&situation, verb);
                    match (then, asked) {
                        (State(state), Ok(())) => {
                            situation.wait_for(state);
                            situation = Situation::of(name);
                        }
                        (Another, Ok(())) => {
                            let newest = situation.place.newest().unwrap();
                            assert_ne!(newest, situation.run, "{name}: {verb}");
                            let (_, shown) = situation.place.json(&["show", &newest]);
                            assert_eq!(shown["shown_state"], "completed", "{name}: {verb}");
                            assert_eq!(shown["rerun_of"], json!(situation.run));
                            assert_eq!(situation.state(), before);
                        }
                        (Refused(word), Err(said)) => {
                            assert!(said.contains(word), "{name}: {verb}: {said}");
                            assert_eq!(situation.state(), before, "{name}: {verb}");
                        }
                        (then, asked) => panic!("{name}: {verb} is to be {then:?} and was {asked:?}"),
                    }
                }
            });
        }
    });
}

#[test]
fn each_wish_is_met_or_refused_in_every_state_of_a_run_by_command_line() {
    ask_everything(by_command_line, &TABLE);
}

#[test]
fn each_wish_is_met_or_refused_in_every_state_of_a_run_over_grpc() {
    let table = TABLE.map(|(name, mut thens)| {
        match name {
            // What has come about need not be asked for twice.
            "completed" => (thens[0], thens[2]) = (State("completed"), Refused(ENDED)),
            "failed" | "cancelled" => thens[0] = State(name),
            _ => {}
        }
        (name, thens)
    });
    ask_everything(over_grpc, &table);
}

/// Steps that write what they are told into a ledger: `search` is never reused by itself, `read` and `tell` come after it.
fn ledger_flow() -> Place {
    let place = Place::new("");
    let step = |task: &str| {
        format!(
            "task: run.command, with: {{ command: [sh, -c, 'echo {task} >> PLACE/ledger; echo {task} > $0', '{{outputs.text}}'], \
             purity: volatile, outputs: {{ text: {{ kind: artifact.file, name: a.txt }} }} }}"
        )
    };
    let text = format!(
        "flow: probe\nparams: {{ word: {{ type: string, default: one }}, other: {{ type: string, default: one }} }}\nsteps:\n  \
         search: {{ {} }}\n  side: {{ {} }}\n  read: {{ {}, after: search }}\n  tell: {{ {}, after: read }}\n",
        step("search"),
        step("side ${params.other}"),
        step("read ${params.word}"),
        step("tell"),
    );
    std::fs::write(place.path().join("flow.yaml"), text.replace("PLACE", &place.path().display().to_string())).unwrap();
    place
}

fn told(place: &Place) -> Vec<String> {
    let ledger = place.path().join("ledger");
    let text = std::fs::read_to_string(&ledger).unwrap_or_default();
    let _ = std::fs::remove_file(ledger);
    let mut told: Vec<String> = text.lines().map(str::to_owned).collect();
    told.sort_unstable();
    told
}

#[test]
fn a_re_run_takes_over_what_comes_before_a_step_and_runs_again_what_changed_parameters_reach() {
    let place = ledger_flow();
    let (code, ended) = place.json(&["run", "flow.yaml"]);
    assert_eq!(code, Some(0), "{ended}");
    let run = ended["run"].as_str().unwrap().to_owned();
    assert_eq!(told(&place), ["read one", "search", "side one", "tell"]);
    let again = |arguments: &[&str]| -> (Value, Vec<String>, String) {
        let (code, ended) = place.json(&[&["rerun", &run], arguments].concat());
        assert_eq!(code, Some(0), "{ended}");
        let (_, why, _) = place.run(&["explain", ended["run"].as_str().unwrap()]);
        (ended, told(&place), why)
    };
    let (ended, ran, why) = again(&["--from", "read"]);
    assert_eq!(ran, ["read one", "tell"], "also what is volatile is taken over");
    assert_eq!((&ended["ran"], &ended["reused"]), (&json!(2), &json!(2)));
    assert!(why.contains(&format!("search  taken over from run {run}")), "{why}");
    assert!(why.contains("read    ran: it was to run again\n"), "{why}");
    assert!(why.contains("tell    ran: it was to run again: it comes after read"), "{why}");
    let (_, ran, why) = again(&["--from", "tell", "-p", "other=two"]);
    assert_eq!(ran, ["side two", "tell"], "a changed parameter reaches a step outside");
    assert!(why.contains("side    ran: changed parameters may reach it"), "{why}");
    assert_eq!(again(&[]).1, ["read one", "search", "side one", "tell"], "the whole flow");
    for (arguments, word) in [
        (&["--from", "raed"][..], "did you mean `read`"),
        (&["-p", "wrod=1"], "did you mean `word`"),
        (&["-p", "word"], "NAME=VALUE"),
    ] {
        let (code, _, said) = place.run(&[&["rerun", &run], arguments].concat());
        assert!(code == Some(2) && said.contains(word), "{said}");
    }
    assert!(told(&place).is_empty());
}

#[test]
fn a_re_run_covers_the_interval_of_the_run_it_is_of() {
    let place = Place::new(
        "flow: probe\nsteps:\n  covers:\n    task: run.command\n    \
         with: { command: [sh, -c, \"echo ${schedule.start}/${schedule.end} >> PLACE/ledger\"] }\n",
    );
    let file = place.path().join("flow.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, text.replace("PLACE", &place.path().display().to_string())).unwrap();
    let interval = "2025-03-01T00:00:00Z/2025-03-02T00:00:00Z";
    let (code, _, said) = place.run(&["run", "flow.yaml", "--interval", interval]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = place.run(&["rerun", &place.newest().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(told(&place), [interval, interval]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_run_that_is_asked_for_twice_with_a_key_is_one_run() {
    let place = ledger_flow();
    let serving = Serving::start(&place, &[]);
    let (code, ended) = place.json(&["run", "flow.yaml"]);
    assert_eq!(code, Some(0), "{ended}");
    let id = ended["run"].as_str().unwrap().to_owned();
    told(&place);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let request = |key: &str, from: &str| v1::RerunRunRequest {
        id: id.clone(),
        from: vec![from.to_owned()],
        idempotency_key: key.to_owned(),
        ..Default::default()
    };
    let first = runs.rerun_run(request("k", "tell")).await.unwrap().into_inner();
    let again = runs.rerun_run(request("k", "tell")).await.unwrap().into_inner();
    assert!(first.started && !again.started);
    let run = first.run.unwrap().id;
    assert_eq!(run, again.run.unwrap().id);
    // Two that meet: one starts it.
    let mut other = runs.clone();
    let both = tokio::join!(runs.rerun_run(request("l", "tell")), other.rerun_run(request("l", "tell")));
    let both = [both.0.unwrap().into_inner(), both.1.unwrap().into_inner()];
    assert_eq!(both.iter().filter(|answer| answer.started).count(), 1);
    assert_eq!(both[0].run.as_ref().unwrap().id, both[1].run.as_ref().unwrap().id);
    let refused = runs.rerun_run(request("k", "read")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused:?}");
    let key = v1::StartRunRequest { idempotency_key: "k".to_owned(), ..crate::serve::start(&place, "0", "") };
    assert_eq!(runs.start_run(key).await.unwrap_err().code(), tonic::Code::AlreadyExists);
    for id in [&run, &both[0].run.as_ref().unwrap().id] {
        crate::serve::watched(&mut runs, id, 0).await;
        let (_, shown) = place.json(&["show", id]);
        assert_eq!(shown["rerun_of"], json!(ended["run"]));
    }
    assert_eq!(told(&place), ["tell", "tell"]);
}

#[test]
fn a_re_run_that_is_killed_goes_on_with_what_it_took_over() {
    let situation = Situation::of("failed");
    let (place, run) = (&situation.place, &situation.run);
    std::fs::remove_file(place.path().join("go")).unwrap();
    std::fs::remove_file(place.path().join("bad")).unwrap();
    let mut child = place.swath(&["rerun", run, "--from", "wait"]).spawn().unwrap();
    let again = eventually(|| {
        let newest = place.newest().filter(|newest| newest != run)?;
        let (_, shown) = place.json(&["show", &newest]);
        let running = |step: &Value| step["id"] == "wait" && step["state"] == "running";
        shown["steps"].as_array()?.iter().any(running).then_some(newest)
    });
    signal(&child, "KILL");
    child.wait().unwrap();
    situation.touch("go");
    let (code, ended) = place.json(&["resume", &again]);
    assert_eq!((code, &ended["state"]), (Some(0), &json!("completed")), "{ended}");
    let ledger = std::fs::read_to_string(place.path().join("ledger")).unwrap();
    assert_eq!(ledger, "first\n", "it ran in the first run only");
}

#[test]
fn explain_tells_what_a_step_waits_for() {
    let situation = Situation::running();
    let (place, run) = (&situation.place, &situation.run);
    let why = |step: &str| place.run(&["explain", run, step]).1;
    assert!(why("wait").contains("runs: an attempt (since "), "{}", why("wait"));
    let told = why("last");
    assert!(told.contains("waits for step `wait`, which runs") && told.contains("step `below`, which runs"), "{told}");
    let situation = situation.ask("pause");
    let (place, run) = (&situation.place, &situation.run);
    let why = |step: &str| place.run(&["explain", run, step]).1;
    assert!(why("last").contains("waits for the end of the pause"), "{}", why("last"));
    let situation = Situation::of("interrupted");
    let (_, told) = situation.place.json(&["explain", &situation.run, "last"]);
    assert!(told[0]["reason"].as_str().unwrap().contains("somebody to drive the run"), "{told}");
    let situation = Situation::of("failed");
    let (_, told, _) = situation.place.run(&["explain", &situation.run, "last"]);
    assert!(told.contains("not run") || told.contains("cancelled"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_which_slot_a_step_waits_for_and_when_it_is_tried_again() {
    let place = Place::new("");
    let text = "flow: probe\nsteps:\n  \
        holds: { task: run.command, needs: { limits: { line: 1 } }, with: { command: [sleep, '600'] } }\n  \
        waits: { task: run.command, after: soon, needs: { limits: { line: 1 } }, with: { command: [sleep, '600'] } }\n  \
        soon: { task: run.command, with: { command: [sleep, '0.3'] } }\n  \
        fails: { task: run.command, retry: { times: 1, wait: 10m, on: [permanent] }, with: { command: ['false'] } }\n";
    let serving = Serving::start(&place, &["--cpus", "8", "--limit", "line=1"]);
    let mut runs = RunServiceClient::new(serving.channel().await);
    let request = v1::StartRunRequest {
        flow_text: text.to_owned(),
        source: place.path().join("flow.yaml").display().to_string(),
        ..Default::default()
    };
    let id = runs.start_run(request).await.unwrap().into_inner().run.unwrap().id;
    let mut said = std::collections::BTreeMap::new();
    for (step, kind) in [("waits", "slot"), ("fails", "retry"), ("holds", "attempts")] {
        let asked = Instant::now();
        let wait = loop {
            let request = v1::ExplainStepRequest { run_id: id.clone(), step: step.to_owned() };
            let told = runs.explain_step(request).await.unwrap().into_inner();
            if let Some(wait) = told.waits_for.iter().find(|wait| wait.kind == kind) {
                break wait.clone();
            }
            assert!(asked.elapsed() < Duration::from_secs(30), "{step}: {told:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        };
        said.insert(step, wait);
    }
    assert!(said["waits"].words.contains("the limit `line`, which other attempts hold"), "{said:?}");
    let fails = &said["fails"];
    let waits = fails.until.as_ref().unwrap().seconds - fails.since.as_ref().unwrap().seconds;
    assert!(fails.words.contains("[C103]") && (590..=610).contains(&waits), "{said:?}");
    let url = format!("http://{}", serving.address);
    let (code, told, _) = place.run(&["explain", &id, "waits", "--server", &url]);
    assert!(code == Some(0) && told.contains("the limit `line`"), "{told}");
    // From the store alone it cannot be told.
    let (_, told, _) = place.run(&["explain", &id, "waits"]);
    assert!(told.contains("the process that drives the run knows"), "{told}");
    let unknown = v1::ExplainStepRequest { run_id: id, step: "wiats".to_owned() };
    let refused = runs.explain_step(unknown).await.unwrap_err();
    assert!(refused.code() == tonic::Code::InvalidArgument && refused.message().contains("no step `wiats`"));
}

#[test]
fn logs_are_followed_until_the_run_ends() {
    let place = Place::new(
        "flow: probe\nsteps:\n  says: { task: run.command, with: { command: [sh, -c, 'for n in 1 2 3; do echo line $n; sleep 0.7; done'] } }\n",
    );
    let serving = Serving::start(&place, &[]);
    let url = format!("http://{}", serving.address);
    let starting = place.swath(&["run", "flow.yaml", "--server", &url]).spawn().unwrap();
    let run = eventually(|| place.newest());
    let remote = place.swath(&["logs", "-f", &run, "--server", &url]).spawn().unwrap();
    let (code, told, _) = place.run(&["logs", "-f", "probe"]);
    let lines = |text: &str| text.lines().filter(|line| line.contains("line ")).count();
    assert_eq!((code, lines(&told)), (Some(0), 3), "{told}");
    let (_, shown) = place.json(&["show", &run]);
    assert_eq!(shown["shown_state"], "completed", "it followed to the end");
    let remote = remote.wait_with_output().unwrap();
    assert_eq!(lines(&String::from_utf8_lossy(&remote.stdout)), 3);
    assert!(starting.wait_with_output().unwrap().status.success());
}

#[test]
fn a_servers_runs_are_paused_gone_on_with_and_run_again_by_command_line_and_stay_paused_when_it_restarts() {
    let place = Place::new(
        "flow: probe\nparams: { go: { type: path, default: go } }\nsteps:\n  \
         one: { task: run.command, with: { command: [sh, -c, 'until test -e $0; do sleep 0.02; done', $go] } }\n  \
         two: { task: run.command, after: one, with: { command: ['true'] } }\n",
    );
    let mut serving = Serving::start(&place, &[]);
    let url = |serving: &Serving| format!("http://{}", serving.address);
    let mut starting = place.swath(&["run", "flow.yaml", "--server", &url(&serving)]).spawn().unwrap();
    let run = eventually(|| place.newest());
    let asked = |verb: &str, serving: &Serving| place.run(&[verb, &run, "--server", &url(serving)]);
    let (code, _, told) = asked("pause", &serving);
    assert!(code == Some(0) && told.contains("is paused"), "{told}");
    signal(&serving.child, "KILL");
    serving.child.wait().unwrap();
    assert_eq!(starting.wait().unwrap().code(), Some(1), "its server is gone");
    let serving = Serving::start(&place, &[]);
    assert_eq!(serving.adopted, 0, "it is gone on with when somebody asks for that");
    std::thread::sleep(Duration::from_millis(1_500));
    let (_, shown) = place.json(&["show", &run]);
    assert_eq!(shown["shown_state"], "paused", "a restart goes on with nothing");
    std::fs::write(place.path().join("go"), "").unwrap();
    let (code, _, told) = asked("resume", &serving);
    assert!(code == Some(0) && told.contains("two: done") && told.contains("completed"), "{told}");
    let (code, _, told) = asked("cancel", &serving);
    assert!(code == Some(2) && told.contains("has ended already"), "{told}");
    let (code, _, told) = asked("pause", &serving);
    assert!(code == Some(1) && told.contains("has ended already"), "{told}");
    let (code, _, told) = place.run(&["rerun", &run, "--from", "two", "--server", &url(&serving)]);
    assert!(code == Some(0) && told.contains("two: done") && !told.contains("one: started"), "{told}");
    let (code, _, told) = place.run(&["rerun", &run, "--from", "tow", "--server", &url(&serving)]);
    assert!(code == Some(1) && told.contains("did you mean `two`"), "{told}");
    assert_ne!(place.newest().unwrap(), run);
}
