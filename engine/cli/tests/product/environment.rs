//! What the program of a step finds around it: the GPUs of its attempt, and secrets.

use crate::commands::flow;
use crate::common::Place;

#[test]
fn a_program_sees_the_gpus_of_its_attempt_alone() {
    let text = flow(
        r#"  each:
    task: run.command
    each: "${[1, 2]}"
    needs: { gpu: 1, cpu: 0 }
    with: { command: [sh, -c, "printf $CUDA_VISIBLE_DEVICES > gpu${item}; until test -e gpu1 -a -e gpu2; do sleep 0.02; done"], cwd: . }
  none: { task: run.command, after: each, with: { command: [sh, -c, "printf $${CUDA_VISIBLE_DEVICES-all} > none"], cwd: . } }
"#,
    );
    for isolated in ["none", "all"] {
        let place = Place::new(&text);
        let mut run = place.swath(&["run", "flow.yaml", "--gpus", "2", "--isolate", isolated]);
        let ended = run.env("CUDA_VISIBLE_DEVICES", "5,7").output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        let mut seen = [read("gpu1"), read("gpu2")];
        seen.sort_unstable();
        assert_eq!((seen, read("none").as_str()), (["5".to_owned(), "7".to_owned()], "all"), "{isolated}");
    }
}

#[test]
fn a_secret_comes_from_a_variable_a_file_or_a_command_and_is_never_shown() {
    let steps = "  say: { task: run.command, with: { command: [sh, -c, 'test $(printf %s \"$KEY\" | wc -c) = 7 && echo \"it is $KEY\"'], secret_env: { KEY: $key }, purity: effect } }\n";
    let place =
        Place::new(&format!("flow: probe\nparams: {{ key: {{ type: secret, default: THE_KEY }} }}\nsteps:\n{steps}"));
    std::fs::write(place.path().join("key"), "hunter2\n").unwrap();
    let run = |variables: &[(&str, &str)]| {
        let output = place.swath(&["run", "flow.yaml"]).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (variable, value) in [("THE_KEY", "hunter2"), ("THE_KEY_FILE", "key"), ("THE_KEY_COMMAND", "cat key")] {
        let (code, told) = run(&[(variable, value)]);
        assert_eq!(code, Some(0), "{variable}: {told}");
    }
    for (variables, why) in [
        (&[][..], "`THE_KEY` is not set, nor `THE_KEY_FILE` or `THE_KEY_COMMAND`"),
        (&[("THE_KEY_FILE", "nowhere")], "`THE_KEY_FILE` gives no secret: `nowhere`"),
        (&[("THE_KEY_COMMAND", "echo hunter2; exit 3")], "`THE_KEY_COMMAND` gives no secret: the command ended with"),
        (&[("THE_KEY_COMMAND", "true")], "it is empty"),
        (&[("THE_KEY_FILE", "/dev/zero")], "longer than 64 KiB"),
    ] {
        let (code, told) = run(variables);
        assert!(code == Some(2) && told.contains(why) && !told.contains("hunter2"), "{variables:?}: {told}");
    }
    for file in std::fs::read_dir(place.home()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{}", file.display());
    }
}
