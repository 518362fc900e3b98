//! `flows/valid` and `flows/invalid`: what the command says of each, held in the `.out` file beside it.
//! `UPDATE_EXPECT=1 cargo test -p swath --test flows` writes them anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expect_test::expect_file;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn flows(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("flows").join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// Runs `swath COMMAND FLOW` in the folder of the flow.
fn swath(command: &str, flow: &Path) -> Output {
    let mut swath = Command::new(env!("CARGO_BIN_EXE_swath"));
    swath.arg(command).arg(flow.file_name().unwrap()).current_dir(flow.parent().unwrap()).env("NO_COLOR", "1");
    swath.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(root().to_str().unwrap(), "<root>")
}

#[test]
fn every_valid_flow_is_drawn_as_its_snapshot_says() {
    let files = flows("valid");
    assert!(files.len() >= 25, "{}", files.len());
    for path in files {
        let valid = swath("validate", &path);
        assert!(valid.status.success(), "{}", text(&valid.stderr));
        expect_file![path.with_extension("out")].assert_eq(&text(&swath("graph", &path).stdout));
    }
}

#[test]
fn every_invalid_flow_is_refused_as_its_snapshot_says() {
    let files = flows("invalid");
    assert!(files.len() >= 45, "{}", files.len());
    for path in files {
        let refused = swath("validate", &path);
        assert_eq!(refused.status.code(), Some(2), "{}", path.display());
        assert!(refused.stdout.is_empty());
        expect_file![path.with_extension("out")].assert_eq(&text(&refused.stderr));
    }
}
