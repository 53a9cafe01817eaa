//! What can go wrong, for one object and for what is built of many.

mod blob;

use std::time::Duration;

use godwit_image::ImageError;
use godwit_ownership::OwnershipError;
use godwit_types::{CheckpointId, Code};

use crate::blob::{InvalidKey, Key};
use crate::checkpoint::{Absence, DeleteRefusal};

pub use blob::{BlobError, Cause};

/// Something that is made of several objects failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// One request failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The configuration of a store cannot be used.
    #[error("store configuration: {0}")]
    Config(String),
    /// The start probe caught the backend lying, or it would lose what it is given.
    #[error("{store} cannot be used as a store: {reason}")]
    Unsound {
        /// The store's name.
        store: String,
        /// What it did.
        reason: String,
    },
    /// Nothing of Godwit's is there, and the caller may not create it.
    #[error("{store} holds no Godwit store: check the bucket and the prefix")]
    NotAStore {
        /// The store's name.
        store: String,
    },
    /// An object is of a later version.
    #[error("{key} has format {found:?}; this version reads {known:?}")]
    Format {
        /// The object.
        key: Key,
        /// What it says.
        found: String,
        /// What we read.
        known: &'static str,
    },
    /// A small JSON object is damaged.
    #[error("{key} is damaged")]
    Record {
        /// The object.
        key: Key,
        /// The decoder's words.
        source: serde_json::Error,
    },
    /// A head, manifest or pack is damaged or of another version.
    #[error("{key} cannot be used")]
    Image {
        /// The object.
        key: Key,
        /// Why.
        source: ImageError,
    },
    /// An entry of a log, or the log itself, cannot be believed.
    #[error("{key} cannot be believed")]
    Log {
        /// The entry, or the prefix of the log.
        key: String,
        /// Why.
        source: OwnershipError,
    },
    /// An object says that it is another one.
    #[error("{key} holds {found}")]
    Misplaced {
        /// The object.
        key: Key,
        /// What it says it is.
        found: String,
    },
    /// The bytes are not those that were named.
    #[error("{key} is damaged: its bytes are not the ones that were stored")]
    Digest {
        /// The object.
        key: Key,
    },
    /// The checkpoint cannot be used.
    #[error("checkpoint {id} {absence}")]
    Absent {
        /// Which.
        id: CheckpointId,
        /// Why.
        absence: Absence,
    },
    /// The operation began so long ago that the collector may not know of it any more.
    #[error("the operation is older than {limit:?} and was given up: begin it again")]
    TooOld {
        /// How old it may become.
        limit: Duration,
    },
    /// A pack could not be stored, so neither can the checkpoint.
    #[error("an earlier pack of checkpoint {id} could not be stored")]
    Upload {
        /// The checkpoint.
        id: CheckpointId,
        /// The first failure.
        source: std::sync::Arc<BlobError>,
    },
    /// A deletion is refused.
    #[error("checkpoint {id} is not deleted: {refusal}")]
    DeleteRefused {
        /// Which.
        id: CheckpointId,
        /// Why.
        refusal: DeleteRefusal,
    },
    /// Something had to be known before going on, and could not be found out.
    #[error("whether {key} was written could not be settled")]
    Unsettled {
        /// The object.
        key: Key,
    },
    /// What a caller gave cannot be stored.
    #[error("cannot store {what}: {why}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// The rule that it breaks.
        why: String,
    },
}

impl StoreError {
    /// Whether the store, which may be read, takes no writes now: it is full, or we may not.
    pub(crate) fn takes_no_writes(&self) -> bool {
        matches!(self, Self::Blob(BlobError::Full { .. } | BlobError::Denied { .. }))
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Blob(e) => e.code(),
            Self::Upload { source, .. } => source.code(),
            Self::Image { source, .. } => source.code(),
            Self::Log { source, .. } => source.code(),
            Self::Config(_) | Self::Unsound { .. } | Self::Format { .. } => Code::Refused,
            Self::NotAStore { .. } | Self::Absent { .. } => Code::NotFound,
            Self::Record { .. } | Self::Misplaced { .. } | Self::Digest { .. } => Code::Corrupt,
            Self::TooOld { .. } => Code::Cancelled,
            Self::DeleteRefused { .. } => Code::Precondition,
            Self::Unsettled { .. } => Code::Unavailable,
            Self::Invalid { .. } => Code::Internal,
        }
    }
}

impl StoreError {
    /// Whether it says something about what is stored, rather than about the way to it: damaged, missing, or of a version
    /// that is not read. Another object may be sound.
    #[must_use]
    pub fn is_of_the_object(&self) -> bool {
        match self {
            Self::Absent { .. }
            | Self::Format { .. }
            | Self::Record { .. }
            | Self::Image { .. }
            | Self::Misplaced { .. }
            | Self::Digest { .. } => true,
            Self::Blob(e) => matches!(e.code(), Code::Corrupt | Code::NotFound),
            _ => false,
        }
    }
}

impl From<InvalidKey> for StoreError {
    fn from(e: InvalidKey) -> Self {
        Self::Blob(e.into())
    }
}
