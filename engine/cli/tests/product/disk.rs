//! A disk that runs full under a run: the run ends with an error that names the disk, nothing that was acknowledged is lost, and
//! once there is room again it is resumed and ends well.
//!
//! Each test has a disk of a few megabytes in memory, mounted where nobody else sees it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::Place;

/// Mounts the disk, says so, and keeps it as long as somebody listens.
const MOUNT: &str = "mount -t tmpfs -o \"$1\" swath \"$0\" && echo mounted && exec cat";

/// A place, one folder of which is a disk of its own.
struct Disk {
    place: Place,
    folder: PathBuf,
    keeper: Child,
}

impl Disk {
    /// `below` names the folder in the store; `options` are those of `tmpfs`.
    fn new(flow: &str, below: &str, options: &str) -> Self {
        let place = Place::new(flow);
        let folder = place.home().join(below);
        std::fs::create_dir_all(&folder).unwrap();
        let mut keeper = Command::new("unshare");
        keeper.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", MOUNT]).arg(&folder).arg(options);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut keeper = keeper.spawn().expect("`unshare` starts: it is part of util-linux");
        let mut said = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        if said != "mounted\n" {
            let mut why = String::new();
            keeper.stderr.as_mut().unwrap().read_to_string(&mut why).unwrap();
            panic!(
                "THIS MACHINE DOES NOT LET THE TESTS MOUNT A SMALL DISK, so what happens on a full one is not tested: {why}\
                 allow user namespaces (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`), or run the tests as root"
            );
        }
        Self { place, folder, keeper }
    }

    /// A program that sees the disk.
    fn inside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut inside = self.place.swath(&[]);
        let environment: Vec<_> =
            inside.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        inside = Command::new("nsenter");
        inside.args(["--preserve-credentials", "--user", "--mount", "--target", &self.keeper.id().to_string()]);
        inside.arg(format!("--wd={}", self.place.path().display())).arg("--").arg(program).args(arguments);
        for (name, value) in environment {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside
    }

    fn swath(&self, arguments: &[&str]) -> Command {
        self.inside(env!("CARGO_BIN_EXE_swath"), arguments)
    }

    /// Exit code, and all that was said.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        said(self.swath(arguments).spawn().unwrap())
    }

    /// Carries out a line of the shell there.
    fn shell(&self, line: &str) {
        let done = self.inside("sh", &["-c", line, &self.folder.display().to_string()]).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Leaves room for nothing.
    fn fill(&self) {
        self.shell("cat /dev/zero > $0/ballast 2> /dev/null || true");
    }

    fn id(&self) -> String {
        let (_, out) = self.run(&["runs", "--json"]);
        let runs: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
        runs[0]["run"]["id"].as_str().unwrap().to_owned()
    }

    /// How often a step has noted that it ran.
    fn ran(&self, step: &str) -> usize {
        let ledger = std::fs::read_to_string(self.place.path().join("ledger")).unwrap_or_default();
        ledger.lines().filter(|line| *line == step).count()
    }

    /// No rule is broken; then there is room, the run is resumed, and no rule is broken either.
    fn recovers(&self, make_room: &str) {
        let run = self.id();
        let (code, told) = self.run(&["check"]);
        assert_eq!(code, Some(0), "{told}");
        self.shell(make_room);
        let (code, told) = self.run(&["resume", &run, "-q"]);
        assert_eq!(code, Some(0), "{told}");
        let (code, told) = self.run(&["check"]);
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(self.ran("first"), 1, "what had finished does not run again");
        assert_eq!(self.ran("last"), 1);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The disk goes with whoever keeps it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

/// A step that waits for the file `go`, between two that leave a trace; what the second makes is `made` bytes long.
fn flow(made: u32) -> String {
    format!(
        "flow: filling
params: {{ ledger: {{ type: path, default: ledger }}, go: {{ type: path, default: go }} }}
steps:
  first: {{ task: run.command, with: {{ command: [sh, -c, 'echo first >> $0', $ledger], purity: effect }} }}
  middle:
    task: run.command
    after: first
    with:
      command: [sh, -c, 'head -c {made} /dev/zero > $2 || exit 1; echo middle >> $0; until test -e $1; do sleep 0.05; done', $ledger, $go, '{{outputs.file}}']
      outputs: {{ file: {{ kind: artifact.file, name: made.bin }} }}
      purity: effect
  last: {{ task: run.command, after: middle, with: {{ command: [sh, -c, 'echo last >> $0', $ledger], purity: effect }} }}
"
    )
}

/// Begins the run and waits until its middle step waits; whatever is done then, the step goes on, and the run ends.
fn meanwhile(disk: &Disk, act: impl FnOnce()) -> (Option<i32>, String) {
    let run = disk.swath(&["run", "flow.yaml", "-q"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while disk.ran("middle") == 0 {
        assert!(Instant::now() < deadline, "the run does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    act();
    std::fs::write(disk.place.path().join("go"), "").unwrap();
    said(run)
}

#[test]
fn a_run_whose_store_is_full_says_so_and_is_resumed_when_there_is_room() {
    let disk = Disk::new(&flow(10), "", "size=8m");
    let (code, told) = meanwhile(&disk, || disk.fill());
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("[E111]") && told.contains("/.swath/swath.db` is full"), "{told}");
    disk.recovers("rm $0/ballast");
}

#[test]
fn an_artifact_that_finds_no_room_fails_its_step_and_is_made_again_when_there_is_some() {
    // A disk can also have too many files.
    let disk = Disk::new(&flow(10), "", "size=16m,nr_inodes=200");
    let many = "i=0; while touch $0/ballast$i 2> /dev/null; do i=$((i + 1)); done";
    let (code, told) = meanwhile(&disk, || disk.shell(many));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("E111") && told.contains("/.swath/artifacts"), "{told}");
    disk.recovers("rm $0/ballast*");
}

#[test]
fn a_step_whose_scratch_is_full_says_so_and_runs_again_when_there_is_room() {
    let disk = Disk::new(&flow(8 << 20), "", "size=6m");
    std::fs::write(disk.place.path().join("go"), "").unwrap();
    let (code, told) = disk.run(&["run", "flow.yaml", "-q"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("No space left on device") && told.contains("the disk of `"), "{told}");
    assert!(told.contains("/.swath/scratch/") && told.contains("is full"), "{told}");
    disk.recovers("mount -o remount,size=32m $0");
}
