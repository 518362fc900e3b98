//! A store in a folder of its own, and the command on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use swath_run::Event;
use swath_store::{Access, SqliteStore, Store};
use swath_testkit::python;

/// A temporary folder with a flow and a store.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new(flow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("flow.yaml"), flow).unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn home(&self) -> PathBuf {
        self.path().join(".swath")
    }

    /// The command, to be run in the folder.
    pub fn swath(&self, arguments: &[&str]) -> Command {
        let mut swath = Command::new(env!("CARGO_BIN_EXE_swath"));
        swath.args(arguments).current_dir(self.path()).env("NO_COLOR", "1");
        swath.env_remove("SWATH_HOME").env_remove("SWATH_STORE").env_remove("SWATH_LEASE");
        swath.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        swath
    }

    /// Runs the command to its end: exit code, standard output, standard error.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.swath(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Runs the command with `--json`: exit code and document.
    pub fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let (code, out, err) = self.run(&[arguments, &["--json"]].concat());
        (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}")))
    }

    /// Id of the newest run, if there is one.
    pub fn newest(&self) -> Option<String> {
        if !self.home().join("swath.db").exists() {
            return None;
        }
        let (_, out, _) = self.run(&["runs", "--json"]);
        let runs: Value = serde_json::from_str(&out).ok()?;
        Some(runs[0]["run"]["id"].as_str()?.to_owned())
    }

    /// The journal of a run.
    pub fn journal(&self, run: &str) -> Vec<Event> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(self.home(), Access::Read).await.unwrap();
            let events = store.load_events(run, 0, u32::MAX).await.unwrap();
            assert!(events.iter().enumerate().all(|(at, event)| event.seq == at as u64 + 1), "I3: dense");
            events.iter().map(|event| Event::decode(&event.payload).unwrap()).collect()
        })
    }
}

/// Runs a Python script with what `make setup` installs and returns what it printed; fails with its error when it fails.
pub fn python(script: &Path, arguments: &[&std::ffi::OsStr]) -> String {
    python::run(&python::interpreter(), std::iter::once(script.as_os_str()).chain(arguments.iter().copied()))
}

/// Sends a signal to a child.
pub fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
