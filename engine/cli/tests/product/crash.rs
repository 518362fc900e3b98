//! kill -9 at fifty moments of a run: what had finished is not run again, and the outputs are the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Place, signal};
use swath_run::Event;

const FLOW: &str = r#"
flow: fragile
defaults: { retry: { times: 0 } }
steps:
  first:
    task: run.command
    with: { command: [sh, -c, "sleep 0.03; echo first > {outputs.text}"], outputs: { text: { kind: artifact.file, name: text.txt } } }
  second:
    task: run.command
    in: { text: first.text }
    with: { command: [sh, -c, "sleep 0.03; cat {inputs.text} > {outputs.text}; echo second >> {outputs.text}"], inputs: { text: artifact.file }, outputs: { text: { kind: artifact.file, name: text.txt } } }
  many:
    task: run.command
    each: "${[1, 2, 3, 4]}"
    in: { text: second.text }
    with: { command: [sh, -c, "sleep 0.02; cat {inputs.text} > {outputs.text}; echo ${item} >> {outputs.text}"], inputs: { text: artifact.file }, outputs: { text: { kind: artifact.file, name: text.txt } } }
  last:
    task: run.command
    in: { texts: many.text }
    with: { command: [sh, -c, "sleep 0.03; out=$0; cat \"$@\" > \"$out\"", "{outputs.text}", "{inputs.texts}"], inputs: { texts: "artifact.file[]" }, outputs: { text: { kind: artifact.file, name: text.txt } } }
outputs: { all: last.text, each: many.text }
"#;

/// The shipped flow over two small areas, each as a run of its own below this one.
const LAKES: &str = r#"
flow: lakes
params: { results: { type: path } }
steps:
  areas:
    flow: "CHECKOUT/flows/detect.yaml"
    each: [[12.55, 52.47, 12.57, 52.48], [12.6, 52.475, 12.62, 52.485]]
    with: { area: "${item}", results: "${params.results}/${index}" }
outputs: { composites: areas.composite, probabilities: areas.probability, detections: areas.detections, pictures: areas.picture }
"#;

/// How often each instance has succeeded in the journal of a run, and how many attempts were started. No attempt is
/// started after its instance has succeeded.
fn tally(place: &Place, run: &str) -> (BTreeMap<(u32, u32), u32>, usize) {
    let (mut succeeded, mut started) = (BTreeMap::new(), 0);
    for event in place.journal(run) {
        match event {
            Event::Succeeded { s, i, .. } => *succeeded.entry((s, i)).or_insert(0) += 1,
            Event::Started { s, i, .. } => {
                started += 1;
                assert!(!succeeded.contains_key(&(s, i)), "{run}: {s}/{i} started after it had succeeded");
            }
            _ => {}
        }
    }
    (succeeded, started)
}

/// Runs a flow undisturbed, then kills it at fifty moments, each in a store of its own, and resumes it. `runs` are the
/// runs it makes, as what follows the id of the first, and how many instances each has.
fn kill_at_fifty_moments(flow: &str, given: &[&str], runs: &[(&str, usize)]) {
    let words = [&["run", "flow.yaml", "-q"], given].concat();
    let undisturbed = Place::new(flow);
    let started = Instant::now();
    let (code, wanted) = undisturbed.json(&words);
    let mut whole = started.elapsed();
    assert_eq!(code, Some(0), "{wanted}");
    let mut cut_off = 0;
    for moment in 0..50u32 {
        let place = Place::new(flow);
        let mut child = place.swath(&[&words[..], &["--json"]].concat()).spawn().unwrap();
        // Fifty moments over the whole run, in an order that does not matter.
        std::thread::sleep(whole * moment / 50 + Duration::from_micros(u64::from(moment * 37 % 1000)));
        match child.try_wait().unwrap() {
            None => signal(&child, "KILL"),
            // The first run may have had less of the machine.
            Some(_) => whole = whole * 9 / 10,
        }
        child.wait().unwrap();
        let Some(run) = place.newest() else { continue };
        let (code, got) = place.json(&["resume", &run, "-q"]);
        assert_eq!(code, Some(0), "killed at moment {moment}: {got}");
        assert_eq!(digests(&got["outputs"]), digests(&wanted["outputs"]), "killed at moment {moment}");
        for (below, instances) in runs {
            let (succeeded, attempts) = tally(&place, &format!("{run}{below}"));
            let once = succeeded.values().all(|times| *times == 1);
            assert!(once && succeeded.len() == *instances, "moment {moment}, {run}{below}: {succeeded:?}");
            cut_off += usize::from(attempts > *instances);
        }
        let scratch = place.home().join("scratch");
        let left = std::fs::read_dir(&scratch).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left in scratch");
    }
    assert!(cut_off >= 5, "only {cut_off} kills hit a running step");
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
fn killed_at_fifty_moments_a_run_goes_on_to_the_same_end() {
    kill_at_fifty_moments(FLOW, &[], &[("", 7)]);
}

#[test]
fn killed_at_fifty_moments_the_shipped_flow_finds_the_same_lakes() {
    let checkout = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap();
    let flow = LAKES.replace("CHECKOUT", checkout.to_str().unwrap());
    kill_at_fifty_moments(&flow, &["-p", "results=found"], &[("", 2), (".areas.0", 10), (".areas.1", 10)]);
}

#[test]
fn a_program_does_not_outlive_the_run_that_started_it() {
    let place = Place::new(
        "flow: a
params: { mark: { type: path, default: mark } }
steps:
  slow:
    task: run.command
    with: { command: [sh, -c, 'echo begun >> $0; sleep 2; echo late >> $0', \"${params.mark}\"], purity: effect }
",
    );
    let mut child = place.swath(&["run", "flow.yaml"]).spawn().unwrap();
    let told = || std::fs::read_to_string(place.path().join("mark")).unwrap_or_default();
    while told().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "KILL");
    child.wait().unwrap();
    let (code, _, err) = place.run(&["resume", &place.newest().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(told(), "begun\nbegun\nlate\n", "one program at a time");
}
