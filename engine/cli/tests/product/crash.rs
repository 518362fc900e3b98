//! kill -9 at fifty moments of a run: what had finished is not run again, and the outputs are the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

#[test]
fn killed_at_fifty_moments_a_run_goes_on_to_the_same_end() {
    let undisturbed = Place::new(FLOW);
    let started = Instant::now();
    let (code, wanted) = undisturbed.json(&["run", "flow.yaml", "-q"]);
    let whole = started.elapsed();
    assert_eq!((code, wanted["ran"].as_u64()), (Some(0), Some(7)), "{wanted}");
    let mut cut_off = 0;
    for moment in 0..50u32 {
        let place = Place::new(FLOW);
        let mut child = place.swath(&["run", "flow.yaml", "-q", "--json"]).spawn().unwrap();
        // Fifty moments over the whole run, in an order that does not matter.
        std::thread::sleep(whole * moment / 50 + Duration::from_micros(u64::from(moment * 37 % 1000)));
        // It may have ended by itself just now.
        if child.try_wait().unwrap().is_none() {
            signal(&child, "KILL");
        }
        child.wait().unwrap();
        let Some(run) = place.newest() else { continue };
        let (code, got) = place.json(&["resume", &run, "-q"]);
        assert_eq!(code, Some(0), "killed at moment {moment}: {got}");
        assert_eq!(got["outputs"], wanted["outputs"], "killed at moment {moment}");
        let journal = place.journal(&run);
        let (mut succeeded, mut started) = (BTreeMap::new(), 0);
        for event in &journal {
            match event {
                Event::Succeeded { s, i, .. } => *succeeded.entry((*s, *i)).or_insert(0) += 1,
                Event::Started { s, i, .. } => {
                    started += 1;
                    assert!(
                        !succeeded.contains_key(&(*s, *i)),
                        "moment {moment}: {s}/{i} started after it had succeeded"
                    );
                }
                _ => {}
            }
        }
        assert!(succeeded.len() == 7 && succeeded.values().all(|times| *times == 1), "moment {moment}: {succeeded:?}");
        cut_off += u32::from(started > 7);
        let scratch = place.home().join("scratch");
        assert!(
            !scratch.exists() || std::fs::read_dir(&scratch).unwrap().next().is_none(),
            "nothing is left in scratch"
        );
    }
    assert!(cut_off >= 5, "only {cut_off} kills hit a running step");
}
