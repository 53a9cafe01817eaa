//! The event loop: reads what processes do, and never waits for anything but them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use godwit_types::{PAGE_SIZE, PageNumber};
use rustix::event::{Timespec, epoll};

use super::Shared;
use crate::FaultsError;
use crate::member::{Child, Member};
use crate::source::{Handed, Lane};
use crate::space::{Born, Change, Settled, Unborn};
use crate::uffd::{Event, Probed, Uffd};

/// The number of the descriptor that ends the loop; no process has it.
pub(super) const WAKE: u64 = u64::MAX;
/// Asked for when only the answer "gone" matters.
pub(super) const ANY_PAGE: PageNumber = PageNumber(1 << 20);
/// What is done without an event is done this often.
const TICK: Duration = Duration::from_millis(100);
/// While a process changes its mappings, or a child is not kept yet.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// How often it is asked at once whether a process is quiet.
const LOOKS: usize = 8;
/// Batches of 64 events read from one process before the others have their turn.
const ROUNDS: usize = 16;

/// What one reading brought besides changes that were applied.
#[derive(Default)]
struct Read {
    faults: Vec<u64>,
    forks: u64,
    born: Vec<Born>,
    settled: bool,
}

impl Shared {
    pub(super) fn event_loop(&self) {
        let mut unsettled = HashSet::new();
        let mut ticked = Instant::now();
        let mut ready = Vec::with_capacity(64);
        while !self.stopping.load(Ordering::Acquire) {
            let leaving = std::mem::take(&mut *super::locked(&self.leaving));
            leaving.iter().for_each(|id| self.release(*id));
            let waits = leaving.len() + unsettled.len() > 0 || !self.nursery.is_empty();
            self.wait(&mut ready, waits);
            for id in ready.drain(..).filter(|id| *id != WAKE) {
                let Some(member) = self.member(id) else { continue };
                if self.read(&member) {
                    unsettled.remove(&id)
                } else {
                    unsettled.insert(id)
                };
            }
            unsettled.retain(|id| self.member(*id).is_some_and(|m| !self.settle_soon(&m)));
            self.hand_out();
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
        }
    }

    fn wait(&self, ready: &mut Vec<u64>, soon: bool) {
        let mut events = Vec::with_capacity(64);
        let wait = if soon { SHORT_TICK } else { TICK };
        let wait = Timespec::try_from(wait).ok();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, wait.as_ref()) {
            Ok(_) => ready.extend(events.iter().map(|e| e.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            // Only a defect of ours can do this; it must not become a busy loop.
            Err(error) => {
                tracing::error!(%error, "waiting for userfaultfds failed");
                std::thread::sleep(TICK);
            }
        }
    }

    /// What needs no event: processes that died quietly, frames that had no room, or were passed over.
    fn tick(&self) {
        for member in self.all_members() {
            if !member.is_gone() && member.uffd.probe(ANY_PAGE) == Probed::Gone {
                self.lost(&member);
            }
        }
        let mut prefetch = super::locked(&self.prefetch);
        if prefetch.in_flight == 0 {
            prefetch.rewind();
        }
        drop(prefetch);
        self.fetch_ahead();
    }

    /// Reads all events of a process. Returns whether all that was read is applied.
    fn read(&self, member: &Arc<Member>) -> bool {
        let mut read = Read::default();
        if let Err(error) = self.read_exclusively(member, &mut read) {
            self.unwatch(member);
            self.fatal(member.family.group, &error);
        }
        let settled = read.settled;
        self.follow_up(member, read);
        settled
    }

    /// The part under the lock: read and map update are one.
    fn read_exclusively(&self, member: &Arc<Member>, read: &mut Read) -> Result<(), FaultsError> {
        let mut space = member.exclusive();
        if member.is_closed() {
            read.settled = true;
            return Ok(());
        }
        // If it is quiet now, what waits came before what is read next.
        space.try_settle(member.uffd.as_ref(), &mut read.born);
        let mut events = Vec::new();
        for _ in 0..ROUNDS {
            member.uffd.read(&mut events).map_err(FaultsError::os("reading a userfaultfd"))?;
            if events.is_empty() {
                break;
            }
            if events.iter().filter(|e| !matches!(e, Event::Fault { .. })).count() > 1 {
                space.many_at_once();
            }
            for event in events.drain(..) {
                if let Some(change) = self.change(member, event, read) {
                    space.change(change);
                }
            }
        }
        let settled = space.try_settle(member.uffd.as_ref(), &mut read.born);
        read.settled = settled != Settled::NotYet;
        match settled {
            Settled::Never => Err(FaultsError::Unfollowable),
            Settled::Yes | Settled::NotYet => Ok(()),
        }
    }

    fn change(&self, member: &Member, event: Event, read: &mut Read) -> Option<Change> {
        let pages = |start: u64, end: u64| start / PAGE_SIZE..end.div_ceil(PAGE_SIZE);
        match event {
            Event::Fault { address } => {
                read.faults.push(address / PAGE_SIZE);
                None
            }
            Event::Remove { start, end } => Some(Change::Remove(pages(start, end))),
            Event::Unmap { start, end } => Some(Change::Unmap(pages(start, end))),
            Event::Remap { from, to, len } => {
                let (from, to) = (from / PAGE_SIZE, to / PAGE_SIZE);
                Some(Change::Remap { from, to, len: len.div_ceil(PAGE_SIZE) })
            }
            Event::Fork { child } => {
                read.forks += 1;
                self.conceived(member, child)
            }
            Event::Unknown { number } => {
                tracing::warn!(number, "an event that nobody asked for");
                None
            }
        }
    }

    /// Under the lock, because whoever settles next looks for the child in the nursery.
    fn conceived(&self, parent: &Member, child: OwnedFd) -> Option<Change> {
        let uffd = match Uffd::from_fd(child) {
            Ok(uffd) => Arc::new(uffd),
            // It inherits O_NONBLOCK, so nothing was to be done; a failure cannot be.
            Err(error) => {
                tracing::error!(%error, "a child's descriptor");
                return None;
            }
        };
        let id = self.next_child.fetch_add(1, Ordering::Relaxed);
        if let Ok(group) = self.group(parent.family.group) {
            group.opened();
        }
        let memory = Arc::clone(&uffd);
        let family = Arc::clone(&parent.family);
        let child = Child { id, parent: parent.id, uffd, family, kept: false, space: None };
        self.nursery.add(child);
        Some(Change::Fork(Unborn { id, memory }))
    }

    /// Everything that may happen outside the lock.
    fn follow_up(&self, member: &Arc<Member>, read: Read) {
        if let Ok(group) = self.group(member.family.group) {
            group.faults.fetch_add(read.faults.len() as u64, Ordering::Relaxed);
            group.forks.fetch_add(read.forks, Ordering::Relaxed);
        }
        if read.forks > 0 {
            self.hand_out();
        }
        self.born(read.born);
        for page in read.faults {
            self.fault(member, page);
        }
        self.check_finished(member);
    }

    /// Applies what waits, if it is quiet. From any thread. Returns whether nothing waits.
    pub(super) fn settle(&self, member: &Arc<Member>) -> bool {
        let mut born = Vec::new();
        let settled = member.exclusive().try_settle(member.uffd.as_ref(), &mut born);
        self.born(born);
        match settled {
            Settled::Yes => self.check_finished(member),
            Settled::NotYet => {}
            Settled::Never => self.fatal(member.family.group, &FaultsError::Unfollowable),
        }
        settled == Settled::Yes
    }

    /// Looks a few times: threads whose events were read go on within microseconds, and until then no page is placed.
    fn settle_soon(&self, member: &Arc<Member>) -> bool {
        (0..LOOKS).any(|look| {
            if look > 0 {
                std::thread::yield_now();
            }
            self.settle(member)
        })
    }

    pub(super) fn born(&self, born: Vec<Born>) {
        if born.is_empty() {
            return;
        }
        let ready = self.nursery.visit(|children| {
            for b in born {
                if let Some(child) = children.iter_mut().find(|c| c.id == b.id) {
                    child.space = Some(b.space);
                }
            }
        });
        self.adopt_all(ready);
    }

    /// Gives descriptors of children away; those that are ready then are served.
    fn hand_out(&self) {
        if self.nursery.is_empty() {
            return;
        }
        let ready = self.nursery.visit(|children| {
            for child in children.iter_mut().filter(|c| !c.kept) {
                let handed = self.observer.forked(child.parent, child.id, child.uffd.as_fd());
                child.kept = handed == Handed::Kept;
            }
        });
        self.adopt_all(ready);
    }

    fn adopt_all(&self, children: Vec<Child>) {
        for child in children {
            let group = child.family.group;
            if let Some(space) = child.space {
                let adopted = self.adopt(Member::new(child.id, child.uffd, child.family, space));
                if let Err(error) = adopted {
                    self.fatal(group, &error);
                }
            }
        }
    }

    /// A thread waits for a page.
    pub(super) fn fault(&self, member: &Arc<Member>, page: u64) {
        let stored = {
            let space = member.shared();
            if space.is_settled() { space.lookup(page).map(|run| run.frame) } else { None }
        };
        match stored {
            Some(frame) => self.want(member, page, frame),
            None => self.lanes.push(Lane::Urgent, super::work::Job::zero(member, page)),
        }
    }
}
