//! What a checkpoint that leaves its pod running does about frames of earlier checkpoints that it uses little of.
//!
//! After the thaw, while packs are on their way: it makes the checkpoint durable later, and the pod wait for nothing.

use godwit_capture::{Assembled, Compacted, MemoryStats};
use godwit_image::FrameUsage;
use godwit_types::Bytes;

use super::CheckpointError;
use super::memory::Capture;
use super::parent::Earlier;

/// What a checkpoint has stored beside the memory that was assembled.
pub(super) struct Beside<'a> {
    /// What was stored of its memory before the freeze.
    pub(super) pre_read: &'a MemoryStats,
    /// Its files.
    pub(super) files: Option<&'a godwit_files::Captured>,
}

/// Rewrites what is sparse, and counts what that stores. Frames that cannot be read stay as they are.
///
/// # Errors
/// Packs cannot be stored, or it was cancelled.
pub(super) fn compact(
    capture: &Capture,
    assembled: &mut Assembled,
    beside: &Beside<'_>,
    earlier: &Earlier,
) -> Result<Compacted, CheckpointError> {
    let Beside { pre_read, files } = beside;
    let mut others = FrameUsage::default();
    let mut stored = assembled.stats.stored + pre_read.stored;
    if let Some(files) = files {
        files.index.count_usage(&mut others);
        stored += files.stats.stored.0;
    }
    let done = capture.compact(assembled, &others, earlier.data(), Bytes(stored))?;
    assembled.stats.stored += done.stored;
    tell(&done, earlier);
    Ok(done)
}

fn tell(done: &Compacted, earlier: &Earlier) {
    let Compacted { frames, pages, stored, left } = *done;
    if frames > 0 {
        tracing::info!(
            frames,
            pages,
            stored,
            "sparse frames of earlier checkpoints were rewritten"
        );
    }
    if left > 0 {
        tracing::warn!(
            parent = %earlier.id, frames = left,
            "frames of earlier checkpoints could not be read and are still referred to: `godwit verify` of the parent tells \
             whether they are damaged, `godwit checkpoint --full` makes a checkpoint without them"
        );
    }
}

#[cfg(test)]
mod tests;
