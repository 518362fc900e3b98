//! `swath test`: tests beside flows pass, fail and are refused with clear words.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::Place;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_tests_of_the_shipped_flows_pass() {
    let mut swath = Command::new(env!("CARGO_BIN_EXE_swath"));
    let flows = ["flows/demo.yaml", "flows/detect.yaml", "flows/season.yaml"];
    swath.arg("test").args(flows).arg("--json").current_dir(root());
    let output = swath.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told.len() >= 7 && told.iter().all(|one| one["passed"] == true), "{told:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A place with the flow and the tests of the documentation.
fn documented() -> (Place, String) {
    let page = std::fs::read_to_string(root().join("docs/flow-tests.md")).unwrap();
    let mut blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    let (flow, tests) = (blocks.next().unwrap(), blocks.next().unwrap());
    let place = Place::new(&flow);
    std::fs::write(place.path().join("flow.test.yaml"), &tests).unwrap();
    std::fs::write(place.path().join("catalog.json"), "{}").unwrap();
    (place, tests)
}

#[test]
fn the_tests_of_the_documentation_pass_and_fail_when_the_flow_is_another() {
    let (place, _) = documented();
    let (code, told) = place.json(&["test", "flow.yaml"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told.as_array().unwrap().len(), 3);
    assert!(!place.home().exists(), "nothing is kept");
    let (code, told) = place.json(&["test", "flow.test.yaml", "--only", "each year"]);
    assert_eq!((code, told.as_array().unwrap().len()), (Some(0), 1), "{told}");
    let flow = std::fs::read_to_string(place.path().join("flow.yaml")).unwrap();
    let changed = flow.replace("times: 2", "times: 1").replace("tolerate: 1", "tolerate: 0");
    std::fs::write(place.path().join("flow.yaml"), changed).unwrap();
    let (code, _, told) = place.run(&["test", "flow.yaml"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("step `search` is failed, expected succeeded: the server is down [E321]"), "{told}");
    assert!(told.contains("step `search` had 2 attempts, expected 3"), "{told}");
    assert!(told.contains("output `scenes` is null, expected [5]"), "{told}");
    assert!(told.ends_with("1 passed, 2 failed\n"), "{told}");
}

#[test]
fn tests_that_do_not_fit_are_refused_with_their_place() {
    let (place, tests) = documented();
    for (from, to, code, word) in [
        ("search: { outputs: { count: 4", "serach: { outputs: { count: 4", "X111", "did you mean `search`"),
        ("outputs: { count: 4, scenes", "outputs: { cout: 4, scenes", "X111", "has no output `cout`"),
        ("state: succeeded, instances: 3", "state: suceeded, instances: 3", "X111", "did you mean `succeeded`"),
        ("outputs: { scenes: [4, 4, 4]", "outputs: { scene: [4, 4, 4]", "X111", "did you mean `scenes`"),
        ("    expect:", "    expects:", "X110", "unknown field `expects`"),
        ("tests:", "test:", "X110", "has no `test`"),
        ("params: { years: 3 }", "params: { years: 9 }", "F", "years"),
        ("scenes: { text: \"{}\" }", "scenes: 7", "X111", "is an artifact"),
        ("tests:", "tests: [", "F", "error"),
    ] {
        assert!(tests.contains(from), "{from}");
        std::fs::write(place.path().join("flow.test.yaml"), tests.replacen(from, to, 1)).unwrap();
        let (exit, _, told) = place.run(&["test", "flow.yaml"]);
        assert!(exit == Some(2) && told.contains(&format!("error[{code}")) && told.contains(word), "{to}: {told}");
    }
    std::fs::remove_file(place.path().join("flow.test.yaml")).unwrap();
    let (exit, _, told) = place.run(&["test", "flow.yaml"]);
    assert!(exit == Some(2) && told.contains("flow.test.yaml"), "{told}");
    // Steps that are not faked run.
    std::fs::write(
        place.path().join("real.yaml"),
        "flow: real\nsteps: { says: { task: run.command, isolate: process, with: { command: [\"true\"] } } }\noutputs: { n: \"${1 + 1}\" }\n",
    )
    .unwrap();
    std::fs::write(
        place.path().join("real.test.yaml"),
        "tests: { it runs: { expect: { steps: { says: succeeded }, outputs: { n: 2 } } } }\n",
    )
    .unwrap();
    assert_eq!(place.json(&["test", "real.yaml"]).1[0]["passed"], json!(true));
}
