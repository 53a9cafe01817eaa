//! Fills processes: answers their faults, prefetches the rest, and knows when nothing is missing.
//!
//! ```text
//!                  ┌── event loop ── reads userfaultfds, updates spaces, asks for frames (urgent) ──┐
//! userfaultfds ────┤                                                                               ▼
//!                  └── copy threads ◄── lanes ◄── deliveries ◄────────────────────────────── FrameSource
//!                          └── ask for the next frames (prefetch), while the container has room
//! ```
//! Owns the threads, the numbers and the conditions "finished" and "hydrated". Does not own where frames come from ([`FrameSource`])
//! nor what a failure means for the processes ([`Observer`]).
//!
//! # Consistency
//! See [`crate::member`] for the lock, [`crate::space`] for what a page is, [`crate::place`] for the kernel's rules. A descriptor is
//! closed only by [`Hydrator::release`] and when the hydrator is dropped: **drop it only when all is hydrated or all processes are
//! dead**; the kernel gives zeros to a process whose last descriptor is closed.

mod events;
mod fetch;
mod work;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use godwit_types::PageRange;
use rustix::event::{EventfdFlags, epoll};

use crate::group::Group;
use crate::lanes::Lanes;
use crate::member::{Family, Member, Nursery};
use crate::prefetch::Prefetch;
use crate::source::{FrameFailure, FramePages, FrameSource, Observer, Ticket};
use crate::space::{Settled, Space};
use crate::uffd::{Probed, Uffd};
use crate::wanted::Wanted;
use crate::{FaultsError, GroupId, Layout, MemoryLimit, Totals};
use work::Job;

/// How a hydrator works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Copy threads. One places 2–4 GB/s.
    pub copy_threads: usize,
    /// Frames that may be on their way, or waiting to be placed, without anybody waiting for them. Each holds 128 KiB of the source.
    pub window: usize,
    /// Numbers of children start here.
    pub first_child: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { copy_threads: cores.clamp(2, 8), window: 192, first_child: 1 << 32 }
    }
}

/// Names a process of the checkpoint within a [`Hydrator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyId(u32);

/// The page map of one process, ready to be served.
#[derive(Debug)]
pub struct Process {
    /// Where its pages are.
    pub layout: Layout,
    /// Given back with every [`crate::Want`] for it.
    pub source: u32,
    /// Pages whose frames are prefetched before all others, in the order of the store. Disjoint; what the page map does not have
    /// is passed over.
    pub hot: Vec<PageRange>,
}

/// What the threads share.
struct Shared {
    settings: Settings,
    source: Arc<dyn FrameSource>,
    observer: Arc<dyn Observer>,
    groups: RwLock<Vec<Arc<Group>>>,
    families: RwLock<Vec<Arc<Family>>>,
    hot: Mutex<HashMap<u32, VecDeque<u32>>>,
    members: RwLock<HashMap<u64, Arc<Member>>>,
    nursery: Nursery,
    wanted: Wanted,
    lanes: Lanes<Job>,
    prefetch: Mutex<Prefetch>,
    /// Released, but a child of theirs is not born yet.
    leaving: Mutex<HashSet<u64>>,
    next_child: AtomicU64,
    stopping: AtomicBool,
    epoll: OwnedFd,
    wake: OwnedFd,
}

/// See the module. Dropping it ends the threads and closes every descriptor that is left.
pub struct Hydrator {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Where a source delivers.
#[derive(Clone)]
pub struct Delivery {
    shared: std::sync::Weak<Shared>,
}

impl Delivery {
    /// Hands over a frame that was asked for, or the news that it cannot be had. From any thread; does not block.
    pub fn deliver(&self, ticket: Ticket, result: Result<Box<dyn FramePages>, FrameFailure>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.delivered(ticket, result);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hydrator {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`FaultsError::Os`] if there is no room for descriptors or threads.
    pub fn start(
        settings: Settings,
        source: Arc<dyn FrameSource>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, FaultsError> {
        let shared = Arc::new(Shared::new(settings, source, observer)?);
        let mut hydrator = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        shared.source.start(Delivery { shared: Arc::downgrade(&shared) });
        hydrator.spawn("events", |shared| shared.event_loop())?;
        for _ in 0..settings.copy_threads.max(1) {
            hydrator.spawn("copy", |shared| shared.copy_loop())?;
        }
        Ok(hydrator)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), FaultsError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || run(&shared));
        self.threads.push(thread.map_err(FaultsError::os("starting a thread"))?);
        Ok(())
    }

    /// Makes a container known.
    #[must_use]
    pub fn add_group(&self, limit: Option<MemoryLimit>) -> GroupId {
        let mut groups = self.shared.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.push(Arc::new(Group::new(limit)));
        GroupId(groups.len() as u32 - 1)
    }

    /// Makes a process of a container known, before it is served.
    ///
    /// # Errors
    /// [`FaultsError::Number`] for a group that does not exist.
    pub fn add_process(&self, group: GroupId, process: Process) -> Result<FamilyId, FaultsError> {
        let owner = self.shared.group(group.0)?;
        owner.pages.fetch_add(process.layout.pages(), Ordering::Relaxed);
        let mut families = self.shared.families.write().unwrap_or_else(PoisonError::into_inner);
        let index = families.len() as u32;
        let hot = hot_frames(&process);
        let family = Family::new(index, group.0, process.source, process.layout);
        families.push(Arc::new(family));
        locked(&self.shared.hot).insert(index, hot);
        Ok(FamilyId(index))
    }

    /// Answers the faults of a process from now on. `descriptor` names it in everything that follows.
    ///
    /// # Errors
    /// [`FaultsError::Number`] for a number in use or a process that is not known, [`FaultsError::Os`]. The descriptor is closed then:
    /// keep a duplicate.
    pub fn serve(
        &self,
        descriptor: u64,
        process: FamilyId,
        uffd: OwnedFd,
    ) -> Result<(), FaultsError> {
        let family = self.shared.family(process.0)?;
        let space = Space::new(Arc::clone(&family.layout));
        let uffd = Arc::new(Uffd::from_fd(uffd)?);
        self.shared.group(family.group)?.opened();
        self.shared.adopt(Member::new(descriptor, uffd, family, space))
    }

    /// Every process of the container is served: prefetch the rest.
    ///
    /// # Errors
    /// [`FaultsError::Number`] for a group that does not exist.
    pub fn begin(&self, group: GroupId) -> Result<(), FaultsError> {
        self.shared.begin(group)
    }

    /// Closes a descriptor that is finished, when its duplicates are closed. Unknown numbers are ignored.
    pub fn release(&self, descriptor: u64) {
        self.shared.release(descriptor);
    }

    /// Processes that are alive, of all containers, children that are not served yet included.
    #[must_use]
    pub fn living(&self) -> usize {
        let alive = |uffd: &Uffd| uffd.probe(events::ANY_PAGE) != Probed::Gone;
        let served = self.shared.all_members().iter().filter(|m| alive(&m.uffd)).count();
        served + self.shared.nursery.count(|child| alive(&child.uffd))
    }

    /// The counters of a container.
    #[must_use]
    pub fn totals(&self, group: GroupId) -> Totals {
        self.shared.totals(group)
    }
}

impl Drop for Hydrator {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.lanes.close();
        // If it cannot be written the event loop sees the flag at its next tick.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The frames of the hot pages, each once, in the order of the store: so they are neighbours there, and few requests.
fn hot_frames(process: &Process) -> VecDeque<u32> {
    let ranges = process.hot.iter().map(|r| r.first.0..r.first.0.saturating_add(r.count));
    let frames = ranges.flat_map(|r| process.layout.runs(r)).map(|run| run.frame);
    frames.collect::<BTreeSet<u32>>().into_iter().collect()
}

impl Shared {
    fn new(
        settings: Settings,
        source: Arc<dyn FrameSource>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, FaultsError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let os = |e: rustix::io::Errno| FaultsError::os("making an epoll descriptor")(e.into());
        let (epoll, wake) = (epoll.map_err(os)?, wake.map_err(os)?);
        let data = epoll::EventData::new_u64(events::WAKE);
        epoll::add(&epoll, &wake, data, epoll::EventFlags::IN).map_err(os)?;
        Ok(Self {
            settings,
            source,
            observer,
            groups: RwLock::default(),
            families: RwLock::default(),
            hot: Mutex::default(),
            members: RwLock::default(),
            nursery: Nursery::default(),
            wanted: Wanted::default(),
            lanes: Lanes::new(),
            prefetch: Mutex::default(),
            leaving: Mutex::default(),
            next_child: AtomicU64::new(settings.first_child),
            stopping: AtomicBool::new(false),
            epoll,
            wake,
        })
    }

    fn group(&self, index: u32) -> Result<Arc<Group>, FaultsError> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = FaultsError::Number { what: "container", number: index.into() };
        groups.get(index as usize).cloned().ok_or(unknown)
    }

    fn family(&self, index: u32) -> Result<Arc<Family>, FaultsError> {
        let families = self.families.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = FaultsError::Number { what: "process", number: index.into() };
        families.get(index as usize).cloned().ok_or(unknown)
    }

    fn member(&self, id: u64) -> Option<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn all_members(&self) -> Vec<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn begin(&self, id: GroupId) -> Result<(), FaultsError> {
        let group = self.group(id.0)?;
        group.begin();
        let families = self.families.read().unwrap_or_else(PoisonError::into_inner).clone();
        for family in families.iter().filter(|f| f.group == id.0) {
            let hot = locked(&self.hot).remove(&family.index).unwrap_or_default();
            let frames = family.layout.frames() as u32;
            locked(&self.prefetch).begin(family.index, frames, hot);
            family.members().iter().for_each(|m| self.check_finished(m));
        }
        self.check_hydrated(id.0);
        self.fetch_ahead();
        Ok(())
    }

    fn totals(&self, id: GroupId) -> Totals {
        let Ok(group) = self.group(id.0) else { return Totals::default() };
        let members = self.all_members();
        let mine = members.iter().filter(|m| m.family.group == id.0 && !m.is_gone());
        group.totals(mine.map(|m| m.shared().missing()).sum())
    }

    /// Starts to serve a process. Its group has it counted as open already.
    fn adopt(&self, member: Member) -> Result<(), FaultsError> {
        let member = Arc::new(member);
        let id = member.id;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if members.contains_key(&id) {
            return Err(FaultsError::Number { what: "descriptor", number: id });
        }
        members.insert(id, Arc::clone(&member));
        drop(members);
        member.family.add(Arc::clone(&member));
        let data = epoll::EventData::new_u64(id);
        epoll::add(&self.epoll, member.as_fd(), data, epoll::EventFlags::IN)
            .map_err(|e| FaultsError::os("watching a userfaultfd")(e.into()))?;
        self.check_finished(&member);
        Ok(())
    }

    fn release(&self, id: u64) {
        let Some(member) = self.member(id) else { return };
        if !self.close(&member) {
            locked(&self.leaving).insert(id);
        }
    }

    /// Forgets a process, if all that was read from it is applied. What happens to it from now on stays unread: nothing is missing,
    /// so the kernel may let it pass when the descriptor is closed.
    fn close(&self, member: &Arc<Member>) -> bool {
        let mut born = Vec::new();
        {
            let mut space = member.exclusive();
            if space.try_settle(member.uffd.as_ref(), &mut born) == Settled::Yes {
                member.set_closed();
            }
        }
        self.born(born);
        if !member.is_closed() {
            return false;
        }
        self.members.write().unwrap_or_else(PoisonError::into_inner).remove(&member.id);
        member.family.remove(member.id);
        self.unwatch(member);
        if let Ok(group) = self.group(member.family.group) {
            group.closed();
        }
        self.check_hydrated(member.family.group);
        true
    }

    /// A duplicate of the shim keeps the file open, and with it the watch: it must be taken off by name.
    fn unwatch(&self, member: &Member) {
        // Not watched any more is what was wanted.
        let _ = epoll::delete(&self.epoll, member.as_fd());
    }

    /// Tells the observer if a process lacks nothing any more.
    fn check_finished(&self, member: &Arc<Member>) {
        let begun = self.group(member.family.group).is_ok_and(|g| g.has_begun());
        if !begun || member.is_gone() {
            return;
        }
        let filled = {
            let space = member.shared();
            space.is_settled() && space.missing() == 0
        };
        if filled && member.finish() {
            self.observer.finished(member.id, crate::Finished::Filled);
        }
    }

    /// The process is dead, or runs another program.
    fn lost(&self, member: &Arc<Member>) {
        // Its children may live: what they lack follows from what it did last.
        self.settle(member);
        member.set_gone();
        self.unwatch(member);
        if member.finish() {
            self.observer.finished(member.id, crate::Finished::Gone);
        }
    }

    fn check_hydrated(&self, index: u32) {
        let Ok(group) = self.group(index) else { return };
        if group.is_newly_hydrated() {
            let families = self.families.read().unwrap_or_else(PoisonError::into_inner).clone();
            for family in families.iter().filter(|f| f.group == index) {
                locked(&self.prefetch).end(family.index);
            }
            self.observer.hydrated(GroupId(index), self.totals(GroupId(index)));
        }
    }

    /// The memory of a container is lost.
    fn fatal(&self, index: u32, error: &FaultsError) {
        let newly = self.group(index).is_ok_and(|g| g.fail());
        if newly {
            self.observer.fatal(Some(GroupId(index)), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use godwit_types::PageNumber;

    use super::*;
    use crate::layout::tests::layout;

    #[test]
    fn hot_frames_are_neighbours_in_the_store_and_pages_that_are_not_stored_have_none() {
        let range = |first, count| PageRange::new(PageNumber(first), count);
        let stored = [(10, 4, 1, 3, 0), (20, 2, 0, 7, 3), (22, 3, 1, 3, 4), (40, 1, 1, 2, 0)];
        let hot = |hot: &[PageRange]| {
            let process = Process { layout: layout(&stored), source: 0, hot: hot.to_vec() };
            let frames = hot_frames(&process).into_iter().filter_map(|f| process.layout.frame(f));
            frames.map(|f| (f.pack.0, f.frame)).collect::<Vec<_>>()
        };
        assert_eq!(hot(&[range(11, 1), range(21, 2), range(40, 9)]), [(0, 7), (1, 2), (1, 3)]);
        assert_eq!(hot(&[range(12, 1), range(24, 1)]), [(1, 3)]);
        assert_eq!(hot(&[range(0, 10), range(15, 3), range(u64::MAX, 5)]), []);
        assert_eq!(hot(&[]), []);
    }
}
