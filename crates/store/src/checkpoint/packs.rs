//! Packs on their way to the store: several at once, bounded, each by one PUT.
//!
//! Owns the back-pressure of the whole pipeline: [`PackSink::accept`] blocks its thread while [`IN_FLIGHT`] packs are under
//! way. Memory: at most [`IN_FLIGHT`] packs of 16 MiB here, besides those being built. Buffers are handed back for reuse.
//!
//! Of the packs under way only some are being sent: first [`FIRST_STREAMS`], then one more after each that was [`QUICK`]
//! and one less after each that was [`SLOW`]. On a slow wire many streams would share what one can fill, and all of them
//! would run out of time together.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use godwit_image::{FinishedPack, PackName, PackSink, SinkError};
use godwit_types::Code;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Age;
use crate::blob::Key;
use crate::error::{BlobError, StoreError};
use crate::store::TenantStore;

/// Packs under way at once: 8 × 16 MiB = 128 MiB of memory, and enough streams for a wire of 10 Gbit/s.
pub(super) const IN_FLIGHT: usize = 8;
/// PUTs at once in the beginning.
const FIRST_STREAMS: usize = 2;
/// A PUT that takes no longer leaves room for another: 16 MiB in 5 s are 3 MiB/s for each stream.
const QUICK: Duration = Duration::from_secs(5);
/// A PUT that takes longer shares the wire with too many.
const SLOW: Duration = Duration::from_secs(30);

/// The sink of one checkpoint. Cheap to share; stops when its `PackStage` is closed or dropped.
#[derive(Debug)]
pub(super) struct PackUploads {
    tenant: TenantStore,
    id: godwit_types::CheckpointId,
    age: Age,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    streams: Semaphore,
    state: Mutex<State>,
    /// Somebody waits in a thread for room.
    room: Condvar,
    /// Somebody waits in a task for the end.
    idle: Notify,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    /// PUTs that may run at once.
    streams: usize,
    closed: bool,
    failed: Option<Arc<BlobError>>,
    stored: BTreeMap<PackName, StoredPack>,
    buffers: Vec<Vec<u8>>,
    bytes: u64,
}

/// What is known of a pack that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPack {
    pub(super) size: u64,
    pub(super) footer: godwit_image::Digest,
}

impl State {
    fn new() -> Self {
        Self {
            in_flight: 0,
            streams: FIRST_STREAMS,
            closed: false,
            failed: None,
            stored: BTreeMap::new(),
            buffers: Vec::new(),
            bytes: 0,
        }
    }
}

impl PackUploads {
    /// Must be called within a tokio runtime, which then carries the uploads.
    pub(super) fn new(tenant: TenantStore, id: godwit_types::CheckpointId, age: Age) -> Self {
        Self {
            tenant,
            id,
            age,
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            streams: Semaphore::new(FIRST_STREAMS),
            state: Mutex::new(State::new()),
            room: Condvar::new(),
            idle: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and enters the pack; fails if the checkpoint has failed already.
    fn enter(&self, name: PackName, pack: StoredPack) -> Result<(), SinkError> {
        let full = |state: &mut State| {
            state.in_flight >= IN_FLIGHT && state.failed.is_none() && !state.closed
        };
        let waited = self.room.wait_while(self.state(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failed {
            let attempt = "an earlier pack could not be stored";
            return Err(SinkError::with_source(failure.code(), attempt, Arc::clone(failure)));
        }
        if state.closed {
            return Err(SinkError::new(Code::Cancelled, "the checkpoint was given up"));
        }
        if state.stored.contains_key(&name) {
            return Err(SinkError::new(Code::Internal, "a pack was written twice"));
        }
        state.stored.insert(name, pack);
        state.in_flight += 1;
        state.bytes += pack.size;
        Ok(())
    }

    /// Sends a pack when it is its turn.
    async fn send(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        // The semaphore is never closed.
        let turn = self.streams.acquire().await.ok();
        let began = Instant::now();
        self.tenant.blobs().put(key, body).await?;
        if let Some(turn) = turn {
            self.adapt(turn, began.elapsed());
        }
        Ok(())
    }

    /// One stream more or less, by what a PUT took.
    fn adapt(&self, turn: SemaphorePermit<'_>, took: Duration) {
        let mut state = self.state();
        if took <= QUICK && state.streams < IN_FLIGHT {
            state.streams += 1;
            self.streams.add_permits(1);
        } else if took > SLOW && state.streams > 1 {
            state.streams -= 1;
            turn.forget();
        }
    }

    fn leave(&self, outcome: Result<(), BlobError>, body: Bytes) {
        let mut state = self.state();
        state.in_flight -= 1;
        if let Err(failure) = outcome {
            state.failed.get_or_insert_with(|| Arc::new(failure));
        }
        // Only copies if somebody below still holds it, and then it is not worth keeping.
        if let Ok(buffer) = body.try_into_mut() {
            state.buffers.push(buffer.into());
        }
        drop(state);
        self.room.notify_all();
        self.idle.notify_waiters();
    }

    fn key(&self, name: &PackName) -> Result<Key, SinkError> {
        let key = self.tenant.keys.object(&name.to_string());
        key.map_err(|e| SinkError::with_source(Code::Internal, "store a pack", e))
    }

    /// Bytes of packs accepted so far.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Waits until all accepted packs are durable; no more are accepted then.
    pub(super) async fn close(&self) -> Result<BTreeMap<PackName, StoredPack>, StoreError> {
        self.state().closed = true;
        self.settled().await?;
        Ok(std::mem::take(&mut self.state().stored))
    }

    /// Waits until all packs that were accepted so far are durable.
    pub(super) async fn settled(&self) -> Result<(), StoreError> {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the look, so that no end is missed.
            idle.as_mut().enable();
            {
                let state = self.state();
                if let Some(source) = state.failed.clone() {
                    return Err(StoreError::Upload { id: self.id, source });
                }
                if state.in_flight == 0 {
                    return Ok(());
                }
            }
            idle.await;
        }
    }

    /// Stops what is under way.
    pub(super) fn cancel(&self) {
        self.state().closed = true;
        self.stop.cancel();
        self.room.notify_all();
    }
}

/// The handle through which packs come; see [`super::PackStage::sink`].
#[derive(Debug, Clone)]
pub(super) struct Sink(pub(super) Arc<PackUploads>);

impl PackSink for Sink {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        let uploads = &self.0;
        if pack.name.checkpoint != uploads.id {
            return Err(SinkError::new(Code::Internal, "the pack is of another checkpoint"));
        }
        uploads.age.check().map_err(|e| SinkError::with_source(e.code(), "store a pack", e))?;
        let key = uploads.key(&pack.name)?;
        let size = pack.bytes.len() as u64;
        uploads.enter(pack.name, StoredPack { size, footer: pack.footer })?;
        let (this, body) = (Arc::clone(uploads), Bytes::from(pack.bytes));
        let upload = async move {
            let sent = this.send(&key, body.clone());
            let outcome = match this.stop.run_until_cancelled(sent).await {
                Some(outcome) => outcome,
                None => Err(BlobError::Unavailable {
                    store: this.tenant.store.name().to_owned(),
                    action: format!("write {key}"),
                    source: "the checkpoint was given up".into(),
                }),
            };
            this.leave(outcome, body);
        };
        uploads.tasks.spawn_on(upload, &uploads.runtime);
        Ok(())
    }

    fn buffer(&self) -> Option<Vec<u8>> {
        self.0.state().buffers.pop()
    }
}

#[cfg(test)]
mod tests;
