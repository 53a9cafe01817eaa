//! Uploads over a wire that all streams share.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use godwit_image::{Digest, PackKind};
use godwit_types::{CheckpointId, PackIndex, Tenant};

use super::*;
use crate::blob::memory::MemoryStore;
use crate::blob::{BlobStore, Creation, Listed};
use crate::clock::ManualClock;
use crate::config::StoreConfig;
use crate::fixture::HORIZON;
use crate::store::Store;
use crate::wrap::{Retry, RetryPolicy};

/// A pack as large as they come.
const PACK: usize = 16 << 20;

/// Writes of so many bytes per second all together; each attempt has the time that S3's client gives it.
#[derive(Debug)]
struct Wire {
    inner: MemoryStore,
    bytes_per_second: usize,
    limits: StoreConfig,
    writing: AtomicUsize,
    most: AtomicUsize,
    attempts: AtomicUsize,
}

impl Wire {
    fn new(bytes_per_second: usize) -> Arc<Self> {
        let limits = StoreConfig::from_url("s3://bucket").unwrap();
        let [writing, most, attempts] = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Self {
            inner: MemoryStore::new(),
            bytes_per_second,
            limits,
            writing,
            most,
            attempts,
        })
    }

    async fn transfer(&self, bytes: usize) {
        let (mut sent, tick) = (0, Duration::from_millis(100));
        while sent < bytes {
            tokio::time::sleep(tick).await;
            sent += self.bytes_per_second / 10 / self.writing.load(Ordering::Relaxed).max(1);
        }
    }
}

#[async_trait]
impl BlobStore for Arc<Wire> {
    fn name(&self) -> &str {
        "wire://"
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let writing = self.writing.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(writing, Ordering::Relaxed);
        let limit = self.limits.write_timeout(body.len());
        let sent = tokio::time::timeout(limit, self.transfer(body.len())).await;
        self.writing.fetch_sub(1, Ordering::Relaxed);
        sent.map_err(|e| BlobError::Unavailable {
            store: self.name().to_owned(),
            action: format!("write {key}"),
            source: e.into(),
        })?;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.inner.get(key, limit).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.inner.delete(key).await
    }
}

/// The uploads of one checkpoint over a wire, with the tries that a store in production has.
async fn uploads(wire: &Arc<Wire>) -> Arc<PackUploads> {
    let blobs = Retry::new(Arc::new(Arc::clone(wire)), RetryPolicy::default());
    let clock = Arc::new(ManualClock::new());
    let store = Store::over(Arc::new(blobs), clock, HORIZON).await.unwrap();
    wire.attempts.store(0, Ordering::Relaxed);
    let (tenant, id) = (store.tenant(&Tenant::node()), CheckpointId::mint());
    Arc::new(PackUploads::new(tenant.clone(), id, Age::begin(&tenant)))
}

fn accept(uploads: &Arc<PackUploads>, index: u32) {
    let name = PackName { checkpoint: uploads.id, kind: PackKind::Data, index: PackIndex(index) };
    let pack = FinishedPack { name, footer: Digest::of(b""), bytes: vec![0; PACK] };
    let _ = Sink(Arc::clone(uploads)).accept(pack);
}

/// Uploads so many packs.
async fn upload(wire: &Arc<Wire>, packs: u32) -> Result<usize, StoreError> {
    let uploads = uploads(wire).await;
    for index in 0..packs {
        // Where `accept` would block this thread, time would stand still.
        while uploads.state().in_flight == IN_FLIGHT && uploads.state().failed.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        accept(&uploads, index);
    }
    uploads.close().await.map(|stored| stored.len())
}

#[tokio::test(start_paused = true)]
async fn packs_get_through_a_slow_wire_and_none_is_sent_twice() {
    for megabits in [1, 4, 18] {
        let wire = Wire::new(megabits * 1_000_000 / 8);
        assert_eq!(upload(&wire, 10).await.unwrap(), 10, "{megabits} Mbit/s");
        assert_eq!(wire.attempts.load(Ordering::Relaxed), 10, "{megabits} Mbit/s");
        assert_eq!(wire.most.load(Ordering::Relaxed), FIRST_STREAMS, "{megabits} Mbit/s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_waited_for_is_durable_and_more_may_come() {
    let wire = Wire::new(1_000_000);
    let uploads = uploads(&wire).await;
    accept(&uploads, 0);
    accept(&uploads, 1);
    uploads.settled().await.unwrap();
    assert_eq!(uploads.state().in_flight, 0);
    accept(&uploads, 2);
    assert_eq!(uploads.close().await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_fast_wire_gets_all_streams() {
    let wire = Wire::new(10_000_000_000 / 8);
    upload(&wire, 30).await.unwrap();
    assert_eq!(wire.most.load(Ordering::Relaxed), IN_FLIGHT);
}
