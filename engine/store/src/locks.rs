//! Locks of the operating system, which end with the process that holds them, however it ends: the proof of life of those
//! who write to a SQLite store.
//!
//! - A run is driven by one process: the exclusive lock of `runs/RUN.lock`.
//! - Every process that writes to a store holds `lock` shared; collection and migration hold it exclusively.
//! - Readers hold nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;

/// Of a run that is or was driven: `runs/RUN.lock`.
pub(crate) const LOCK: &str = ".lock";

/// The lock of a run. Given up when dropped, and by the system when the process ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock of `run` in the store `home`.
    ///
    /// # Errors
    /// [`Error::RunHeld`] names the process that has it.
    pub(crate) fn take(home: &Path, run: &str) -> Result<Self, Error> {
        let path = path_of(home, run)?;
        let mut file = open(&path)?;
        for patience in (0..20).rev() {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => match read_holder(&mut file) {
                    // Who drives a run has said so in the file. Somebody who only looks holds it for a moment.
                    None if patience > 0 => std::thread::sleep(Duration::from_millis(5)),
                    holder => {
                        let holder = holder.unwrap_or_else(|| UNKNOWN.to_owned());
                        return Err(Error::RunHeld { run: run.to_owned(), holder });
                    }
                },
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, &error)),
            }
        }
        write_holder(&mut file).map_err(|error| Error::io("write", path, &error))?;
        Ok(Self { file })
    }

    /// Who drives `run` now. `None` when nobody does.
    pub(crate) fn holder(home: &Path, run: &str) -> Result<Option<String>, Error> {
        let path = path_of(home, run)?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path, &error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file).unwrap_or_else(|| UNKNOWN.to_owned()))),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path, &error)),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

/// The store's own lock.
#[derive(Debug)]
pub(crate) struct StoreLock {
    file: File,
    exclusive: bool,
}

impl StoreLock {
    /// The lock of those who write to it together.
    pub(crate) fn shared(home: &Path) -> Result<Self, Error> {
        Self::take(home, false)
    }

    /// The lock of the one that writes alone.
    pub(crate) fn exclusive(home: &Path) -> Result<Self, Error> {
        Self::take(home, true)
    }

    fn take(home: &Path, exclusive: bool) -> Result<Self, Error> {
        let path = home.join("lock");
        let mut file = open(&path)?;
        let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read_holder(&mut file).unwrap_or_else(|| UNKNOWN.to_owned());
                return Err(Error::StoreHeld { home: home.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, &error)),
        }
        write_holder(&mut file).map_err(|error| Error::io("write", path, &error))?;
        Ok(Self { file, exclusive })
    }

    /// Whether nobody else may write.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Refuses what cannot be the id of a run.
pub(crate) fn check_id(run: &str) -> Result<(), Error> {
    if is_plain_id(run) { Ok(()) } else { Err(Error::NoRun(run.to_owned())) }
}

fn path_of(home: &Path, run: &str) -> Result<PathBuf, Error> {
    check_id(run)?;
    Ok(home.join("runs").join(format!("{run}{LOCK}")))
}

/// The longest id of a run: with `.lock` behind it, it must be a file's name. The ids of sub-flows grow with each level.
const LONGEST_ID: usize = 240;

/// Whether a text can name a run, a step's scratch folder or a file without leaving its folder.
pub(crate) fn is_plain_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= LONGEST_ID
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn open(path: &Path) -> Result<File, Error> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, &error))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| Error::io("write", path, &error))
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(this_process().as_bytes())
}

/// This process, as a person would look for it: its number, its machine, and its command line without secrets.
pub(crate) fn this_process() -> String {
    let command: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let command = crate::redact::redact(&command.join(" ")).chars().take(200).collect::<String>();
    let at = this_machine().map(|host| format!(" on {host}")).unwrap_or_default();
    format!("process {}{at} (`{}`)", std::process::id(), command.replace(['\n', '\r'], " "))
}

/// The name of this machine, if it has one.
pub fn this_machine() -> Option<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

/// What the holder of a lock wrote into it; nothing while it is about to, or when it only looks.
fn read_holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.take(4096).read_to_string(&mut text)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

pub(crate) const UNKNOWN: &str = "process unknown";
