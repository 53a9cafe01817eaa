//! Why memory could not be captured.

use std::io;

use godwit_image::{ImageError, SinkError, WriteError};
use godwit_types::{Bytes, Code};

use crate::ProtocolError;

/// Nothing was lost when one of these is returned: the tasks still have their memory, packs without a manifest are garbage.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// What must be held in memory does not fit what is left of the agent's budget.
    #[error(
        "the memory to be held needs {need} and {have} of the budget are free: raise the memory budget in the agent's \
         configuration, or wait for other operations to end"
    )]
    TooBigForBudget {
        /// At least so much is needed.
        need: Bytes,
        /// So much is free.
        have: Bytes,
    },
    /// Memory for the budget could not be mapped.
    #[error("cannot map {need} of memory")]
    Map {
        /// How much.
        need: Bytes,
        /// What the kernel said.
        source: io::Error,
    },
    /// CRIU sent something that the page-server protocol does not allow.
    #[error("CRIU's page stream is not understood")]
    Protocol(#[from] ProtocolError),
    /// The stream ended before CRIU closed it: CRIU failed, or is gone.
    #[error("CRIU's page stream ended after {pages} pages, before it was complete")]
    StreamEnded {
        /// Pages received until then.
        pages: u64,
    },
    /// The socket failed.
    #[error("cannot {attempt} CRIU's page stream")]
    Socket {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process cannot be looked at.
    #[error("cannot {attempt} of process {pid}")]
    Process {
        /// What was attempted.
        attempt: &'static str,
        /// Its pid.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A page that was reported as unchanged is not among the known ones: a defect.
    #[error("page {page:#x} was called unchanged but nothing is known of it")]
    Unknown {
        /// The page's number.
        page: u64,
    },
    /// Bytes of the parent checkpoint are damaged, or a frame cannot be encoded.
    #[error("a part of the checkpoint cannot be encoded or decoded")]
    Image(#[from] ImageError),
    /// Packs cannot be handed on.
    #[error("captured memory cannot be handed on")]
    Write(#[from] WriteError),
    /// The parent checkpoint cannot be read.
    #[error(
        "the earlier checkpoint, whose pages would be shared, cannot be read: `godwit checkpoint --full` makes one that \
         shares nothing"
    )]
    Parent(#[from] SinkError),
    /// Somebody asked to stop.
    #[error("the capture was cancelled")]
    Cancelled,
    /// A thread could not be started, or panicked.
    #[error("a capture thread failed")]
    Thread,
}

impl CaptureError {
    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooBigForBudget { .. } => Code::Refused,
            Self::StreamEnded { .. } | Self::Socket { .. } | Self::Map { .. } => Code::Unavailable,
            Self::Process { .. } => Code::Precondition,
            Self::Image(e) => e.code(),
            Self::Write(e) => e.code(),
            Self::Parent(e) => e.code(),
            Self::Cancelled => Code::Cancelled,
            Self::Protocol(_) | Self::Unknown { .. } | Self::Thread => Code::Internal,
        }
    }
}
