//! The folder a file is stored in: made when missing, one writer at a time, new files whole.

use std::fs::{File, TryLockError};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use swath_task::{Context, Fault, TaskError};

/// A folder that this writer has to itself until it is dropped.
pub struct Folder {
    path: PathBuf,
    handle: File,
}

/// How often a writer that waits for its turn looks again.
const TURN: Duration = Duration::from_millis(20);

impl Folder {
    /// The folder of `file`, made when missing. Waits for its turn; stops waiting when the attempt is cancelled.
    pub fn of(file: &Path, ctx: &Context) -> Result<Self, TaskError> {
        if file.is_dir() {
            let message = format!("`{}` is a folder, not a file", file.display());
            return Err(Fault::new("D112", message).help("give `path` a file name").permanent());
        }
        let path = match file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&path).map_err(|error| write_fault(&path, &error))?;
        // Windows aside, a folder can be opened and locked like a file: no lock file is left behind.
        let handle = File::open(&path).map_err(|error| write_fault(&path, &error))?;
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Self { path, handle }),
                Err(TryLockError::WouldBlock) => {
                    ctx.check_cancelled()?;
                    std::thread::sleep(TURN);
                }
                Err(TryLockError::Error(error)) => return Err(write_fault(&path, &error)),
            }
        }
    }

    /// Makes a file: `write` is given a path in a hidden folder; what it left there replaces `file` at once, durably.
    pub fn place<T>(&self, file: &Path, write: impl FnOnce(&Path) -> Result<T, TaskError>) -> Result<T, TaskError> {
        let failed = |error: Error| write_fault(file, &error);
        let hidden = tempfile::Builder::new().prefix(".swath-").tempdir_in(&self.path).map_err(failed)?;
        let made = hidden.path().join(file.file_name().unwrap_or_default());
        let answer = write(&made)?;
        let whole = File::open(&made).and_then(|made| made.sync_all());
        whole.and_then(|()| std::fs::rename(&made, file)).and_then(|()| self.handle.sync_all()).map_err(failed)?;
        Ok(answer)
    }
}

/// A file or folder that cannot be written.
pub fn write_fault(path: &Path, error: &Error) -> TaskError {
    let message = format!("cannot write `{}`: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Fault::new("D114", message).help("free disk space, then resume the run").transient(None)
        }
        _ => Fault::new("D114", message).help("give `path` a place that may be written").permanent(),
    }
}
