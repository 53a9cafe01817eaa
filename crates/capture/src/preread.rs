//! Reads live memory and stores it before the freeze, so that frozen only what changed since is left.
//!
//! Workers take batches of whole digest blocks. For each: read 1 MiB (it stays in the cache), drop zeros, digest, compare
//! with the parent's digest, put what is new into frames and packs. The sink's back-pressure is the workers' brake.
//!
//! Reads may be torn, memory may vanish meanwhile: the result is only ever used for a page whose digest in the freeze is
//! the one computed here.

use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_image::{
    BLOCK_PAGES, BlockNumber, DigestBlock, KnownDigests, PackKind, PackRegistry, PackSink,
    PackWriter, PageDigest, PageMap, PageRun, PageSource, Space,
};
use godwit_types::{PageNumber, PageRange};

use crate::baseline::BaseBlock;
use crate::filler::Filler;
use crate::known::Known;
use crate::page::{PAGE, is_zero};
use crate::ranges::{normalized, within};
use crate::sys::{MAX_RANGES, read_process};
use crate::work::{Batch, batches, in_parallel};
use crate::{Baseline, Baselines, CaptureError, MemoryStats, Parent, Stop};

/// A process whose memory is to be read.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address space that it will be dumped as.
    pub space: Space,
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// Which pages: [`crate::Resident::readable`].
    pub ranges: Vec<PageRange>,
}

/// A pre-read of one container.
pub struct Preread<'a> {
    /// Its processes.
    pub targets: Vec<Target>,
    /// Its parent checkpoint.
    pub parent: Option<Parent<'a>>,
    /// The packs of the checkpoint that is being made.
    pub packs: &'a Arc<PackRegistry>,
    /// Where they go.
    pub sink: Arc<dyn PackSink>,
    /// Workers.
    pub threads: usize,
    /// Ends it early.
    pub stop: &'a Stop,
}

/// What one batch found.
struct Found {
    space: Space,
    runs: Vec<PageRun>,
    blocks: Vec<(BlockNumber, BaseBlock)>,
}

/// Reads, stores, and gives what is known afterwards: what was read, and the parent's knowledge of everything else.
///
/// # Errors
/// A process may not be read, the parent cannot be read, packs cannot be handed on, or it was asked to stop. A process
/// that ends meanwhile is no error.
pub fn preread(request: &Preread<'_>) -> Result<(Baselines, MemoryStats), CaptureError> {
    let work: Vec<(&Target, Batch)> = request
        .targets
        .iter()
        .flat_map(|t| batches(normalized(t.ranges.clone()), request.threads).map(move |b| (t, b)))
        .collect();
    let (found, stored) = in_parallel(
        request.threads,
        &work,
        request.stop,
        || Worker::new(request),
        |worker, (target, batch)| worker.batch(target, batch),
        Worker::end,
    )?;
    let mut stats = MemoryStats { stored: stored.iter().sum(), ..Default::default() };
    let spaces = combine(request, found, &mut stats)?;
    Ok((Baselines { spaces }, stats))
}

fn combine(
    request: &Preread<'_>,
    found: Vec<Found>,
    stats: &mut MemoryStats,
) -> Result<BTreeMap<Space, Baseline>, CaptureError> {
    let mut spaces: BTreeMap<Space, Baseline> = BTreeMap::new();
    if let Some(parent) = request.parent {
        for (space, head) in parent.spaces {
            spaces.entry(*space).or_default().map = head.map.clone();
        }
    }
    for f in found {
        let baseline = spaces.entry(f.space).or_default();
        for run in f.runs {
            count(stats, &run);
            baseline.map.insert(run);
        }
        baseline.blocks.extend(f.blocks);
    }
    if let Some(parent) = request.parent {
        for (space, head) in parent.spaces {
            request.stop.check()?;
            spaces.entry(*space).or_default().add_missing_blocks(head, &parent)?;
        }
    }
    Ok(spaces)
}

fn count(stats: &mut MemoryStats, run: &PageRun) {
    stats.pages += run.range.count;
    match run.source {
        PageSource::Zero => stats.zero += run.range.count,
        PageSource::Stored { .. } => stats.changed += run.range.count,
    }
}

struct Worker<'a> {
    request: &'a Preread<'a>,
    writer: PackWriter,
    filler: Filler,
    buffer: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(request: &'a Preread<'a>) -> Result<Self, CaptureError> {
        Ok(Self {
            request,
            writer: request.packs.writer(PackKind::Data, Arc::clone(&request.sink))?,
            filler: Filler::new(),
            buffer: vec![0; BLOCK_PAGES as usize * PAGE],
        })
    }

    fn end(self) -> Result<u64, CaptureError> {
        let stored = self.writer.stored();
        self.writer.finish()?;
        Ok(stored)
    }

    fn batch(&mut self, target: &Target, batch: &Batch) -> Result<Found, CaptureError> {
        let mut found = Found { space: target.space, runs: Vec::new(), blocks: Vec::new() };
        let (mut known, map) = Known::of(target.space, None, self.request.parent, batch.end);
        for number in (batch.first.0..batch.end.0).map(BlockNumber) {
            let window = PageRange::new(PageNumber(number.0 * BLOCK_PAGES), BLOCK_PAGES);
            let ranges: Vec<PageRange> = within(&batch.ranges, window).collect();
            if ranges.is_empty() {
                continue;
            }
            let before = known.block(number).map_err(CaptureError::Parent)?;
            let mut block = match before {
                Some(k) => BaseBlock { digests: k.digests.clone(), frame: k.frame },
                None => BaseBlock::default(),
            };
            let old = before.is_some().then(|| block.digests.clone());
            let read = self.read(target, &ranges)?;
            let mut at = 0;
            for range in &read {
                let bytes = &self.buffer[at..at + range.count as usize * PAGE];
                at += bytes.len();
                let pages = (range.first.0..).map(PageNumber).zip(bytes.chunks_exact(PAGE));
                let (writer, filler) = (&mut self.writer, &mut self.filler);
                pages.into_iter().try_for_each(|(page, bytes)| {
                    one(page, bytes, &mut block.digests, map, filler, writer, &mut found.runs)
                })?;
            }
            if old.as_ref() != Some(&block.digests) {
                block.frame = None;
            }
            found.blocks.push((number, block));
        }
        self.filler.flush(&mut self.writer, &mut found.runs)?;
        Ok(found)
    }

    /// Reads these pages, at most a block's, to the front of the buffer. Gives those that could be read, in order.
    fn read(
        &mut self,
        target: &Target,
        ranges: &[PageRange],
    ) -> Result<Vec<PageRange>, CaptureError> {
        let mut todo: Vec<PageRange> = ranges.to_vec();
        let mut got = Vec::with_capacity(ranges.len());
        let mut at = 0;
        while !todo.is_empty() {
            let part = &todo[..todo.len().min(MAX_RANGES)];
            let want: u64 = part.iter().map(|r| r.count).sum();
            let out = &mut self.buffer[at..at + want as usize * PAGE];
            let pages = match read_process(target.pid, part, out) {
                Ok(bytes) => (bytes / PAGE) as u64,
                Err(e) if e.raw_os_error() == Some(libc::EFAULT) => 0,
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(got),
                Err(source) => {
                    let attempt = "read the memory";
                    return Err(CaptureError::Process { attempt, pid: target.pid, source });
                }
            };
            at += pages as usize * PAGE;
            todo = advance(todo, pages, pages < want, &mut got);
        }
        Ok(got)
    }
}

/// Moves the first `pages` pages of `todo` to `got`; drops the one after them if it could not be read.
fn advance(
    todo: Vec<PageRange>,
    mut pages: u64,
    skip: bool,
    got: &mut Vec<PageRange>,
) -> Vec<PageRange> {
    let mut rest = Vec::new();
    let mut skip = u64::from(skip);
    for r in todo {
        let take = r.count.min(pages);
        pages -= take;
        if take > 0 {
            got.push(PageRange::new(r.first, take));
        }
        let left = PageRange::new(PageNumber(r.first.0 + take), r.count - take);
        let drop = left.count.min(skip);
        skip -= drop;
        if left.count > drop {
            rest.push(PageRange::new(PageNumber(left.first.0 + drop), left.count - drop));
        }
    }
    rest
}

/// One page: zero, as the parent has it, or new.
fn one(
    page: PageNumber,
    bytes: &[u8],
    digests: &mut DigestBlock,
    parent: Option<&PageMap>,
    filler: &mut Filler,
    writer: &mut PackWriter,
    runs: &mut Vec<PageRun>,
) -> Result<(), CaptureError> {
    if is_zero(bytes) {
        digests.set(page, None);
        runs.push(PageRun::zero(PageRange::new(page, 1)));
        return Ok(());
    }
    let digest = PageDigest::of(bytes);
    let stored = |map: &PageMap| matches!(map.lookup(page), Some(PageSource::Stored { .. }));
    if digests.get(page) == Some(digest) && parent.is_some_and(stored) {
        return Ok(());
    }
    digests.set(page, Some(digest));
    Ok(filler.add(page, bytes, writer, runs)?)
}

#[cfg(test)]
mod tests;
