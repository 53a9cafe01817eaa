//! The few kinds of failure that a caller may act on. Every error enum of the project maps to one of them.

use serde::{Deserialize, Serialize};

/// What a failure means to the caller. Products map it to ttrpc, gRPC or exit codes by one exhaustive match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What was named does not exist.
    NotFound,
    /// It exists already, with other content.
    AlreadyExists,
    /// The state of the world forbids it now (owned elsewhere, still running, pinned).
    Precondition,
    /// A peer, a store or a node does not answer; trying again may help.
    Unavailable,
    /// Bytes are not what their digest, length or header says.
    Corrupt,
    /// Refused for a named reason that a person can act on.
    Refused,
    /// The caller or a deadline ended it.
    Cancelled,
    /// A defect, or an environment that we do not understand.
    Internal,
}

impl Code {
    /// The exit code of `godwit` for this failure (documented in `godwit --help`).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            // 2 is the argument parser's.
            Self::NotFound => 3,
            Self::AlreadyExists => 4,
            Self::Precondition => 5,
            Self::Unavailable => 6,
            Self::Corrupt => 7,
            Self::Refused => 8,
            Self::Cancelled => 9,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Precondition => "precondition failed",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal error",
        })
    }
}
