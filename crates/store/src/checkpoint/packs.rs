//! Packs on their way to the store: several at once, bounded, each by one PUT.
//!
//! Owns the back-pressure of the whole pipeline: [`PackSink::accept`] blocks its thread while [`IN_FLIGHT`] packs are under
//! way. Memory: at most [`IN_FLIGHT`] packs of 16 MiB here, besides those being built. Buffers are handed back for reuse.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use godwit_image::{FinishedPack, PackName, PackSink, SinkError};
use godwit_types::Code;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Age;
use crate::blob::Key;
use crate::error::{BlobError, StoreError};
use crate::store::TenantStore;

/// Packs under way at once: 8 × 16 MiB = 128 MiB of memory, and enough streams for a wire of 10 Gbit/s.
pub(super) const IN_FLIGHT: usize = 8;

/// The sink of one checkpoint. Cheap to share; stops when its `PackStage` is closed or dropped.
#[derive(Debug)]
pub(super) struct PackUploads {
    tenant: TenantStore,
    id: godwit_types::CheckpointId,
    age: Age,
    runtime: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    state: Mutex<State>,
    /// Somebody waits in a thread for room.
    room: Condvar,
    /// Somebody waits in a task for the end.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
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
            state: Mutex::default(),
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
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the look, so that no end is missed.
            idle.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(source) = state.failed.clone() {
                    return Err(StoreError::Upload { id: self.id, source });
                }
                if state.in_flight == 0 {
                    return Ok(std::mem::take(&mut state.stored));
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
            let put = this.tenant.blobs().put(&key, body.clone());
            let outcome = match this.stop.run_until_cancelled(put).await {
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
