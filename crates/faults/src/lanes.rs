//! Work for the copy threads: urgent before prefetch, and what has to wait a little, later.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::Lane;

struct Later<J> {
    due: Instant,
    lane: Lane,
    job: J,
}

impl<J> PartialEq for Later<J> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl<J> Eq for Later<J> {}
impl<J> PartialOrd for Later<J> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<J> Ord for Later<J> {
    /// The earliest is the greatest: `BinaryHeap` gives it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

struct Queues<J> {
    urgent: VecDeque<J>,
    prefetch: VecDeque<J>,
    later: BinaryHeap<Later<J>>,
    closed: bool,
}

impl<J> Queues<J> {
    fn put(&mut self, lane: Lane, job: J) {
        match lane {
            Lane::Urgent => self.urgent.push_back(job),
            Lane::Prefetch => self.prefetch.push_back(job),
        }
    }

    /// Moves what is due to its lane; returns when the next one will be.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while self.later.peek().is_some_and(|l| l.due <= now) {
            if let Some(l) = self.later.pop() {
                self.put(l.lane, l.job);
            }
        }
        self.later.peek().map(|l| l.due)
    }
}

/// The queues. Bounded by their users: one job for each frame in flight and each waiting thread.
pub(crate) struct Lanes<J> {
    queues: Mutex<Queues<J>>,
    changed: Condvar,
}

impl<J> Lanes<J> {
    pub(crate) fn new() -> Self {
        let (urgent, prefetch) = (VecDeque::new(), VecDeque::new());
        let queues = Queues { urgent, prefetch, later: BinaryHeap::new(), closed: false };
        Self { queues: Mutex::new(queues), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queues<J>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job.
    pub(crate) fn push(&self, lane: Lane, job: J) {
        self.lock().put(lane, job);
        self.changed.notify_one();
    }

    /// Adds a job that is not to be tried before `wait` has passed.
    pub(crate) fn push_later(&self, lane: Lane, wait: Duration, job: J) {
        let due = Instant::now() + wait;
        self.lock().later.push(Later { due, lane, job });
        self.changed.notify_one();
    }

    /// Waits for a job; `None` after [`Lanes::close`].
    pub(crate) fn pop(&self) -> Option<(Lane, J)> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return None;
            }
            let now = Instant::now();
            let next = queues.ripen(now);
            if let Some(job) = queues.urgent.pop_front() {
                return Some((Lane::Urgent, job));
            }
            if let Some(job) = queues.prefetch.pop_front() {
                return Some((Lane::Prefetch, job));
            }
            // Nothing is due: an hour is as good as for ever.
            let wait = next.map_or(Duration::from_secs(3600), |due| due - now);
            let waited = self.changed.wait_timeout(queues, wait);
            queues = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends every [`Lanes::pop`], present and future.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_goes_first_and_what_waits_comes_when_it_is_due() {
        let lanes = Lanes::new();
        lanes.push(Lane::Prefetch, 1);
        lanes.push_later(Lane::Urgent, Duration::from_secs(3600), 2);
        lanes.push(Lane::Urgent, 3);
        let order: Vec<_> = (0..2).filter_map(|_| lanes.pop()).collect();
        assert_eq!(order, [(Lane::Urgent, 3), (Lane::Prefetch, 1)]);
        let (start, wait) = (Instant::now(), Duration::from_millis(20));
        lanes.push_later(Lane::Urgent, wait, 4);
        assert_eq!(lanes.pop(), Some((Lane::Urgent, 4)));
        assert!(start.elapsed() >= wait);
        lanes.close();
        assert_eq!(lanes.pop(), None);
    }
}
