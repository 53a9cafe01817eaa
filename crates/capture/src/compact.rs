//! Keeps read amplification bounded over a long lineage: frames and packs of which little is still used are rewritten.
//!
//! A frame is rewritten when less than a fourth of its pages is used, a pack when less than three tenths of its stored
//! bytes are; together at most a tenth of what the checkpoint itself stored, worst first. Pages come from the store, not
//! from memory, so it works the same for every capture; it costs nothing in the freeze, being done after the thaw or not
//! at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_image::{
    FrameRef, FrameSource, FrameUsage, PackKind, PackRegistry, PackSink, PackSlot, PackTable,
    PageRun, PageSource, SpaceHead,
};
use godwit_types::{Bytes, PageNumber};

use crate::filler::Filler;
use crate::page::PAGE;
use crate::{CaptureError, Stop};

/// What is to be compacted: all memory of a checkpoint.
pub struct Compaction<'a> {
    /// The address spaces of all containers.
    pub spaces: Vec<&'a mut SpaceHead>,
    /// Frames that something else uses (digests of the spaces excepted): they are not rewritten, and count as used.
    pub others: &'a FrameUsage,
    /// Reads frames of earlier checkpoints.
    pub frames: &'a dyn FrameSource,
    /// The packs of the checkpoint that is being made.
    pub packs: &'a Arc<PackRegistry>,
    /// Where they go.
    pub sink: Arc<dyn PackSink>,
    /// What the checkpoint stored so far; a tenth of it may be rewritten.
    pub increment: Bytes,
    /// Ends it early.
    pub stop: &'a Stop,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Frames that are no longer used.
    pub frames: u64,
    /// Pages that moved.
    pub pages: u64,
    /// Bytes of frames written for them.
    pub stored: u64,
}

/// Rewrites. When it returns every pack has been accepted by the sink.
///
/// # Errors
/// A frame cannot be read, packs cannot be handed on, or it was asked to stop. Then the spaces are as they were, or a
/// part of them is rewritten: both are right, as long as the packs that were accepted are kept.
pub fn compact(request: &mut Compaction<'_>) -> Result<Compacted, CaptureError> {
    let chosen = choose(request);
    if chosen.is_empty() {
        return Ok(Compacted::default());
    }
    let mut writer = request.packs.writer(PackKind::Data, Arc::clone(&request.sink))?;
    let mut filler = Filler::new();
    let mut moved: Vec<Vec<PageRun>> = Vec::with_capacity(request.spaces.len());
    let mut out = Compacted { frames: chosen.len() as u64, ..Default::default() };
    for space in &request.spaces {
        let mut runs = Vec::new();
        for (frame, users) in users(space, &chosen) {
            request.stop.check()?;
            let raw = request.frames.frame(frame)?;
            for (page, bytes) in users.iter().flat_map(|run| pages(run, &raw)) {
                filler.add(page, bytes, &mut writer, &mut runs)?;
                out.pages += 1;
            }
        }
        filler.flush(&mut writer, &mut runs)?;
        moved.push(runs);
    }
    out.stored = writer.stored();
    writer.finish()?;
    for (space, runs) in request.spaces.iter_mut().zip(moved) {
        runs.into_iter().for_each(|r| space.map.insert(r));
    }
    Ok(out)
}

/// The runs of a space that use a chosen frame, by frame.
fn users(space: &SpaceHead, chosen: &[FrameRef]) -> BTreeMap<FrameRef, Vec<PageRun>> {
    let mut out: BTreeMap<FrameRef, Vec<PageRun>> = BTreeMap::new();
    for run in space.map.runs() {
        if let PageSource::Stored { frame, .. } = run.source
            && chosen.binary_search(&frame).is_ok()
        {
            out.entry(frame).or_default().push(run);
        }
    }
    out
}

/// The pages of a run and their bytes in the raw frame.
fn pages<'a>(run: &PageRun, raw: &'a [u8]) -> impl Iterator<Item = (PageNumber, &'a [u8])> {
    let start = run.source.frame_offset().map_or(0, |(_, offset)| offset);
    let bytes = raw.get(start..).unwrap_or(&[]).chunks_exact(PAGE);
    (run.range.first.0..run.range.end().0).map(PageNumber).zip(bytes)
}

/// A frame, or all used frames of a pack, that could be rewritten.
struct Candidate {
    /// Used parts of a thousand: the lower, the more is gained.
    used: u64,
    /// Raw bytes of the pages to be rewritten.
    cost: u64,
    frames: Vec<FrameRef>,
}

/// The frames to rewrite, sorted.
fn choose(request: &Compaction<'_>) -> Vec<FrameRef> {
    let mut usage = FrameUsage::default();
    request.spaces.iter().for_each(|s| s.map.count_usage(&mut usage));
    let table = request.packs.table();
    let mut candidates = Vec::new();
    for (slot, record) in table.iter() {
        if record.name.kind == PackKind::Data && !request.packs.is_own(slot) {
            candidates.extend(of_pack(slot, &table, &usage, request.others));
        }
    }
    candidates.sort_by_key(|c| c.used);
    let mut left = request.increment.0 / 10;
    let mut out = Vec::new();
    for c in candidates {
        if c.cost <= left {
            left -= c.cost;
            out.extend(c.frames);
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn of_pack(
    slot: PackSlot,
    table: &PackTable,
    usage: &FrameUsage,
    others: &FrameUsage,
) -> Vec<Candidate> {
    let (Some(pack), Some(used)) = (table.get(slot), usage.of_pack(slot)) else {
        return Vec::new();
    };
    let stored = |frame: u32| pack.frames.get(frame).map_or(0, |r| u64::from(r.stored));
    let foreign = others.of_pack(slot);
    let is_foreign = |frame: &u32| foreign.is_some_and(|o| o.contains_key(frame));
    let live: u64 = used.keys().map(|f| stored(*f)).sum();
    let kept: u64 = foreign.map_or(0, |o| o.keys().map(|f| stored(*f)).sum());
    let cost = |pages: u32| u64::from(pages) * PAGE as u64;
    let frame = |frame: u32| FrameRef { pack: slot, frame };
    let part = (live + kept) * 1000 / u64::from(pack.total_stored.max(1));
    if part < 300 && kept == 0 {
        let frames = used.keys().map(|f| frame(*f)).collect();
        let cost = used.values().map(|n| cost(*n)).sum();
        return vec![Candidate { used: part, cost, frames }];
    }
    let sparse = |(f, pages): (&u32, &u32)| {
        let total = u64::from(pack.frames.get(*f)?.raw).max(1);
        let part = cost(*pages) * 1000 / total;
        let worth = part < 250 && !is_foreign(f);
        worth.then(|| Candidate { used: part, cost: cost(*pages), frames: vec![frame(*f)] })
    };
    used.iter().filter_map(sparse).collect()
}

#[cfg(test)]
mod tests;
