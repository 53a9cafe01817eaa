//! What can go wrong before the relay has become CRIU. Nothing is to be undone: its mounts end with it.

use std::io;

use godwit_types::Code;

/// A failure of the relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A variable that the shim sets is missing.
    #[error("the environment variable {name} is not set: this program is started by the shim only")]
    Environment {
        /// Its name.
        name: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The plan or runc's request.
    #[error(transparent)]
    Rpc(#[from] godwit_criu_rpc::Error),
    /// The shim cannot be told.
    #[error("cannot reach the shim")]
    Shim(#[from] godwit_wire::WireError),
    /// The plan asks for what this node does not have.
    #[error("{0}")]
    Plan(String),
}

impl Error {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Environment { .. } | Self::Io { .. } => Code::Internal,
            Self::Rpc(e) => e.code(),
            Self::Shim(_) => Code::Unavailable,
            Self::Plan(_) => Code::Precondition,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(crate) fn sys(action: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let action = action.into();
        move |errno| Self::Io { action, source: errno.into() }
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
