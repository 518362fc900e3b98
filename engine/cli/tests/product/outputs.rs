//! Where the outputs of a flow go, and what is told when they cannot.

use crate::commands::flow;
use crate::common::Place;
use serde_json::json;

/// A flow whose run fails at `gate` until the file `flag` is there, and then yields a text.
pub fn gated() -> Place {
    let place = Place::new("");
    let steps = r#"  gate: { task: run.command, with: { command: [test, -e, FLAG] } }
  text: { task: run.command, after: [gate], with: { command: [sh, -c, "echo hello > {outputs.text}"], outputs: { text: { kind: artifact.file, name: a.txt } } } }
outputs: { text: text.text }
"#;
    let steps = steps.replace("FLAG", place.path().join("flag").to_str().unwrap());
    std::fs::write(place.path().join("flow.yaml"), flow(&steps)).unwrap();
    place
}

#[test]
fn resume_puts_the_outputs_where_the_run_was_to_put_them() {
    let place = gated();
    assert_eq!(place.run(&["run", "flow.yaml", "--out", "mine"]).0, Some(1));
    let run = place.newest().unwrap();
    std::fs::write(place.path().join("flag"), "").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let resume = |out: &[&str]| {
        let home = place.home();
        let words = [&["resume", &run, "--home", home.to_str().unwrap()], out].concat();
        let ended = place.swath(&words).current_dir(elsewhere.path()).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    resume(&[]);
    assert!(place.path().join("mine/text.txt").is_file());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    resume(&["--out", "yours"]);
    assert!(elsewhere.path().join("yours/text.txt").is_file(), "what is asked for wins");
    // A run that is removed leaves nothing.
    let locks = || {
        let listed = std::fs::read_dir(place.home().join("runs")).unwrap();
        listed.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "lock")).count()
    };
    assert_eq!(locks(), 1);
    assert_eq!(place.run(&["gc", "--older-than", "0"]).0, Some(0));
    assert_eq!(locks(), 0);
}

#[test]
fn a_folder_that_cannot_take_the_outputs_is_told_before_anything_runs() {
    let place = gated();
    std::fs::write(place.path().join("file"), "").unwrap();
    for folder in ["file", "file/below", "/proc/nowhere", "/dev/full"] {
        let (code, _, said) = place.run(&["run", "flow.yaml", "--out", folder]);
        assert_eq!(code, Some(2), "{folder}: {said}");
        assert!(said.contains(&format!("`{folder}`")) && said.contains("--out FOLDER"), "{folder}: {said}");
        assert_eq!(place.newest(), None, "{folder}");
    }
    assert!(!place.path().join("results").exists(), "trying leaves nothing");
}

#[test]
fn outputs_that_cannot_be_written_in_the_end_are_told_with_the_way_to_get_them() {
    let place = gated();
    std::fs::write(place.path().join("flag"), "").unwrap();
    // In the way of the file is a folder: only the last rename fails.
    std::fs::create_dir_all(place.path().join("results/probe/text.txt/taken")).unwrap();
    let (code, ended) = place.json(&["run", "flow.yaml"]);
    assert_eq!((code, &ended["state"], &ended["unpublished"]["code"]), (Some(1), &json!("completed"), &json!("E118")));
    let listed: Vec<_> = std::fs::read_dir(place.path().join("results/probe")).unwrap().collect();
    assert_eq!(listed.len(), 1, "no part is left: {listed:?}");
    let run = ended["run"].as_str().unwrap();
    let (code, _, said) = place.run(&["resume", run]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error[E118]") && said.contains(&format!("`swath resume {run} --out FOLDER`")), "{said}");
    let (code, ended) = place.json(&["resume", run, "--out", "other"]);
    assert_eq!((code, &ended["unpublished"]), (Some(0), &json!(null)), "{ended}");
    assert!(place.path().join("other/text.txt").is_file());
}

#[test]
fn outputs_that_cannot_be_computed_are_a_failure_that_quiet_does_not_hide() {
    let place = Place::new(
        "flow: none\nsteps:\n  a: { task: run.command, with: { command: ['true'], stdout: text, outputs: { text: artifact.any } } }\n\
         outputs: { share: '${1 / steps.a.text.size}' }\n",
    );
    let (code, out, err) = place.run(&["run", "flow.yaml", "--quiet"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("error[E318]: outputs: output `share` of the flow cannot be computed"), "{err}");
    let id = place.newest().unwrap();
    let stored = || (place.json(&["runs"]).1[0]["run"].clone(), place.run(&["show", &id]).1);
    let (row, shown) = stored();
    assert_eq!(row["state"], "failed");
    assert!(shown.contains("state    failed") && shown.contains("\noutputs: output `share` of the flow"), "{shown}");
    // Nothing is left to try again, and what is computed of the same results is the same.
    let (code, _, err) = place.run(&["resume", &id]);
    assert_eq!(code, Some(1));
    assert!(err.contains("0 ran, 0 reused") && err.contains("correct `outputs` in the flow"), "{err}");
    assert_eq!(stored(), (row, shown));
}
