//! Who reads when: the lanes of each store, and the turns of each pager within them.
//!
//! Keeps: a store that does not answer holds up only those who read from it; of one store, a pager has never more in the queue than the
//! store serves at once, so pagers take turns however much one of them wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::pace::{self, Pace};

/// Ranged GETs in flight for somebody who waits.
const URGENT: usize = 16;
/// Ranged GETs in flight for what will be needed: few, so that they do not fill the wire before an urgent one.
const PREFETCH: usize = 4;

/// How much is read at once, by urgency.
#[derive(Debug)]
pub(super) struct Turns {
    urgent: Semaphore,
    prefetch: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { urgent: Semaphore::new(URGENT), prefetch: Semaphore::new(PREFETCH) }
    }
}

impl Turns {
    async fn next(&self, urgent: bool) -> Option<SemaphorePermit<'_>> {
        let lane = if urgent { &self.urgent } else { &self.prefetch };
        // It is never closed; without a permit the work would only be less bounded.
        lane.acquire().await.ok()
    }
}

/// The lanes of one store.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    turns: Turns,
    pub(super) pace: Pace,
}

impl Lanes {
    /// Longest GET, in bytes.
    pub(super) fn most(&self, urgent: bool) -> u64 {
        if urgent { pace::MOST } else { self.pace.most() }
    }

    /// Waits for the turn of a pager that has these turns of its own.
    pub(super) async fn turn<'t>(&'t self, own: &'t Turns, urgent: bool) -> Turn<'t> {
        let _own = own.next(urgent).await;
        Turn { _own, _store: self.turns.next(urgent).await }
    }
}

/// Held while a run is read.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    _own: Option<SemaphorePermit<'t>>,
    _store: Option<SemaphorePermit<'t>>,
}

/// The lanes of all stores, by name: as many as the configuration has had.
#[derive(Debug, Clone, Default)]
pub(super) struct ByStore(Arc<Mutex<BTreeMap<String, Arc<Lanes>>>>);

impl ByStore {
    pub(super) fn of(&self, store: &str) -> Arc<Lanes> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(store.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As often as everybody needs to come as far as they can.
    async fn let_all_get_on() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_pager_that_wants_much_does_not_keep_another_one_waiting_for_all_of_it() {
        let (lanes, served) = (Arc::<Lanes>::default(), Arc::new(Mutex::new(Vec::new())));
        let done = Arc::new(Semaphore::new(0));
        let wants = |who: char, own: Arc<Turns>| {
            let (lanes, served, done) =
                (Arc::clone(&lanes), Arc::clone(&served), Arc::clone(&done));
            tokio::spawn(async move {
                let _turn = lanes.turn(&own, false).await;
                served.lock().unwrap().push(who);
                done.acquire().await.unwrap().forget();
            })
        };
        let greedy = Arc::<Turns>::default();
        let mut reads: Vec<_> = (0..100).map(|_| wants('a', Arc::clone(&greedy))).collect();
        let_all_get_on().await;
        reads.push(wants('b', Arc::default()));
        let_all_get_on().await;
        assert_eq!(*served.lock().unwrap(), ['a'; PREFETCH], "one alone has the whole lane");
        done.add_permits(reads.len());
        for read in reads {
            read.await.unwrap();
        }
        let turn = served.lock().unwrap().iter().position(|who| *who == 'b').unwrap();
        assert!(turn <= 2 * PREFETCH, "its turn is number {turn}");
    }
}
