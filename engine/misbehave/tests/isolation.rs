//! A step can do to its process what it wants: the engine says what it was, tries again where that may help, and goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// A flow and a store in a folder of their own.
struct Place(tempfile::TempDir);

impl Place {
    fn new(flow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("flow.yaml"), flow).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn swath(&self, arguments: &[&str]) -> Command {
        let mut swath = Command::new(env!("CARGO_BIN_EXE_misbehaving-swath"));
        swath.args(arguments).current_dir(self.0.path()).env("NO_COLOR", "1").env_remove("SWATH_HOME");
        swath.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        swath
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.swath(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
    }

    /// Runs the flow: exit code and document.
    fn flow(&self, more: &[&str]) -> (Option<i32>, Value) {
        let (code, text) = self.run(&[&["run", "flow.yaml", "--json", "-q"], more].concat());
        (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// The processes that attempts have noted in a ledger, first to last.
    fn ledger(&self, name: &str) -> Vec<Pid> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
    }

    /// The process of the `nth` attempt, from 0, once it has begun.
    fn attempt(&self, name: &str, nth: usize) -> Pid {
        until("an attempt begins", || self.ledger(name).get(nth).copied())
    }
}

fn until<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within five minutes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_gone(process: Pid) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(process).is_err() || state.contains(") Z ")
}

fn gone(process: Pid) {
    until("the process is gone", || is_gone(process).then_some(()));
}

fn fault_of<'a>(document: &'a Value, step: &str) -> &'a Value {
    let failures = document["failures"].as_array().unwrap();
    let failed = failures.iter().find(|failed| failed["step"] == step);
    &failed.unwrap_or_else(|| panic!("`{step}` did not fail: {document}"))["fault"]
}

/// Steps that go on without each other.
fn steps(does: &[(&str, &str)]) -> String {
    let mut flow = "flow: harm\ndefaults: { on_failure: continue }\nsteps:\n".to_owned();
    for (name, settings) in does {
        flow += &format!("  {name}: {{ task: harm.do, with: {{ does: {name}, ledger: {name} }}{settings} }}\n");
    }
    flow
}

const CANARY: &str =
    "  canary: { task: run.command, each: \"${[1, 2, 3]}\", with: { command: [echo, \"${string(item)}\"] } }\n";

/// A program of the step hoards: `tail` keeps what it is given until it can write it, and nobody reads.
const BELOW: &str = "  below: { task: run.command, isolate: process, needs: { memory: 16 MiB }, \
                     with: { command: [sh, -c, 'head -c 600m /dev/zero | tail | sleep 20'] } }\n";

#[test]
fn steps_that_take_their_process_down_fail_alone_and_with_a_word_for_how() {
    let flow =
        steps(&[("segfault", ""), ("abort", ""), ("exit", ""), ("panic", ""), ("allocate", "")]) + BELOW + CANARY;
    let place = Place::new(&flow);
    let (_, document) = place.flow(&["--isolate", "native"]);
    assert_eq!(document["ran"], 3, "the canary: {document}");
    for (step, code, words, attempts) in [
        // Three losses are made good, and each attempt has a process of its own.
        ("segfault", "E330", "SIGSEGV", 4),
        ("abort", "E330", "SIGABRT", 4),
        ("exit", "E330", "exit code 3", 4),
        ("panic", "E202", "a task that panics", 1),
        ("allocate", "E331", "its limit is 280 MiB (it needs 16 MiB)", 1),
        ("below", "E331", "its limit is 280 MiB (it needs 16 MiB)", 0),
    ] {
        let fault = fault_of(&document, step);
        assert_eq!(fault["code"], code, "{fault}");
        assert!(fault["message"].as_str().unwrap().contains(words), "{fault}");
        let processes = place.ledger(step);
        processes.iter().copied().for_each(gone);
        let distinct: BTreeSet<i32> = processes.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        assert_eq!(
            (processes.len(), distinct.len()),
            (attempts, attempts),
            "{step}: none is used again after a failure"
        );
    }
    assert_eq!(std::fs::read_dir(place.path(".swath/scratch")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_step_whose_process_is_lost_once_is_run_again() {
    let flow = "flow: once\nsteps:\n  a: { task: harm.do, with: { does: segfault, ledger: a, times: 1 } }\n  \
                b: { task: harm.do, after: a, with: { does: nothing, ledger: b } }\n\
                outputs: { process: b.process }\n";
    let place = Place::new(flow);
    let (code, document) = place.flow(&["--isolate", "native"]);
    assert_eq!(code, Some(0), "{document}");
    let (first, second) = (place.ledger("a"), place.ledger("b"));
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(first[1], second[0], "a process whose attempt succeeded takes the next one of its task");
}

#[test]
fn a_step_that_nothing_can_stop_is_killed_after_its_timeout_with_all_it_started() {
    let place = Place::new(&steps(&[("spin", ", timeout: 500ms"), ("breed", ", timeout: 500ms")]));
    let started = Instant::now();
    let (_, document) = place.flow(&["--isolate", "native"]);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    for step in ["spin", "breed"] {
        assert_eq!(fault_of(&document, step)["code"], "E316");
        gone(place.ledger(step)[0]);
    }
    let bred = std::fs::read_to_string(place.path("breed.bred")).unwrap().parse().unwrap();
    gone(Pid::from_raw(bred).unwrap());
}

#[test]
fn a_process_that_is_suspended_or_killed_from_outside_is_lost_and_its_step_run_again() {
    let text = steps(&[("wait", "")]).replace("ledger: wait", "ledger: wait, times: 2");
    let place = Place::new(&text);
    let child = place.swath(&["run", "flow.yaml", "--isolate", "native", "--heartbeat", "3s"]).spawn().unwrap();
    let first = place.attempt("wait", 0);
    kill_process(first, Signal::STOP).unwrap();
    let second = place.attempt("wait", 1);
    assert!(is_gone(first), "killed before its step runs again: no late answer of it can come");
    kill_process(second, Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("gave no sign of life for 3s") && told.contains("SIGKILL"), "{told}");
    assert_eq!(place.ledger("wait").len(), 3);
}

#[test]
fn an_engine_that_was_suspended_itself_does_not_take_its_processes_for_dead() {
    let place = Place::new(&steps(&[("pause", "")]));
    let child = place.swath(&["run", "flow.yaml", "--isolate", "native", "--heartbeat", "2s"]).spawn().unwrap();
    place.attempt("pause", 0);
    kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.ledger("pause").len(), 1);
}

#[test]
fn a_list_half_of_whose_processes_are_killed_is_done_once_and_whole() {
    const ITEMS: usize = 24;
    let items: Vec<usize> = (0..ITEMS).collect();
    let flow = format!(
        "flow: many\nsteps:\n  all: {{ each: {items:?}, task: harm.do, \
         with: {{ does: \"${{item % 2 == 0 ? 'wait' : 'pause'}}\", times: 1, ledger: \"${{'item' + string(item)}}\" }} }}\noutputs: {{ processes: all.process }}\n"
    );
    let place = Place::new(&flow);
    let child = place.swath(&["run", "flow.yaml", "--isolate", "native", "--json", "-q"]).spawn().unwrap();
    for item in (0..ITEMS).step_by(2) {
        kill_process(place.attempt(&format!("item{item}"), 0), Signal::KILL).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["ran"]), (Some(0), &ITEMS.into()), "{document}");
    for (item, process) in document["outputs"]["processes"].as_array().unwrap().iter().enumerate() {
        let attempts = place.ledger(&format!("item{item}"));
        assert_eq!(
            *process,
            attempts.last().unwrap().as_raw_nonzero().get(),
            "the last attempt of {item} is its result"
        );
        assert!(attempts.len() > usize::from(item % 2 == 0), "{item}: {attempts:?}");
    }
}

#[test]
fn a_step_that_waits_is_told_to_stop_and_one_that_is_deaf_is_killed() {
    for does in ["wait", "spin"] {
        let place = Place::new(&steps(&[(does, "")]));
        let mut child = place.swath(&["run", "flow.yaml", "--isolate", "all"]).spawn().unwrap();
        let process = place.attempt(does, 0);
        // Whoever stops a service may tell all of its processes; this one stops when the engine says so.
        kill_process(process, Signal::TERM).unwrap();
        let asked = Instant::now();
        let run = &std::fs::read_dir(place.path(".swath/runs")).unwrap().next().unwrap().unwrap().file_name();
        let run = Path::new(run).file_stem().unwrap().to_str().unwrap();
        let (code, told) = place.run(&["cancel", run]);
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        // Who hears nothing is given 15 seconds, and 5 more to hear after all.
        assert!(asked.elapsed() < Duration::from_secs(if does == "wait" { 14 } else { 60 }), "{:?}", asked.elapsed());
        assert!(does == "spin" || place.path("wait.told").exists(), "it was told, and not only killed");
        gone(process);
        assert_eq!(place.ledger(does).len(), 1, "it was never lost");
    }
}

#[test]
fn a_process_dies_with_the_engine_that_started_it_and_the_run_goes_on_later() {
    let text = steps(&[("spin", "")]).replace("ledger: spin", "ledger: spin, times: 1");
    let place = Place::new(&text);
    let mut child: Child = place.swath(&["run", "flow.yaml", "--isolate", "native"]).spawn().unwrap();
    let process = place.attempt("spin", 0);
    child.kill().unwrap();
    child.wait().unwrap();
    gone(process);
    let (code, told) = place.run(&["run", "flow.yaml", "--resume", "--isolate", "native"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(place.ledger("spin").len(), 2);
}

#[test]
fn what_a_process_prints_and_logs_is_in_the_log_of_its_attempt() {
    let place = Place::new(&steps(&[("print", "")]));
    let (code, told) = place.run(&["run", "flow.yaml", "--isolate", "native"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("print: logged tiles=7"), "on the terminal: {told}");
    let run = std::fs::read_dir(place.path(".swath/runs")).unwrap().next().unwrap().unwrap().file_name();
    let (_, lines) = place.run(&["logs", Path::new(&run).file_stem().unwrap().to_str().unwrap(), "print", "--json"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (message, field, value) in [
        ("printed by Rust", "stream", "stdout"),
        ("printed by C", "stream", "stdout"),
        ("complained", "stream", "stderr"),
        ("logged", "tiles", "7"),
    ] {
        let line = lines.iter().find(|line| line["message"] == message);
        let line = line.unwrap_or_else(|| panic!("`{message}` is missing: {lines:#?}"));
        assert!(line.to_string().contains(field) && line.to_string().contains(value), "{line}");
        assert_eq!((&line["step"], &line["attempt"]), (&"print".into(), &1.into()), "{line}");
    }
    let logged = lines.iter().find(|line| line["message"] == "logged").unwrap();
    assert_eq!((&logged["target"], &logged["level"]), (&"harm::inner".into(), &"warn".into()));
}

#[test]
fn a_filter_of_the_log_means_the_same_in_a_process_of_the_step() {
    for isolate in ["none", "native"] {
        let place = Place::new(&steps(&[("print", "")]));
        let mut swath = place.swath(&["run", "flow.yaml", "--isolate", isolate]);
        let output = swath.env("RUST_LOG", "harm::inner=info").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("print: logged tiles=7") && !told.contains("stream="), "{isolate}: {told}");
    }
}

#[test]
fn a_secret_reaches_the_step_that_names_it_and_neither_the_command_line_nor_the_environment_of_its_process() {
    let flow = "flow: secret\nparams: { token: { type: secret, default: HARM_TOKEN }, other: { type: secret, default: OTHER_TOKEN } }\n\
                steps:\n  a: { task: harm.do, with: { does: wait, ledger: a, times: 1, token: $token } }\n\
                outputs: { length: a.secret }\n";
    let place = Place::new(flow);
    let mut swath = place.swath(&["run", "flow.yaml", "--isolate", "all", "--json", "-q"]);
    let child = swath.env("HARM_TOKEN", "hush-hush-17-chars").env("OTHER_TOKEN", "not-for-this-one").spawn().unwrap();
    let process = place.attempt("a", 0);
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", process.as_raw_nonzero())).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!bytes.is_empty() && !text.contains("hush") && !text.contains("not-for"), "{file}: {text}");
    }
    kill_process(process, Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["outputs"]["length"], "hush-hush-17-chars".len(), "{document}");
}

#[test]
fn a_server_isolates_native_steps_by_itself_and_outlives_them() {
    let place = Place::new(&steps(&[("segfault", ""), ("exit", "")]));
    let mut server = place.swath(&["serve", "--listen", "127.0.0.1:0", "--json"]).spawn().unwrap();
    let mut text = String::new();
    let mut out = std::io::BufReader::new(server.stdout.take().unwrap());
    let address = loop {
        assert!(std::io::BufRead::read_line(&mut out, &mut text).unwrap() > 0, "the server has ended: {text}");
        if let Ok(told) = serde_json::from_str::<Value>(&text) {
            break format!("http://{}", told["listening"].as_str().unwrap());
        }
    };
    let flow = format!("flow: canary\nsteps:\n{CANARY}");
    std::fs::write(place.path("canary.yaml"), flow).unwrap();
    let harmful = place.swath(&["run", "flow.yaml", "--server", &address]).spawn().unwrap();
    place.attempt("segfault", 0);
    let (code, told) = place.run(&["run", "canary.yaml", "--server", &address]);
    assert_eq!(code, Some(0), "{told}");
    let told = harmful.wait_with_output().unwrap();
    assert_eq!(place.ledger("segfault").len(), 4, "{}", String::from_utf8_lossy(&told.stderr));
    assert!(server.try_wait().unwrap().is_none(), "the server lives");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}

/// The digests of all artifacts in the outputs of a flow, in order.
fn digests(outputs: &Value) -> Vec<&Value> {
    match outputs {
        Value::Object(members) => match members.get("digest") {
            Some(digest) => vec![digest],
            None => members.values().flat_map(digests).collect(),
        },
        Value::Array(items) => items.iter().flat_map(digests).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_shipped_flow_makes_the_same_artifacts_bit_by_bit_in_processes_of_its_steps() {
    let flow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flows/detect.yaml");
    let made = ["none", "all"].map(|isolate| {
        let place = Place::new("");
        let given = ["-p", "area=12.55,52.47,12.57,52.48", "-p", "results=found", "--isolate", isolate];
        let (code, text) = place.run(&[&["run", flow.to_str().unwrap(), "--json", "-q"], &given[..]].concat());
        let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(code, Some(0), "{document}");
        document
    });
    let [here, apart] = made.each_ref().map(|document| digests(&document["outputs"]));
    assert!(here.len() >= 4, "{}", made[0]);
    assert_eq!(here, apart);
}
