//! Keeps read amplification bounded over a long lineage: frames and packs of which little is still used are rewritten.
//!
//! A frame is rewritten when less than a fourth of its pages is used, a pack when less than three tenths of its stored
//! bytes are; worst first, until a tenth of what the checkpoint itself stored is written, and reading no more than twice
//! what it stored. So it cannot keep pace with every program, but it never costs a checkpoint more than that.
//!
//! Pages come from the store, not from memory, so it works the same for every capture, and costs nothing in the freeze: it
//! is done after the thaw or not at all. Digests are of contents and stay as they are. Eager and lazy pages come into
//! frames of their own, whatever they shared before. What cannot be read stays where it is.

mod choose;

use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_image::{
    FrameRef, FrameSource, FrameUsage, PackKind, PackRegistry, PackSink, PackWriter, PageRun,
    PageSource, SinkError, SpaceHead,
};
use godwit_types::{Bytes, Code, PageNumber};

use crate::filler::Filler;
use crate::page::PAGE;
use crate::ranges::contains;
use crate::{CaptureError, Stop};

/// Frames that are asked for at once: 4 MiB of memory.
const AT_ONCE: usize = 32;

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
    /// Frames that were rewritten.
    pub frames: u64,
    /// Pages that moved.
    pub pages: u64,
    /// Bytes of frames written for them.
    pub stored: u64,
    /// Frames that could not be read, because they are damaged, missing, or the store did not answer: what uses them was
    /// left as it is.
    pub left: u64,
}

/// Rewrites. When it returns every pack has been accepted by the sink.
///
/// # Errors
/// Packs cannot be handed on, or it was asked to stop. A frame that cannot be read is no error. The spaces are then as
/// they were.
pub fn compact(request: &mut Compaction<'_>) -> Result<Compacted, CaptureError> {
    let chosen = choose::frames(request);
    if chosen.is_empty() {
        return Ok(Compacted::default());
    }
    let mut mover = Mover::new(request)?;
    let mut moved: Vec<Vec<PageRun>> = Vec::with_capacity(request.spaces.len());
    for space in &request.spaces {
        moved.push(mover.space(space, &chosen)?);
    }
    let out = mover.finish()?;
    for (space, runs) in request.spaces.iter_mut().zip(moved) {
        runs.into_iter().for_each(|r| space.map.insert(r));
    }
    Ok(out)
}

/// What may be stored for it.
fn bound(increment: Bytes) -> u64 {
    increment.0 / 10
}

/// What may be read for it. Where every increment leaves each of its frames sparse, as much is to be read each time as was
/// stored; the other half is for what was left behind.
fn reading_bound(increment: Bytes) -> u64 {
    increment.0.saturating_mul(2)
}

/// Pages on their way from old frames to new ones.
struct Mover<'a> {
    frames: &'a dyn FrameSource,
    stop: &'a Stop,
    writer: PackWriter,
    lazy: Filler,
    eager: Filler,
    /// Bytes that may be stored.
    bound: u64,
    /// Nothing more is rewritten: the bound is reached, or the store does not answer.
    ended: bool,
    out: Compacted,
}

impl<'a> Mover<'a> {
    fn new(request: &Compaction<'a>) -> Result<Self, CaptureError> {
        Ok(Self {
            frames: request.frames,
            stop: request.stop,
            writer: request.packs.writer(PackKind::Data, Arc::clone(&request.sink))?,
            lazy: Filler::new(),
            eager: Filler::new(),
            bound: bound(request.increment),
            ended: false,
            out: Compacted::default(),
        })
    }

    /// Rewrites what one space has in these frames; gives the new places.
    fn space(
        &mut self,
        space: &SpaceHead,
        chosen: &[FrameRef],
    ) -> Result<Vec<PageRun>, CaptureError> {
        let users: Vec<(FrameRef, Vec<PageRun>)> = users(space, chosen).into_iter().collect();
        let mut runs = Vec::new();
        for group in users.chunks(AT_ONCE) {
            self.stop.check()?;
            if self.ended {
                break;
            }
            let frames: Vec<FrameRef> = group.iter().map(|(frame, _)| *frame).collect();
            let raw = self.read(&frames);
            for ((_, users), raw) in group.iter().zip(raw) {
                if let Some(raw) = raw {
                    self.rewrite(space, users, &raw, &mut runs)?;
                }
            }
        }
        self.lazy.flush(&mut self.writer, &mut runs)?;
        self.eager.flush(&mut self.writer, &mut runs)?;
        Ok(runs)
    }

    /// Raw frames, `None` for each that cannot be had.
    fn read(&mut self, frames: &[FrameRef]) -> Vec<Option<Vec<u8>>> {
        let raw = match self.frames.frames(frames) {
            Ok(raw) => raw.into_iter().map(Some).collect(),
            // One of them is: the others may be sound.
            Err(error) if is_of_the_frame(&error) => {
                frames.iter().map(|frame| self.read_alone(*frame)).collect()
            }
            Err(_) => {
                self.ended = true;
                vec![None; frames.len()]
            }
        };
        self.out.left += raw.iter().filter(|raw| raw.is_none()).count() as u64;
        raw
    }

    fn read_alone(&mut self, frame: FrameRef) -> Option<Vec<u8>> {
        if self.ended || self.stop.is_raised() {
            return None;
        }
        let raw = self.frames.frame(frame);
        self.ended = raw.as_ref().is_err_and(|error| !is_of_the_frame(error));
        raw.ok()
    }

    /// Adds the pages of a frame to new ones, if there is room for them.
    fn rewrite(
        &mut self,
        space: &SpaceHead,
        users: &[PageRun],
        raw: &[u8],
        runs: &mut Vec<PageRun>,
    ) -> Result<(), CaptureError> {
        let count: u64 = users.iter().map(|run| run.range.count).sum();
        // What is not compressed yet is taken for incompressible.
        let waiting = (self.lazy.waiting() + self.eager.waiting()) as u64;
        self.ended |= self.writer.stored() + waiting + count * PAGE as u64 > self.bound;
        if self.ended {
            return Ok(());
        }
        for (page, bytes) in users.iter().flat_map(|run| pages(run, raw)) {
            let is_eager = contains(&space.eager, page);
            let filler = if is_eager { &mut self.eager } else { &mut self.lazy };
            filler.add(page, bytes, &mut self.writer, runs)?;
            self.out.pages += 1;
        }
        self.out.frames += 1;
        Ok(())
    }

    fn finish(self) -> Result<Compacted, CaptureError> {
        let stored = self.writer.stored();
        self.writer.finish()?;
        Ok(Compacted { stored, ..self.out })
    }
}

/// Whether an error says something about a frame, not about the way to it.
fn is_of_the_frame(error: &SinkError) -> bool {
    matches!(error.code(), Code::Corrupt | Code::NotFound)
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

#[cfg(test)]
mod lineage;
#[cfg(test)]
mod tests;
