//! What can go wrong while talking to CRIU or reading what it wrote.

use std::io;

use godwit_types::Code;

/// A failure of the RPC or of an image file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("cannot {action} CRIU's socket")]
    Socket {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A packet did not fit into [`crate::MAX_PACKET`] bytes or carried more than [`crate::MAX_FDS`] descriptors.
    #[error(
        "a packet on CRIU's socket is larger than {limit} bytes or carries too many descriptors"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Bytes that are not the message or record they should be.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which message or file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// CRIU is older than this program can work with.
    #[error("CRIU {found} is too old: {oldest} or newer is needed")]
    TooOld {
        /// What is installed.
        found: crate::CriuVersion,
        /// What would do.
        oldest: crate::CriuVersion,
    },
    /// CRIU answered a request with a failure.
    #[error("CRIU refused the {request} request: {reason}")]
    Refused {
        /// Which request.
        request: &'static str,
        /// CRIU's words, or its errno.
        reason: String,
    },
}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Socket { .. } => Code::Unavailable,
            Self::TooLarge { .. } | Self::Malformed { .. } => Code::Corrupt,
            Self::TooOld { .. } | Self::Refused { .. } => Code::Refused,
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Malformed { what: what.into(), reason: reason.to_string() }
    }
}
