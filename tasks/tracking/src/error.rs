//! Why there is no tracking: settings and the spool folder. What goes wrong later fails nothing and is told in the report.

use std::path::Path;

use swath_task::Fault;

/// What cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that is neither a server's nor a folder's.
    #[error("`{address}` is not the address of a tracking server or a folder: {reason}")]
    Address {
        /// The address, without a password.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The spool folder cannot be read or written.
    #[error("the spool folder `{path}` cannot be used: {source}")]
    Spool {
        /// The file or folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The spool folder holds something else.
    #[error("the spool folder `{path}` cannot be gone on with: {reason}")]
    Other {
        /// The folder.
        path: String,
        /// What it holds.
        reason: String,
    },
    /// Another process sends from the spool folder.
    #[error("the spool folder `{path}` is in use by another process")]
    InUse {
        /// The folder.
        path: String,
    },
    /// The server, asked for its health, did not answer as it should.
    #[error("{}", .0.message)]
    Server(Fault),
}

impl Error {
    /// The code whose page explains it.
    pub fn code(&self) -> &str {
        match self {
            Self::Address { .. } => "K101",
            Self::Spool { .. } => "K102",
            Self::Other { .. } => "K103",
            Self::InUse { .. } => "K104",
            Self::Server(fault) => &fault.code,
        }
    }

    /// What a person can do about it.
    pub fn help(&self) -> &str {
        match self {
            Self::Address { .. } => "write `https://host`, or the path of a folder",
            Self::Spool { .. } => "free disk space, or give a folder that can be written",
            Self::Other { .. } => {
                "give every training a spool folder of its own, or remove this one to begin a new run"
            }
            Self::InUse { .. } => "wait until the other training is done, or end it",
            Self::Server(fault) => fault.help.as_deref().unwrap_or("look at the server's log"),
        }
    }

    /// All of it for a person.
    pub fn fault(&self) -> Fault {
        Fault { code: self.code().to_owned().into(), message: self.to_string(), help: Some(self.help().to_owned()) }
    }

    pub(crate) fn spool(path: &Path, source: std::io::Error) -> Self {
        Self::Spool { path: path.display().to_string(), source }
    }

    pub(crate) fn other(path: &Path, reason: impl Into<String>) -> Self {
        Self::Other { path: path.display().to_string(), reason: reason.into() }
    }
}
