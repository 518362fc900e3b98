//! Whole files and folders on a disk: the record each has as an artifact, and copies. Nothing here is durable by itself.

use std::io;
use std::path::Path;

use crate::{ArtifactFile, ArtifactRecord, Digest};

/// Digests a file or folder into the record it has as an artifact.
pub fn describe(path: &Path, name: &str, kind: &str) -> io::Result<ArtifactRecord> {
    if path.is_dir() {
        let mut files = Vec::new();
        list(path, "", &mut files)?;
        return Ok(ArtifactRecord::of_folder(name, kind, files));
    }
    let (digest, size) = Digest::of_reader(std::fs::File::open(path)?)?;
    Ok(ArtifactRecord { kind: kind.to_owned(), name: name.to_owned(), digest, size, files: Vec::new() })
}

fn list(folder: &Path, prefix: &str, files: &mut Vec<ArtifactFile>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let (digest, size) = Digest::of_reader(std::fs::File::open(entry.path())?)?;
            files.push(ArtifactFile { path, size, digest });
        }
    }
    Ok(())
}

/// Copies a file or a folder with all it holds. `made` is told of each file once it is written, and of each folder after
/// what lies in it: to sync it, or to change its permissions.
pub fn copy(from: &Path, to: &Path, made: &impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), made)?;
        }
    } else {
        std::fs::copy(from, to)?;
    }
    made(to)
}
