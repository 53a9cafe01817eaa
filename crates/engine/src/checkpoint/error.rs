//! Why a checkpoint did not take place.

use std::path::PathBuf;

use godwit_types::{Code, Outcome};

use crate::budget::TooBig;
use crate::identity::NoIdentity;
use crate::shim::ShimError;
use crate::stores::NoStore;

/// A step that was not possible when it was reached: a defect of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// CRIU's dump.
    Dump,
    /// The log's machine.
    Log,
    /// A task of ours that panicked.
    Task,
}

/// A checkpoint that did not take place. Unless the variant says otherwise, the container runs on.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] godwit_types::InvalidName),
    /// No such store.
    #[error(transparent)]
    Store(#[from] NoStore),
    /// The lineage lives in another store.
    #[error(
        "the container's recovery points are in store {lives:?}: leave --store away, or start the container anew for {asked:?}"
    )]
    OtherStore {
        /// What was asked for.
        asked: String,
        /// Where its lineage is.
        lives: String,
    },
    /// The shim refused, or the container ended.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// A message of the shim cannot be read.
    #[error("the shim's message cannot be read")]
    Wire(#[from] godwit_wire::WireError),
    /// The fence or an entry cannot be read: nobody guesses what it says.
    #[error(
        "what says who may run the container (its fence, in {}, or its log) cannot be read",
        godwit_types::names::FENCES
    )]
    Fence(#[from] godwit_ownership::OwnershipError),
    /// The log does not permit it.
    #[error("{told}")]
    Ownership {
        /// The kind.
        code: Code,
        /// The sentence.
        told: String,
    },
    /// The stop was undone because its checkpoint vanished; the container runs on.
    #[error("the checkpoint was deleted while it was being made; the container runs on")]
    TakenBack,
    /// The connection to the shim ended while the pod was sealed. It stays frozen until the log's slot is settled.
    #[error(
        "the shim went away in the middle of the commit; `godwit status` tells what the agent settles"
    )]
    Detached,
    /// The container's spec cannot be read.
    #[error("the container's config.json cannot be read")]
    Spec(#[source] serde_json::Error),
    /// Something of the container cannot be checkpointed.
    #[error("{0}")]
    Refused(String),
    /// Somebody executes something in it, which has not ended within five seconds.
    #[error("{open} exec sessions are open in {container}: end them first")]
    ExecSessions {
        /// Its id.
        container: String,
        /// How many.
        open: u32,
    },
    /// Whoever continues the pod has no such container.
    #[error(
        "EphemeralContainer: {container} of `kubectl debug` runs in it, and a pod that continues has no such container: end it first"
    )]
    Ephemeral {
        /// Its name.
        container: String,
    },
    /// It could be checkpointed, but not continued.
    #[error(
        "{container} could not be continued with the options that it was started with: {reason}"
    )]
    Lost {
        /// Its id.
        container: String,
        /// What a restore would say.
        reason: godwit_criu::vet::Refusal,
    },
    /// Something that runs in the container cannot be checkpointed.
    #[error("{container} cannot be checkpointed: {reason}")]
    Unfit {
        /// The container.
        container: String,
        /// What, and what to do.
        reason: godwit_criu::preflight::Refusal,
    },
    /// Its image is not known.
    #[error(transparent)]
    Containerd(#[from] crate::containerd::ContainerdError),
    /// Which pod it is is not known.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// CRIU failed or refused.
    #[error(transparent)]
    Criu(#[from] godwit_criu::Error),
    /// Memory cannot be captured.
    #[error(transparent)]
    Capture(#[from] godwit_capture::CaptureError),
    /// Files cannot be captured.
    #[error(transparent)]
    Files(#[from] godwit_files::FilesError),
    /// It does not fit the budget.
    #[error(transparent)]
    Budget(#[from] TooBig),
    /// The store failed.
    #[error("the checkpoint cannot be stored")]
    Storing(#[from] godwit_store::StoreError),
    /// A part of the checkpoint cannot be encoded.
    #[error("a part of the checkpoint cannot be encoded")]
    Image(#[from] godwit_image::ImageError),
    /// A directory on tmpfs cannot be used.
    #[error("CRIU's image directory {path} cannot be used")]
    Images {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The freeze lasted too long; CRIU has ended, nothing was stored.
    #[error(
        "the container was frozen for {patience:?} and its checkpoint was not complete: it runs on; let it write less to its files and memory meanwhile, or allow more: freeze_deadline in agent.toml, and its own liveness probes"
    )]
    FrozenTooLong {
        /// How long it may be frozen.
        patience: std::time::Duration,
    },
    /// Somebody asked to stop.
    #[error("the checkpoint was cancelled; the container runs on")]
    Cancelled,
    /// Another one was quicker.
    #[error(
        "a checkpoint of this pod that was begun later is durable already, and stays its newest: this one is not kept; the container runs on"
    )]
    Overtaken,
    /// The agent is going down.
    #[error("the agent is shutting down: try again when it is back")]
    ShuttingDown,
    /// A defect.
    #[error("a step of the checkpoint was not possible ({0:?}): this is a defect of godwit")]
    Order(Step),
}

impl CheckpointError {
    /// Whether another try may succeed soon. Not of a pod that runs on and was frozen for as long as its probes bear: they have failed
    /// already, another freeze could be the one too many.
    #[must_use]
    pub fn may_succeed(&self, outcome: Outcome) -> bool {
        let is_for_later = matches!(self.code(), Code::Unavailable | Code::Precondition);
        let is_bearable = outcome != Outcome::Run || !matches!(self, Self::FrozenTooLong { .. });
        is_for_later && is_bearable
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Name(_) => Code::NotFound,
            Self::Store(e) => e.code(),
            Self::OtherStore { .. } | Self::Refused(_) | Self::Lost { .. } | Self::Budget(_) => {
                Code::Refused
            }
            Self::Shim(e) => e.code(),
            Self::Wire(e) => e.code(),
            Self::Fence(_) | Self::Spec(_) => Code::Corrupt,
            Self::Ownership { code, .. } => *code,
            Self::Unfit { reason, .. } => reason.code(),
            Self::TakenBack | Self::ExecSessions { .. } | Self::Ephemeral { .. } => {
                Code::Precondition
            }
            Self::Detached | Self::ShuttingDown | Self::FrozenTooLong { .. } => Code::Unavailable,
            Self::Containerd(e) | Self::Identity(NoIdentity::Containerd(e)) => e.code(),
            Self::Identity(NoIdentity::Name(_)) => Code::Refused,
            Self::Criu(e) => e.code(),
            Self::Capture(e) => e.code(),
            Self::Files(e) => e.code(),
            Self::Storing(e) => e.code(),
            Self::Image(e) => e.code(),
            Self::Images { .. } | Self::Order(_) => Code::Internal,
            Self::Cancelled | Self::Overtaken => Code::Cancelled,
        }
    }
}
