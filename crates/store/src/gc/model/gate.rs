//! A store whose requests take effect when the schedule says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::memory::MemoryStore;
use crate::blob::{BlobStore, Creation, Key, Listed};
use crate::clock::{Clock, ManualClock};
use crate::error::BlobError;

/// Each request waits once before it takes effect. A write whose future is dropped while it waits is in flight.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) inner: MemoryStore,
    clock: Arc<ManualClock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Duration>,
    late: Vec<(Duration, Write)>,
    /// How many tombstones were PUT.
    tombstones: u64,
    deleted: Vec<Key>,
}

#[derive(Debug, Clone)]
pub(super) enum Write {
    Create(Key, Bytes),
    Put(Key, Bytes),
    Delete(Key),
}

/// Pending once.
struct Once(bool);

impl Future for Once {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A request that waits; if it is a write and dropped, it is in flight from then on.
struct Waiting<'a> {
    gate: &'a Gate,
    number: u64,
    write: Option<Write>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock().unwrap();
        let sent = state.waiting.remove(&self.number).unwrap();
        if let Some(write) = self.write.take() {
            state.late.push((sent, write));
        }
    }
}

impl Gate {
    pub(super) fn new(clock: Arc<ManualClock>) -> Self {
        let inner = MemoryStore::with_clock(clock.clone());
        Self { inner, clock, state: Mutex::default() }
    }

    async fn pass(&self, write: Option<Write>) {
        let mut waiting = {
            let mut state = self.state.lock().unwrap();
            let number = state.next;
            state.next += 1;
            state.waiting.insert(number, self.clock.since_boot());
            Waiting { gate: self, number, write }
        };
        Once(false).await;
        waiting.write = None;
    }

    /// Each second PUT of a tombstone gets no answer and is in flight; whoever sent it goes on.
    fn loses_sight_of(&self, key: &Key, body: &Bytes) -> bool {
        if key.last_component() != "tombstone" {
            return false;
        }
        let mut state = self.state.lock().unwrap();
        state.tombstones += 1;
        let lost = state.tombstones.is_multiple_of(2);
        if lost {
            let write = Write::Create(key.clone(), body.clone());
            state.late.push((self.clock.since_boot(), write));
        }
        lost
    }

    /// When the oldest request that has not taken effect was sent.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap();
        let late = state.late.iter().map(|(sent, _)| *sent);
        state.waiting.values().copied().chain(late).min()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().unwrap().late.len()
    }

    /// One write in flight lands, or is lost.
    pub(super) async fn end(&self, which: usize, lands: bool) {
        let (_, write) = self.state.lock().unwrap().late.swap_remove(which);
        match write {
            _ if !lands => {}
            Write::Create(key, body) => drop(self.inner.create(&key, body).await.unwrap()),
            Write::Put(key, body) => self.inner.put(&key, body).await.unwrap(),
            Write::Delete(key) => self.delete_now(&key).await.unwrap(),
        }
    }

    /// What was deleted since the last call.
    pub(super) fn take_deleted(&self) -> Vec<Key> {
        std::mem::take(&mut self.state.lock().unwrap().deleted)
    }

    async fn delete_now(&self, key: &Key) -> Result<(), BlobError> {
        self.state.lock().unwrap().deleted.push(key.clone());
        self.inner.delete(key).await
    }
}

#[async_trait]
impl BlobStore for Gate {
    fn name(&self) -> &str {
        "model://"
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        self.pass(Some(Write::Create(key.clone(), body.clone()))).await;
        if self.loses_sight_of(key, &body) {
            return Ok(Creation::Unknown("in flight".to_owned()));
        }
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.pass(Some(Write::Put(key.clone(), body.clone()))).await;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.pass(None).await;
        self.inner.get(key, limit).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.pass(None).await;
        self.inner.get_range(key, range).await
    }

    /// A few objects at a time, with other requests in between: no real LIST is a snapshot.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let mut found: Vec<Listed> = Vec::new();
        while found.len() < limit {
            self.pass(None).await;
            let part = (limit - found.len()).min(7);
            let from = found.last().map(|l| &l.key).or(after);
            let page = self.inner.list(prefix, from, part).await?;
            let last = page.len() < part;
            found.extend(page);
            if last {
                break;
            }
        }
        Ok(found)
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.pass(None).await;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.pass(Some(Write::Delete(key.clone()))).await;
        self.delete_now(key).await
    }
}
