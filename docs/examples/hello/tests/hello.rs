//! The task by itself, and the command that has it.

use std::process::Command;

use swath_task::local::LocalHost;

#[tokio::test]
async fn the_task_runs_without_an_engine() {
    let folder = tempfile::tempdir().unwrap();
    let host = LocalHost::new(folder.path()).unwrap();
    let params = serde_json::json!({ "name": "Ada", "times": 2 });
    let task = swath_hello::TASKS[0].bind(params).unwrap();
    let outputs = task.run(serde_json::json!({}), host.context(1)).await.unwrap();
    let record = serde_json::from_value(outputs["greeting"].clone()).unwrap();
    assert_eq!(std::fs::read_to_string(host.path(&record)).unwrap(), "Hello, Ada!\nHello, Ada!\n");
}

#[test]
fn the_command_knows_the_task_beside_the_built_in_ones() {
    let folder = tempfile::tempdir().unwrap();
    let flow = concat!(env!("CARGO_MANIFEST_DIR"), "/hello.yaml");
    let swath = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_swath-hello")).args(arguments).current_dir(&folder).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = swath(&["run", flow, "-p", "name=Ada"]);
    assert_eq!(code, Some(0), "{said}");
    let greeting = std::fs::read_to_string(folder.path().join("results/hello/greeting.txt")).unwrap();
    assert_eq!(greeting, "Hello, Ada!\n".repeat(3));
    let (code, said) = swath(&["validate", flow, "-p", "name= "]);
    assert_eq!(code, Some(2));
    assert!(said.contains("nobody is greeted") && said.contains("write a name"), "{said}");
}
