//! Everything that can go wrong in the shim, and what it means to the caller.

use std::io;

use godwit_types::Code;

use crate::state::Refusal;

/// Shorthand for the results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the shim could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container or process, or it is over already.
    #[error("{0}")]
    NotFound(String),
    /// The id is in use.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The request itself makes no sense (a missing field, an unknown option).
    #[error("{0}")]
    Invalid(String),
    /// The state of the container forbids it now.
    #[error("container {container}: {refusal}")]
    State {
        /// Whose state.
        container: String,
        /// Why.
        refusal: Refusal,
    },
    /// A named refusal with what to do about it.
    #[error("{0}")]
    Refused(String),
    /// The world forbids it now (a fence, an owner elsewhere).
    #[error("{0}")]
    Precondition(String),
    /// Someone who must be asked does not answer; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// A deadline or the caller ended it.
    #[error("{0}")]
    Cancelled(String),
    /// runc said no; `said` is its own last error in one sentence.
    #[error("OCI runtime {verb} failed: {said}")]
    Runtime {
        /// The runc command.
        verb: &'static str,
        /// The sentence out of its log.
        said: String,
    },
    /// A system call failed.
    #[error("{attempt}")]
    Io {
        /// What was attempted, with its path or id.
        attempt: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// A function for `map_err` that says what was attempted.
    pub fn io<E: Into<io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { attempt: attempt.into(), source: source.into() }
    }

    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::Invalid(_) | Self::Refused(_) => Code::Refused,
            Self::State { .. } | Self::Precondition(_) => Code::Precondition,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Cancelled(_) => Code::Cancelled,
            Self::Runtime { .. } | Self::Io { .. } => Code::Internal,
        }
    }

    /// The whole chain in one line, for the one place that answers or logs it.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line.
#[must_use]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_the_attempt_and_the_cause_once() {
        let error = Error::io("open /x")(io::Error::from_raw_os_error(2));
        assert_eq!(error.chain(), "open /x: No such file or directory (os error 2)");
    }
}
