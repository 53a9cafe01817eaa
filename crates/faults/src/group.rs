//! One container: its counters, its memory limit, and how far it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::limit::MemoryLimit;
use crate::member::Tally;

/// Names a container of a [`crate::Hydrator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub(crate) u32);

/// Counters of a container since it was made known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Stored pages of its page maps, children's copies not counted.
    pub pages: u64,
    /// Pages that were copied in, children's included.
    pub placed: u64,
    /// Pages that are still to come, children's included.
    pub missing: u64,
    /// Faults that were read.
    pub faults: u64,
    /// Of those, outside the page maps or discarded: answered with zeros.
    pub zero_faults: u64,
    /// Frames that were asked for because of a fault.
    pub urgent_frames: u64,
    /// Forks that were followed.
    pub forks: u64,
    /// Since [`crate::Hydrator::begin`]; zero before.
    pub elapsed: Duration,
}

/// A room that was read is believed for so long.
const ROOM_AGE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Default)]
pub(crate) struct Group {
    limit: Option<MemoryLimit>,
    room: Mutex<Option<(Instant, u64)>>,
    begun: OnceLock<Instant>,
    failed: AtomicBool,
    hydrated: AtomicBool,
    /// Descriptors that are not released, and children that are not served yet.
    open: AtomicU64,
    pub(crate) pages: AtomicU64,
    pub(crate) placed: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) zero_faults: AtomicU64,
    pub(crate) urgent_frames: AtomicU64,
    pub(crate) forks: AtomicU64,
}

impl Tally for Group {
    fn placed(&self, pages: u64) {
        self.placed.fetch_add(pages, Ordering::Relaxed);
    }
}

impl Group {
    pub(crate) fn new(limit: Option<MemoryLimit>) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(crate) fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get().is_some()
    }

    /// `true` the first time.
    pub(crate) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// `true` once: begun, nothing open, nothing lost.
    pub(crate) fn is_newly_hydrated(&self) -> bool {
        let done = self.has_begun() && !self.has_failed() && self.open.load(Ordering::Acquire) == 0;
        done && !self.hydrated.swap(true, Ordering::AcqRel)
    }

    /// Whether `bytes` more may be fetched besides what nobody waits for.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let Some(limit) = &self.limit else { return true };
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = room.filter(|(read, _)| read.elapsed() < ROOM_AGE).map(|(_, room)| room);
        let now = fresh.unwrap_or_else(|| {
            let now = limit.room().unwrap_or(u64::MAX);
            *room = Some((Instant::now(), now));
            now
        });
        now >= bytes
    }

    /// The counters; `missing` is the caller's to know.
    pub(crate) fn totals(&self, missing: u64) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            pages: get(&self.pages),
            placed: get(&self.placed),
            missing,
            faults: get(&self.faults),
            zero_faults: get(&self.zero_faults),
            urgent_frames: get(&self.urgent_frames),
            forks: get(&self.forks),
            elapsed: self.begun.get().map(Instant::elapsed).unwrap_or_default(),
        }
    }
}
