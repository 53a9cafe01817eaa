//! A request for one object failed.

use std::time::Duration;

use godwit_types::Code;

use crate::blob::{InvalidKey, Key};

/// A cause from below: an SDK, the operating system.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A request for one object (or one listing) failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The object does not exist.
    #[error("{key} does not exist in {store}")]
    NotFound {
        /// The store's name.
        store: String,
        /// What was asked for.
        key: Key,
    },
    /// The store does not answer, or answers that it cannot now. Worth another try.
    #[error("cannot {action} in {store}: it does not answer as it should")]
    Unavailable {
        /// The store's name.
        store: String,
        /// What was attempted, with the key.
        action: String,
        /// What was seen.
        source: Cause,
    },
    /// The store refuses: credentials, permissions, a bucket that does not exist. Trying again does not help.
    #[error(
        "cannot {action} in {store}: refused; check credentials, permissions and the bucket's name"
    )]
    Denied {
        /// The store's name.
        store: String,
        /// What was attempted, with the key.
        action: String,
        /// The store's answer.
        source: Cause,
    },
    /// There is no room for it. Nothing changes before somebody has made some.
    #[error("cannot {action} in {store}: it is full: make room there, then try again")]
    Full {
        /// The store's name.
        store: String,
        /// What was attempted, with the key.
        action: String,
        /// What was seen.
        source: Cause,
    },
    /// It could not be tried before, and has been caught lying now: nothing was written.
    #[error("cannot {action} in {store}: {reason}")]
    Unsound {
        /// The store's name.
        store: String,
        /// What was attempted, with the key.
        action: String,
        /// What it did.
        reason: String,
    },
    /// An answer did not come in time.
    #[error("cannot {action} in {store} within {limit:?}")]
    Deadline {
        /// The store's name.
        store: String,
        /// What was attempted, with the key.
        action: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The object is larger than the reader allows.
    #[error("{key} in {store} has {size} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// The store's name.
        store: String,
        /// The object.
        key: Key,
        /// Its length.
        size: u64,
        /// What the reader allows.
        limit: u64,
    },
    /// The object ends before the range does.
    #[error("{key} in {store} ends before byte {end}")]
    OutOfRange {
        /// The store's name.
        store: String,
        /// The object.
        key: Key,
        /// End of the range that was asked for.
        end: u64,
    },
    /// Text that is not a key.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),
}

impl BlobError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Unavailable { .. } | Self::Full { .. } => Code::Unavailable,
            Self::Denied { .. } | Self::Unsound { .. } => Code::Refused,
            Self::Deadline { .. } => Code::Cancelled,
            Self::TooLarge { .. } | Self::OutOfRange { .. } => Code::Corrupt,
            Self::InvalidKey(_) => Code::Internal,
        }
    }
}
