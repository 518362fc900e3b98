//! The folder of a store: what lies where, and the scratch folders of attempts.

use std::path::{Path, PathBuf};

use swath_task::Digest;

use crate::disk;
use crate::error::Error;
use crate::locks::{LOCK, is_plain_id};
use crate::store::Store;

/// Held by servers.
const SERVER: &str = "server";

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

    /// Notes that a server runs on the store, as long as what is returned is held, and no longer than this process lives.
    pub fn mark_server(&self) -> Result<std::fs::File, Error> {
        let path = self.0.join(SERVER);
        let failed = |error: std::io::Error| Error::io("lock", &path, &error);
        let file = std::fs::File::create(&path).map_err(failed)?;
        file.lock_shared().map_err(failed)?;
        Ok(file)
    }

    /// Whether a server runs on the store now, on this machine. A hint for people: nothing may be decided by it.
    pub fn is_served(&self) -> bool {
        let file = std::fs::File::open(self.0.join(SERVER));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// Whether there is a store.
    pub fn exists(&self) -> bool {
        self.database().is_file()
    }

    /// Makes the empty scratch folder of an attempt: `scratch/RUN/STEP-ATTEMPT`, with the instance of a lifted step.
    /// It is on the same disk as the artifacts, so that a commit is a rename.
    pub fn scratch(&self, run: &str, step: &str, instance: &str, attempt: u32) -> Result<PathBuf, Error> {
        let folder = self.of_instance("scratch", run, step, instance, &format!("-{attempt}"))?;
        // What a killed attempt of the same number left must not be mistaken for this one's work.
        disk::discard(&folder)?;
        std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        Ok(folder)
    }

    /// The folder that all attempts of a step instance share: `keep/RUN/STEP`, with the instance of a lifted step. Nothing is
    /// made.
    pub fn keep(&self, run: &str, step: &str, instance: &str) -> Result<PathBuf, Error> {
        self.of_instance("keep", run, step, instance, "")
    }

    /// `KIND/RUN/STEP-INSTANCE` and an ending.
    fn of_instance(&self, kind: &str, run: &str, step: &str, instance: &str, end: &str) -> Result<PathBuf, Error> {
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
        Ok(self.0.join(kind).join(run).join(format!("{}{instance}{end}", plain(step))))
    }

    /// Removes what the attempts of a step instance shared.
    pub fn discard_keep(&self, folder: &Path) -> Result<(), Error> {
        disk::discard(folder)
    }

    /// Removes what the steps of a run keep. The caller holds the run's lease and none of its attempts is live.
    pub fn discard_run_keep(&self, run: &str) -> Result<(), Error> {
        if !is_plain_id(run) {
            return Err(Error::NoRun(run.to_owned()));
        }
        disk::discard(&self.0.join("keep").join(run))
    }

    /// Removes what steps of runs keep that cannot go on. The caller holds the store alone.
    pub fn clean_keep(&self, may_go_on: impl Fn(&str) -> bool) -> Result<(), Error> {
        let keep = self.0.join("keep");
        let listed = match std::fs::read_dir(&keep) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", keep, &error)),
        };
        for entry in listed {
            let entry = entry.map_err(|error| Error::io("read", &keep, &error))?;
            if !may_go_on(&entry.file_name().to_string_lossy()) {
                disk::discard(&entry.path())?;
            }
        }
        Ok(())
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
    pub async fn clean_scratch(&self, store: &dyn Store) -> Result<Vec<String>, Error> {
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
            match store.lease_run(&run).await {
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

    /// Removes the lock files of runs that are no longer in the store, and the marks that stores of schema 1 kept beside
    /// them. The caller holds the store alone.
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
            let run = [LOCK, ".out", ".served", ".cancel"].iter().find_map(|kept| name.strip_suffix(kept));
            if run.is_some_and(|run| !keep(run)) {
                disk::discard(&entry.path())?;
            }
        }
        Ok(())
    }
}
