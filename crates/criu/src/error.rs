//! What can go wrong with a dump or with the images of one.

use std::io;
use std::path::Path;

use godwit_types::Code;

/// A failure of this crate. Refusals that a person can act on have enums of their own
/// ([`crate::preflight::Refusal`], [`crate::vet::Refusal`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a system call failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// CRIU's socket or one of its messages.
    #[error(transparent)]
    Rpc(#[from] godwit_criu_rpc::Error),
    /// CRIU failed by itself and has undone what it did: the tasks are as they were, under the freezer as it was.
    #[error("CRIU could not {request}: {reason}")]
    Criu {
        /// What was asked of it.
        request: &'static str,
        /// Its first error, with a hint.
        reason: String,
    },
    /// CRIU died by a signal while it had the tasks in its hands: they run, and may be damaged. Kill the container and
    /// go on from its last checkpoint.
    #[error(
        "CRIU was killed by signal {signal} while it held the container: its processes may be damaged"
    )]
    Damaged {
        /// The signal.
        signal: i32,
    },
    /// It did not happen in time. CRIU still lives: abort, wait for its exit, or kill the container.
    #[error("CRIU did not reach {waiting_for} in time")]
    Deadline {
        /// What was waited for.
        waiting_for: &'static str,
    },
    /// A call that the session's state does not allow: a defect of the caller.
    #[error("dump session: {call} is not possible when it is {state}")]
    OutOfOrder {
        /// What was called.
        call: &'static str,
        /// What the session is doing.
        state: &'static str,
    },
    /// An image says something that no CRIU would write, or exceeds a bound.
    #[error("{image}: {reason}")]
    Image {
        /// Which file.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// The container cannot be dumped or restored for a reason that a person can act on.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::NotFound,
            Self::Io { .. } | Self::OutOfOrder { .. } => Code::Internal,
            Self::Rpc(e) => e.code(),
            Self::Criu { .. } | Self::Refused(_) => Code::Refused,
            Self::Damaged { .. } => Code::Internal,
            Self::Deadline { .. } => Code::Unavailable,
            Self::Image { .. } => Code::Corrupt,
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

    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("read {}", path.display()))
    }

    pub(crate) fn image(image: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Image { image: image.into(), reason: reason.into() }
    }
}
