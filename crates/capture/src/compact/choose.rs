//! Which frames are worth rewriting, and which of them there is room for.

use godwit_image::{FrameRef, FrameUsage, PackKind, PackRecord, PackSlot, SpaceHead};

use super::{Compaction, PAGE, bound, reading_bound};

/// A frame is sparse below so many thousandths of used pages.
const SPARSE_FRAME: u64 = 250;
/// A pack is sparse below so many thousandths of stored bytes in used frames.
const SPARSE_PACK: u64 = 300;

/// A frame, or all used frames of a pack, that could be rewritten.
struct Candidate {
    /// Used thousandths: the lower, the more is gained.
    used: u64,
    frames: Vec<FrameRef>,
    /// Stored bytes that its used pages have now, about what they will have.
    write: u64,
    /// Stored bytes of its frames.
    read: u64,
    /// What is worth rewriting alone if there is no room for all of it.
    parts: Vec<Candidate>,
}

/// Bytes that may still be written and read.
struct Room {
    write: u64,
    read: u64,
}

impl Room {
    /// Takes what there is room for, worst first; gives the parts of what there is not.
    fn fill(&mut self, mut from: Vec<Candidate>, chosen: &mut Vec<FrameRef>) -> Vec<Candidate> {
        from.sort_by_key(|c| c.used);
        let mut parts = Vec::new();
        for c in from {
            if c.write <= self.write && c.read <= self.read {
                (self.write, self.read) = (self.write - c.write, self.read - c.read);
                chosen.extend(c.frames);
            } else {
                parts.extend(c.parts);
            }
        }
        parts
    }
}

/// The frames to rewrite, sorted.
pub(super) fn frames(request: &Compaction<'_>) -> Vec<FrameRef> {
    let mut usage = FrameUsage::default();
    request.spaces.iter().for_each(|s| s.map.count_usage(&mut usage));
    let by_space: Vec<FrameUsage> = request.spaces.iter().map(|s| usage_of(s)).collect();
    let table = request.packs.table();
    let earlier = table.iter().filter(|(slot, record)| {
        record.name.kind == PackKind::Data && !request.packs.is_own(*slot)
    });
    let candidates = earlier.flat_map(|(slot, record)| {
        let pack =
            Pack { slot, record, usage: &usage, by_space: &by_space, others: request.others };
        pack.candidates()
    });
    let candidates = candidates.collect();
    let increment = request.increment;
    let mut room = Room { write: bound(increment), read: reading_bound(increment) };
    let mut chosen = Vec::new();
    let parts = room.fill(candidates, &mut chosen);
    room.fill(parts, &mut chosen);
    chosen.sort_unstable();
    chosen
}

fn usage_of(space: &SpaceHead) -> FrameUsage {
    let mut usage = FrameUsage::default();
    space.map.count_usage(&mut usage);
    usage
}

/// A pack of an earlier checkpoint.
struct Pack<'a> {
    slot: PackSlot,
    record: &'a PackRecord,
    usage: &'a FrameUsage,
    by_space: &'a [FrameUsage],
    others: &'a FrameUsage,
}

impl Pack<'_> {
    fn candidates(&self) -> Vec<Candidate> {
        let Some(used) = self.usage.of_pack(self.slot) else { return Vec::new() };
        let kept: u64 = self.others.of_pack(self.slot).map_or(0, |others| {
            others.keys().filter(|f| !used.contains_key(f)).map(|f| self.stored(*f)).sum()
        });
        let live: u64 = used.keys().map(|f| self.stored(*f)).sum();
        let part = (live + kept) * 1000 / u64::from(self.record.total_stored.max(1));
        let all: Vec<Candidate> =
            used.iter().filter_map(|(f, pages)| self.frame(*f, *pages)).collect();
        // Something else keeps the pack.
        let is_kept = all.len() < used.len() || kept > 0;
        let sum = |of: fn(&Candidate) -> u64| -> u64 { all.iter().map(of).sum() };
        let (write, read) = (sum(|c| c.write), sum(|c| c.read));
        let frames = all.iter().flat_map(|c| c.frames.clone()).collect();
        let sparse = all.into_iter().filter(|c| c.used < SPARSE_FRAME).collect();
        if part < SPARSE_PACK && !is_kept {
            return vec![Candidate { used: part, frames, write, read, parts: sparse }];
        }
        sparse
    }

    /// A frame that nothing else uses.
    fn frame(&self, frame: u32, pages: u32) -> Option<Candidate> {
        let record = self.record.frames.get(frame)?;
        let at = FrameRef { pack: self.slot, frame };
        // It is read once for each space that uses it.
        let readers = self.by_space.iter().filter(|usage| usage.of_frame(at) > 0).count();
        let used = u64::from(pages) * PAGE as u64 * 1000 / u64::from(record.raw).max(1);
        (self.others.of_frame(at) == 0).then(|| Candidate {
            used,
            frames: vec![at],
            write: record.stored_for(pages).0,
            read: u64::from(record.stored) * readers as u64,
            parts: Vec::new(),
        })
    }

    fn stored(&self, frame: u32) -> u64 {
        self.record.frames.get(frame).map_or(0, |r| u64::from(r.stored))
    }
}
