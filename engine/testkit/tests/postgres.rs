//! The private cluster is what its users rely on: durable across a crash, guarded where asked, gone when its test is.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use swath_testkit::postgres::{Postgres, psql};

/// Set for the copy of this program that is killed while it holds a cluster.
const VICTIM: &str = "SWATH_TESTKIT_VICTIM";

#[test]
fn what_was_committed_outlives_an_immediate_restart() {
    let mut postgres = Postgres::start(true);
    let database = postgres.create_database();
    psql(&database, "create table kept as select generate_series(1, 1000) as n");
    postgres.restart_immediate();
    assert_eq!(psql(&database, "select count(*), sum(n) from kept"), "1000|500500");
    assert_eq!(psql(&database, "show fsync"), "on");
    assert_eq!(psql(&postgres.create_database(), "create extension postgis; select postgis_lib_version() > '3'"), "t");
}

#[test]
fn a_killed_test_leaves_neither_server_nor_folder() {
    if std::env::var_os(VICTIM).is_some() {
        let postgres = Postgres::start(false);
        println!("\ndata {}", psql(&postgres.url("postgres"), "show data_directory"));
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "a_killed_test_leaves_neither_server_nor_folder", "--nocapture"]).env(VICTIM, "1");
    let mut victim = victim.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let told = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("data ").map(std::path::PathBuf::from));
    let data = told.expect("the victim tells where its data is");
    assert!(data.join("postmaster.pid").exists(), "the server runs");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while data.parent().unwrap().exists() {
        assert!(Instant::now() < deadline, "`{}` is still there", data.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
