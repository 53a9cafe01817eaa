//! How packs leave and frames come back: the two traits between the format and whoever moves bytes.

use std::fmt;

use godwit_types::Code;

use crate::{FinishedPack, FrameRef};

/// What a sink or a source says when it fails: the code for the program, the rest for people.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct SinkError {
    code: Code,
    attempt: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SinkError {
    /// A failure of this kind while `attempt`ing something.
    pub fn new(code: Code, attempt: impl Into<String>) -> Self {
        Self { code, attempt: attempt.into(), source: None }
    }

    /// The same, with the error below it.
    pub fn with_source(
        code: Code,
        attempt: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { code, attempt: attempt.into(), source: Some(source.into()) }
    }

    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

/// Takes finished packs. Implemented by the store.
///
/// Called from threads that may block. `accept` blocks while too many packs are in flight (this is the back-pressure of
/// the whole pipeline). `Ok` means *accepted*, not durable: the implementor says by itself when all are durable, and that
/// is before the head is written.
pub trait PackSink: Send + Sync + fmt::Debug {
    /// Takes a pack.
    ///
    /// # Errors
    /// This or an earlier pack cannot be stored; the checkpoint must be given up.
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError>;

    /// A buffer of an earlier pack to use again, if there is one.
    fn buffer(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Gives the raw bytes of frames that exist, verified and decompressed. Implemented over the store, a cache, or memory.
pub trait FrameSource: Send + Sync {
    /// The raw bytes of a frame, at most 128 KiB. May block.
    ///
    /// # Errors
    /// It cannot be had, or its digest is wrong.
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError>;

    /// The raw bytes of several frames, in the order asked for. An implementation over a store joins neighbours into
    /// one request.
    ///
    /// # Errors
    /// As [`FrameSource::frame`].
    fn frames(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>, SinkError> {
        frames.iter().map(|f| self.frame(*f)).collect()
    }
}
