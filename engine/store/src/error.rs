//! What can go wrong with a store, each with the code of its page.

use std::path::PathBuf;

use swath_task::{Digest, Fault, TaskError};

/// A store could not do what it was asked. `Display` names what and where; [`Error::help`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process drives the run.
    #[error("run `{run}` is driven by another process: {holder}")]
    RunHeld {
        /// Id of the run.
        run: String,
        /// Process id, host and command of the holder.
        holder: String,
    },
    /// The lease by which something was to be written has ended: another process drives the run now, or may.
    #[error("lease {epoch} of run `{run}` has ended: another process drives the run now, or may")]
    LeaseLost {
        /// Id of the run.
        run: String,
        /// The epoch of the lease that has ended.
        epoch: u64,
    },
    /// The database server does not answer, or the connection to it broke and could not be made again in time.
    #[error("the database `{}` cannot be reached: {reason}", place.display())]
    Unreachable {
        /// Its address, without a password.
        place: PathBuf,
        /// What was tried last, and what came of it.
        reason: String,
    },
    /// The PostgreSQL server is older than what the store is made for.
    #[error("the server of `{}` is PostgreSQL {found}, {needed} or later is needed", place.display())]
    ServerTooOld {
        /// Its address, without a password.
        place: PathBuf,
        /// Its version.
        found: String,
        /// Least version.
        needed: u32,
    },
    /// Another process holds the store in a way that excludes what was asked.
    #[error("the store `{}` is in use by another process: {holder}", home.display())]
    StoreHeld {
        /// The store's folder, or the address of its database without a password.
        home: PathBuf,
        /// Process id, host and command of the holder, as far as known.
        holder: String,
    },
    /// There is no store, or it cannot be created there.
    #[error("cannot open the store `{}`: {reason}", path.display())]
    Open {
        /// Database file or folder, or an address without a password.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not a store's database, or its pages are damaged.
    #[error("`{}` is not a usable database: {reason}", path.display())]
    Corrupt {
        /// Database file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// A later Swath wrote the store.
    #[error("the store `{}` has schema {found}, this Swath knows schemas up to {known}", path.display())]
    SchemaNewer {
        /// Database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// An earlier Swath wrote the store, and it was opened for reading only.
    #[error("the store `{}` has schema {found}; it must be brought to schema {known} before it can be read", path.display())]
    SchemaOlder {
        /// Database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The version this program reads.
        known: i64,
    },
    /// The SQLite in this program can corrupt a database (WAL reset, fixed in 3.51.3).
    #[error("SQLite {found} is linked, {needed} or later is needed")]
    SqliteTooOld {
        /// Linked version.
        found: String,
        /// Least version.
        needed: &'static str,
    },
    /// A compare-and-set failed: another writer was there first.
    #[error("run `{run}` is at event {actual}, not {expected}: another process has written to it")]
    Conflict {
        /// Id of the run.
        run: String,
        /// The sequence number the writer knew.
        expected: u64,
        /// The stored one.
        actual: u64,
    },
    /// No run has this id.
    #[error("no run `{0}` in this store")]
    NoRun(String),
    /// The deployment is not in the store.
    #[error("there is no deployment `{0}`")]
    NoDeployment(String),
    /// A run with this id and other content exists.
    #[error("run `{0}` exists already")]
    RunExists(String),
    /// The instance has a result already, and results are immutable.
    #[error("a step instance of run `{run}` has a result already; results are immutable")]
    ResultExists {
        /// Id of the run.
        run: String,
    },
    /// No space left, or a quota reached.
    #[error("the disk of `{}` is full", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The store may not be written.
    #[error("`{}` cannot be written: {reason}", path.display())]
    ReadOnly {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The database stayed locked for longer than the busy timeout.
    #[error("the database `{}` stayed locked by another process for {seconds} s", path.display())]
    Busy {
        /// Database file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The database said something else.
    #[error("the database `{}` failed: {reason}", path.display())]
    Database {
        /// Database file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// A stored row cannot be read back.
    #[error("a stored {what} cannot be read: {reason}")]
    Record {
        /// Which record.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The artifact is not in the store.
    #[error("artifact `{name}` ({digest}) is missing from the store")]
    ArtifactMissing {
        /// Name people see.
        name: String,
        /// Digest it was stored under.
        digest: Digest,
    },
    /// The artifact's bytes are not what was committed.
    #[error("artifact `{name}` ({digest}) is damaged: {reason}")]
    ArtifactCorrupt {
        /// Name people see.
        name: String,
        /// Digest it was stored under.
        digest: Digest,
        /// Size or digest found.
        reason: String,
    },
    /// What was staged cannot become an artifact.
    #[error("cannot store `{name}` as an artifact: {reason}")]
    Stage {
        /// Name people see.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} `{}`: {reason}", path.display())]
    Io {
        /// `read`, `write`, `remove`, ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// An object store (S3 and the like) failed.
    #[error("the artifact store failed on `{key}`: {reason}")]
    Objects {
        /// Object key.
        key: String,
        /// What it said, without addresses' query strings.
        reason: String,
    },
    /// The writer ended while requests were waiting (the runtime is shutting down).
    #[error("the store was closed while it was in use")]
    Closed,
}

impl Error {
    /// The code of the error's page.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RunHeld { .. } | Self::StoreHeld { .. } => "E101",
            Self::LeaseLost { .. } => "E123",
            Self::Unreachable { .. } => "E121",
            Self::ServerTooOld { .. } => "E122",
            Self::Open { .. } => "E102",
            Self::Corrupt { .. } => "E103",
            Self::SchemaNewer { .. } => "E104",
            Self::SchemaOlder { .. } => "E105",
            Self::SqliteTooOld { .. } => "E106",
            Self::Conflict { .. } => "E107",
            Self::NoRun(_) => "E108",
            Self::NoDeployment(_) => "E130",
            Self::RunExists(_) => "E109",
            Self::ResultExists { .. } => "E110",
            Self::DiskFull { .. } => "E111",
            Self::ReadOnly { .. } => "E112",
            Self::Busy { .. } => "E113",
            Self::Database { .. } | Self::Record { .. } | Self::Closed => "E114",
            Self::ArtifactMissing { .. } => "E115",
            Self::ArtifactCorrupt { .. } => "E116",
            Self::Stage { .. } => "E117",
            Self::Io { .. } => "E118",
            Self::Objects { .. } => "E119",
        }
    }

    /// What a person can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::RunHeld { .. } => "wait for it to end, or stop it with `swath cancel RUN`",
            Self::LeaseLost { .. } => {
                "see who drives it with `swath show RUN`; `swath resume RUN` goes on with it if nobody does"
            }
            Self::Unreachable { .. } => {
                "see that the server runs and that `--store` names it, then `swath resume` the runs that stopped"
            }
            Self::ServerTooOld { .. } => {
                "bring the server up to date, or leave `--store` out: the store is then a file in `--home`"
            }
            Self::StoreHeld { .. } => "wait for the other process to end, then try again",
            Self::Open { .. } => {
                "name the store's folder with `--home`, or its database with `--store`; `swath run` creates it"
            }
            Self::Corrupt { .. } => "move the file away (artifacts stay usable) or restore it from a backup",
            Self::SchemaNewer { .. } => "use the newer Swath, or another store with `--home`",
            Self::SchemaOlder { .. } => "run any writing command (`swath run`, `swath gc`) once: it upgrades the store",
            Self::SqliteTooOld { .. } => "build Swath with its bundled SQLite",
            Self::Conflict { .. } => "see what the other process did with `swath show RUN`",
            Self::NoRun(_) => "list the runs with `swath runs`",
            Self::NoDeployment(_) => "list the deployments with `swath deployments`",
            Self::RunExists(_) => "choose another run id, or go on with it: `swath resume RUN`",
            Self::ResultExists { .. } => "this is a fault of the engine: please report it with the run's journal",
            Self::DiskFull { .. } => "free space (`swath gc` removes what nothing refers to), then `swath resume RUN`",
            Self::ReadOnly { .. } => "check the owner and mode of the folder, or choose another with `--home`",
            Self::Busy { .. } => "end the process that holds it (a backup, a database browser), then try again",
            Self::Database { .. } | Self::Record { .. } => {
                "go on with a backup of the store, or with another store (`--home`); please report it with the message"
            }
            Self::ArtifactMissing { .. } | Self::ArtifactCorrupt { .. } => {
                "run the flow again: the step that makes it runs again"
            }
            Self::Stage { .. } => "the task must write the file or folder before it commits it",
            Self::Io { .. } => "check the folder's owner, mode and disk",
            Self::Objects { .. } => "check the store's address, credentials and network",
            Self::Closed => "resume the run",
        }
    }

    /// Whether trying again may help without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Objects { .. } | Self::DiskFull { .. } | Self::Unreachable { .. })
    }

    /// The error as a fault of the step that met it.
    pub fn fault(&self) -> Fault {
        Fault::new(self.code(), self.to_string()).help(self.help())
    }

    /// The error as the end of an attempt that met it.
    pub fn task_error(&self) -> TaskError {
        if self.is_transient() { self.fault().transient(None) } else { self.fault().permanent() }
    }

    /// A failed file operation, with a full disk and missing rights told apart.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.into();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if action != "read" => {
                Self::ReadOnly { path, reason: error.to_string() }
            }
            _ => Self::Io { action, path, reason: error.to_string() },
        }
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        error.task_error()
    }
}
