//! What a request to the agent fails with.

use godwit_types::Code;

use crate::checkpoint::CheckpointError;
use crate::stores::NoStore;

/// An error with all that lies behind it, for a person.
#[must_use]
pub fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A checkpoint did not take place.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No such store, or it is away.
    #[error(transparent)]
    NoStore(#[from] NoStore),
    /// The store does not answer, or refuses.
    #[error(transparent)]
    Store(#[from] godwit_store::StoreError),
    /// Which pod is meant is not known.
    #[error(transparent)]
    Containerd(#[from] crate::containerd::ContainerdError),
    /// Whoever asked has cancelled it, and nothing was changed.
    #[error("cancelled: nothing was changed")]
    Cancelled,
    /// A result cannot be written.
    #[error("the result cannot be written")]
    Encode(#[source] serde_json::Error),
}

impl EngineError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Checkpoint(e) => e.code(),
            Self::NoStore(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Containerd(e) => e.code(),
            Self::Cancelled => Code::Cancelled,
            Self::Encode(_) => Code::Internal,
        }
    }
}
