//! One process: its descriptor, what it lacks, and the lock that keeps the two true.
//!
//! **The lock**: copy threads hold it shared across look-up and UFFDIO_COPY (at most one frame, no I/O); the event loop holds it
//! exclusively across read and update. So a page that was looked up is never placed after the event that discards it was read, and
//! the kernel places nothing between an event and its being read.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use godwit_types::PAGE_SIZE;

use crate::layout::Layout;
use crate::place::{self, Fate, Halt};
use crate::space::{Place, Space};
use crate::uffd::Uffd;

/// Counts what is done for a container.
pub(crate) trait Tally: Send + Sync {
    fn placed(&self, pages: u64);
}

/// See the module.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) uffd: Arc<Uffd>,
    pub(crate) family: Arc<Family>,
    space: RwLock<Space>,
    finished: AtomicBool,
    gone: AtomicBool,
    closed: AtomicBool,
}

/// A process of the checkpoint with its descendants: they share a page map.
pub(crate) struct Family {
    pub(crate) index: u32,
    pub(crate) group: u32,
    pub(crate) source: u32,
    pub(crate) layout: Arc<Layout>,
    members: RwLock<Vec<Arc<Member>>>,
}

impl Family {
    pub(crate) fn new(index: u32, group: u32, source: u32, layout: Layout) -> Self {
        Self { index, group, source, layout: Arc::new(layout), members: RwLock::default() }
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, member: Arc<Member>) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).retain(|m| m.id != id);
    }

    /// Whether any process still lacks pages of this frame.
    pub(crate) fn lacks(&self, frame: u32) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.iter().any(|m| !m.is_gone() && m.shared().lacks(frame))
    }
}

impl Member {
    pub(crate) fn new(id: u64, uffd: Arc<Uffd>, family: Arc<Family>, space: Space) -> Self {
        let no = || AtomicBool::new(false);
        let space = RwLock::new(space);
        Self { id, uffd, family, space, finished: no(), gone: no(), closed: no() }
    }

    /// For look-up and placing.
    pub(crate) fn shared(&self) -> RwLockReadGuard<'_, Space> {
        self.space.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For reading events.
    pub(crate) fn exclusive(&self) -> RwLockWriteGuard<'_, Space> {
        self.space.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks it finished; `true` the first time.
    pub(crate) fn finish(&self) -> bool {
        !self.finished.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether nothing is to be read from it any more: what was read could not be applied. To be asked and set under the exclusive
    /// lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Places what is missing of a frame, the pages that are waited for first. Takes those out of `waited` that were answered;
    /// what stays there waits for something else than this frame.
    pub(crate) fn place(
        &self,
        frame: u32,
        bytes: &[u8],
        waited: &mut Vec<u64>,
        tally: &dyn Tally,
    ) -> Result<(), Halt> {
        let space = self.shared();
        if !space.is_settled() {
            return Err(Halt::Changing);
        }
        let mut rest = Vec::new();
        while let Some(page) = waited.pop() {
            let Some(run) = space.lookup(page).filter(|run| run.frame == frame) else {
                rest.push(page);
                continue;
            };
            if let Err(halt) = self.copy(&space, &Place::of(page, &run), bytes, tally) {
                waited.push(page);
                waited.append(&mut rest);
                return Err(halt);
            }
        }
        *waited = rest;
        space.places(frame).iter().try_for_each(|p| self.copy(&space, p, bytes, tally))
    }

    fn copy(
        &self,
        space: &Space,
        place: &Place,
        bytes: &[u8],
        tally: &dyn Tally,
    ) -> Result<(), Halt> {
        let from = (place.offset * PAGE_SIZE) as usize;
        let pages = &bytes[from..from + (place.count * PAGE_SIZE) as usize];
        place::copy(&self.uffd, place.here, pages, |first, count, fate| {
            space.settle(place, first, count);
            if fate == Fate::Placed {
                tally.placed(count);
            }
        })
    }

    /// Answers a fault at a page that is not stored. `false` if it is, by now.
    pub(crate) fn zero(&self, page: u64) -> Result<bool, Halt> {
        let space = self.shared();
        if !space.is_settled() {
            return Err(Halt::Changing);
        }
        // Neighbours up to the next 128 KiB come along: whoever touches fresh memory touches it in order.
        match space.uncovered(page, (page / ZERO_BLOCK + 1) * ZERO_BLOCK) {
            0 => Ok(false),
            count => place::zero(&self.uffd, page, count).map(|()| true),
        }
    }
}

const ZERO_BLOCK: u64 = 32;

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

/// Children whose FORK was read and who are not served yet.
#[derive(Default)]
pub(crate) struct Nursery {
    children: Mutex<Vec<Child>>,
}

/// See [`Nursery`]. It becomes a member when somebody keeps a duplicate of its descriptor and when it is known what it lacks.
pub(crate) struct Child {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) uffd: Arc<Uffd>,
    pub(crate) family: Arc<Family>,
    pub(crate) kept: bool,
    pub(crate) space: Option<Space>,
}

impl Nursery {
    pub(crate) fn add(&self, child: Child) {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// Lets `f` work on all children and takes out those that are ready.
    pub(crate) fn visit(&self, f: impl FnOnce(&mut Vec<Child>)) -> Vec<Child> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut children);
        let ready = |child: &mut Child| child.kept && child.space.is_some();
        children.extract_if(.., ready).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count(|_| true) == 0
    }

    pub(crate) fn count(&self, which: impl Fn(&Child) -> bool) -> usize {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter().filter(|child| which(child)).count()
    }
}
