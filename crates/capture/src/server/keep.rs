//! Keeps everything: bytes go from the socket straight to their place, nothing is looked at in the freeze.

use godwit_image::Space;
use godwit_types::PageRange;

use super::copy::{Copiers, Job};
use super::{Stream, Taken, Taker};
use crate::page::PAGE;
use crate::{Arena, CaptureError, FrozenRun, FrozenState, Span};

/// Runs before the list must grow: CRIU sends one for each pipe (256 or 1024 pages), more where memory is sparse.
const RUNS: usize = 1 << 14;
/// Pages of a span that another thread fills.
const MOST: u64 = 256;
/// Fewer pages are copied at once, into a span that they share.
const FEW: u64 = 32;

pub(super) struct Keep {
    arena: Arena,
    copiers: Copiers,
    /// Number of the next span: spans lie in the arena in this order.
    next: u32,
    shared: Vec<Job>,
    /// Pages that the last shared span has.
    used: u64,
    /// Runs, their states by span as it was filled.
    runs: Vec<(Space, FrozenRun)>,
}

impl Keep {
    /// Starts the threads that copy.
    pub(super) fn start(arena: Arena) -> Result<Self, CaptureError> {
        let (copiers, runs) = (Copiers::start()?, Vec::with_capacity(RUNS));
        Ok(Self { arena, copiers, next: 0, shared: Vec::new(), used: 0, runs })
    }

    /// So many pages of the arena.
    fn span(&mut self, pages: u64) -> Result<Job, CaptureError> {
        let span = self.arena.take(pages as usize * PAGE)?;
        let number = self.next;
        self.next += 1;
        Ok((number, span))
    }

    /// Pages that another thread copies.
    fn many(&mut self, stream: &mut Stream<'_>, count: u64) -> Result<FrozenState, CaptureError> {
        let job = self.span(count)?;
        let span = job.0;
        self.copiers.fill(stream, job)?;
        Ok(FrozenState::Bytes { span, page: 0 })
    }

    /// Pages that are copied at once.
    fn few(&mut self, stream: &mut Stream<'_>, count: u64) -> Result<FrozenState, CaptureError> {
        let Some((span, bytes)) = self.shared.last_mut() else { return Err(CaptureError::Thread) };
        let (from, to) = (self.used as usize * PAGE, (self.used + count) as usize * PAGE);
        stream.pages(&mut bytes.bytes_mut()[from..to])?;
        let state = FrozenState::Bytes { span: *span, page: self.used as u32 };
        self.used += count;
        Ok(state)
    }

    /// Pages for which the last shared span has room; a new one has for some.
    fn room(&mut self) -> Result<u64, CaptureError> {
        let size = |(_, span): &Job| (span.bytes().len() / PAGE) as u64;
        let room = self.shared.last().map_or(0, size) - self.used;
        if room > 0 {
            return Ok(room);
        }
        let left = (self.arena.left() / PAGE) as u64;
        let job = self.span(left.clamp(1, MOST))?;
        let room = size(&job);
        self.shared.push(job);
        self.used = 0;
        Ok(room)
    }
}

impl Taker for Keep {
    fn take(
        &mut self,
        stream: &mut Stream<'_>,
        space: Space,
        range: PageRange,
        lazy: bool,
    ) -> Result<(), CaptureError> {
        let mut left = range;
        while left.count > 0 {
            let (count, state) = if left.count > FEW {
                let count = left.count.min(MOST);
                (count, self.many(stream, count)?)
            } else {
                let count = left.count.min(self.room()?);
                (count, self.few(stream, count)?)
            };
            let range = PageRange::new(left.first, count);
            self.runs.push((space, FrozenRun { range, lazy, state }));
            left = PageRange::new(range.end(), left.count - count);
        }
        Ok(())
    }

    fn settle(self: Box<Self>) -> Result<Taken, CaptureError> {
        let Self { copiers, shared, mut runs, .. } = *self;
        let mut all = copiers.settle()?;
        all.extend(shared);
        all.sort_by_key(|(number, _)| *number);
        let (spans, places) = join(all.into_iter().map(|(_, span)| span));
        for (_, run) in &mut runs {
            if let FrozenState::Bytes { span, page } = &mut run.state {
                let (joined, before) = places[*span as usize];
                (*span, *page) = (joined, before + *page);
            }
        }
        Ok(Taken { runs, spans })
    }
}

/// Makes one of spans that lie together. Returns also, for each, which one it is in now, and behind how many pages.
fn join(spans: impl Iterator<Item = Span>) -> (Vec<Span>, Vec<(u32, u32)>) {
    let (mut joined, mut places) = (Vec::<Span>::new(), Vec::new());
    for span in spans {
        let (before, span) = match joined.pop() {
            None => (0, span),
            Some(last) => {
                let pages = (last.bytes().len() / PAGE) as u32;
                match last.join(span) {
                    Ok(whole) => (pages, whole),
                    Err((last, span)) => {
                        joined.push(last);
                        (0, span)
                    }
                }
            }
        };
        places.push((joined.len() as u32, before));
        joined.push(span);
    }
    (joined, places)
}
