//! What can be wrong with the bytes of an entry, a fence or a log.

use godwit_types::{Code, Seq};

use crate::Refusal;

/// Bytes or logs that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnershipError {
    /// More bytes than any entry or fence of ours has.
    #[error("the {what} has {len} bytes, more than the {max} that are allowed")]
    TooLong {
        /// `log entry` or `fence`.
        what: &'static str,
        /// How many there are.
        len: usize,
        /// How many may be.
        max: usize,
    },
    /// Not the JSON that it should be.
    #[error("the {what} cannot be read: {reason}")]
    Unreadable {
        /// `log entry` or `fence`.
        what: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// Written by another program or a later format.
    #[error("the {what} has format {found:?}; this version reads {known:?}")]
    Format {
        /// `log entry` or `fence`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What we read.
        known: &'static str,
    },
    /// A log whose numbers have a gap or repeat.
    #[error("the log goes from entry {after} to {found}")]
    Gap {
        /// The entry before.
        after: Seq,
        /// The one that follows it.
        found: Seq,
    },
    /// An entry that nobody was allowed to append.
    #[error("entry {seq} of the log was not permitted: {}", .refusal.told("this lineage"))]
    NotPermitted {
        /// Which.
        seq: Seq,
        /// The rule that it breaks.
        refusal: Refusal,
    },
    /// An entry that says another state than its log.
    #[error("entry {seq} of the log says another state than the entries before it give")]
    StateDiffers {
        /// Which.
        seq: Seq,
    },
}

impl OwnershipError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::Corrupt
    }
}
