//! How a command fails: what is printed, and the exit code.

use std::process::ExitCode;

use swath_flow::Diagnostic;
use swath_task::Fault;

/// A command that could not do what it was asked.
pub(crate) enum Failure {
    /// The flow or its parameters are wrong: every diagnostic.
    Flow(Vec<Diagnostic>),
    /// Something else, with the code of its page.
    Fault(Fault),
    /// The command line asks for something that is not there.
    Usage(String),
}

impl Failure {
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Flow(diagnostics) => swath_flow::render_all(diagnostics, colour),
            Self::Fault(fault) => {
                let help = fault.help.as_deref().map(|help| format!("  = help: {help}\n")).unwrap_or_default();
                format!("{}: {}\n{help}", crate::style::error(&format!("error[{}]", fault.code), colour), fault.message)
            }
            Self::Usage(message) => format!("{}: {message}\n", crate::style::error("error", colour)),
        }
    }

    pub fn code(&self) -> ExitCode {
        match self {
            Self::Flow(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Fault(_) => ExitCode::from(1),
        }
    }

    /// A file that cannot be read or written.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("cannot {what} `{}`: {error}", path.display()))
    }
}

impl From<swath_store::Error> for Failure {
    fn from(error: swath_store::Error) -> Self {
        Self::Fault(error.fault())
    }
}

impl From<swath_host::launch::MissingSecret> for Failure {
    fn from(error: swath_host::launch::MissingSecret) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<swath_host::preflight::MissingFiles> for Failure {
    fn from(error: swath_host::preflight::MissingFiles) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<swath_host::DriveError> for Failure {
    fn from(error: swath_host::DriveError) -> Self {
        match error {
            swath_host::DriveError::Store(error) => error.into(),
            other => Self::Fault(Fault::new("E315", other.to_string())),
        }
    }
}
