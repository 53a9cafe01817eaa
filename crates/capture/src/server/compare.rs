//! Keeps what changed: pages go through a ring of slots to threads that hash them and compare with the baseline.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use godwit_image::{BlockNumber, PageDigest, Space};
use godwit_types::{PageNumber, PageRange};

use super::{Stream, Taken, Taker};
use crate::baseline::BaseBlock;
use crate::page::{PAGE, is_zero};
use crate::received::append;
use crate::{Arena, Baseline, Baselines, CaptureError, FrozenRun, FrozenState, Span};

/// Pages in a slot of the ring: 1 MiB stays in the second-level cache between socket and hash.
const SLOT_PAGES: usize = 256;
/// Slots: enough that the socket is read while the hashers are at work.
const SLOTS: usize = 12;
/// Pages that a hasher takes from the arena at a time.
const HOLD_PAGES: usize = 64;
/// At most so many hashers.
const MAX_THREADS: usize = 16;
/// What the ring, and the hashers' last holds, take of the arena.
pub(crate) const COMPARE_FIXED_BYTES: u64 =
    ((SLOTS * SLOT_PAGES + MAX_THREADS * HOLD_PAGES) * PAGE) as u64;

/// Pages of one message, or a part of it, within a slot.
#[derive(Debug, Clone, Copy)]
struct Segment {
    space: Space,
    range: PageRange,
    lazy: bool,
}

/// A part of the ring.
struct Slot {
    span: Span,
    pages: usize,
    segments: Vec<Segment>,
}

/// What receiver and hashers share.
struct Shared {
    arena: Arena,
    baselines: Arc<Baselines>,
    next_span: AtomicU32,
    failed: AtomicBool,
    error: Mutex<Option<CaptureError>>,
}

impl Shared {
    fn fail(&self, e: CaptureError) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        self.failed.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<(), CaptureError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let first = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(first.unwrap_or(CaptureError::Thread))
    }
}

/// What a hasher ends with.
#[derive(Default)]
struct Sorted {
    runs: Vec<(Space, FrozenRun)>,
    spans: Vec<(u32, Span)>,
}

pub(super) struct Compare {
    shared: Arc<Shared>,
    open: Slot,
    free: Receiver<Slot>,
    work: SyncSender<Slot>,
    threads: Vec<JoinHandle<Sorted>>,
}

impl Compare {
    pub(super) fn start(
        arena: Arena,
        baselines: Arc<Baselines>,
        threads: usize,
    ) -> Result<Self, CaptureError> {
        let (give_back, free) = channel();
        let (work, hashers) = sync_channel(SLOTS);
        let mut slots = (0..SLOTS).map(|_| slot(&arena)).collect::<Result<Vec<_>, _>>()?;
        let open = slots.pop().ok_or(CaptureError::Thread)?;
        for slot in slots {
            give_back.send(slot).map_err(|_| CaptureError::Thread)?;
        }
        let shared = Arc::new(Shared {
            arena,
            baselines,
            next_span: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        let hashers = Arc::new(Mutex::new(hashers));
        let threads = (0..threads.min(MAX_THREADS))
            .map(|_| hasher(Arc::clone(&shared), Arc::clone(&hashers), give_back.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, open, free, work, threads })
    }

    /// Hands the open slot to the hashers and takes a free one.
    fn turn(&mut self) -> Result<(), CaptureError> {
        let next = self.free.recv().map_err(|_| CaptureError::Thread)?;
        self.shared.check()?;
        let full = std::mem::replace(&mut self.open, next);
        self.work.send(full).map_err(|_| CaptureError::Thread)
    }
}

fn slot(arena: &Arena) -> Result<Slot, CaptureError> {
    let span = arena.take(SLOT_PAGES * PAGE)?;
    Ok(Slot { span, pages: 0, segments: Vec::with_capacity(SLOT_PAGES) })
}

impl Taker for Compare {
    fn take(
        &mut self,
        stream: &mut Stream<'_>,
        space: Space,
        range: PageRange,
        lazy: bool,
    ) -> Result<(), CaptureError> {
        let mut left = range;
        while left.count > 0 {
            if self.open.pages == SLOT_PAGES {
                self.turn()?;
            }
            let at = self.open.pages;
            let count = left.count.min((SLOT_PAGES - at) as u64);
            let end = at + count as usize;
            stream.pages(&mut self.open.span.bytes_mut()[at * PAGE..end * PAGE])?;
            let range = PageRange::new(left.first, count);
            self.open.segments.push(Segment { space, range, lazy });
            self.open.pages = end;
            left = PageRange::new(range.end(), left.count - count);
        }
        Ok(())
    }

    fn settle(self: Box<Self>) -> Result<Taken, CaptureError> {
        let Self { shared, open, free, work, threads } = *self;
        work.send(open).map_err(|_| CaptureError::Thread)?;
        drop((work, free));
        let mut all = Sorted::default();
        for thread in threads {
            let one = thread.join().map_err(|_| CaptureError::Thread)?;
            all.runs.extend(one.runs);
            all.spans.extend(one.spans);
        }
        shared.check()?;
        all.spans.sort_by_key(|(number, _)| *number);
        Ok(Taken { runs: all.runs, spans: all.spans.into_iter().map(|(_, span)| span).collect() })
    }
}

fn hasher(
    shared: Arc<Shared>,
    work: Arc<Mutex<Receiver<Slot>>>,
    give_back: Sender<Slot>,
) -> Result<JoinHandle<Sorted>, CaptureError> {
    let run = move || {
        let mut hasher = Hasher::new(&shared);
        while let Some(mut slot) = next_slot(&work) {
            if !shared.failed.load(Ordering::Acquire)
                && let Err(e) = hasher.slot(&slot)
            {
                shared.fail(e);
            }
            slot.segments.clear();
            slot.pages = 0;
            // The receiver may have ended already: then nobody needs the slot.
            let _ = give_back.send(slot);
        }
        hasher.end()
    };
    let named = std::thread::Builder::new().name("page-hash".to_owned());
    named.spawn(run).map_err(|_| CaptureError::Thread)
}

fn next_slot(work: &Mutex<Receiver<Slot>>) -> Option<Slot> {
    work.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// One thread's work: sorts pages into unchanged, zero and held.
struct Hasher<'a> {
    shared: &'a Shared,
    hold: Option<(u32, Span, usize)>,
    /// Runs of the space that is being received; moved to `done` when another one comes.
    current: Option<Space>,
    runs: Vec<FrozenRun>,
    done: Sorted,
}

impl<'a> Hasher<'a> {
    fn new(shared: &'a Shared) -> Self {
        let runs = Vec::with_capacity(1 << 14);
        Self { shared, hold: None, current: None, runs, done: Sorted::default() }
    }

    fn slot(&mut self, slot: &Slot) -> Result<(), CaptureError> {
        let mut at = 0;
        for segment in &slot.segments {
            let end = at + segment.range.count as usize * PAGE;
            self.segment(segment, &slot.span.bytes()[at..end])?;
            at = end;
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), CaptureError> {
        if self.current != Some(segment.space) {
            self.next_space(Some(segment.space));
        }
        let baseline = self.shared.baselines.get(segment.space);
        let mut known = BlockCursor { baseline, number: None, block: None };
        for (number, page) in
            (segment.range.first.0..).map(PageNumber).zip(bytes.chunks_exact(PAGE))
        {
            let state = self.state(&mut known, number, page)?;
            let range = PageRange::new(number, 1);
            append(&mut self.runs, FrozenRun { range, lazy: segment.lazy, state });
        }
        Ok(())
    }

    fn state(
        &mut self,
        known: &mut BlockCursor<'_>,
        number: PageNumber,
        page: &[u8],
    ) -> Result<FrozenState, CaptureError> {
        if is_zero(page) {
            return Ok(FrozenState::Zero);
        }
        match known.digest(number) {
            Some(digest) if digest == PageDigest::of(page) => Ok(FrozenState::Same),
            _ => self.hold(page),
        }
    }

    /// Copies a page to the arena.
    fn hold(&mut self, bytes: &[u8]) -> Result<FrozenState, CaptureError> {
        if self.hold.as_ref().is_none_or(|(_, _, used)| *used == HOLD_PAGES) {
            let span = self.shared.arena.take(HOLD_PAGES * PAGE)?;
            let number = self.shared.next_span.fetch_add(1, Ordering::Relaxed);
            let full = self.hold.replace((number, span, 0));
            self.done.spans.extend(full.map(|(number, span, _)| (number, span)));
        }
        let Some((span, target, used)) = &mut self.hold else { return Err(CaptureError::Thread) };
        let page = *used;
        target.bytes_mut()[page * PAGE..(page + 1) * PAGE].copy_from_slice(bytes);
        *used += 1;
        Ok(FrozenState::Bytes { span: *span, page: page as u32 })
    }

    fn next_space(&mut self, space: Option<Space>) {
        if let Some(before) = std::mem::replace(&mut self.current, space) {
            self.done.runs.extend(self.runs.drain(..).map(|r| (before, r)));
        }
    }

    fn end(mut self) -> Sorted {
        self.next_space(None);
        self.done.spans.extend(self.hold.map(|(number, span, _)| (number, span)));
        self.done
    }
}

/// Looks a block up once for its 256 pages.
struct BlockCursor<'a> {
    baseline: Option<&'a Baseline>,
    number: Option<BlockNumber>,
    block: Option<&'a BaseBlock>,
}

impl BlockCursor<'_> {
    fn digest(&mut self, page: PageNumber) -> Option<PageDigest> {
        let number = BlockNumber::of(page);
        if self.number != Some(number) {
            self.number = Some(number);
            self.block = self.baseline.and_then(|b| b.blocks.get(&number));
        }
        self.block?.digests.get(page)
    }
}
