//! The folder of a store: what lies where, and the scratch folders of attempts.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use swath_task::Digest;

use crate::disk;
use crate::error::Error;
use crate::lease::{CANCEL, LOCK, PAUSE, RunLease, is_plain_id};

/// Where the outputs of a run go: `runs/RUN.out`.
const OUTPUTS: &str = ".out";

/// That a server drives a run: `runs/RUN.served`.
const SERVED: &str = ".served";

/// The folder of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The store in `folder`. Nothing is created.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.0.join("swath.db")
    }

    /// Whether there is a store.
    pub fn exists(&self) -> bool {
        self.database().is_file()
    }

    /// Makes the empty scratch folder of an attempt: `scratch/RUN/STEP-ATTEMPT`, with the instance of a lifted step.
    /// It is on the same disk as the artifacts, so that a commit is a rename.
    pub fn scratch(&self, run: &str, step: &str, instance: &str, attempt: u32) -> Result<PathBuf, Error> {
        if !is_plain_id(run) {
            return Err(Error::NoRun(run.to_owned()));
        }
        // Names are cut to what a file system takes; those that lose something by it are told apart by their digest.
        let plain = |text: &str| -> String {
            let name: String =
                text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '.' }).take(80).collect();
            if name == text { name } else { format!("{name}.{}", &Digest::of(text.as_bytes()).hex()[..12]) }
        };
        let instance = if instance.is_empty() { String::new() } else { format!("-{}", plain(instance)) };
        let folder = self.0.join("scratch").join(run).join(format!("{}{instance}-{attempt}", plain(step)));
        // What a killed attempt of the same number left must not be mistaken for this one's work.
        disk::discard(&folder)?;
        std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        Ok(folder)
    }

    /// Removes an attempt's scratch folder.
    pub fn discard_scratch(&self, folder: &Path) -> Result<(), Error> {
        disk::discard(folder)
    }

    /// Removes the scratch folder of a run with all that is in it. The caller holds the run's lease and none of its
    /// attempts is live: a folder taken away while an attempt makes its own below it would fail that attempt.
    pub fn discard_run_scratch(&self, run: &str) -> Result<(), Error> {
        if !is_plain_id(run) {
            return Err(Error::NoRun(run.to_owned()));
        }
        disk::discard(&self.0.join("scratch").join(run))
    }

    /// Removes the scratch folders of runs that nobody drives (their processes were killed). Returns those runs.
    pub fn clean_scratch(&self) -> Result<Vec<String>, Error> {
        let scratch = self.0.join("scratch");
        let listed = match std::fs::read_dir(&scratch) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", scratch, &error)),
        };
        let mut cleaned = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|error| Error::io("read", &scratch, &error))?;
            let run = entry.file_name().to_string_lossy().into_owned();
            // Holding the lease while removing: nobody can begin to drive the run meanwhile.
            match RunLease::take(&self.0, &run) {
                Ok(lease) => {
                    disk::discard(&entry.path())?;
                    drop(lease);
                    cleaned.push(run);
                }
                Err(Error::RunHeld { .. } | Error::NoRun(_)) => {}
                Err(error) => return Err(error),
            }
        }
        cleaned.sort_unstable();
        Ok(cleaned)
    }

    /// Keeps where the outputs of a run go, in `runs/RUN.out`: whoever goes on with the run puts them there too.
    pub fn keep_outputs(&self, run: &str, folder: &Path) -> Result<(), Error> {
        let path = self.beside(run, OUTPUTS)?;
        std::fs::write(&path, folder.as_os_str().as_bytes()).map_err(|error| Error::io("write", path, &error))
    }

    /// Where the outputs of a run go, if that was kept.
    pub fn outputs_of(&self, run: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.beside(run, OUTPUTS)?;
        match std::fs::read(&path) {
            Ok(folder) if folder.is_empty() => Ok(None),
            Ok(folder) => Ok(Some(OsString::from_vec(folder).into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, &error)),
        }
    }

    /// Asks whoever drives `run`, in this process or another, to cancel it soon.
    pub fn ask_to_cancel(&self, run: &str) -> Result<(), Error> {
        let mark = self.beside(run, CANCEL)?;
        std::fs::write(&mark, b"").map_err(|error| Error::io("write", mark, &error))
    }

    /// Whether somebody has asked to cancel `run` since its lease was taken. The question is taken down with the answer.
    pub fn cancel_asked(&self, run: &str) -> bool {
        self.beside(run, CANCEL).is_ok_and(|mark| std::fs::remove_file(mark).is_ok())
    }

    /// Asks whoever drives `run` to start nothing new in it until [`Home::ask_to_unpause`].
    pub fn ask_to_pause(&self, run: &str) -> Result<(), Error> {
        self.ask_about_pause(run, b"pause")
    }

    /// Asks whoever drives `run` to go on with it.
    pub fn ask_to_unpause(&self, run: &str) -> Result<(), Error> {
        self.ask_about_pause(run, b"go on")
    }

    fn ask_about_pause(&self, run: &str, wish: &[u8]) -> Result<(), Error> {
        let mark = self.beside(run, PAUSE)?;
        // In place at once: who reads it must not find half a wish.
        let part = self.beside(run, &format!("{PAUSE}.{}", std::process::id()))?;
        std::fs::write(&part, wish).map_err(|error| Error::io("write", &part, &error))?;
        std::fs::rename(&part, &mark).map_err(|error| Error::io("write", mark, &error))
    }

    /// The newest wish about the pause of `run` since its lease was taken: `true` to pause it, `false` to go on. The
    /// question is taken down with the answer.
    pub fn pause_asked(&self, run: &str) -> Option<bool> {
        let mark = self.beside(run, PAUSE).ok()?;
        let wish = std::fs::read(&mark).ok()?;
        std::fs::remove_file(mark).ok()?;
        Some(wish == b"pause")
    }

    /// Notes durably that a server takes a run on, by a request with this digest: the next server on the store goes on
    /// with it. A mark without a run means nothing.
    pub fn mark_served(&self, run: &str, request: &str) -> Result<(), Error> {
        let mark = self.beside(run, SERVED)?;
        let failed = |error: std::io::Error| Error::io("write", &mark, &error);
        let mut file = std::fs::File::create(&mark).map_err(failed)?;
        std::io::Write::write_all(&mut file, request.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let folder = self.0.join("runs");
        std::fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// The digest of the request by which a server took a run on; `None` when none did.
    pub fn served_by(&self, run: &str) -> Option<String> {
        std::fs::read_to_string(self.beside(run, SERVED).ok()?).ok()
    }

    fn beside(&self, run: &str, ending: &str) -> Result<PathBuf, Error> {
        if !is_plain_id(run) {
            return Err(Error::NoRun(run.to_owned()));
        }
        Ok(self.0.join("runs").join(format!("{run}{ending}")))
    }

    /// Removes the lock files (and what else is kept beside them) of runs that are no longer in the store. The caller
    /// holds the store alone.
    pub fn clean_locks(&self, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        let runs = self.0.join("runs");
        let listed = match std::fs::read_dir(&runs) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", runs, &error)),
        };
        for entry in listed {
            let entry = entry.map_err(|error| Error::io("read", &runs, &error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let run = [LOCK, OUTPUTS, CANCEL, PAUSE, SERVED].iter().find_map(|kept| name.strip_suffix(kept));
            if run.is_some_and(|run| !keep(run)) {
                disk::discard(&entry.path())?;
            }
        }
        Ok(())
    }
}
