//! Frames that were asked for and have not been placed yet, with who waits for them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::member::Member;
use crate::source::{Lane, Ticket};

/// A page of a process that a thread waits for.
pub(crate) struct Waiter {
    pub(crate) member: Arc<Member>,
    pub(crate) page: u64,
}

struct Request {
    lane: Lane,
    /// Counts against the prefetch window.
    prefetched: bool,
    waiters: Vec<Waiter>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Wanted {
    requests: Mutex<HashMap<Ticket, Request>>,
}

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ticket, Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for this frame. `true` if it must be asked for, or asked for again as urgent.
    pub(crate) fn wait(&self, ticket: Ticket, waiter: Waiter) -> bool {
        match self.lock().entry(ticket) {
            Entry::Vacant(entry) => {
                let waiters = vec![waiter];
                entry.insert(Request { lane: Lane::Urgent, prefetched: false, waiters });
                true
            }
            Entry::Occupied(mut entry) => {
                let request = entry.get_mut();
                request.waiters.push(waiter);
                std::mem::replace(&mut request.lane, Lane::Urgent) == Lane::Prefetch
            }
        }
    }

    /// Nobody waits, but it is to be fetched. `false` if it is on its way already.
    pub(crate) fn prefetch(&self, ticket: Ticket) -> bool {
        match self.lock().entry(ticket) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                let request =
                    Request { lane: Lane::Prefetch, prefetched: true, waiters: Vec::new() };
                entry.insert(request);
                true
            }
        }
    }

    /// The lane of a request; `None` if there is none.
    pub(crate) fn lane(&self, ticket: Ticket) -> Option<Lane> {
        self.lock().get(&ticket).map(|r| r.lane)
    }

    /// Those who wait by now.
    pub(crate) fn waiters(&self, ticket: Ticket) -> Vec<Waiter> {
        self.lock().get_mut(&ticket).map(|r| std::mem::take(&mut r.waiters)).unwrap_or_default()
    }

    /// Puts back those who could not be answered.
    pub(crate) fn put_back(&self, ticket: Ticket, waiters: Vec<Waiter>) {
        if let Some(request) = self.lock().get_mut(&ticket) {
            request.waiters.extend(waiters);
        }
    }

    /// The frame cannot be had; who waits is forgotten. Returns whether it was prefetched.
    pub(crate) fn forget(&self, ticket: Ticket) -> bool {
        self.lock().remove(&ticket).is_some_and(|r| r.prefetched)
    }

    /// The frame is placed. `None` if somebody waits again; else whether it was prefetched.
    pub(crate) fn done(&self, ticket: Ticket) -> Option<bool> {
        match self.lock().entry(ticket) {
            Entry::Occupied(entry) if entry.get().waiters.is_empty() => {
                Some(entry.remove().prefetched)
            }
            Entry::Occupied(_) => None,
            Entry::Vacant(_) => Some(false),
        }
    }
}
