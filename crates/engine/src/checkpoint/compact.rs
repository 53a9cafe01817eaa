//! What a checkpoint that leaves its pod running does about frames of earlier checkpoints that it uses little of.
//!
//! After the thaw, while packs are on their way: it makes the checkpoint durable later, and the pod wait for nothing.

use godwit_capture::Compacted;
use godwit_image::{FrameUsage, SpaceHead};
use godwit_types::Bytes;

use super::CheckpointError;
use super::memory::Capture;
use super::parent::Earlier;
use super::shared::SharedCaptured;
use super::work::Captured;

/// Rewrites what is sparse in the memory of all containers, and counts what that stores. Frames that cannot be read stay as they are.
///
/// # Errors
/// Packs cannot be stored, or it was cancelled.
pub(super) fn compact(
    all: &mut [Captured],
    shared: &[SharedCaptured],
    earlier: &Earlier,
) -> Result<(), CheckpointError> {
    let Some(capture) = all.first().map(|first| first.capture.clone()) else { return Ok(()) };
    let mut others = FrameUsage::default();
    let of_volumes: u64 = shared.iter().map(|one| one.files.stats.stored.0).sum();
    shared.iter().for_each(|one| one.index().count_usage(&mut others));
    let stored: u64 = all.iter().map(|one| stored(one, &mut others)).sum();
    let stored = Bytes(stored + of_volumes);
    let spaces = all.iter_mut().flat_map(|one| one.assembled.spaces.values_mut()).collect();
    let done = rewrite(&capture, spaces, &others, stored, earlier)?;
    if let Some(first) = all.first_mut() {
        first.assembled.stats.stored += done.stored;
    }
    Ok(())
}

/// Rewrites what these spaces use little of, at most a tenth of what was `stored`. `others` is what something else uses.
fn rewrite(
    capture: &Capture,
    spaces: Vec<&mut SpaceHead>,
    others: &FrameUsage,
    stored: Bytes,
    earlier: &Earlier,
) -> Result<Compacted, CheckpointError> {
    let done = capture.compact(spaces, others, earlier.data(), stored)?;
    tell(&done, earlier);
    Ok(done)
}

/// What a container's checkpoint has stored; what its files use is noted.
fn stored(captured: &Captured, others: &mut FrameUsage) -> u64 {
    if let Some(files) = &captured.files {
        files.index.count_usage(others);
    }
    let files = captured.files.as_ref().map_or(0, |files| files.stats.stored.0);
    captured.assembled.stats.stored + captured.pre_read.stored + files
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
