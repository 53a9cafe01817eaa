//! What can go wrong in the lab, in sentences for the person at the keyboard.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_types::Code;

/// A failure of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The operating system refused something.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was attempted, as in "writing".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("starting {program} (is it installed? `make deps` installs what the lab needs)")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("{what} failed ({status}): {output}")]
    Failed {
        /// The command line, shortened.
        what: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A condition did not become true in time.
    #[error("waited {waited:?} for {what}; last seen: {last}")]
    Deadline {
        /// The condition.
        what: String,
        /// For how long.
        waited: Duration,
        /// The last observation.
        last: String,
    },
    /// Another process works with the lab of this name.
    #[error(
        "lab {lab:?} is in use by process {holder}; use another name (GODWIT_LAB) or end that run"
    )]
    Held {
        /// Name of the lab.
        lab: String,
        /// Process id of the holder.
        holder: String,
    },
    /// A daemon ended, or did not serve in time.
    #[error("{service} does not serve: {why}; the end of its log:\n{log}")]
    Service {
        /// The daemon and where it is.
        service: String,
        /// How it was seen to fail.
        why: String,
        /// What it logged last.
        log: String,
    },
    /// A node, server or image that does not exist or does not run.
    #[error("{what} is not there: {hint}")]
    Missing {
        /// What was asked for.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A request that cannot be met.
    #[error("{0}")]
    Refused(String),
    /// A record of the lab cannot be read.
    #[error("{} is not what the lab wrote: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl LabError {
    /// What this means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } | Self::Start { .. } | Self::Failed { .. } => Code::Internal,
            Self::Deadline { .. } => Code::Cancelled,
            Self::Held { .. } | Self::Service { .. } => Code::Unavailable,
            Self::Missing { .. } => Code::NotFound,
            Self::Refused(_) => Code::Refused,
            Self::Record { .. } => Code::Corrupt,
        }
    }

    /// For `map_err` on calls of [`std::fs`].
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// The result of everything in the lab.
pub type Result<T> = std::result::Result<T, LabError>;
