//! What the command promises a person and a script: ends, exit codes, interruptions, meaning of the language.

use std::time::{Duration, Instant};

use crate::common::{Place, signal};
use crate::outputs::gated;
use serde_json::json;
use swath_run::Event;

/// A flow of `run.command` steps.
pub fn flow(steps: &str) -> String {
    format!("flow: probe\nsteps:\n{steps}")
}

const SLOW: &str = "  quick: { task: run.command, with: { command: [\"true\"] } }
  slow: { task: run.command, after: [quick], with: { command: [sleep, \"${params.seconds}\"] } }
";

fn slow() -> Place {
    Place::new(&format!("flow: probe\nparams: {{ seconds: {{ type: integer, default: 30 }} }}\nsteps:\n{SLOW}"))
}

/// Waits until the newest run has a running step named `slow`.
fn wait_for_slow(place: &Place) -> String {
    let started = Instant::now();
    loop {
        if let Some(run) = place.newest() {
            let (_, shown) = place.json(&["show", &run]);
            if shown["steps"][1]["state"] == "running" {
                return run;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(300), "`slow` does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_interrupted_run_exits_with_130_and_can_be_resumed() {
    let place = slow();
    let child = place.swath(&["run", "flow.yaml"]).spawn().unwrap();
    let run = wait_for_slow(&place);
    signal(&child, "INT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(String::from_utf8_lossy(&ended.stderr).contains(&format!("swath resume {run}")));
    let (_, runs) = place.json(&["runs"]);
    assert_eq!(runs[0]["shown_state"], "interrupted");
    let (code, _, _) = place.run(&["cancel", &run]);
    assert_eq!(code, Some(0));
    let (_, runs) = place.json(&["runs"]);
    assert_eq!(runs[0]["shown_state"], "cancelled");
}

#[test]
fn a_held_run_is_refused_to_a_second_process_and_cancelled_from_one() {
    let place = slow();
    let child = place.swath(&["run", "flow.yaml"]).spawn().unwrap();
    let run = wait_for_slow(&place);
    let (code, _, said) = place.run(&["resume", &run]);
    assert_eq!(code, Some(1));
    assert!(said.contains("driven by another process") && said.contains(&child.id().to_string()), "{said}");
    let (code, _, said) = place.run(&["cancel", &run]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    let (_, shown) = place.json(&["show", &run]);
    assert_eq!(shown["shown_state"], "cancelled");
}

#[test]
fn lists_conditions_and_failures_mean_what_the_language_says() {
    let place = Place::new(&flow(
        r#"  items:
    task: run.command
    each: "${[3, 1, 2]}"
    with: { command: [sh, -c, "sleep 0.0${item}; printf ${item} > {outputs.text}"], outputs: { text: { kind: artifact.file, name: text.txt } } }
  joined:
    task: run.command
    in: { texts: items.text }
    with: { command: [sh, -c, "out=$0; cat \"$@\" > \"$out\"", "{outputs.text}", "{inputs.texts}"], inputs: { texts: "artifact.file[]" }, outputs: { text: { kind: artifact.file, name: all.txt } } }
  never: { task: run.command, when: "${1 > 2}", with: { command: ["false"] } }
  nothing: { task: run.command, each: "${[]}", with: { command: ["false"] } }
  broken: { task: run.command, on_failure: continue, retry: { times: 2, wait: 10ms, on: [permanent] }, with: { command: ["false"] } }
  afterwards: { task: run.command, after: [broken, never], with: { command: ["true"] } }
outputs: { text: joined.text }
"#,
    ));
    let (code, ended) = place.json(&["run", "flow.yaml"]);
    assert_eq!((code, &ended["state"]), (Some(0), &json!("completed")), "{ended}");
    let text = std::fs::read_to_string(place.path().join("results/probe/text.txt")).unwrap();
    assert_eq!(text, "312", "results are in the order of the list");
    let run = ended["run"].as_str().unwrap();
    let (_, shown) = place.json(&["show", run]);
    let state = |id: &str| {
        let steps = shown["steps"].as_array().unwrap();
        steps.iter().find(|step| step["id"] == id).unwrap()["state"].as_str().unwrap().to_owned()
    };
    let states = ["never", "nothing", "broken", "afterwards"].map(state);
    assert_eq!(states, ["skipped", "succeeded", "failed", "succeeded"]);
    let retried = shown["faults"].as_array().unwrap().iter().filter(|fault| fault["tried_again"] == true).count();
    assert_eq!(retried, 2);
}

#[test]
fn resuming_a_failed_list_runs_only_what_had_failed() {
    let place = Place::new("");
    let flag = place.path().join("flag");
    let steps = r#"  each:
    task: run.command
    each: "${[1, 2, 3]}"
    with: { command: [sh, -c, "test ${item} != 2 || test -e FLAG"] }
"#;
    std::fs::write(place.path().join("flow.yaml"), flow(&steps.replace("FLAG", flag.to_str().unwrap()))).unwrap();
    assert_eq!(place.run(&["run", "flow.yaml"]).0, Some(1));
    let run = place.newest().unwrap();
    std::fs::write(&flag, "").unwrap();
    let (code, ended) = place.json(&["resume", &run]);
    assert_eq!((code, &ended["state"]), (Some(0), &json!("completed")), "{ended}");
    let succeeded = |event: &&Event| matches!(event, Event::Succeeded { .. });
    assert_eq!(place.journal(&run).iter().filter(succeeded).count(), 3);
}

#[test]
fn a_failure_stops_the_run_and_resume_tries_it_again() {
    let place = Place::new(&flow(
        "  works: { task: run.command, with: { command: [\"true\"] } }
  gate: { task: run.command, after: [works], with: { command: [test, -e, FLAG] } }
  reader: { task: run.command, after: [gate], with: { command: [\"true\"] } }
",
    ));
    let flag = place.path().join("flag");
    let text = std::fs::read_to_string(place.path().join("flow.yaml")).unwrap();
    std::fs::write(place.path().join("flow.yaml"), text.replace("FLAG", flag.to_str().unwrap())).unwrap();
    let (code, _, said) = place.run(&["run", "flow.yaml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("error[C103]: gate"), "{said}");
    let run = place.newest().unwrap();
    std::fs::write(&flag, "").unwrap();
    let (code, ended) = place.json(&["resume", &run]);
    assert_eq!((code, ended["ran"].as_u64()), (Some(0), Some(2)), "{ended}");
}

#[test]
fn a_step_that_takes_too_long_fails_with_its_timeout() {
    let place =
        Place::new(&flow("  slow: { task: run.command, timeout: 100ms, with: { command: [sleep, \"30\"] } }\n"));
    let (code, _, said) = place.run(&["run", "flow.yaml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("E316"), "{said}");
}

#[test]
fn what_is_not_there_is_told_with_exit_code_2() {
    let place = slow();
    for arguments in [
        &["run", "missing.yaml"][..],
        &["runs"],
        &["show", "nothing"],
        &["explain", "F999"],
        &["tasks", "raster.compsite"],
        &["runs", "--home", "flow.yaml"],
        &["run", "flow.yaml", "-p", "secnds=3"],
        &["run", "flow.yaml", "-p", "seconds=many"],
        &["validate", "missing.yaml"],
    ] {
        let (code, out, said) = place.run(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {said}");
        assert!(said.starts_with("error"), "{arguments:?}: {said}");
    }
    let (code, _, said) = place.run(&["run", "flow.yaml", "--home", "/proc/nowhere"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("error[E1"), "{said}");
}

#[test]
fn every_command_helps_and_speaks_json() {
    let place = Place::new(&flow("  quick: { task: run.command, with: { command: [echo, hello] } }\n"));
    for command in [
        "run",
        "resume",
        "retry",
        "rerun",
        "pause",
        "cache",
        "test",
        "validate",
        "graph",
        "tasks",
        "explain",
        "schema",
        "runs",
        "show",
        "logs",
        "cancel",
        "gc",
        "tracking",
        "sample",
        "doctor",
        "completions",
    ] {
        let (code, out, _) = place.run(&[command, "--help"]);
        assert!(code == Some(0) && out.contains("Usage: swath"), "{command}");
    }
    let (code, ended) = place.json(&["run", "flow.yaml"]);
    assert_eq!(code, Some(0), "{ended}");
    let run = ended["run"].as_str().unwrap().to_owned();
    for arguments in [
        &["validate", "flow.yaml"][..],
        &["tasks"],
        &["schema"],
        &["runs"],
        &["show", &run],
        &["explain", &run],
        &["explain", "F301"],
        &["graph", "flow.yaml"],
        &["run", "flow.yaml", "--explain"],
        &["gc"],
        &["gc", "--dry-run"],
        &["cache", "list"],
        &["cache", "drop", "--all", "--dry-run"],
        &["completions", "bash"],
    ] {
        assert_eq!(place.json(arguments).0, Some(0), "{arguments:?}");
    }
    let (_, log, _) = place.run(&["logs", &run]);
    assert!(log.contains("hello"), "what a program says is in the log of its step: {log}");
    for format in ["terminal", "mermaid", "dot"] {
        let (code, drawn, _) = place.run(&["graph", "flow.yaml", "--format", format]);
        assert!(code == Some(0) && drawn.contains("quick"), "{drawn}");
    }
}

#[test]
fn changing_one_parameter_runs_that_step_and_what_reads_it() {
    let place = Place::new(
        r#"flow: cached
params: { word: { type: string, default: one } }
defaults: { cache: { ttl: 1h } }
steps:
  stays: { task: run.command, with: { command: [sh, -c, "echo stays > {outputs.text}"], outputs: { text: { kind: artifact.file, name: a.txt } } } }
  changes: { task: run.command, with: { command: [sh, -c, "echo ${params.word} > {outputs.text}"], outputs: { text: { kind: artifact.file, name: b.txt } } } }
  reads: { task: run.command, in: { a: stays.text, b: changes.text }, with: { command: [sh, -c, "cat {inputs.a} {inputs.b} > {outputs.text}"], inputs: { a: artifact.file, b: artifact.file }, outputs: { text: { kind: artifact.file, name: c.txt } } } }
outputs: { text: reads.text }
"#,
    );
    let counts = |arguments: &[&str]| {
        let (code, ended) = place.json(&[&["run", "flow.yaml"], arguments].concat());
        assert_eq!(code, Some(0), "{ended}");
        (ended["ran"].as_u64().unwrap(), ended["reused"].as_u64().unwrap(), ended["run"].as_str().unwrap().to_owned())
    };
    let (ran, reused, _) = counts(&[]);
    assert_eq!((ran, reused), (3, 0));
    let (ran, reused, _) = counts(&[]);
    assert_eq!((ran, reused), (0, 3), "running a flow again runs nothing");
    let (ran, reused, run) = counts(&["-p", "word=two"]);
    assert_eq!((ran, reused), (2, 1));
    let (_, why, _) = place.run(&["explain", &run]);
    assert!(why.contains("changes  ran: parameter `command[2]` was"), "{why}");
    assert!(why.contains("reads    ran: input `b` changed") && why.contains("stays    reused"), "{why}");
    // A damaged artifact is a miss, not a wrong result.
    for entry in std::fs::read_dir(place.home().join("artifacts")).unwrap() {
        for digest in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            for file in std::fs::read_dir(digest.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if path.ends_with("a.txt") {
                    std::fs::remove_file(&path).unwrap();
                }
            }
        }
    }
    let (ran, reused, _) = counts(&["-p", "word=two"]);
    assert_eq!((ran, reused), (1, 2));
}

#[test]
fn a_run_goes_on_when_standard_error_is_closed_or_full() {
    use std::process::Stdio;
    let place = slow();
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    for (words, code) in [
        (&["run", "flow.yaml", "-p", "seconds=0"][..], 0),
        (&["run", "flow.yaml", "-p", "seconds=0", "-vv"], 0),
        (&["run", "flow.yaml", "-p", "seconds=x"], 2),
        (&["validate", "flow.yaml", "-p", "seconds=x"], 2),
        (&["show", "nothing"], 2),
    ] {
        for stderr in [full(), closed()] {
            assert_eq!(place.swath(words).stderr(stderr).status().unwrap().code(), Some(code), "{words:?}");
        }
    }
    let (_, runs) = place.json(&["runs"]);
    let runs = runs.as_array().unwrap();
    assert!(runs.len() == 4 && runs.iter().all(|run| run["shown_state"] == "completed"), "{runs:?}");
}

#[test]
fn sub_flows_are_explained_step_by_step() {
    let place = Place::new(
        r#"flow: above
params: { word: { type: string, default: one } }
steps:
  areas: { flow: below.yaml, each: "${[1, 2]}", with: { word: "${params.word}", number: "${item}" } }
"#,
    );
    let below = r#"flow: below
params: { word: { type: string }, number: { type: integer } }
defaults: { cache: { ttl: 1h } }
steps:
  stays: { task: run.command, with: { command: [sh, -c, "echo ${params.number} > {outputs.text}"], outputs: { text: { kind: artifact.file, name: a.txt } } } }
  changes: { task: run.command, with: { command: [sh, -c, "echo ${params.word}${params.number} > {outputs.text}"], outputs: { text: { kind: artifact.file, name: b.txt } } } }
"#;
    std::fs::write(place.path().join("below.yaml"), below).unwrap();
    assert_eq!(place.run(&["run", "flow.yaml"]).0, Some(0));
    let (code, ended) = place.json(&["run", "flow.yaml", "--explain", "-p", "word=two"]);
    assert_eq!(code, Some(0), "{ended}");
    let told = |at: &str| {
        let reasons = ended["explanation"].as_array().unwrap();
        let found = reasons.iter().find(|reason| reason["step"] == at);
        found.unwrap_or_else(|| panic!("{at}: {reasons:?}"))["reason"].as_str().unwrap()
    };
    assert_eq!(told("areas[1]"), "a sub-flow, told step by step");
    assert!(told("areas[1]/stays").starts_with("reused"));
    assert!(told("areas[1]/changes").starts_with("ran: parameter `command[2]` was"));
    // A result that is gone is told with the run that had it.
    let run = ended["run"].as_str().unwrap();
    assert!(place.run(&["logs", run, "areas"]).1.contains(&format!("swath logs {run}.areas.0")));
    std::fs::remove_dir_all(place.home().join("artifacts")).unwrap();
    let (code, out, said) = place.run(&["run", "flow.yaml", "--explain", "-p", "word=two"]);
    assert_eq!(code, Some(0), "{said}");
    let line = out.lines().find(|line| line.starts_with("areas[0]/changes")).unwrap();
    assert!(line.contains(&format!("nothing changed since run {run}.areas.0, but its result was")), "{out}");
}

#[test]
fn a_flow_that_is_wrong_gives_the_same_list_to_a_script_whatever_the_command() {
    let place = Place::new(&flow("  a: { task: run.comand }\n  b: { task: raster.compsite }\n"));
    let (code, list) = place.json(&["validate", "flow.yaml"]);
    assert!(code == Some(2) && list[0]["diagnostics"].as_array().unwrap().len() >= 2, "{list}");
    for command in ["run", "graph"] {
        assert_eq!(place.json(&[command, "flow.yaml"]), (Some(2), list.clone()), "{command}");
    }
    assert_eq!(place.run(&["graph", "flow.yaml", "--json", "--format", "dot"]).0, Some(2));
}

#[test]
fn a_step_that_is_not_there_is_told() {
    let place = Place::new(&flow("  quick: { task: run.command, with: { command: [\"true\"] } }\n"));
    assert_eq!(place.run(&["run", "flow.yaml"]).0, Some(0));
    let run = place.newest().unwrap();
    for command in ["logs", "explain"] {
        let (code, _, said) = place.run(&[command, &run, "quik"]);
        assert_eq!(code, Some(2));
        assert!(said.contains("has no step `quik`; it has quick"), "{said}");
    }
    let (code, _, said) = place.run(&["explain", "F301", "quick"]);
    assert!(code == Some(2) && said.contains("is an error code"), "{said}");
}

#[test]
fn collection_tells_what_it_keeps_because_it_is_young() {
    let place = gated();
    std::fs::write(place.path().join("flag"), "").unwrap();
    assert_eq!(place.run(&["run", "flow.yaml"]).0, Some(0));
    let (code, _, said) = place.run(&["gc", "--older-than", "0", "--unused-for", "0"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("removed 1 runs") && said.contains("younger than an hour and kept"), "{said}");
    let (_, told) = place.json(&["gc"]);
    assert_eq!(told["kept_young"], json!({ "artifacts": 1, "bytes": 6 }));
}

#[test]
fn lists_refuse_states_and_flows_that_are_not_there() {
    let place = Place::new(&flow("  quick: { task: run.command, with: { command: [\"true\"] } }\n"));
    assert_eq!(place.run(&["run", "flow.yaml"]).0, Some(0));
    for (option, value, hint) in [("--state", "bogus", "interrupted"), ("--flow", "prbe", "there are runs of probe")] {
        let (code, _, said) = place.run(&["runs", option, value]);
        assert!(code == Some(2) && said.contains(value) && said.contains(hint), "{said}");
    }
    assert_eq!(place.json(&["runs", "--state", "completed", "--flow", "probe"]).1.as_array().unwrap().len(), 1);
}

#[test]
fn parameters_are_shown_without_passwords_and_signatures() {
    let place = Place::new(
        "flow: probe
params: { catalog: { type: uri } }
steps:
  quick: { task: run.command, with: { command: [\"true\", \"${params.catalog}\"] } }
",
    );
    let address = "catalog=https://user:hunter2@example.org/stac?sig=abcdef123456";
    assert_eq!(place.run(&["run", "flow.yaml", "-p", address]).0, Some(0));
    let run = place.newest().unwrap();
    for words in [&["show", &run][..], &["show", &run, "--json"], &["explain", &run]] {
        let (code, out, _) = place.run(words);
        assert!(code == Some(0) && !out.contains("hunter2") && !out.contains("abcdef123456"), "{out}");
    }
}

#[test]
fn only_a_run_that_was_cut_off_and_not_made_up_for_is_recalled() {
    let place = gated();
    let noted = |words: &[&str]| place.run(words).2.contains("did not finish");
    assert!(!noted(&["run", "flow.yaml"]));
    assert!(!noted(&["run", "flow.yaml"]), "the run before failed, and said so");
    let place = slow();
    let child = place.swath(&["run", "flow.yaml", "-p", "seconds=8"]).spawn().unwrap();
    wait_for_slow(&place);
    signal(&child, "INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    let noted = || place.run(&["run", "flow.yaml", "-p", "seconds=8"]).2.contains("did not finish");
    assert!(noted());
    assert!(!noted(), "the run before completed");
}

#[test]
fn run_resume_finds_a_run_with_a_relative_period_and_only_while_its_sub_flow_is_the_same() {
    let place = Place::new(
        "flow: scan\nparams: { period: { type: period, default: P90D/now } }\nsteps:\n  \
         area: { flow: area.yaml, with: { period: '${params.period}' } }\n",
    );
    let area = |command: &str| {
        let text = format!(
            "flow: area\nparams: {{ period: {{ type: period }} }}\nsteps:\n  \
             up: {{ task: run.command, with: {{ command: [{command}] }} }}\n"
        );
        std::fs::write(place.path().join("area.yaml"), text).unwrap();
    };
    area("test, -e, mark");
    let (code, first) = place.json(&["run", "flow.yaml"]);
    assert_eq!(code, Some(1), "{first}");
    std::thread::sleep(Duration::from_millis(20));
    let (code, again) = place.json(&["run", "flow.yaml", "--resume"]);
    assert_eq!((code, &again["run"]), (Some(1), &first["run"]));
    // Another sub-flow makes another run of it.
    area("'true'");
    let (code, other) = place.json(&["run", "flow.yaml", "--resume"]);
    assert_eq!(code, Some(0), "{other}");
    assert_ne!(other["run"], first["run"]);
}

#[test]
fn odd_words_are_answered() {
    let place = Place::new("flow: a\nsteps: { a: { task: run.command, with: { command: ['true'] } } }\n");
    let (code, _, err) = place.run(&["explain", "ü12"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    for gpus in ["nan", "-1", "inf"] {
        let (code, _, err) = place.run(&["run", "flow.yaml", &format!("--gpus={gpus}")]);
        assert!(code == Some(2) && err.contains("no number of GPUs"), "{err}");
    }
}

#[test]
fn what_a_flow_is_given_must_be_there_before_anything_runs() {
    let place = Place::new(
        "flow: a\nparams:\n  area: { type: aoi, default: lake.geojson }\n  net: { type: model, default: nets/water }\n\
         steps: { a: { task: run.command, with: { command: [echo, '${params.net}', '${string(params.area)}'] } } }\n",
    );
    let (code, _, err) = place.run(&["run", "flow.yaml"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("lake.geojson`, which is no file") && err.contains("no `manifest.json`"), "{err}");
    assert_eq!(place.newest(), None, "no run was made");
}

#[test]
fn what_a_step_reads_must_be_there_unless_a_step_before_it_may_make_it() {
    let place = Place::new(
        "flow: f
steps:
  search: { task: stac.search, with: { catalog: nosuch.json } }
  composite: { task: raster.composite, in: { scenes: search.scenes }, with: { bands: [B04], area: nowhere.geojson } }
  made: { task: run.command, with: { command: [touch, later.json], purity: effect } }
  found: { task: stac.search, after: [made], with: { catalog: later.json } }
",
    );
    let (code, _, err) = place.run(&["run", "flow.yaml"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("the step `search` reads `") && err.contains("nosuch.json`, which is not there"), "{err}");
    assert!(err.contains("`composite`") && err.contains("nothing has run") && !err.contains("later.json"), "{err}");
    assert_eq!(place.newest(), None);
}

#[test]
fn a_file_tells_where_it_comes_from() {
    let place = Place::new(
        "flow: a\nsteps:\n  says: { task: run.command, with: { command: [echo, hello], stdout: text, outputs: { text: artifact.any }, purity: pure } }\n\
         outputs: { text: says.text }\n",
    );
    let (code, ran) = place.json(&["run", "flow.yaml"]);
    assert_eq!(code, Some(0), "{ran}");
    let file = ran["files"]["text"].as_str().unwrap();
    let (code, again) = place.json(&["run", "flow.yaml"]);
    assert_eq!((code, again["reused"].as_u64()), (Some(0), Some(1)));
    let (_, out, err) = place.run(&["explain", file]);
    let made = format!("made by step `says` of run {}, ", ran["run"].as_str().unwrap());
    let reused = format!("reused by step `says` of run {}, ", again["run"].as_str().unwrap());
    assert!(out.contains(&made) && out.contains(&reused), "{out}{err}");
    std::fs::write(place.path().join(file), "changed").unwrap();
    let (code, _, err) = place.run(&["explain", file]);
    assert!(code == Some(2) && err.contains("not the result of a step in this store"), "{err}");
}

#[test]
fn a_lifted_step_goes_on_without_the_instances_that_it_may_lose() {
    let place = Place::new("");
    let run = |settings: &str| {
        let steps = format!(
            r#"  some:
    task: run.command
    each: "${{[1, 2, 3, 4]}}"
    {settings}
    with: {{ command: [sh, -c, "test ${{item}} != 2 && test ${{item}} != 4 && printf ${{item}} > {{outputs.text}}"], outputs: {{ text: {{ kind: artifact.file, name: text.txt }} }} }}
  joined:
    task: run.command
    in: {{ texts: some.text }}
    with: {{ command: [sh, -c, "out=$0; cat \"$@\" > \"$out\"", "{{outputs.text}}", "{{inputs.texts}}"], inputs: {{ texts: "artifact.file[]" }}, outputs: {{ text: {{ kind: artifact.file, name: all.txt }} }} }}
  apart: {{ task: run.command, after: some, with: {{ command: ["true"] }} }}
outputs: {{ text: joined.text }}
"#
        );
        std::fs::write(place.path().join("flow.yaml"), flow(&steps)).unwrap();
        let (code, ended) = place.json(&["run", "flow.yaml", "--cpus", "1"]);
        let (_, shown) = place.json(&["show", ended["run"].as_str().unwrap()]);
        let step = |id: &str| {
            let steps = shown["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap();
            (steps["state"].as_str().unwrap().to_owned(), steps["instances"].as_str().unwrap().to_owned())
        };
        let state = ended["state"].as_str().unwrap().to_owned();
        (code, state, step("some"), step("apart").0)
    };
    let tolerated = ("succeeded".to_owned(), "2 of 4, 2 failed and tolerated".to_owned());
    for settings in ["tolerate: 2", "tolerate: 50%"] {
        assert_eq!(run(settings), (Some(0), "completed".to_owned(), tolerated.clone(), "succeeded".to_owned()));
        let text = std::fs::read_to_string(place.path().join("results/probe/text.txt")).unwrap();
        assert_eq!(text, "13", "a reader sees the list without the failed ones");
    }
    let (code, state, some, apart) = run("tolerate: 1");
    assert_eq!((code, state.as_str(), some.1.as_str(), apart.as_str()), (Some(1), "failed", "2 of 4", "cancelled"));
    let (code, state, some, apart) = run("on_failure: collect");
    assert_eq!((code, state.as_str(), some.1.as_str(), apart.as_str()), (Some(1), "failed", "2 of 4", "succeeded"));
    // What a later process reads back is the same.
    let (_, shown) = place.json(&["runs", "--flow", "probe"]);
    let tolerant = shown.as_array().unwrap().last().unwrap()["run"]["id"].as_str().unwrap().to_owned();
    let (code, ended) = place.json(&["resume", &tolerant]);
    assert_eq!((code, &ended["state"], &ended["ran"]), (Some(0), &json!("completed"), &json!(0)), "{ended}");
    assert!(ended["outputs"]["text"].is_object(), "{ended}");
}

#[test]
fn kept_results_are_listed_and_dropped_by_choice() {
    let place = Place::new(&flow(
        r#"  one: { task: run.command, cache: { ttl: 1h }, with: { command: [sh, -c, "echo one > {outputs.text}"], outputs: { text: { kind: artifact.file, name: a.txt } } } }
  two: { task: run.command, cache: { ttl: 1h }, with: { command: ["true"] } }
"#,
    ));
    let ran = || place.json(&["run", "flow.yaml"]).1["ran"].as_u64();
    let steps = |arguments: &[&str]| -> Vec<String> {
        let (code, rows) = place.json(&[&["cache", "list"], arguments].concat());
        assert_eq!(code, Some(0), "{rows}");
        let mut steps: Vec<String> =
            rows.as_array().unwrap().iter().map(|row| row["step"].as_str().unwrap().to_owned()).collect();
        steps.sort_unstable();
        steps
    };
    assert_eq!((ran(), ran()), (Some(2), Some(0)));
    assert_eq!(steps(&[]), ["one", "two"]);
    assert_eq!(steps(&["--task", "run.command", "--step", "two"]), ["two"]);
    assert!(steps(&["--older", "1h"]).is_empty() && steps(&["--task", "stac.search"]).is_empty());
    let (code, _, said) = place.run(&["cache", "drop"]);
    assert!(code == Some(2) && said.contains("say which"), "{said}");
    let (code, _, said) = place.run(&["cache", "drop", "--key", "nothing"]);
    assert!(code == Some(2) && said.contains("`nothing`"), "{said}");
    let (_, told) = place.json(&["cache", "drop", "--step", "one", "--dry-run"]);
    assert_eq!((&told["bytes"], steps(&[]).len()), (&json!(4), 2), "{told}");
    let (code, _, said) = place.run(&["cache", "drop", "--step", "one"]);
    assert!(code == Some(0) && said.contains("dropped 1 results"), "{said}");
    assert_eq!((ran(), steps(&[]).len()), (Some(1), 2), "only what was dropped runs");
    // A collection that only looks leaves everything.
    let (_, dry) = place.json(&["gc", "--dry-run", "--older-than", "0", "--unused-for", "0"]);
    assert_eq!((dry["runs"].as_array().unwrap().len(), &dry["cache_entries"]), (3, &json!(2)), "{dry}");
    assert_eq!((steps(&[]).len(), place.json(&["runs"]).1.as_array().unwrap().len()), (2, 3));
    let (_, done) = place.json(&["gc", "--older-than", "0", "--unused-for", "0"]);
    assert_eq!((&done["runs"], &done["cache_entries"]), (&dry["runs"], &dry["cache_entries"]), "{done}");
}

#[test]
fn the_doctor_asks_a_model_server_over_either_protocol() {
    let place = Place::new("flow: none\nsteps: {}\n");
    for url in ["grpc://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:1"] {
        let done = place.swath(&["doctor"]).env("TRITON_URL", url).output().unwrap();
        let (out, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(out.contains(&format!("the model server at {url} cannot be reached")), "{out}{said}");
    }
}
