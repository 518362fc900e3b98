//! A private MLflow server on a free loopback port, with its database and its artifacts in a folder of its own: there some
//! seconds after it is asked for, gone with the process that started it.
//!
//! The server has a process group of its own. As with PostgreSQL, a keeper waits for the end of a pipe, which ends with the
//! test process whatever ends that; then it kills the group and removes the folder.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kills the group whose number is in the file `$1/group` and removes the folder `$1` when its standard input ends.
const KEEPER: &str = r#"trap '' HUP INT TERM; cat >/dev/null
[ -s "$1/group" ] && kill -s KILL -- "-$(cat "$1/group")" 2>/dev/null; rm -rf "$1""#;

/// When a server that has not come up is given up. Python reads a great many files first.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often another port is tried when somebody took the one that was free.
const PORTS_TRIED: usize = 5;

/// The user of a guarded server, and the password.
pub const USER: (&str, &str) = ("keeper", "a password of twelve or more");

/// A server, up or down. Stopped and removed when dropped.
pub struct Mlflow {
    folder: PathBuf,
    port: u16,
    guarded: bool,
    server: Option<Child>,
    keeper: Child,
}

impl Mlflow {
    /// A server that is up and lets everybody in.
    ///
    /// # Panics
    /// When MLflow is not installed or does not come up, with what it said.
    pub fn start() -> Self {
        Self::start_as(false)
    }

    /// A server that is up and lets [`USER`] in.
    ///
    /// # Panics
    /// As [`Mlflow::start`].
    pub fn start_guarded() -> Self {
        Self::start_as(true)
    }

    fn start_as(guarded: bool) -> Self {
        let mut said = String::new();
        for _ in 0..PORTS_TRIED {
            let mut server = Self::down();
            server.guarded = guarded;
            match server.launch() {
                Ok(()) => return server,
                Err(log) if log.contains("in use") => said = log,
                Err(log) => panic!("MLflow does not come up {log}"),
            }
        }
        panic!("MLflow finds no port {said}");
    }

    /// The address of a server that is not up yet.
    ///
    /// # Panics
    /// When no port is free.
    pub fn down() -> Self {
        let folder = tempfile::Builder::new().prefix("swath-mlflow-").tempdir().expect("a temporary folder").keep();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&folder).stdin(Stdio::piped());
        // A group of its own, so that a signal to the test's group leaves it alive to clean up.
        keeper.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().expect("`sh` starts");
        Self { folder, port: free.expect("a free port").port(), guarded: false, server: None, keeper }
    }

    /// Starts it, on the port and with the data it had before. Returns when it answers.
    ///
    /// # Panics
    /// As [`Mlflow::start`].
    pub fn up(&mut self) {
        self.launch().unwrap_or_else(|log| panic!("MLflow does not come up {log}"));
    }

    /// Starts it; what it said where it does not answer.
    fn launch(&mut self) -> Result<(), String> {
        let port = self.port.to_string();
        let mut command = Command::new(python());
        command.args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", &port, "--workers", "1"]);
        command.arg("--backend-store-uri").arg(format!("sqlite:///{}", self.folder.join("mlflow.db").display()));
        command.arg("--artifacts-destination").arg(self.folder.join("artifacts")).arg("--serve-artifacts");
        if self.guarded {
            let settings = format!(
                "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{}\nadmin_username = {}\nadmin_password = {}\n\
                 authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
                self.folder.join("users.db").display(),
                USER.0,
                USER.1
            );
            let path = self.folder.join("users.ini");
            std::fs::write(&path, settings).expect("settings are written");
            command.args(["--app-name", "basic-auth"]);
            command.env("MLFLOW_AUTH_CONFIG_PATH", path).env("MLFLOW_FLASK_SERVER_SECRET_KEY", "of this test");
        }
        let log = std::fs::File::create(self.folder.join("server.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command.current_dir(&self.folder).process_group(0);
        // It is to tell nobody of itself, and to run no jobs.
        command.env("DO_NOT_TRACK", "true").env("MLFLOW_DISABLE_TELEMETRY", "true");
        command.env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false");
        let mut server = command.spawn().expect("Python starts");
        std::fs::write(self.folder.join("group"), server.id().to_string()).expect("the keeper is told");
        let begun = Instant::now();
        while !self.answers() {
            let ended = server.try_wait().expect("a child");
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                return Err(format!("({ended:?}): {said}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.server = Some(server);
        Ok(())
    }

    /// Ends it as a crash does: all its processes are killed at once.
    ///
    /// # Panics
    /// When it is not up.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it is up");
        let group = format!("-{}", server.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).status().expect("`kill` starts");
        assert!(killed.success(), "the group {group}");
        server.wait().expect("a child");
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
            connection.set_read_timeout(Some(Duration::from_secs(10)))?;
            connection.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// The Python that MLflow is installed for.
///
/// # Panics
/// When it is not.
pub fn python() -> PathBuf {
    crate::python::environment("SWATH_MLFLOW_PYTHON", "mlflow")
}
