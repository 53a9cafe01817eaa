//! The copy threads: place frames that have arrived, answer faults with zeros.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::FaultsError;
use crate::member::{Family, Member};
use crate::place::Halt;
use crate::source::{FramePages, Lane, Ticket};
use crate::wanted::Waiter;

/// Something to do for a copy thread.
pub(super) enum Job {
    /// A frame has arrived.
    Place { ticket: Ticket, family: Arc<Family>, pages: Box<dyn FramePages>, attempts: u32 },
    /// A thread waits for a page that is not stored, or was not when it was looked up.
    Zero { member: Arc<Member>, page: u64, attempts: u32 },
}

impl Job {
    pub(super) fn zero(member: &Arc<Member>, page: u64) -> Self {
        Self::Zero { member: Arc::clone(member), page, attempts: 0 }
    }
}

/// How long to wait after a refusal: doubles from `first` to `last`.
fn pause(attempts: u32, first: Duration, last: Duration) -> Duration {
    first.saturating_mul(1 << attempts.min(10)).min(last)
}

/// The kernel said that mappings are changing: usually over after one system call of the process.
const CHANGING: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(2));
/// Out of memory: reclaim, or a person, must help.
const NO_MEMORY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

impl Shared {
    pub(super) fn copy_loop(&self) {
        while let Some((lane, job)) = self.lanes.pop() {
            match job {
                Job::Place { ticket, family, pages, attempts } => {
                    self.place(lane, ticket, family, pages, attempts);
                }
                Job::Zero { member, page, attempts } => self.zero(&member, page, attempts),
            }
        }
    }

    fn place(
        &self,
        lane: Lane,
        ticket: Ticket,
        family: Arc<Family>,
        pages: Box<dyn FramePages>,
        attempts: u32,
    ) {
        let Ok(group) = self.group(family.group) else { return };
        let mut waiters = self.wanted.waiters(ticket);
        let mut wait = None;
        for member in family.members() {
            let mut waited = take_pages(&mut waiters, &member);
            if member.is_gone() {
                continue;
            }
            let placed = member.place(ticket.frame, pages.bytes(), &mut waited, group.as_ref());
            match placed {
                // What is left waits for something else than this frame, by now.
                Ok(()) => waited.drain(..).for_each(|page| self.fault(&member, page)),
                Err(halt) => wait = self.halted(&member, halt, attempts).max(wait),
            }
            let again = |page| Waiter { member: Arc::clone(&member), page };
            self.wanted.put_back(ticket, waited.into_iter().map(again).collect());
            self.check_finished(&member);
        }
        if let Some(wait) = wait {
            let job = Job::Place { ticket, family, pages, attempts: attempts + 1 };
            return self.lanes.push_later(lane, wait, job);
        }
        // Those whose process is not served any more wait for nothing.
        match self.wanted.done(ticket) {
            Some(prefetched) => {
                drop(pages);
                self.placed(prefetched);
            }
            None => {
                let job = Job::Place { ticket, family, pages, attempts: 0 };
                self.lanes.push(Lane::Urgent, job);
            }
        }
    }

    /// What a refusal means: how long to wait before the next attempt, if there is to be one.
    fn halted(&self, member: &Arc<Member>, halt: Halt, attempts: u32) -> Option<Duration> {
        match halt {
            Halt::Changing => {
                let settled = self.settle(member);
                let attempts = if settled { 0 } else { attempts };
                Some(pause(attempts, CHANGING.0, CHANGING.1))
            }
            Halt::NoMemory => Some(pause(attempts, NO_MEMORY.0, NO_MEMORY.1)),
            Halt::Gone => {
                self.lost(member);
                None
            }
            Halt::Failed(source) => {
                let error = FaultsError::Os { action: "placing a page", source };
                self.fatal(member.family.group, &error);
                // The page stays missing and its thread waiting: the container is to be killed.
                Some(NO_MEMORY.1)
            }
        }
    }

    fn zero(&self, member: &Arc<Member>, page: u64, attempts: u32) {
        // Closing its descriptor lets the thread go on. As long as this job keeps it open, what the process does stays unread.
        if member.is_gone() || member.is_closed() {
            return;
        }
        match member.zero(page) {
            Ok(true) => {
                if let Ok(group) = self.group(member.family.group) {
                    group.zero_faults.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(false) => self.fault(member, page),
            Err(halt) => {
                if let Some(wait) = self.halted(member, halt, attempts) {
                    let (member, attempts) = (Arc::clone(member), attempts + 1);
                    let job = Job::Zero { member, page, attempts };
                    self.lanes.push_later(Lane::Urgent, wait, job);
                }
            }
        }
    }
}

/// Takes the pages out that this process waits for.
fn take_pages(waiters: &mut Vec<Waiter>, member: &Arc<Member>) -> Vec<u64> {
    let mine = waiters.extract_if(.., |w| Arc::ptr_eq(&w.member, member));
    mine.map(|w| w.page).collect()
}
