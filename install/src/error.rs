//! Why a node cannot be installed on or reverted.

use std::io;
use std::path::{Path, PathBuf};

use containerd_client::tonic;
use godwit_types::Code;

/// Result of the installer.
pub type Result<T> = std::result::Result<T, Error>;

/// Each says what to do where a person can do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses.
    #[error("cannot {attempt}")]
    Io {
        /// What was tried.
        attempt: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Refused; a sentence that says what to do. What the checks find, they find before anything is changed.
    #[error("{0}")]
    Refused(String),
    /// The host check found this many faults, which have been told.
    #[error(
        "this node is not ready for Godwit: {0} of the checks above failed; nothing was changed"
    )]
    NotReady(usize),
    /// containerd would read its configuration differently in other places than ours.
    #[error(
        "with Godwit's drop-in containerd would read other settings differently, too ({}); they were left as they were. Files of different \
         versions that import each other do that: bring all of them to one (`containerd config migrate`). If they are of one, please \
         report this with the output of `containerd config dump`",
        .0.join(", ")
    )]
    Foreign(Vec<String>),
    /// Somebody else has written into containerd's main file between our look and our change.
    #[error(
        "somebody else has changed {0} at the same time; it was left as it is: run this command again"
    )]
    Meanwhile(PathBuf),
    /// A program failed.
    #[error("`{command}` failed ({how}): {said}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        how: String,
        /// The end of what it printed.
        said: String,
    },
    /// containerd does not answer.
    #[error(
        "containerd does not answer at {socket}: start it, or name its socket by --containerd-socket"
    )]
    Away {
        /// Its socket.
        socket: PathBuf,
        /// Why, where the connection tells.
        #[source]
        source: Option<tonic::transport::Error>,
    },
    /// containerd answers, but not that.
    #[error("containerd does not answer what it is asked ({question})")]
    Told {
        /// What was asked.
        question: &'static str,
        /// Its words.
        #[source]
        status: Box<tonic::Status>,
    },
    /// The record of what was installed cannot be used.
    #[error(
        "{path} cannot be understood: {why}. Without it what was there before is not known; a newer godwit-install may read it"
    )]
    Record {
        /// The record.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A configuration file is not TOML.
    #[error("{path} cannot be read as TOML: {why}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// containerd did not come back with the runtime and has its old configuration again.
    #[error(
        "containerd did not take the runtime; its old configuration was put back and containerd started with it"
    )]
    RolledBack(#[source] Box<Error>),
    /// The kubelet did not come back with the CRI proxy and has its old configuration again.
    #[error(
        "the kubelet did not connect to the CRI proxy; its old configuration was put back and the kubelet started with it"
    )]
    KubeletRolledBack(#[source] Box<Error>),
    /// It did not happen within the time for it.
    #[error("waited {seconds} s in vain for {what}: {last}")]
    Late {
        /// For what.
        what: String,
        /// How long.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
}

impl Error {
    /// For `map_err`: an attempt on a file.
    pub fn io(attempt: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let attempt = format!("{attempt} {}", path.display());
        move |source| Self::Io { attempt, source }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Code::NotFound,
                _ => Code::Internal,
            },
            Self::Refused(_) | Self::NotReady(_) => Code::Refused,
            Self::Foreign(_)
            | Self::Meanwhile(_)
            | Self::RolledBack(_)
            | Self::KubeletRolledBack(_) => Code::Precondition,
            Self::Failed { .. } => Code::Internal,
            Self::Away { .. } | Self::Told { .. } | Self::Late { .. } => Code::Unavailable,
            Self::Record { .. } | Self::Toml { .. } => Code::Corrupt,
        }
    }
}

/// An error and what lies behind it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
