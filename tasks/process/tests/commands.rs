//! Real programs of the machine (sh, cat, sleep), run as steps.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_kinds::File;
use swath_process::{RunCommand, TASKS};
use swath_task::local::LocalHost;
use swath_task::{ArtifactRecord, Context, Fault, Host, PortType, Purity, Staged, Task, TaskError};
use tokio_util::sync::CancellationToken;

async fn run(params: Value, inputs: Value, host: &std::sync::Arc<LocalHost>) -> Result<Value, TaskError> {
    let task = TASKS[0].bind(params).unwrap_or_else(|problems| panic!("{problems:?}"));
    task.run(inputs, host.context(3)).await
}

fn content(host: &LocalHost, record: &Value) -> String {
    std::fs::read_to_string(host.path(&serde_json::from_value(record.clone()).unwrap())).unwrap()
}

fn host() -> (tempfile::TempDir, std::sync::Arc<LocalHost>) {
    let folder = tempfile::tempdir().unwrap();
    let host = LocalHost::new(folder.path()).unwrap();
    (folder, host)
}

async fn fault(params: Value) -> Fault {
    let (_folder, host) = host();
    match run(params, json!({}), &host).await {
        Err(TaskError::Permanent(fault) | TaskError::Transient { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn inputs_outputs_files_and_values_reach_the_program() {
    let (folder, host) = host();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let one = host.import::<File>(&write("one.txt", "one\n")).unwrap();
    let two = host.import::<File>(&write("two.txt", "two\n")).unwrap();
    let script =
        write("join.sh", "out=$1; word=$2; shift 2; cat \"$@\" > \"$out\"; echo \"$word $GREETING\" >> \"$out\"\n");
    let made = run(
        json!({
            "command": ["sh", "{files.script}", "{outputs.joined}", "{inputs.count}-{cpus}", "{inputs.parts}", "{inputs.open}"],
            "inputs": {"parts": "artifact.file[]", "count": "integer", "open": "artifact.file?"},
            "outputs": {"joined": "artifact.file"}, "files": {"script": script}, "env": {"GREETING": "a b  $c"},
        }),
        json!({"parts": [one.record(), two.record()], "count": 7}),
        &host,
    )
    .await
    .unwrap();
    assert_eq!(content(&host, &made["joined"]), "one\ntwo\n7-3 a b  $c\n");
    assert_eq!((&made["joined"]["kind"], &made["joined"]["name"]), (&json!("artifact.file"), &json!("joined")));
}

#[tokio::test]
async fn streams_paths_and_folders_become_artifacts() {
    let (folder, host) = host();
    let path = folder.path().join("in.txt");
    std::fs::write(&path, "b\na\n").unwrap();
    let input = host.import::<File>(&path).unwrap();
    let made = run(
        json!({"command": ["sort"], "inputs": {"text": "artifact.file"}, "stdin": "text",
            "outputs": {"sorted": {"kind": "artifact.file", "name": "sorted.txt"}}, "stdout": "sorted"}),
        json!({"text": input.record()}),
        &host,
    )
    .await
    .unwrap();
    assert_eq!((content(&host, &made["sorted"]), &made["sorted"]["name"]), ("a\nb\n".to_owned(), &json!("sorted.txt")));

    let made = run(
        json!({"command": ["sh", "-c", "mkdir -p out/tiles && echo x > out/tiles/0.txt && echo {} > note.json"],
            "outputs": {"tiles": {"kind": "artifact.folder", "path": "out/tiles"},
                        "note": {"kind": "stac.scenes", "path": "note.json"}}}),
        json!({}),
        &host,
    )
    .await
    .unwrap();
    assert_eq!(made["tiles"]["files"][0]["path"], "0.txt");
    assert_eq!((&made["note"]["kind"], &made["note"]["name"]), (&json!("stac.scenes"), &json!("note.json")));
}

#[tokio::test]
async fn the_environment_is_the_declared_one_and_no_file_is_inherited() {
    let (_folder, host) = host();
    let made = run(
        json!({"command": ["env"], "outputs": {"env": "artifact.file"}, "stdout": "env", "env": {"MINE": "1"},
            "env_pass": ["CARGO_MANIFEST_DIR", "SURELY_NOT_SET"]}),
        json!({}),
        &host,
    )
    .await
    .unwrap();
    let text = content(&host, &made["env"]);
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["CARGO_MANIFEST_DIR", "HOME", "LANG", "MINE", "OMP_NUM_THREADS", "PATH", "TMPDIR"]);

    let command = ["sh", "-c", "ls /proc/$$/fd"];
    let made = run(json!({"command": command, "outputs": {"fds": "artifact.file"}, "stdout": "fds"}), json!({}), &host)
        .await
        .unwrap();
    let open: Vec<u32> = content(&host, &made["fds"]).lines().map(|fd| fd.parse().unwrap()).collect();
    assert!(open.iter().all(|fd| *fd <= 2 || *fd == 10 || *fd == 255), "{open:?}");
}

#[tokio::test]
async fn failures_are_told_with_code_and_last_lines() {
    let failed = fault(json!({"command": ["sh", "-c", "echo on stdout; echo disk full >&2; exit 3"]})).await;
    assert_eq!(failed.code, "C103");
    assert!(
        failed.message.contains("exit code 3")
            && failed.message.contains("disk full")
            && failed.message.contains("on stdout"),
        "{failed}"
    );

    let missing = fault(json!({"command": ["no-such-program-at-all"]})).await;
    assert!(missing.code == "C101" && missing.help.is_some(), "{missing}");
    assert_eq!(fault(json!({"command": ["/etc/hostname"]})).await.code, "C102");
    assert_eq!(fault(json!({"command": ["true"], "cwd": "/no/such/folder"})).await.code, "C102");

    let killed = fault(json!({"command": ["sh", "-c", "kill -SEGV $$"]})).await;
    assert!(killed.code == "C104" && killed.message.contains("segmentation fault"), "{killed}");

    let absent = fault(json!({"command": ["echo", "forgot {outputs.map}"], "outputs": {"map": "raster.cog"}})).await;
    assert!(absent.code == "C105" && absent.message.contains("`map`") && absent.message.contains("forgot"), "{absent}");
    let link =
        fault(json!({"command": ["ln", "-s", "/etc/passwd", "{outputs.map}"], "outputs": {"map": "artifact.file"}}))
            .await;
    assert_eq!(link.code, "C106");
}

#[tokio::test]
async fn exit_codes_mean_what_the_flow_says() {
    let (_folder, host) = host();
    run(json!({"command": ["sh", "-c", "exit 4"], "ok_codes": [0, 4]}), json!({}), &host).await.unwrap();
    for (code, transient) in [(75, true), (9, false)] {
        let error = run(json!({"command": ["sh", "-c", format!("exit {code}")]}), json!({}), &host).await.unwrap_err();
        assert_eq!(matches!(error, TaskError::Transient { .. }), transient, "{code}");
    }
    let error = run(json!({"command": ["sh", "-c", "kill -KILL $$"]}), json!({}), &host).await.unwrap_err();
    assert!(matches!(error, TaskError::Transient { .. }), "{error}");
}

/// A whole tree of processes: the shell, a child that ignores SIGTERM, and a sleeping one.
const STUBBORN: &str =
    "trap '' TERM; sleep 1000 & echo $! > \"$0\"; echo $$ >> \"$0\"; while true; do sleep 0.05; done";

fn alive(pid: &str) -> bool {
    // A zombie is dead: it only waits for its parent to look.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

async fn pids(path: &std::path::Path) -> Vec<String> {
    for _ in 0..3000 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == 2 {
            return text.lines().map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the program did not start");
}

async fn dead(pids: &[String]) -> bool {
    for _ in 0..3000 {
        if pids.iter().all(|pid| !alive(pid)) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn cancelling_stops_the_whole_group_even_when_it_ignores_the_request() {
    let (folder, host) = host();
    let note = folder.path().join("pids");
    let task = TASKS[0].bind(json!({"command": ["sh", "-c", STUBBORN, &note], "grace": 0.3})).unwrap();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(task.run(json!({}), host.cancellable(1, cancel.clone())));
    let pids = pids(&note).await;
    let started = Instant::now();
    cancel.cancel();
    assert!(matches!(running.await.unwrap(), Err(TaskError::Cancelled)));
    // As long as is waited where nobody says how long.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(dead(&pids).await, "{pids:?}");
}

#[tokio::test]
async fn a_dropped_step_leaves_no_process() {
    let (folder, host) = host();
    let note = folder.path().join("pids");
    let task = TASKS[0].bind(json!({"command": ["sh", "-c", STUBBORN, &note]})).unwrap();
    let running = tokio::spawn(task.run(json!({}), host.context(1)));
    let pids = pids(&note).await;
    running.abort();
    assert!(dead(&pids).await, "{pids:?}");
}

#[tokio::test]
async fn what_runs_on_in_the_background_neither_hangs_the_step_nor_survives_it() {
    let (folder, host) = host();
    let note = folder.path().join("pid");
    let started = Instant::now();
    run(json!({"command": ["sh", "-c", "sleep 1000 & echo $! > \"$0\"", &note]}), json!({}), &host).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(60));
    let pid = std::fs::read_to_string(&note).unwrap().trim().to_owned();
    assert!(dead(&[pid]).await);
}

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let script =
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; head -c 3000000 /dev/zero | tr '\\0' x; exit 1";
    let failed = fault(json!({"command": ["sh", "-c", script]})).await;
    assert!(failed.message.len() < 16_000, "{}", failed.message.len());
    assert!(failed.message.contains("line 2999"), "{}", &failed.message[..200]);
}

/// A host that knows two secrets.
struct Keeper(std::sync::Arc<LocalHost>);

#[async_trait::async_trait]
impl Host for Keeper {
    fn scratch(&self) -> Result<&std::path::Path, TaskError> {
        self.0.scratch()
    }
    fn keep(&self) -> Result<&std::path::Path, TaskError> {
        self.0.keep()
    }
    async fn locate(&self, artifact: &ArtifactRecord) -> Result<std::path::PathBuf, TaskError> {
        self.0.locate(artifact).await
    }
    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        self.0.commit(staged).await
    }
    fn progress(&self, _: u64, _: u64, _: &'static str) {}
    fn metric(&self, _: &'static str, _: f64) {}
    fn secret(&self, name: &str) -> Option<String> {
        match name {
            "database_password" => Some("hunter2-hunter2".to_owned()),
            "deploy_key" => {
                Some("-----BEGIN KEY-----\r\nMIIEvQIBADANBg\n  kqhkiG9w0BAQEF  \nab\n-----END KEY-----\n".to_owned())
            }
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_secret_reaches_the_program_and_is_not_repeated() {
    let (_folder, host) = host();
    let context = Context::new(std::sync::Arc::new(Keeper(host)), CancellationToken::new(), 1, "key");
    let script = "test \"$PGPASSWORD\" = hunter2-hunter2 && echo \"login with $PGPASSWORD failed\" >&2; exit 1";
    let params = |secret: &str| json!({"command": ["sh", "-c", script], "secret_env": {"PGPASSWORD": secret}});
    let task = TASKS[0].bind(params("database_password")).unwrap();
    let error = task.run(json!({}), context.clone()).await.unwrap_err();
    assert!(error.to_string().contains("login with *** failed"), "{error}");
    let error = TASKS[0].bind(params("unknown")).unwrap().run(json!({}), context).await.unwrap_err();
    assert!(error.to_string().contains("C109"), "{error}");
}

#[tokio::test]
async fn no_line_of_a_secret_of_several_lines_is_repeated() {
    let (_folder, host) = host();
    let context = Context::new(std::sync::Arc::new(Keeper(host)), CancellationToken::new(), 1, "key");
    let script = "echo \"bad key: $KEY\" >&2; echo grab it >&2; exit 1";
    let params = json!({"command": ["sh", "-c", script], "secret_env": {"KEY": "deploy_key"}});
    let error = TASKS[0].bind(params).unwrap().run(json!({}), context).await.unwrap_err().to_string();
    assert!(error.contains("bad key: ***") && error.contains("grab it"), "{error}");
    assert!(!["BEGIN", "MIIEv", "kqhki"].iter().any(|part| error.contains(part)), "{error}");
}

#[test]
fn ports_follow_the_declaration() {
    let params = json!({"command": ["x", "{inputs.a}", "{outputs.o}"], "purity": "effect",
        "inputs": {"a": "raster.cog[]", "b": "number?"}, "outputs": {"o": {"kind": "vector.detections"}}});
    let task = TASKS[0].bind(params).unwrap();
    let ports = task.ports();
    assert_eq!(ports.inputs[0].of, PortType::Artifact("raster.cog".into()));
    assert!(ports.inputs[0].list && ports.inputs[0].required && !ports.inputs[1].required);
    assert_eq!(ports.inputs[1].of, PortType::Value("number".into()));
    assert_eq!(ports.outputs[0].of, PortType::Artifact("vector.detections".into()));
    assert_eq!(task.purity(), Purity::Effect);
    assert!(TASKS[0].ports().inputs.is_empty());
}

#[test]
fn an_argument_that_is_not_known_yet_is_no_mistake_of_the_outputs() {
    let schema = TASKS[0].params_schema();
    let stand_in = &schema["properties"]["command"]["items"]["examples"][0];
    let task: RunCommand =
        serde_json::from_value(json!({"command": ["x", stand_in], "outputs": {"o": "raster.cog"}})).unwrap();
    let problems = task.check().unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.at.as_str()).collect::<Vec<_>>(), ["/command/1"], "{schema}");
}

#[test]
fn wrong_declarations_are_told_before_anything_runs() {
    for (params, at, word) in [
        (json!({"command": []}), "/command", "no program"),
        (json!({"command": ["x", "{inputs.a}"]}), "/command/1", "stands for nothing"),
        (json!({"command": ["x", "{scrach}"]}), "/command/1", "stands for nothing"),
        (json!({"command": ["x", "-i={inputs.a}"], "inputs": {"a": "raster.cog[]"}}), "/command/1", "of its own"),
        (json!({"command": ["x"], "inputs": {"a": "raster.cogg"}}), "/inputs/a", "neither"),
        (json!({"command": ["x", "{outputs.o}"], "outputs": {"o": "tif"}}), "/outputs/o", "not an artifact kind"),
        (json!({"command": ["x"], "outputs": {"o": "raster.cog"}}), "/outputs/o", "where to write"),
        (
            json!({"command": ["x"], "outputs": {"o": {"kind": "raster.cog", "path": "../o.tif"}}}),
            "/outputs/o",
            "stays in it",
        ),
        (json!({"command": ["x"], "stdin": "a"}), "/stdin", "not an input"),
        (json!({"command": ["x"], "stdout": "a"}), "/stdout", "no output"),
        (json!({"command": ["x"], "grace": 1e9}), "/grace", "60"),
    ] {
        let task: RunCommand = serde_json::from_value(params.clone()).unwrap();
        let problems = task.check().unwrap_err();
        assert!(problems.iter().any(|p| p.at == at && p.message.contains(word)), "{params}: {problems:?}");
    }
}
