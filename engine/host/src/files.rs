//! Digests of the local files and folders that parameters name, for cache keys.
//!
//! A file whose size, times of modification and change, and inode are as they were is not read again by the same process.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use swath_task::Digest;

type Stamp = (PathBuf, u64, i64, i64, i64, i64, u64);

/// Remembers digests by path, size, time and inode.
#[derive(Default)]
pub(crate) struct FileDigests {
    known: Mutex<BTreeMap<Stamp, Digest>>,
}

impl FileDigests {
    /// Digest of a file's content, or of all files below a folder with their relative paths. A path that does not exist
    /// has the digest of nothing: the task itself will say what is missing.
    pub fn of(&self, path: &Path) -> std::io::Result<Digest> {
        let mut hasher = Vec::new();
        self.add(path, "", &mut hasher, 0)?;
        Ok(match hasher.as_slice() {
            [(name, digest)] if name.is_empty() => *digest,
            files => {
                let text: String = files.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
                Digest::of(text.as_bytes())
            }
        })
    }

    fn add(&self, path: &Path, name: &str, found: &mut Vec<(String, Digest)>, depth: usize) -> std::io::Result<()> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            if depth > 64 {
                return Err(std::io::Error::other(format!("`{}` is nested too deeply", path.display())));
            }
            let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let below = format!("{name}/{}", entry.file_name().to_string_lossy());
                self.add(&entry.path(), &below, found, depth + 1)?;
            }
            return Ok(());
        }
        let stamp = (
            path.to_owned(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.ino(),
        );
        let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&stamp).copied();
        let digest = match known {
            Some(digest) => digest,
            None => {
                let (digest, _) = Digest::of_reader(std::fs::File::open(path)?)?;
                self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(stamp, digest);
                digest
            }
        };
        found.push((name.to_owned(), digest));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_names_decide_not_times() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for side in [&a, &b] {
            std::fs::create_dir_all(side.join("deep")).unwrap();
            std::fs::write(side.join("deep/x"), "1").unwrap();
            std::fs::write(side.join("y"), "2").unwrap();
        }
        let digests = FileDigests::default();
        let before = digests.of(&a).unwrap();
        assert_eq!(before, digests.of(&b).unwrap());
        std::fs::write(b.join("y"), "22").unwrap();
        assert_ne!(before, digests.of(&b).unwrap());
        std::fs::rename(a.join("y"), a.join("z")).unwrap();
        assert_ne!(before, digests.of(&a).unwrap());
        assert_eq!(digests.of(&b.join("y")).unwrap(), Digest::of(b"22"));
        digests.of(&folder.path().join("missing")).unwrap();
    }
}
