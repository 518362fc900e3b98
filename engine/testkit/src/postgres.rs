//! A private PostgreSQL cluster, with PostGIS at hand, on a free loopback port: made from nothing in about a second,
//! gone with the process that started it.
//!
//! The server belongs to no test's process tree (it makes a session of its own), so a keeper watches over it: a shell
//! that waits for the end of a pipe. The pipe ends when the cluster is dropped and also when the test process is killed,
//! whatever the signal; then the keeper stops the server and removes its folder.
//!
//! Tests of one program share a cluster through a `static` and take a database each:
//!
//! ```
//! use std::sync::LazyLock;
//! use swath_testkit::postgres::{Postgres, psql};
//!
//! static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(false));
//!
//! let database = POSTGRES.create_database();
//! assert_eq!(psql(&database, "select 40 + 2"), "42");
//! ```

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often another port is tried when somebody took the free one between asking and starting.
const PORTS_TRIED: usize = 5;

/// Stops the server and removes the folder when its standard input ends. `$1` is `pg_ctl`, `$2` the folder.
const KEEPER: &str =
    r#"trap '' HUP INT TERM; cat >/dev/null; "$1" -D "$2/data" -m immediate stop >/dev/null 2>&1; rm -rf "$2""#;

/// A cluster with a superuser `postgres` who needs no password. Roles in the group role `guarded`, once a test has made
/// it, must give theirs. Stopped and removed when dropped.
pub struct Postgres {
    folder: PathBuf,
    account: Option<(u32, u32)>,
    port: u16,
    keeper: Child,
    databases: AtomicUsize,
}

impl Postgres {
    /// Makes a cluster and starts it. `durable`: every commit reaches the disk (`fsync`), as fault tests need;
    /// otherwise a crash of the machine may lose what a crash of the server does not.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or cannot start, with what it said.
    pub fn start(durable: bool) -> Self {
        let account = account();
        let folder = tempfile::Builder::new().prefix("swath-postgres-").tempdir().expect("a temporary folder").keep();
        if let Some((user, group)) = account {
            chown(&folder, Some(user), Some(group)).expect("root gives the folder away");
        }
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(program("pg_ctl")).arg(&folder).stdin(Stdio::piped());
        // A group of its own, so that a signal to the test's group leaves it alive to clean up.
        keeper.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = become_account(&mut keeper, account).spawn().expect("`sh` starts");
        let mut postgres = Self { folder, account, port: 0, keeper, databases: AtomicUsize::new(0) };
        let how = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
        postgres.done("initdb", postgres.command("initdb").args(how));
        postgres.guard();
        for attempt in 1.. {
            postgres.configure(durable);
            match postgres.control("start") {
                Ok(()) => break,
                Err(said) if attempt < PORTS_TRIED && said.contains("Address already in use") => {}
                Err(said) => panic!("PostgreSQL does not start: {said}"),
            }
        }
        postgres
    }

    /// Address of a database of this cluster, for its superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// An empty database of its own for a test: its address.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        psql(&self.url("postgres"), &format!("create database {name}"));
        self.url(&name)
    }

    /// Ends the server as a crash does, every connection cut and no checkpoint written, and starts it again on the
    /// same port. Returns when it is ready, recovered from its log.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn restart_immediate(&mut self) {
        self.control("restart").unwrap_or_else(|said| panic!("PostgreSQL does not start again: {said}"));
    }

    /// Writes the settings, with a port that is free now.
    fn configure(&mut self, durable: bool) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        self.port = free.expect("a free port").port();
        let switch = if durable { "on" } else { "off" };
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nmax_connections = 200\n\
             fsync = {switch}\nsynchronous_commit = {switch}\nfull_page_writes = {switch}\n",
            self.port
        );
        std::fs::write(self.folder.join("data/postgresql.auto.conf"), settings).expect("settings are written");
    }

    /// Asks members of `guarded` for their password.
    fn guard(&self) {
        let path = self.folder.join("data/pg_hba.conf");
        let trusting = std::fs::read_to_string(&path).expect("`initdb` wrote it");
        let guarded = format!("host all +guarded 127.0.0.1/32 scram-sha-256\n{trusting}");
        std::fs::write(&path, guarded).expect("the rules are written");
    }

    /// `pg_ctl start` or `restart`, waiting until the server is ready; else what its log says.
    fn control(&self, verb: &str) -> Result<(), String> {
        let log = self.folder.join("server.log");
        let mut command = self.command("pg_ctl");
        command.args([verb, "--wait", "--timeout=600", "--silent", "--mode=immediate", "--log"]).arg(&log);
        // The server inherits these: a pipe would keep the caller waiting for the server's end.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if status.expect("`pg_ctl` starts").success() {
            return Ok(());
        }
        Err(std::fs::read_to_string(&log).unwrap_or_else(|error| format!("no log: {error}")))
    }

    /// A program of PostgreSQL that works on the cluster's data.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.arg("--pgdata").arg(self.folder.join("data")).current_dir("/");
        become_account(&mut command, self.account);
        command
    }

    fn done(&self, name: &str, command: &mut Command) {
        let output = command.output().unwrap_or_else(|error| panic!("`{name}` does not start: {error}"));
        assert!(output.status.success(), "`{name}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// What PostgreSQL's own client answers to a statement: rows as lines, columns parted by `|`.
///
/// # Panics
/// When the server refuses the statement, with its words.
pub fn psql(url: &str, statement: &str) -> String {
    let mut command = Command::new(program("psql"));
    let how = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password", "--set=ON_ERROR_STOP=1"];
    let output = command.args(how).arg("--dbname").arg(url).arg("--command").arg(statement).output();
    let output = output.expect("`psql` starts");
    assert!(output.status.success(), "`{statement}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The server refuses to run as root: root's tests run it as the account that its package made.
fn account() -> Option<(u32, u32)> {
    let number = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().expect("`id` starts");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if number(&["-u"]) != Some(0) {
        return None;
    }
    let postgres = number(&["-u", "postgres"]).zip(number(&["-g", "postgres"]));
    Some(postgres.expect("PostgreSQL's package makes an account `postgres`: run `make setup`"))
}

fn become_account(command: &mut Command, account: Option<(u32, u32)>) -> &mut Command {
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command
}

/// A program of the newest PostgreSQL installed: Debian keeps each version in a folder of its own, off the path.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = versions.map(|entry| entry.path()).filter(|path| path.join("bin").join(name).exists());
    match installed.max_by_key(|path| version(path)) {
        Some(newest) => newest.join("bin").join(name),
        None => PathBuf::from(name),
    }
}
